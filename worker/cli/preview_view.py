"""Prints a preview while it is simulated: rows or JSON, and a progress bar on a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from worker.cli.terminal import as_text, print_table, put, remark, say, visible
from worker.scheduling.preview_table import HEAD, add_totals, as_json, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from worker.ledger.book import Outcome
    from worker.schedules.policies import TaskSchedule
    from worker.scheduling.preview_model import Line, Preview

__all__ = ["print_preview"]

BATCH = 500
"""How many lines are printed at once; up to so many, columns are as wide as their widest cell."""
MANY_SLOTS = 5_000
"""From how many slots on a progress bar is shown."""


def print_preview(
    lines: Iterator[Line],
    preview: Preview,
    schedules: Sequence[TaskSchedule],
    *,
    zone: ZoneInfo,
    json: bool,
) -> set[Outcome]:
    """Print the lines while they come, and say which outcomes there were.

    Raises:
        ValueError: What reading the lines raises.
    """
    totals: dict[str, dict[Outcome, int]] = {}
    first = []
    with progress(preview, schedules) as (emit, advance):
        first = list(islice(lines, BATCH))
        if len(first) < BATCH:
            add_totals(totals, first)
        else:
            printed = json_batches if json else table_batches
            for batch, text in printed(batches(first, lines), zone):
                add_totals(totals, batch)
                emit(text)
                advance(batch[-1].slot)
            if json:
                emit("]")
    if len(first) < BATCH:
        if json:
            say(as_text(as_json(first), indent=None))
        else:
            if not first:
                remark("no slot lies in that time")
            print_table(HEAD, rows(first, zone))
    if not json:
        for name, counts in totals.items():
            said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
            say(f"{name}: {said}")
    return {outcome for counts in totals.values() for outcome in counts}


def batches(first: list[Line], lines: Iterator[Line]) -> Iterator[list[Line]]:
    batch = first
    while batch:
        yield batch
        batch = list(islice(lines, BATCH))


def json_batches(found: Iterator[list[Line]], zone: ZoneInfo) -> Iterator[tuple[list[Line], str]]:
    """The lines of one JSON list, without its end."""
    del zone  # moments are in UTC
    start = "["
    for batch in found:
        yield batch, start + ",\n".join(as_text(one, indent=None) for one in as_json(batch))
        start = ","


def table_batches(found: Iterator[list[Line]], zone: ZoneInfo) -> Iterator[tuple[list[Line], str]]:
    """The lines of a table; a column gets wider when a cell needs it."""
    widths = [len(name) for name in HEAD]
    head: list[Sequence[str]] = [HEAD]
    for batch in found:
        cells = [[visible(cell) for cell in row] for row in rows(batch, zone)]
        widths = [
            max(width, *map(len, column)) for width, *column in zip(widths, *cells, strict=True)
        ]
        shown = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in [*head, *cells])
        yield batch, "\n".join(shown)
        head = []


@contextmanager
def progress(
    preview: Preview, schedules: Sequence[TaskSchedule]
) -> Iterator[tuple[Callable[[str], None], Callable[[datetime], None]]]:
    """How text is printed, and how progress is shown: on a terminal, for a long preview."""
    slots = sum(
        terms.schedule.count(preview.start, preview.end) for terms in schedules if terms.schedule
    )
    on_output = sys.stdout.isatty()
    if slots < MANY_SLOTS or not (on_output or sys.stderr.isatty()):
        yield put, lambda moment: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=not on_output)
    bar = Progress(console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    length = (preview.end - preview.start).total_seconds()

    def above_the_bar(text: str) -> None:
        console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    with bar:
        task = bar.add_task("previewing", total=length)

        def advance(moment: datetime) -> None:
            bar.update(task, completed=(moment - preview.start).total_seconds())

        yield (above_the_bar if on_output else put), advance
