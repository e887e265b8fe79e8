"""What can be said of a single job when it is asked for, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict
from uuid import UUID

from worker.durations import format_duration
from worker.errors import InvalidOptions
from worker.jobs.job import ID, NOW, JobId, new_job_id
from worker.jobs.options import (
    CHECKS,
    PER_JOB,
    as_delay,
    as_limit,
    as_priority,
    as_queue,
    hint_at,
    overrides,
)
from worker.json_values import NotJson, check_json
from worker.redaction import quoted

if TYPE_CHECKING:
    from worker.jobs.options import ConcurrencyPer, JobOptions, UniquePer

__all__ = [
    "EnqueueOptions",
    "checked_names",
    "concurrency_of",
    "delay_of",
    "expires_of",
    "headers_of",
    "job_id",
    "overrides_of",
    "priority_of",
    "queue_of",
    "unique_of",
]


class EnqueueOptions(TypedDict, total=False):
    """What can be said of a single job. A duration is a ``timedelta``, a number of
    seconds, or a text such as ``"5m"``.

    Keys:
        id: The caller's own id: letters, digits and ``_ . : @ / + = -``, up to 200, or a
            ``UUID``. The same id twice is one job.
        queue: Another queue than the task's own.
        delay, at: From now, or the moment, to when it may begin; one of them.
        priority: -100 to 100; greater ones come first.
        headers: Handed on with the job: strings by name.
        connection: The caller's own connection to PostgreSQL, in whose transaction the job is
            enqueued: of SQLAlchemy, psycopg or asyncpg.
        unique, concurrency, expires, max_retries, retry_delay, retry_backoff, retry_backoff_max,
            retry_jitter, time_limit, soft_time_limit, ignore_result, track_started, result_ttl:
            In the place of the task's own. What is left belongs to the task alone: an exception
            cannot travel as JSON, and a rate holds for all jobs of a task.
    """

    id: str | UUID
    queue: str
    delay: timedelta | str | float
    at: datetime
    priority: int
    headers: Mapping[str, str]
    connection: Any
    unique: UniquePer | bool
    concurrency: ConcurrencyPer | int
    expires: timedelta | str | float
    max_retries: int
    retry_delay: timedelta | str | float
    retry_backoff: bool | float
    retry_backoff_max: timedelta | str | float
    retry_jitter: bool
    time_limit: timedelta | str | float
    soft_time_limit: timedelta | str | float
    ignore_result: bool
    track_started: bool
    result_ttl: timedelta | str | float


def checked_names(options: EnqueueOptions) -> None:
    """See that there are such options.

    Raises:
        InvalidOptions: There are not.
    """
    known = EnqueueOptions.__annotations__
    if unknown := options.keys() - known.keys():
        named = ", ".join(f"{name}{hint_at(name, known)}" for name in sorted(unknown))
        raise InvalidOptions(f"unknown option {named}; known: {', '.join(sorted(known))}")


def job_id(said: object) -> JobId:
    if said is None:
        return new_job_id()
    if isinstance(said, UUID):
        said = str(said)
    if not isinstance(said, str) or not ID.fullmatch(said):
        raise InvalidOptions(
            f"id: expected 1 to 200 letters, digits and _ . : @ / + = -, a letter or digit first, "
            f"got {quoted(said)}"
        )
    return JobId(said)


def queue_of(options: EnqueueOptions, plain: JobOptions) -> str:
    said = options.get("queue")
    return plain.queue if said is None else as_queue("queue", said)


def priority_of(options: EnqueueOptions, plain: JobOptions) -> int:
    said = options.get("priority")
    return plain.priority if said is None else as_priority("priority", said)


def delay_of(options: EnqueueOptions) -> timedelta:
    delay = options.get("delay")
    at: object = options.get("at")
    if delay is not None and at is not None:
        raise InvalidOptions("delay and at: expected one of them")
    if delay is not None:
        return as_delay("delay", delay)
    if at is None:
        return NOW
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise InvalidOptions(f"at: expected a datetime with its time zone, got {quoted(at)}")
    return as_delay("at", max(NOW, at - datetime.now(UTC)))


def expires_of(options: EnqueueOptions, plain: JobOptions, delay: timedelta) -> timedelta | None:
    said = options.get("expires")
    expires = plain.expires if said is None else as_limit("expires", said)
    if expires is not None and expires <= delay:
        raise InvalidOptions(
            f"expires: {format_duration(expires)} are over when its delay of "
            f"{format_duration(delay)} is: it could never begin"
        )
    return expires


def unique_of(options: EnqueueOptions, plain: JobOptions) -> UniquePer | None:
    said = options.get("unique")
    if said is None:
        return plain.unique
    unique: UniquePer | None = CHECKS["unique"]("unique", said)
    return unique


def concurrency_of(options: EnqueueOptions, plain: JobOptions) -> ConcurrencyPer | None:
    said = options.get("concurrency")
    if said is None:
        return plain.concurrency
    concurrency: ConcurrencyPer = CHECKS["concurrency"]("concurrency", said)
    return concurrency


def overrides_of(options: EnqueueOptions, plain: JobOptions) -> str:
    """What travels with the job, if the worker will be able to make sense of it."""
    own = PER_JOB & options.keys()
    text = overrides({key: options.get(key) for key in own}) if own else "{}"
    if text != "{}":
        plain.overridden_by(text)
    return text


def headers_of(options: EnqueueOptions) -> str:
    headers = options.get("headers")
    if not headers:
        return "{}"
    if not isinstance(headers, Mapping):
        raise InvalidOptions(f"headers: expected strings by name, got {quoted(headers)}")
    said: list[object] = [*headers.keys(), *headers.values()]
    if not all(isinstance(word, str) for word in said):
        raise InvalidOptions("headers: expected strings by name")
    try:
        check_json(dict(headers))
    except NotJson as exc:
        raise InvalidOptions(f"headers: {exc}") from exc
    return json.dumps(dict(headers), separators=(",", ":"))
