"""What can be said of an on-demand task: how it is retried, limited, kept, and kept apart.

Each option is an attribute of the task's class or an argument of ``@task``. Most can be overridden
for one job, when it is enqueued.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from worker.durations import as_duration, format_duration, parse_duration
from worker.errors import InvalidOptions, nearest
from worker.groups import leaves
from worker.jobs.job import QUEUE, Rate, Unique
from worker.jobs.keys import key_of
from worker.model import State
from worker.redaction import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "CELERY_OPTIONS",
    "ConcurrencyPer",
    "JobOptions",
    "UniquePer",
    "as_delay",
    "as_limit",
    "hint_at",
    "overrides",
]

LONGEST = timedelta(days=366)
LONGEST_NAME = 200
ACTIVE = (State.PENDING, State.STARTED, State.RETRY)
RATE = re.compile(r"\s*([0-9]+)\s*/\s*([0-9.]*\s*(?:ms|s|m|h|d))\s*")
PER_JOB = frozenset(
    {
        "expires",
        "ignore_result",
        "max_retries",
        "result_ttl",
        "retry_backoff",
        "retry_backoff_max",
        "retry_delay",
        "retry_jitter",
        "soft_time_limit",
        "time_limit",
        "track_started",
    }
)
"""What a job can carry with it, beside its queue, priority and delay, which the engine knows."""


@dataclass(frozen=True, slots=True, init=False)
class UniquePer:
    """One job at a time with the same parameters.

    Attributes:
        by: The parameters that count; none named means all.
        ttl: How long a job keeps others out at most, from when it was enqueued.
        states: It keeps others out while it is in one of these; by default until it has ended.
        on_conflict: ``return`` hands out the job that is there, ``raise`` raises `DuplicateJob`.
    """

    by: tuple[str, ...]
    ttl: timedelta | None
    states: tuple[State, ...]
    on_conflict: Literal["return", "raise"]

    def __init__(
        self,
        *by: str,
        ttl: timedelta | str | float | None = None,
        states: tuple[State | str, ...] = ACTIVE,
        on_conflict: Literal["return", "raise"] = "return",
    ) -> None:
        put = object.__setattr__
        put(self, "by", by)
        put(self, "ttl", None if ttl is None else as_delay("unique: ttl", ttl))
        if on_conflict not in ("return", "raise"):
            raise InvalidOptions(
                f"unique: on_conflict: expected return or raise, got {on_conflict!r}"
            )
        put(self, "on_conflict", on_conflict)
        try:
            said = {State(state) for state in states}
        except ValueError as exc:
            raise InvalidOptions(f"unique: states: {exc}") from exc
        if State.PROGRESS in said:
            said = (said - {State.PROGRESS}) | {State.STARTED}
        if not said or State.UNKNOWN in said:
            raise InvalidOptions(f"unique: states: expected states of jobs, got {states!r}")
        put(self, "states", tuple(state for state in State if state in said))

    def of(self, task: str, params: str | Mapping[str, object]) -> Unique:
        """The key that a job of ``task`` with these parameters holds.

        Args:
            params: The validated values by field, or the JSON text of parameters without types.
        """
        return self.holding(key_of(task, as_values(params), self.by))

    def holding(self, key: str) -> Unique:
        """A job that holds this key."""
        return Unique(key, self.states, self.ttl)


@dataclass(frozen=True, slots=True, init=False)
class ConcurrencyPer:
    """At most ``limit`` jobs at a time with the same parameters, over all workers.

    Attributes:
        by: The parameters that count; none named means that all jobs of the task share the limit.
        limit: How many may run at a time.
        name: Tasks that say the same name share their keys; by default the task's own.
    """

    by: tuple[str, ...]
    limit: int
    name: str | None

    def __init__(self, *by: str, limit: int = 1, name: str | None = None) -> None:
        put = object.__setattr__
        put(self, "by", by)
        put(self, "limit", as_number("concurrency: limit", limit, 1, 1_000_000))
        said: object = name
        if said is not None and not (isinstance(said, str) and 0 < len(said) <= LONGEST_NAME):
            raise InvalidOptions(
                f"concurrency: name: expected up to {LONGEST_NAME} characters, got {quoted(name)}"
            )
        put(self, "name", name)

    def of(self, task: str, params: str | Mapping[str, object]) -> str:
        """The key that a job of ``task`` with these parameters has.

        Args:
            params: The validated values by field, or the JSON text of parameters without types.
        """
        name = self.name or task
        return key_of(name, as_values(params), self.by) if self.by else name


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """The options of an on-demand task. A duration is a ``timedelta``, a number of
    seconds, or a text such as ``"5m"``.

    Attributes:
        queue: Where its jobs wait.
        version: Of its parameters' schema. A worker that knows an older one leaves the job alone.
        max_retries: How often a job is tried again after its first attempt failed.
        retry_delay: From a failure to the next attempt.
        retry_backoff: What the delay grows by with each attempt; ``True`` doubles it, ``False``
            leaves it as it is.
        retry_backoff_max: The longest delay.
        retry_jitter: Whether the delay is drawn from between half of it and all of it.
        retry_on: What is worth another attempt; by default every exception. Of an exception group,
            each exception in it must be.
        dont_retry_on: What is not, even if ``retry_on`` says so. One such exception in a group is
            enough.
        time_limit: The longest an attempt may take; ``None`` takes the worker's setting.
        soft_time_limit: After it `SoftTimeLimitExceeded` is raised inside of the task.
        ignore_result: Keep the outcome only.
        track_started: Record that it has begun, where the engine does not know that by itself.
        result_ttl: How long the result is kept.
        priority: -100 to 100; greater ones come first.
        unique: See `UniquePer`. ``True`` is one with all parameters.
        concurrency: See `ConcurrencyPer`. A number is a limit for the whole task.
        rate_limit: Starts in a time, over all workers: ``"100/m"``.
        expires: From when it was enqueued to when it is too late to begin.

    Raises:
        InvalidOptions: One of them is wrong.
    """

    queue: str = "default"
    version: int = 1
    max_retries: int = 3
    retry_delay: timedelta = timedelta(seconds=5)
    retry_backoff: float = 2.0
    retry_backoff_max: timedelta = timedelta(minutes=10)
    retry_jitter: bool = True
    retry_on: tuple[type[Exception], ...] = (Exception,)
    dont_retry_on: tuple[type[Exception], ...] = ()
    time_limit: timedelta | None = None
    soft_time_limit: timedelta | None = None
    ignore_result: bool = False
    track_started: bool = True
    result_ttl: timedelta = timedelta(days=1)
    priority: int = 0
    unique: UniquePer | None = None
    concurrency: ConcurrencyPer | None = None
    rate_limit: Rate | None = None
    expires: timedelta | None = None

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> JobOptions:
        """The options as somebody wrote them down; ``None`` means the default.

        Raises:
            InvalidOptions: One of them is unknown or wrong.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(said) - known):
            named = ", ".join(f"{name}{hint_at(name, known)}" for name in unknown)
            raise InvalidOptions(f"unknown option {named}; known: {', '.join(sorted(known))}")
        return in_harmony(
            cls(
                **{
                    name: CHECKS[name](name, value)
                    for name, value in said.items()
                    if value is not None
                }
            )
        )

    def overridden_by(self, text: str) -> JobOptions:
        """These options, with what one job says of itself in their place.

        Args:
            text: As `overrides` made it, or a producer in another language. What is unknown here
                may be known to a newer worker, and is left alone.

        Raises:
            InvalidOptions: It cannot be read.
        """
        try:
            said = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise InvalidOptions(f"options: expected a JSON object: {exc}") from exc
        if not isinstance(said, dict):
            raise InvalidOptions(f"options: expected a JSON object, got a {type(said).__name__}")
        changes: dict[str, Any] = {
            name: CHECKS[name](name, value)
            for name, value in said.items()
            if name in PER_JOB and value is not None
        }
        return in_harmony(replace(self, **changes))

    def delay_after(self, attempt: int) -> timedelta:
        """How long to wait after the ``attempt``-th attempt failed, the first being 1."""
        if not self.retry_delay:
            return self.retry_delay
        try:
            delay_s = self.retry_delay.total_seconds() * self.retry_backoff ** (attempt - 1)
        except OverflowError:
            delay_s = float("inf")
        delay_s = min(delay_s, self.retry_backoff_max.total_seconds())
        if self.retry_jitter:
            delay_s *= random.uniform(0.5, 1)
        return timedelta(seconds=delay_s)

    def is_worth_another(self, failure: BaseException) -> bool:
        """Whether an attempt that ended with ``failure`` is worth another.

        An exception group is judged by what it holds: all of it must be worth another attempt. It
        is judged as a whole only where an option names a kind of group.
        """
        if isinstance(failure, self.dont_retry_on):
            return False
        found = [leaf for leaf in leaves(failure) if isinstance(leaf, Exception)]
        if any(isinstance(leaf, self.dont_retry_on) for leaf in found):
            return False
        groups = tuple(kind for kind in self.retry_on if issubclass(kind, BaseExceptionGroup))
        return isinstance(failure, groups) or all(isinstance(leaf, self.retry_on) for leaf in found)


