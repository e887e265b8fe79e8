"""Every log event: found in the code, described in ``log_events.toml``."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from tools.reference.table import table

__all__ = ["page"]

WORDS = Path(__file__).parent / "log_events.toml"
PACKAGE = Path(__file__).parent.parent.parent / "worker"
# An event's name begins with what it is about. Other texts of this form are no events.
EVENT = re.compile(
    r'"((?:run|call|slot|worker|order|reminder|heartbeat|loop|task|ping|store|lease|outcome'
    r'|schedule|clock|timers|ledger|job|queue|hook|ops|probe|trace|fork|log)\.[a-z_]+)"'
)
NO_EVENTS = {"worker.call", "worker.db"}  # an extension of httpx's requests, and a file
OF_SPANS = {"sending.py", "tracing.py"}  # what spans are called, and what is said of them
INTRODUCTION = """\
# The log

JSON lines, one an event, with constant names; colours instead if standard error is a terminal
(`WORKER_LOG_FORMAT`). Every line has `time`, `level` and `event`; those of a run have `task`,
`run_id` and `trigger`, too.

"""
END = """
The `run_id` of a job is its id. Of jobs that fail in the same way the first ten lines in a minute
are told, and the next one after it says in `untold` how many were left out; `debug` tells them all.

Tokens, and the queries and credentials of URLs, are taken out of every line. A log that cannot be
written (a full disk) stops nothing, nor does a reader that stalls: up to 4 MB of lines wait for it.
One that nobody reads any more stops the worker, with exit code 141, so that whoever supervises it
starts it with a new one.
"""


def logged() -> set[str]:
    """The names of the events in the code."""
    paths = (
        path
        for path in PACKAGE.rglob("*.py")
        if "demo" not in path.relative_to(PACKAGE).parts and path.name not in OF_SPANS
    )
    found = {name for path in paths for name in EVENT.findall(path.read_text("utf-8"))}
    return found - NO_EVENTS - {f"worker.{path.stem}" for path in PACKAGE.iterdir()}


def page() -> str:
    """The page.

    Raises:
        ValueError: The code and the words do not know the same events.
    """
    events: list[dict[str, Any]] = tomllib.loads(WORDS.read_text("utf-8"))["event"]
    described = {name for event in events for name in event["names"]}
    found = logged()
    if missing := found - described:
        raise ValueError(f"say in {WORDS.name} when these are logged: {', '.join(sorted(missing))}")
    if unknown := described - found:
        raise ValueError(f"{WORDS.name} has what nobody logs: {', '.join(sorted(unknown))}")
    lines = (
        (", ".join(f"`{name}`" for name in event["names"]), event["when"], event.get("keys", ""))
        for event in events
    )
    return INTRODUCTION + table(("event", "when", "further keys"), lines) + END
