"""What is transient, and how long to wait before trying again. tenacity does the looping.

There is one retry loop around a failure, never two. A call of the Data API retries itself, and
the error it gives up with says so (``attempts``); the runner repeats a whole run only for an
error that nobody has retried yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from worker.errors import DataApiError
from worker.groups import leaves

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.clock import Clock

__all__ = ["RetryPolicy", "is_transient", "may_repeat", "parse_retry_after"]

T = TypeVar("T")

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 §9.2.2."""
IDEMPOTENCY_KEY = "Idempotency-Key"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and how patiently, a transient failure is tried again.

    The wait before the n-th repetition is drawn from ``[0, min(longest, base * 2**(n-1))]`` (full
    jitter), so that callers who failed together do not come back together. A ``Retry-After`` that
    makes sense is waited for instead when it is longer, up to ``retry_after_cap``.

    Attributes:
        attempts: Tries in all, the first included. ``1`` never repeats.
        base: The upper bound of the first wait.
        longest: The upper bound of any wait that the service did not ask for.
        retry_after_cap: The longest wait that the service can ask for.
        retry_on: Further exceptions that are worth another try, beside the transient ones.

    Raises:
        ValueError: ``attempts`` is under 1, or a duration is negative.
    """

    attempts: int = 3
    base: timedelta = timedelta(seconds=0.5)
    longest: timedelta = timedelta(seconds=30)
    retry_after_cap: timedelta = timedelta(seconds=60)
    retry_on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be 1 or more, got {self.attempts}")
        for name in ("base", "longest", "retry_after_cap"):
            if getattr(self, name) < timedelta(0):
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def covers(self, failure: BaseException) -> bool:
        """Whether ``failure`` is worth another try; of an exception group, all that it holds."""
        if not isinstance(failure, Exception):
            return False
        return isinstance(failure, self.retry_on) or all(
            isinstance(leaf, self.retry_on) or is_transient(leaf) for leaf in leaves(failure)
        )

    async def call(
        self,
        attempt: Callable[[], Awaitable[T]],
        *,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] | None = None,
        should_retry: Callable[[BaseException], bool] | None = None,
        before_wait: Callable[[int, float, BaseException], None] | None = None,
    ) -> T:
        """Await ``attempt()`` until it succeeds, fails for good, or ``attempts`` are spent.

        Args:
            sleep: How to wait, in seconds; the clock's way unless given.
            should_retry: Which failures to repeat; those that the policy `covers` unless given.
            before_wait: Told the number of the attempt that failed, the seconds to wait, and why.

        Raises:
            Exception: What the last attempt raised, unchanged.
        """
        should_retry = should_retry or self.covers
        try:
            return await attempt()  # nearly always all there is to do, so tenacity is spared
        except Exception as exc:
            if self.attempts == 1 or not should_retry(exc):
                raise
            first = [exc]

        async def again() -> T:
            if first:
                raise first.pop()  # tenacity counts it as the first attempt
            return await attempt()

        jittered = wait_random_exponential(
            multiplier=self.base.total_seconds(), max=self.longest.total_seconds()
        )
        cap = self.retry_after_cap.total_seconds()

        def wait(state: RetryCallState) -> float:
            asked = retry_after_s(failure_of(state), clock.now())
            ours = jittered(state)
            return ours if asked is None else max(ours, min(asked, cap))

        def announce(state: RetryCallState) -> None:
            if before_wait is not None:
                before_wait(state.attempt_number, state.upcoming_sleep, failure_of(state))

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.attempts),
            wait=wait,
            retry=retry_if_exception(should_retry),
            sleep=sleep or clock.sleep,
            before_sleep=announce,
            reraise=True,
        )
        return await retrying(again)


def failure_of(state: RetryCallState) -> BaseException:
    outcome = state.outcome
    failure = outcome.exception() if outcome is not None else None
    assert failure is not None  # tenacity asks only after a failure, for no result is retried
    return failure


def is_transient(failure: BaseException) -> bool:
    """Whether the same thing may succeed a little later, and may be repeated safely."""
    match failure:
        case DataApiError():
            return failure.transient
        case httpx.HTTPStatusError():
            status = failure.response.status_code
            return status in TRANSIENT_STATUS and may_repeat(failure.request)
        case httpx.TransportError():
            return passes(failure) and may_repeat_after(failure)
        case BaseExceptionGroup():
            return all(is_transient(leaf) for leaf in leaves(failure))
        case _:
            return False


def passes(failure: httpx.TransportError) -> bool:
    """False for what time cannot mend: a URL or a request that is wrong in itself."""
    return not isinstance(failure, httpx.UnsupportedProtocol | httpx.LocalProtocolError)


def may_repeat(request: httpx.Request) -> bool:
    """Whether sending the request twice has the effect of sending it once.

    A connection that was refused is no exception: that nothing was sent then is a property of one
    transport, and the rule has to hold for the next one too.
    """
    return request.method in IDEMPOTENT_METHODS or IDEMPOTENCY_KEY in request.headers


def may_repeat_after(failure: httpx.TransportError) -> bool:
    try:
        return may_repeat(failure.request)
    except RuntimeError:  # httpx: no request was attached, so nothing says it was a safe one
        return False


def retry_after_s(failure: BaseException, now: datetime) -> float | None:
    """The seconds that the service asked to wait; of an exception group, the most."""
    match failure:
        case DataApiError():
            return failure.retry_after_s
        case httpx.HTTPStatusError():
            return parse_retry_after(failure.response.headers.get("Retry-After"), now)
        case BaseExceptionGroup():
            asked = [retry_after_s(leaf, now) for leaf in leaves(failure)]
            return max((seconds for seconds in asked if seconds is not None), default=None)
        case _:
            return None


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds from a ``Retry-After`` header, as RFC 9110 §10.2.3 has it.

    Returns:
        ``None`` for an absent header and for nonsense: negative, in the past, not parseable.
    """
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]+", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (moment - now).total_seconds()
    return seconds if seconds > 0 else None