CELERY_OPTIONS: Mapping[str, str] = {
    "abstract": "here a class without a name is a base of others",
    "acks_late": "here a job is always acknowledged after it has run",
    "acks_on_failure_or_timeout": "here a failed job is retried and then kept as a dead letter",
    "autoretry_for": "here retry_on",
    "bind": "here self.context, and in a function a parameter of the type RunContext",
    "compression": "here nothing is compressed",
    "countdown": "here delay=… when the job is enqueued",
    "default_retry_delay": "here retry_delay",
    "delivery_mode": "here the queue's engine decides",
    "dont_autoretry_for": "here dont_retry_on",
    "eta": "here at=… when the job is enqueued",
    "reject_on_worker_lost": "here a job whose worker is lost always runs again",
    "request_stack": "here self.context",
    "retry_kwargs": "here max_retries and retry_delay",
    "routing_key": "here queue",
    "send_events": "here events are always sent",
    "serializer": "here parameters and results are always JSON",
    "store_eager_result": "here a test's worker always keeps results",
    "store_errors_even_if_ignored": "here errors are always kept",
    "throws": "here dont_retry_on",
    "trail": "here it does not exist",
    "typing": "here parameters are always validated",
}
"""Celery's options that have another name here, or none, and what to write instead."""


def hint_at(name: str, known: Iterable[str]) -> str:
    """What may be meant by the unknown name of an option, in parentheses; or nothing."""
    celery = CELERY_OPTIONS.get(name)
    return nearest(name, known) if celery is None else f" ({celery})"


