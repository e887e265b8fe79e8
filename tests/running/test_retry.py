"""What is tried again, how often, and after which wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.clock import START, FakeClock
from worker.errors import DataApiError, TaskFailed
from worker.retry import RetryPolicy, is_transient, may_repeat, parse_retry_after

GET = httpx.Request("GET", "http://data-api.test/")
POST = httpx.Request("POST", "http://data-api.test/")
KEYED = httpx.Request("POST", "http://data-api.test/", headers={"idempotency-key": "k"})


def failing(*failures: BaseException) -> tuple[Callable[[], Awaitable[str]], list[int]]:
    """Code that raises each of ``failures`` and then succeeds, and how often it ran."""
    left, count = list(failures), [0]

    async def attempt() -> str:
        count[0] += 1
        if left:
            raise left.pop(0)
        return "done"

    return attempt, count


def status_error(
    status: int, request: httpx.Request = GET, **headers: str
) -> httpx.HTTPStatusError:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(status, request=request, headers=sent)
    return httpx.HTTPStatusError("failed", request=request, response=response)


def transient(retry_after_s: float | None = None) -> DataApiError:
    return DataApiError("sync", "failed", transient=True, retry_after_s=retry_after_s)


async def test_success_is_returned_without_a_wait() -> None:
    clock = FakeClock()
    attempt, count = failing()
    assert await RetryPolicy().call(attempt, clock=clock) == "done"
    assert (count, clock.slept) == ([1], [])


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_transient_failure_is_tried_again_until_it_passes(failures: int) -> None:
    clock = FakeClock()
    attempt, count = failing(*(transient() for _ in range(failures)))
    assert await RetryPolicy(attempts=4).call(attempt, clock=clock) == "done"
    assert count == [failures + 1]
    assert len(clock.slept) == failures


@pytest.mark.parametrize("attempts", [1, 2, 5])
async def test_last_failure_is_raised_as_it_is_when_attempts_are_spent(attempts: int) -> None:
    failures = [transient() for _ in range(9)]
    attempt, count = failing(*failures)
    clock = FakeClock()
    with pytest.raises(DataApiError) as caught:
        await RetryPolicy(attempts=attempts).call(attempt, clock=clock)
    assert caught.value is failures[attempts - 1]
    assert count == [attempts]
    assert len(clock.slept) == attempts - 1


@pytest.mark.parametrize(
    "failure",
    [ValueError("a defect"), TaskFailed("nothing done"), DataApiError("sync", "final")],
)
async def test_final_failure_is_raised_at_once(failure: Exception) -> None:
    attempt, count = failing(failure)
    with pytest.raises(type(failure)) as caught:
        await RetryPolicy().call(attempt, clock=FakeClock())
    assert caught.value is failure
    assert count == [1]


@pytest.mark.parametrize("failure", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("before", [0, 1])
async def test_what_ends_a_task_is_never_tried_again(failure: BaseException, before: int) -> None:
    attempt, count = failing(*(transient() for _ in range(before)), failure)
    with pytest.raises(type(failure)):
        await RetryPolicy(retry_on=(Exception,)).call(attempt, clock=FakeClock())
    assert count == [before + 1]


async def test_cancellation_ends_the_wait() -> None:
    class Waiting(FakeClock):
        async def sleep(self, seconds: float) -> None:
            raise asyncio.CancelledError

    attempt, count = failing(transient())
    with pytest.raises(asyncio.CancelledError):
        await RetryPolicy().call(attempt, clock=Waiting())
    assert count == [1]


async def test_further_exceptions_can_be_named() -> None:
    attempt, count = failing(KeyError("a"), KeyError("b"))
    policy = RetryPolicy(retry_on=(LookupError,))
    assert await policy.call(attempt, clock=FakeClock()) == "done"
    assert count == [3]


async def test_who_asks_is_told_before_each_wait() -> None:
    told: list[tuple[int, float, BaseException]] = []
    failures = [transient(7), transient(8)]
    attempt, _ = failing(*failures)
    clock = FakeClock()
    await RetryPolicy(base=timedelta(0)).call(
        attempt, clock=clock, before_wait=lambda *event: told.append(event)
    )
    assert told == [(1, 7, failures[0]), (2, 8, failures[1])]
    assert clock.slept == [7, 8]


DURATIONS = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=2))


@given(attempts=st.integers(2, 12), base=DURATIONS, longest=DURATIONS)
def test_waits_are_drawn_from_nothing_up_to_the_doubled_base(
    attempts: int, base: timedelta, longest: timedelta
) -> None:
    clock = FakeClock()
    attempt, _ = failing(*(transient() for _ in range(attempts - 1)))
    policy = RetryPolicy(attempts=attempts, base=base, longest=longest)
    asyncio.run(policy.call(attempt, clock=clock))
    assert len(clock.slept) == attempts - 1
    for number, wait_s in enumerate(clock.slept):
        assert 0 <= wait_s <= min(longest.total_seconds(), base.total_seconds() * 2**number)


async def test_waits_are_spread_over_the_whole_range() -> None:
    clock = FakeClock()
    policy = RetryPolicy(attempts=2, base=timedelta(seconds=10))
    for _ in range(400):
        attempt, _count = failing(transient())
        await policy.call(attempt, clock=clock)
    # Full jitter: the chance that one of the quarters stays empty is under 10**-49.
    assert {int(wait_s // 2.5) for wait_s in clock.slept} == {0, 1, 2, 3}


async def test_a_thousandth_attempt_waits_no_longer_than_the_longest() -> None:
    clock = FakeClock()
    attempt, _ = failing(*(transient() for _ in range(1500)))
    await RetryPolicy(attempts=2000, longest=timedelta(seconds=3)).call(attempt, clock=clock)
    assert max(clock.slept) <= 3


@given(asked=st.floats(0, allow_nan=False), base=DURATIONS, cap=DURATIONS)
def test_wait_is_the_longer_of_ours_and_what_was_asked_for_up_to_its_cap(
    asked: float, base: timedelta, cap: timedelta
) -> None:
    clock = FakeClock()
    attempt, _ = failing(transient(asked))
    policy = RetryPolicy(base=base, retry_after_cap=cap)
    asyncio.run(policy.call(attempt, clock=clock))
    [wait_s] = clock.slept
    wished = min(asked, cap.total_seconds())
    assert wished <= wait_s <= max(wished, base.total_seconds())


async def test_wait_that_an_answer_asks_a_users_task_for_is_kept() -> None:
    clock = FakeClock()
    date = format_datetime(START + timedelta(seconds=9), usegmt=True)
    attempt, _ = failing(status_error(503, retry_after="7"), status_error(429, retry_after=date))
    # The clock moves by the first wait, so the date is nearer by then.
    await RetryPolicy(base=timedelta(0)).call(attempt, clock=clock)
    assert clock.slept == [7, 2]


@pytest.mark.parametrize(
    ("name", "value"), [("base", -1), ("longest", -1), ("retry_after_cap", -0.001)]
)
def test_policy_with_a_negative_duration_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must not be negative"):
        RetryPolicy(**{name: timedelta(seconds=value)})  # type: ignore[arg-type]


@pytest.mark.parametrize("attempts", [0, -1])
def test_policy_without_an_attempt_is_refused(attempts: int) -> None:
    with pytest.raises(ValueError, match="attempts must be 1 or more"):
        RetryPolicy(attempts=attempts)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (transient(), True),
        (DataApiError("sync", "final"), False),
        (status_error(503), True),
        (status_error(503, KEYED), True),
        (status_error(503, POST), False),
        (status_error(501), False),
        (status_error(404), False),
        (httpx.ReadTimeout("", request=GET), True),
        (httpx.ReadTimeout("", request=KEYED), True),
        (httpx.ReadTimeout("", request=POST), False),
        (httpx.ConnectError("", request=POST), False),
        (httpx.ReadTimeout(""), False),
        (httpx.UnsupportedProtocol("", request=GET), False),
        (httpx.LocalProtocolError("", request=GET), False),
        (httpx.DecodingError("", request=GET), False),
        (httpx.InvalidURL(""), False),
        (TimeoutError(), False),
        (ConnectionError(), False),
        (ValueError(), False),
    ],
    ids=repr,
)
def test_transient_is_what_may_pass_and_may_be_repeated(failure: Exception, expected: bool) -> None:
    assert is_transient(failure) is expected


@pytest.mark.parametrize("method", ["get", "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_method_that_is_idempotent_may_be_repeated(method: str) -> None:
    assert may_repeat(httpx.Request(method, "http://data-api.test/"))


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "INVENTED"])
def test_method_that_is_not_needs_a_key(method: str) -> None:
    url = "http://data-api.test/"
    assert not may_repeat(httpx.Request(method, url))
    assert may_repeat(httpx.Request(method, url, headers={"IDEMPOTENCY-KEY": "k"}))


@given(st.integers(0, 10**30))
def test_retry_after_in_seconds_is_read(seconds: int) -> None:
    assert parse_retry_after(str(seconds), START) == float(seconds)


@given(st.integers(-(10**6), 10**6))
def test_retry_after_as_a_date_is_read_unless_it_is_past(seconds: int) -> None:
    value = format_datetime(START + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(value, START) == (seconds if seconds > 0 else None)


@given(st.text())
@example("Sat, 21 Nov 2026 09:30:30 +9999999999")
@example("Sat, 21 Nov 2026 24:61:61 GMT")
@example("21 Nov")
@example("0 0 0 0 0 0 0")
@example("Mon, 32 Foo 99999999999999999999 99:99:99 -2400")
@example("Thu, 01 Jan 0000 00:00:00 GMT")
@example("\x00")
def test_retry_after_that_makes_no_sense_is_nothing_and_never_an_error(value: str) -> None:
    got = parse_retry_after(value, datetime(2026, 11, 21, tzinfo=UTC))
    assert got is None or got >= 0


def test_no_retry_after_is_nothing() -> None:
    assert parse_retry_after(None, START) is None
