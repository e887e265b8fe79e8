"""What a run came to, as it is recorded: a result as JSON, an error in words, a state."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import httpx

from worker.errors import (
    DataApiUnreachable,
    InvalidResult,
    RunInterrupted,
    StoreUnavailable,
    WorkerError,
)
from worker.groups import leaves
from worker.jobs.verdict import Snoozed
from worker.json_values import check_keys, check_written, is_suspicious
from worker.model import RunError, State
from worker.redaction import cut, safe_text, writable
from worker.retry import is_transient
from worker.summary import describe

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "encode_result",
    "error_of",
    "is_one_jobs_fault",
    "is_own",
    "result_in",
    "state_of",
    "unwrapped",
]

LONGEST_REASON = 500
NOT_ITS_FAULT = (RunInterrupted, Snoozed, InvalidResult, DataApiUnreachable, StoreUnavailable)


def is_own(failure: BaseException) -> bool:
    """Whether it is the task's failure, and not somebody's wish that it ends or waits."""
    return not isinstance(failure, RunInterrupted | Snoozed)


def is_one_jobs_fault(failure: BaseException) -> bool:
    """Whether a batch may have failed because of one of its jobs, and not of what they share."""
    return any(
        not isinstance(leaf, (*NOT_ITS_FAULT, httpx.TransportError)) and not is_transient(leaf)
        for leaf in leaves(failure)
    )


def unwrapped(failure: BaseException) -> BaseException:
    """The failure without what only asks for the run's end or for a pause.

    A group of nothing else becomes that request itself; of several snoozes the longest.
    """
    if not isinstance(failure, BaseExceptionGroup):
        return failure
    own = failure.subgroup(lambda one: not isinstance(one, BaseExceptionGroup) and is_own(one))
    if own is not None:
        return own
    found = leaves(failure)
    snoozes = [leaf for leaf in found if isinstance(leaf, Snoozed)]
    return max(snoozes, key=lambda one: one.delay) if snoozes else found[0]


def result_in(failure: BaseException) -> object:
    """What a failed run found out so far, where one of its failures carries that."""
    carried = (leaf.result for leaf in leaves(failure) if isinstance(leaf, WorkerError))
    return next((result for result in carried if result is not None), None)


def encode_result(result: object, limit: int) -> str:
    """A job's result as JSON.

    Raises:
        InvalidResult: It cannot be written so, or is too large.
    """
    try:
        text = json_writer()(result, inf_nan_mode="constants").decode()
        if not is_exact(result):
            if "null" in text or is_suspicious(text):
                check_written(result)
                check_written(json_values()(result, inf_nan_mode="constants"))
            check_keys(result)
    except RecursionError as exc:
        raise InvalidResult("expected a result that is not nested so deeply") from exc
    except BaseException as exc:  # a value may have code of its own for this
        said = cut(writable(safe_text(exc)), LONGEST_REASON)
        raise InvalidResult(
            f"expected a result that can be written as JSON, got a {type(result).__name__}: {said}"
        ) from exc
    size = len(text) if text.isascii() else len(text.encode())
    if size > limit:
        raise InvalidResult(
            f"the result is {size} bytes as JSON, expected up to {limit}; store large data "
            "elsewhere and return where it is"
        )
    return text


def is_exact(result: object) -> bool:
    """Whether JSON holds a result exactly, if it can be written at all."""
    if isinstance(result, int):
        return result.bit_length() <= 64
    return result is None or isinstance(result, str)


@cache
def json_writer() -> Callable[..., bytes]:
    """pydantic's, which is loaded when it is needed: it takes longer than all the rest."""
    from pydantic_core import to_json

    return to_json


@cache
def json_values() -> Callable[..., object]:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python


def error_of(failure: BaseException, redact: Callable[[str], str]) -> RunError:
    return RunError(
        type(failure).__name__,
        describe(failure, redact),
        unreachable=all(
            isinstance(leaf, DataApiUnreachable | httpx.TransportError) for leaf in leaves(failure)
        ),
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
