"""What a run came to, as it is recorded: a result as JSON, an error in words, a state."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import httpx

from worker.errors import DataApiUnreachable, InvalidResult, RunInterrupted, StoreUnavailable
from worker.jobs.verdict import Snoozed
from worker.model import RunError, State
from worker.retry import is_transient
from worker.summary import describe

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["encode_result", "error_of", "is_one_jobs_fault", "is_own", "state_of"]

NOT_ITS_FAULT = (RunInterrupted, Snoozed, InvalidResult, DataApiUnreachable, StoreUnavailable)


def is_own(failure: BaseException) -> bool:
    """Whether it is the task's failure, and not somebody's wish that it ends or waits."""
    return not isinstance(failure, RunInterrupted | Snoozed)


def is_one_jobs_fault(failure: BaseException) -> bool:
    """Whether a batch may have failed because of one of its jobs, and not of what they share."""
    if isinstance(failure, (*NOT_ITS_FAULT, httpx.TransportError)):
        return False
    return not is_transient(failure)


def encode_result(result: object, limit: int) -> str:
    """A job's result as JSON.

    Raises:
        InvalidResult: It cannot be written so, or is too large.
    """
    try:
        text = json_writer()(result, inf_nan_mode="null")
    except Exception as exc:  # a value may have code of its own for this
        raise InvalidResult(
            f"expected a result that can be written as JSON, got a {type(result).__name__}: {exc}"
        ) from exc
    if len(text) > limit:
        raise InvalidResult(
            f"the result is {len(text)} bytes as JSON, expected up to {limit}; store large data "
            "elsewhere and return where it is"
        )
    return text.decode()


@cache
def json_writer() -> Callable[..., bytes]:
    """pydantic's, which is loaded when it is needed: it takes longer than all the rest."""
    from pydantic_core import to_json

    return to_json


def error_of(failure: BaseException, redact: Callable[[str], str]) -> RunError:
    return RunError(
        type(failure).__name__,
        describe(failure, redact),
        unreachable=isinstance(failure, DataApiUnreachable | httpx.TransportError),
    )


def state_of(failure: BaseException | None) -> State:
    match failure:
        case None:
            return State.SUCCESS
        case RunInterrupted():
            return State.REVOKED
        case Snoozed():
            return State.PENDING
        case _:
            return State.FAILURE
