"""How the commands speak: exit codes, results on standard output, complaints on standard error.

========  ============================================================
exit      meaning
========  ============================================================
0         success; also a worker that was asked to stop
1         the task or the job failed, `check` found the Data API unfit, or what was asked of a
          job cannot be done in the state that it is in
2         wrong usage, no such task or job, parameters that do not fit, or something that the
          queue's engine cannot do
69        the Data API, the store, or the queue, could not be reached; `start` waits for each of
          them instead
75        another run of the task is in the way, or the job has not ended in time; try again later
78        the configuration is wrong; every problem is named, nothing was started
128 + n   ended by signal n (130: Ctrl-C, 143: SIGTERM, 141: broken pipe)
========  ============================================================
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

import typer

from worker.durations import parse_duration
from worker.errors import (
    ConfigurationError,
    JobError,
    ServiceFailed,
    StoreError,
    StoreSchemaError,
    TaskBusy,
    TaskDefinitionError,
    UnknownTaskError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta

    from worker.log_stream import LogStream
    from worker.settings import Settings

__all__ = [
    "ExitCode",
    "as_text",
    "complaints",
    "duration_option",
    "print_listing",
    "print_table",
    "ready_settings",
    "remark",
    "say",
    "visible",
]


class ExitCode(IntEnum):
    """The exit codes, from ``sysexits.h`` where it has one."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 69
    BUSY = 75
    CONFIGURATION = 78
    BROKEN_PIPE = 141


def ready_settings() -> tuple[Settings, LogStream]:
    """The settings, and where the log goes that was set up as they say."""
    from worker.app import set_up_logging
    from worker.config.at_once import all_or_nothing

    settings = all_or_nothing()
    return settings, set_up_logging(settings)


@contextmanager
def complaints() -> Iterator[None]:
    """Turn what is the caller's to mend into a message and an exit code."""
    try:
        yield
    except (ConfigurationError, TaskDefinitionError) as exc:
        remark(f"worker: {exc}")
        raise typer.Exit(ExitCode.CONFIGURATION) from exc
    except UnknownTaskError as exc:
        remark(f"worker: {exc}")
        raise typer.Exit(ExitCode.USAGE) from exc
    except JobError as exc:
        remark(f"worker: {exc}")
        raise typer.Exit(ExitCode.USAGE) from exc
    except ServiceFailed as exc:
        remark(f"worker: {exc}; see worker.service_failed in the log")
        raise typer.Exit(ExitCode.FAILED) from exc
    except TaskBusy as exc:
        remark(f"worker: {exc}")
        raise typer.Exit(ExitCode.BUSY) from exc
    except StoreSchemaError as exc:
        remark(f"worker: {exc}")
        raise typer.Exit(ExitCode.CONFIGURATION) from exc
    except StoreError as exc:
        remark(f"worker: the {exc.part} cannot be used: {exc}")
        raise typer.Exit(ExitCode.UNREACHABLE) from exc


def as_text(value: object, *, indent: int | None) -> str:
    return json.dumps(value, indent=indent)


def visible(text: str) -> str:
    """The text with what would steer a terminal, or cannot be written, spelled out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def visible_lines(text: str) -> str:
    """The same of a text whose lines are our own."""
    return "\n".join(map(visible, text.split("\n")))


def say(text: str) -> None:
    """Print a result, `visible`; what others wrote may have no line ends of its own.

    Where it cannot be written the command ends, without a traceback.
    """
    put(visible_lines(text))


def put(text: str) -> None:
    """Print a text as it is."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.BROKEN_PIPE) from exc
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        typer.echo(f"worker: the result cannot be written: {exc.strerror}", err=True)
        raise typer.Exit(ExitCode.FAILED) from exc


def remark(text: str) -> None:
    """Tell a person what is no part of the result."""
    typer.echo(visible_lines(text), err=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table for a terminal; aligned columns, nothing cut, for a pipe. Nothing without rows."""
    if not rows:
        return
    rows = [[visible(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*head, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return
    say("\n".join(aligned([head, *rows])))


def print_listing(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose columns are never broken, but for the last one: that stands below its row on
    a terminal where it has no room beside it."""
    if not rows:
        return
    lines = [head, *([visible(cell) for cell in row] for row in rows)]
    if not sys.stdout.isatty():
        say("\n".join(aligned(lines)))
        return
    room = shutil.get_terminal_size().columns
    shown = []
    for line, start in zip(
        lines, aligned([line[:-1] for line in lines], rstrip=False), strict=True
    ):
        if len(start) + 2 + len(line[-1]) <= room:
            shown.append(f"{start}  {line[-1]}".rstrip())
        else:
            shown.append(start.rstrip())
            shown += [f"    {part}" for part in textwrap.wrap(line[-1], max(20, room - 4))]
    put("\n".join([typer.style(shown[0], bold=True), *shown[1:]]))


def aligned(lines: Sequence[Sequence[str]], *, rstrip: bool = True) -> list[str]:
    """The lines of a table, with each column as wide as its widest cell."""
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    shown = ["  ".join(map(str.ljust, line, widths)) for line in lines]
    return [line.rstrip() for line in shown] if rstrip else shown


def duration_option(text: str) -> timedelta:
    """Parse an option; what is wrong with it is said as typer says it."""
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