def in_harmony(options: JobOptions) -> JobOptions:
    """The options, if they go together.

    Raises:
        InvalidOptions: One makes another useless.
    """
    soft, hard = options.soft_time_limit, options.time_limit
    if soft is not None and hard is not None and soft >= hard:
        raise InvalidOptions(
            f"soft_time_limit: expected less than the time_limit of {format_duration(hard)}, "
            f"got {format_duration(soft)}"
        )
    return options


def overrides(said: Mapping[str, Any]) -> str:
    """What one job says of itself, as a JSON object that travels with it.

    Raises:
        InvalidOptions: One of them is wrong, or nothing that one job can say.
    """
    given = {name: value for name, value in said.items() if value is not None}
    if not given:
        return "{}"
    if unknown := sorted(given.keys() - PER_JOB):
        raise InvalidOptions(
            f"{', '.join(unknown)}: not for a single job; known: {', '.join(sorted(PER_JOB))}"
        )
    checked = {name: CHECKS[name](name, value) for name, value in given.items()}
    return json.dumps(
        {
            name: value.total_seconds() if isinstance(value, timedelta) else value
            for name, value in checked.items()
        },
        separators=(",", ":"),
    )


def as_values(params: str | Mapping[str, object]) -> Mapping[str, object]:
    if isinstance(params, str):
        values: Mapping[str, object] = json.loads(params)
        return values
    return params


def as_delay(name: str, value: object) -> timedelta:
    """A duration that may be zero: a ``timedelta``, a number of seconds, or a text such as
    ``"5m"``.

    Raises:
        InvalidOptions: It is none, negative, or longer than a year.
    """
    try:
        duration = as_duration(value)
    except ValueError as exc:
        raise InvalidOptions(f"{name}: {exc}") from exc
    if not timedelta(0) <= duration <= LONGEST:
        raise InvalidOptions(f"{name}: expected 0 to {LONGEST.days} days, got {quoted(value)}")
    return duration


