"""What asyncio itself has to report: the event loop's exception handler.

asyncio logs each failure as it comes. Without a free file descriptor that is one for every try to
accept a connection. Here each kind of failure is logged at once, and then counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from worker.open_files import open_files_limit

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

__all__ = ["LoopErrors"]

INTERVAL_S = 60.0
"""A kind of failure is logged at most once in this time."""
MOST_KINDS = 100
"""Kinds of failures that are counted apart."""
ACCEPT = "accept"
HINT = (
    "new connections wait until others are closed; raise the limit of open files (ulimit -n, "
    "LimitNOFILE=, or the container's ulimits)"
)


@dataclass
class Kind:
    """One kind of failure.

    Attributes:
        until: On the loop's clock, until when further ones are only counted.
        count: How many were, since the last one that was logged.
        keys: What was logged of the last one.
    """

    until: float = 0.0
    count: int = 0
    keys: dict[str, Any] = field(default_factory=dict)


class LoopErrors:
    """A handler for `asyncio.loop.set_exception_handler`.

    Args:
        log: Given the name of an event and its keys.
    """

    def __init__(self, log: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._log = log
        self._kinds: dict[str, Kind] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message, exc = str(context.get("message") or ""), context.get("exception")
        name, event = kind_of(message, exc)
        kind = self._kinds.setdefault(name if len(self._kinds) < MOST_KINDS else "other", Kind())
        kind.count += 1
        if event == "loop.accept_failed":
            kind.keys = {"reason": str(exc), "limit": open_files_limit(), "hint": HINT}
        else:
            kind.keys = {"reason": message, "exc_info": exc}
        if loop.time() >= kind.until:
            self._tell(loop, event, kind)

    def _tell(self, loop: asyncio.AbstractEventLoop, event: str, kind: Kind) -> None:
        """Log what was counted, and what is counted meanwhile when the interval is over."""
        if not kind.count:
            return
        keys = {**kind.keys, "count": kind.count}
        kind.until, kind.count, kind.keys = loop.time() + INTERVAL_S, 0, {}
        if not loop.is_closed():
            loop.call_later(INTERVAL_S, self._tell, loop, event, kind)
        self._log(event, keys)


def kind_of(message: str, exc: object) -> tuple[str, str]:
    """What tells this kind of failure from others, and the event by which it is logged."""
    if isinstance(exc, OSError) and message.startswith("socket.accept()"):
        return ACCEPT, "loop.accept_failed"
    return f"{type(exc).__name__} {message[:200]}", "loop.error"
