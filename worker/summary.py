"""Results and exceptions, cut down to what a log line can hold."""

from __future__ import annotations

import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx

from worker.errors import DataApiError, InvalidParams, InvalidResult, TaskFailed
from worker.groups import leaves
from worker.network import explain
from worker.redaction import cut

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["describe", "format_traceback", "is_plain", "summarize"]

LONGEST_NAME = 50
LONGEST_MESSAGE = 500
LONGEST_TRACEBACK = 8_000
LONGEST_INTEGER_BITS = 512
MOST_KEYS = 12
HOSTILE = (Exception, SystemExit, KeyboardInterrupt)
"""What the methods of a stranger's value may raise; none of it may end more than a text."""


def summarize(result: object) -> object:
    """What a log may tell of a result: figures as they are, of everything else how much it is.

    No text that a task returns gets into the log, for nobody knows what it is. A mapping keeps its
    first entries, each summarized once more: ``{"processed": 990, "failed_ids": […]}`` becomes
    ``{"processed": 990, "failed_ids": "10 items"}``; a key that is no name may be data, too.
    """
    if isinstance(result, dict):
        with suppress(*HOSTILE):  # of a subclass, which may do anything
            return entries(result)
    return gist(result)


def entries(result: dict[object, object]) -> dict[str, object]:
    names = [key for key in result if isinstance(key, str) and is_name(key)][:MOST_KEYS]
    shown = {str(name): gist(result[name]) for name in names}
    if len(result) > len(shown):
        shown["…"] = f"{len(result) - len(shown)} more"
    return shown


def is_name(key: str) -> bool:
    return len(key) <= LONGEST_NAME and key.isascii() and key.isidentifier()


def gist(value: object) -> object:
    match value:
        case None | bool() | float():
            return value
        case int():
            bits = value.bit_length()  # Python refuses to write down very long ones
            return value if bits <= LONGEST_INTEGER_BITS else f"an integer of {bits} bits"
        case str():
            return safe(lambda text: f"{len(text)} characters", value)
        case bytes():
            return safe(lambda data: f"{len(data)} bytes", value)
        case dict() | list() | tuple() | set() | frozenset():
            return safe(lambda items: f"{len(items)} items", value)
        case _:
            return f"<{type(value).__name__}>"


def describe(failure: BaseException, redact: Callable[[str], str]) -> str:
    """An exception's message on one line; its type where it has none. Never raises.

    An exception group is described by the first exception that it holds, and how many more.

    Args:
        redact: Takes secrets out of it, before it is cut.
    """
    if isinstance(failure, BaseExceptionGroup):
        first, *others = leaves(failure)
        more = f" (and {len(others)} more)" if others else ""
        return f"{type(first).__name__}: {describe(first, redact)}{more}"
    try:
        text = explain(failure) if isinstance(failure, httpx.TransportError) else str(failure)
        if isinstance(failure, httpx.HTTPStatusError):
            text = text.partition("\nFor more information")[0]  # a link to what any status means
    except HOSTILE:
        text = "(its message could not be made)"
    return cut(" ".join(redact(text).split()) or type(failure).__name__, LONGEST_MESSAGE)


def is_plain(failure: BaseException) -> bool:
    """Whether its message says it all: these come from known places, for known reasons."""
    plain = DataApiError | TaskFailed | InvalidParams | InvalidResult | httpx.TransportError
    return all(isinstance(leaf, plain) for leaf in leaves(failure))


def format_traceback(failure: BaseException, redact: Callable[[str], str]) -> str:
    """The traceback as text, its middle left out when it is long (endless recursion is).

    Args:
        redact: Takes secrets out of it, before that.
    """
    try:
        text = "".join(traceback.format_exception(failure)).rstrip()
    except HOSTILE:
        return f"{type(failure).__name__} (its traceback could not be made)"
    text = redact(text)
    if len(text) <= LONGEST_TRACEBACK:
        return text
    half = LONGEST_TRACEBACK // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def safe(text_of: Callable[[Any], str], value: object) -> str:
    """What ``text_of`` makes of ``value``; its type's name if that fails."""
    try:
        return text_of(value)
    except HOSTILE:
        return f"<{type(value).__name__}>"
