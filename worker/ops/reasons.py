"""Why something failed, in one of few words: labels of metrics must not grow with what happens."""

from __future__ import annotations

from enum import StrEnum

import httpx

from worker.errors import (
    DataApiUnreachable,
    SoftTimeLimitExceeded,
    StoreError,
    TimeLimitExceeded,
    UnexpectedStatus,
)
from worker.groups import leaves

__all__ = ["Reason", "reason_of", "status_class"]

TIMEOUTS = (TimeoutError, httpx.TimeoutException, TimeLimitExceeded, SoftTimeLimitExceeded)
CONNECTIONS = (ConnectionError, httpx.TransportError, DataApiUnreachable)


class Reason(StrEnum):
    """Why an attempt failed."""

    TIMEOUT = "timeout"
    CONNECT = "connect"
    """No complete answer came: refused, reset, cut short."""
    BUSY = "429"
    CLIENT = "4xx"
    SERVER = "5xx"
    STORE = "store"
    ERROR = "error"
    """Anything else."""


def reason_of(failure: BaseException | None) -> Reason:
    """Why it failed. What an error of the Data API says in words, its cause says by its type. Of an
    exception group, the first exception in it counts."""
    if failure is not None:
        failure = leaves(failure)[0]
    cause = failure.__cause__ if isinstance(failure, DataApiUnreachable) else failure
    if isinstance(cause, TIMEOUTS):
        return Reason.TIMEOUT
    if isinstance(failure, CONNECTIONS):
        return Reason.CONNECT
    if isinstance(failure, UnexpectedStatus):
        return reason_of_status(failure.status)
    if isinstance(failure, httpx.HTTPStatusError):
        return reason_of_status(failure.response.status_code)
    return Reason.STORE if isinstance(failure, StoreError) else Reason.ERROR


def reason_of_status(status: int) -> Reason:
    if status == 429:
        return Reason.BUSY
    return {4: Reason.CLIENT, 5: Reason.SERVER}.get(status // 100, Reason.ERROR)


def status_class(status: int | None) -> str:
    """``2xx`` and so on; ``none`` without an answer, ``other`` for what is no status.

    401 and 403 stand by themselves: they are the fault of the worker's token, not of a call.
    """
    if status is None:
        return "none"
    if status in (401, 403):
        return str(status)
    return f"{status // 100}xx" if 100 <= status < 600 else "other"
