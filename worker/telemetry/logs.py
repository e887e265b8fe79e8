"""What the worker writes to its log: one line an event, a constant name, and keys.

JSON where a machine reads along, colours where a person does. Whatever a line is made of, it holds
no secret and no query of a URL, and a JSON line stays one line.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

from worker.context import current_run
from worker.log_stream import LogStream
from worker.redaction import Redaction, plain
from worker.secret_keys import HIDDEN, is_secret_key, without_secrets
from worker.summary import format_traceback

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

__all__ = ["configure_logging"]

QUIET_LIBRARIES = (
    *("aiobotocore", "alembic", "apscheduler", "asyncio", "botocore", "httpcore", "httpx"),
    "uvicorn",
)
TURNS = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Turn the text around them, so that a line reads as something else than it is."""
CONTROL = re.compile(rf"[\x00-\x1f\x7f-\x9f\u2028\u2029{TURNS}]")
TEXT_CONTROL = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{TURNS}]")
"""As CONTROL, but a text of several lines stays one."""
TEXTS = ("stack", "exception")
"""The keys whose values have several lines, on a terminal too."""
MISREAD = re.compile(rf"[\x85\u2028\u2029{TURNS}]")
"""What JSON may hold as it is, and some readers take for the end of a line, or turn text by."""
RANDOM_ID = re.compile(r"[0-9a-f]{32}")


def configure_logging(
    *,
    level: str = "info",
    form: str = "auto",
    redact: Redaction | None = None,
    stream: TextIO | None = None,
) -> LogStream:
    """Send all logs, the libraries' too, to one stream.

    Args:
        level: The least level that is written.
        form: ``json``, ``console``, or ``auto``: console if the stream is a terminal.
        redact: Takes secrets out of each line.
        stream: Standard error unless given.

    Returns:
        Where the lines go, which knows whether somebody still reads them.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    target = LogStream(stream or sys.stderr)
    colors = target.isatty()
    console = form == "console" or (form == "auto" and colors)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        name_the_run,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(
            fmt="%H:%M:%S" if console else "iso", utc=True, key="time"
        ),
        Redacted(redact or Redaction()),
        order_keys,
    ]
    output = for_people(colors) if console else for_machines()
    structlog.configure(
        processors=[*shared, *output],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", target)),
        cache_logger_on_first_use=False,
    )
    handler = LibraryLog(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *output],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)
    target.on_dropped = tell_of_dropped
    return target


def tell_of_dropped(lines: int) -> None:
    """Somebody reads the log again, after lines were lost."""
    structlog.get_logger("worker").warning(
        "log.dropped", lines=lines, hint="nobody read the log for a while"
    )


def for_machines() -> list[Processor]:
    return [structlog.processors.JSONRenderer(ensure_ascii=False), escape_misread]


def for_people(colors: bool) -> list[Processor]:
    return [
        shorten_ids,
        escape_controls,
        structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="time", sort_keys=False),
    ]


class LibraryLog(logging.StreamHandler[Any]):
    """Writes what libraries log by the standard library's logging."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say where a log call is wrong, and not with what, for that may be a secret."""
        where = f"{record.pathname}:{record.lineno}"
        self.stream.write(
            json.dumps({"level": "error", "event": "log.failed", "where": where}) + "\n"
        )


class Redacted:
    """Makes every value plain, and redacts it: by what it is, and by what it is called.

    ``exc_info`` becomes the text ``exception``, of a bounded length.
    """

    def __init__(self, redact: Redaction) -> None:
        self._redact = redact

    def __call__(self, logger: object, method: str, event: EventDict) -> EventDict:
        failure = failure_in(event.pop("exc_info", None))
        # structlog's own keys, which hold a log record, are for its later processors.
        shown = {
            self._named(key): value if key.startswith("_") else self._shown(key, value)
            for key, value in event.items()
        }
        if failure is not None:
            shown["exception"] = format_traceback(failure, self._redact)
        return shown

    def _named(self, key: str) -> str:
        return key if key.isidentifier() else self._redact(key)

    def _shown(self, key: str, value: object) -> Any:
        return HIDDEN if is_secret_key(key) else plain(without_secrets(value), self._redact)


def escape_misread(logger: object, method: str, line: Any) -> Any:
    return line if line.isascii() else MISREAD.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def failure_in(said: object) -> BaseException | None:
    """What ``exc_info`` stands for."""
    if said is True:
        return sys.exc_info()[1]
    if isinstance(said, tuple):
        said = said[1]
    return said if isinstance(said, BaseException) else None


def name_the_run(logger: object, method: str, event: EventDict) -> EventDict:
    """A line says which run it is of: read when there is a line, since most runs have none."""
    run = current_run()
    if run is not None:
        event.setdefault("task", run.task)
        event.setdefault("run_id", run.run_id)
        event.setdefault("trigger", run.trigger.value)
    return event


def order_keys(logger: object, method: str, event: EventDict) -> EventDict:
    """What a reader looks for comes first, what a search looks for comes last."""
    first = {key: event.pop(key) for key in ("time", "level", "event", "task") if key in event}
    last = {
        key: event.pop(key) for key in ("trigger", "run_id", "stack", "exception") if key in event
    }
    return {**first, **event, **last}


def shorten_ids(logger: object, method: str, event: EventDict) -> EventDict:
    """On a terminal the first eight characters of a run's id tell it from the others. Of an id
    that somebody chose nothing is left out, nor of a job's: it is what `worker jobs show` takes."""
    if event.get("trigger") != "queue" and RANDOM_ID.fullmatch(str(event.get("run_id"))):
        event["run_id"] = str(event["run_id"])[:8]
    return event


def escape_controls(logger: object, method: str, event: EventDict) -> EventDict:
    """Keep values on their line, and terminal escapes out of the terminal. A text of several lines
    is indented, so that none of them can pass for a line of the log."""
    return {
        key: value
        if not isinstance(value, str)
        else indented(value)
        if key in TEXTS
        else CONTROL.sub(escaped, value)
        for key, value in event.items()
    }


def indented(text: str) -> str:
    return f"    {TEXT_CONTROL.sub(escaped, text)}".replace("\n", "\n    ")


def escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