def as_limit(name: str, value: object) -> timedelta:
    duration = as_delay(name, value)
    if not duration:
        raise InvalidOptions(f"{name}: expected more than nothing, got {quoted(value)}")
    return duration


def as_number(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidOptions(
            f"{name}: expected a whole number {least} to {most}, got {quoted(value)}"
        )
    return value


def as_retries(name: str, value: object) -> int:
    return as_number(name, value, 0, 10_000)


def as_version(name: str, value: object) -> int:
    return as_number(name, value, 1, 1_000_000)


def as_priority(name: str, value: object) -> int:
    return as_number(name, value, -100, 100)


def as_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidOptions(f"{name}: expected True or False, got {quoted(value)}")
    return value


def as_factor(name: str, value: object) -> float:
    if isinstance(value, bool):
        return 2.0 if value else 1.0
    if not isinstance(value, int | float) or not 1 <= value <= 100:
        raise InvalidOptions(
            f"{name}: expected True, False, or a factor 1 to 100, got {quoted(value)}"
        )
    return float(value)


def as_queue(name: str, value: object) -> str:
    """The name of a queue.

    Raises:
        InvalidOptions: It is none.
    """
    if not isinstance(value, str) or not QUEUE.fullmatch(value):
        raise InvalidOptions(
            f"{name}: expected 1 to 80 letters, digits and _ . -, a letter or digit first, "
            f"got {quoted(value)}"
        )
    return value


def as_exceptions(name: str, value: object) -> tuple[type[Exception], ...]:
    kinds = value if isinstance(value, tuple) else (value,)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise InvalidOptions(f"{name}: expected a tuple of exceptions, got {quoted(value)}")
    return kinds


def as_unique(name: str, value: object) -> UniquePer | None:
    if value is True:
        return UniquePer()
    if value is False or isinstance(value, UniquePer):
        return value or None
    raise InvalidOptions(f'{name}: expected UniquePer("parameter", …) or True, got {quoted(value)}')


def as_concurrency(name: str, value: object) -> ConcurrencyPer:
    if isinstance(value, ConcurrencyPer):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return ConcurrencyPer(limit=value)
    raise InvalidOptions(
        f'{name}: expected ConcurrencyPer("parameter", …, limit=1) or a number, got {quoted(value)}'
    )


def as_rate(name: str, value: object) -> Rate:
    if isinstance(value, Rate):
        return checked_rate(name, value.limit, value.period)
    match = RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidOptions(
            f'{name}: expected starts in a time, such as "100/m" or "5/2s", got {quoted(value)}'
        )
    limit, period = int(match[1]), match[2].replace(" ", "")
    if not period[0].isdigit():
        period = f"1{period}"
    try:
        length = parse_duration(period)
    except ValueError as exc:
        raise InvalidOptions(f"{name}: {exc}") from exc
    return checked_rate(name, limit, length)


def checked_rate(name: str, limit: int, period: timedelta) -> Rate:
    if limit < 1 or period <= timedelta(0) or period / limit < timedelta(microseconds=10):
        raise InvalidOptions(
            f"{name}: expected 1 to 100000 starts a second, got {limit} in {period}"
        )
    return Rate(limit, period)


CHECKS: Mapping[str, Any] = {
    "queue": as_queue,
    "version": as_version,
    "max_retries": as_retries,
    "retry_delay": as_delay,
    "retry_backoff": as_factor,
    "retry_backoff_max": as_delay,
    "retry_jitter": as_flag,
    "retry_on": as_exceptions,
    "dont_retry_on": as_exceptions,
    "time_limit": as_limit,
    "soft_time_limit": as_limit,
    "ignore_result": as_flag,
    "track_started": as_flag,
    "result_ttl": as_delay,
    "priority": as_priority,
    "unique": as_unique,
    "concurrency": as_concurrency,
    "rate_limit": as_rate,
    "expires": as_limit,
}
"""How each option is read: from what somebody wrote to what it means, or `InvalidOptions`."""
