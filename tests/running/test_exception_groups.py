"""An exception group is judged, described and counted by the exceptions that it holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.support.consuming import Bench, open_bench
from worker import (
    BaseTask,
    BulkJob,
    BulkTask,
    DataApiError,
    InvalidParams,
    JobFailed,
    RunContext,
    State,
    TaskFailed,
    task,
)
from worker.errors import DataApiUnreachable
from worker.events import RunFinished
from worker.groups import leaves
from worker.jobs.options import JobOptions
from worker.jobs.verdict import Snoozed
from worker.ops.reasons import Reason, reason_of
from worker.retry import RetryPolicy, is_transient
from worker.running.outcome import is_one_jobs_fault
from worker.summary import describe, is_plain

VALUE, KEY = ValueError("no value"), KeyError("no key")
BROKEN, RESET = ConnectionError("broken"), ConnectionResetError("reset")


def group(*failures: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("unhandled errors in a TaskGroup", failures)


def nested(*failures: Exception) -> ExceptionGroup[Exception]:
    return group(group(*failures[:1]), *failures[1:])


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


@pytest.mark.parametrize("wrap", [group, nested])
@pytest.mark.parametrize(
    ("options", "failures", "worth"),
    [
        ({}, (VALUE, KEY), True),
        ({"retry_on": (ConnectionError,)}, (BROKEN, RESET), True),
        ({"retry_on": (ConnectionError,)}, (BROKEN, VALUE), False),
        ({"retry_on": (ConnectionError,)}, (VALUE,), False),
        ({"dont_retry_on": (ValueError,)}, (VALUE,), False),
        ({"dont_retry_on": (ValueError,)}, (BROKEN, VALUE), False),
        ({"dont_retry_on": (ValueError,)}, (BROKEN, KEY), True),
        ({"retry_on": (ExceptionGroup,)}, (VALUE,), True),
        ({"dont_retry_on": (ExceptionGroup,)}, (VALUE,), False),
        (
            {"retry_on": (ConnectionError,), "dont_retry_on": RESET.__class__},
            (BROKEN, RESET),
            False,
        ),
    ],
)
def test_all_must_be_worth_another_attempt_and_one_is_enough_to_stop(
    wrap: Any, options: dict[str, Any], failures: tuple[Exception, ...], worth: bool
) -> None:
    assert JobOptions.of(options).is_worth_another(wrap(*failures)) is worth


def test_what_ends_a_process_is_a_failure_as_any_other() -> None:
    crash = BaseExceptionGroup("", [asyncio.CancelledError(), KeyboardInterrupt()])
    assert JobOptions().is_worth_another(crash)


def test_a_policy_covers_what_holds_only_what_it_covers() -> None:
    policy = RetryPolicy(retry_on=(ConnectionError,))
    again = DataApiError("orders", "later", transient=True)
    assert policy.covers(group(BROKEN, nested(RESET)))
    assert policy.covers(group(BROKEN, again))
    assert not policy.covers(group(BROKEN, VALUE))
    assert is_transient(nested(again, again))
    assert not is_transient(group(again, VALUE))


def test_the_longest_wait_that_a_service_asked_for_counts() -> None:
    from datetime import UTC, datetime

    from worker.retry import retry_after_s

    failures = [DataApiError("a", "b", retry_after_s=seconds) for seconds in (3, None, 7)]
    assert retry_after_s(nested(*failures), datetime.now(UTC)) == 7


def test_it_is_described_by_the_first_and_how_many_more_there_are() -> None:
    assert describe(group(VALUE), str) == "ValueError: no value"
    assert describe(nested(VALUE, KEY, BROKEN), str) == "ValueError: no value (and 2 more)"
    assert describe(group(DataApiError("a", "token=x")), lambda text: text.replace("x", "*")) == (
        "DataApiError: a: token=*"
    )


def test_it_is_plain_and_has_a_reason_as_what_it_holds() -> None:
    assert is_plain(group(TaskFailed("no"), TaskFailed("never")))
    assert not is_plain(group(TaskFailed("no"), VALUE))
    assert reason_of(nested(httpx.ConnectTimeout("late"), VALUE)) is Reason.TIMEOUT


def test_a_batch_is_divided_if_any_of_it_may_be_one_jobs_fault() -> None:
    gone = DataApiUnreachable("a", "gone", transient=True)
    assert not is_one_jobs_fault(group(gone, httpx.ReadError("cut")))
    assert is_one_jobs_fault(group(gone, VALUE))


def test_a_deeply_nested_group_is_taken_apart() -> None:
    failure: Exception = VALUE
    for _ in range(50_000):
        failure = group(failure)
    assert leaves(failure) == [VALUE]
    while isinstance(failure, ExceptionGroup):  # or the interpreter would free it recursively
        failure = failure.exceptions[0]


async def fail_together(*failures: BaseException) -> None:
    """Raise each in a task of one group."""

    async def fail(failure: BaseException) -> None:
        raise failure

    async with asyncio.TaskGroup() as tasks:
        for failure in failures:
            tasks.create_task(fail(failure))


@pytest.mark.parametrize(
    ("options", "failures", "state"),
    [
        ({}, (VALUE, KEY), State.RETRY),
        ({"retry_on": (ConnectionError,)}, (BROKEN,), State.RETRY),
        ({"dont_retry_on": (ValueError,)}, (VALUE,), State.FAILURE),
        ({}, (InvalidParams("no"),), State.FAILURE),
    ],
)
async def test_a_job_that_fails_in_a_group(
    bench: Bench, options: dict[str, Any], failures: tuple[Exception, ...], state: State
) -> None:
    @task(**options)
    async def fails() -> None:
        await fail_together(*failures)

    job = await bench.client.enqueue(fails)
    await bench.work_off(fails)
    info = await bench.info(job)
    assert info.state is state
    assert info.error is not None
    error = json.loads(info.error)
    assert error["type"] == "ExceptionGroup"
    assert error["message"].startswith(f"{type(failures[0]).__name__}: ")


async def test_the_caller_is_told_the_first_of_them(bench: Bench) -> None:
    @task(max_retries=0)
    async def fails() -> None:
        await fail_together(VALUE)

    job = await bench.client.enqueue(fails)
    await bench.work_off(fails)
    with pytest.raises(JobFailed, match="ValueError: no value"):
        await job.result()


async def test_a_sync_task_is_judged_in_the_same_way(bench: Bench) -> None:
    @task(dont_retry_on=(ValueError,))
    def fails() -> None:
        raise nested(VALUE)

    job = await bench.client.enqueue(fails)
    await bench.work_off(fails)
    assert (await bench.info(job)).state is State.FAILURE


async def test_a_service_in_a_group_that_asks_to_wait_is_waited_for(bench: Bench) -> None:
    @task(retry_delay=1, retry_jitter=False)
    async def fails() -> None:
        await fail_together(DataApiError("a", "b", transient=True, retry_after_s=30))

    job = await bench.client.enqueue(fails)
    await bench.work_off(fails)
    info = await bench.info(job)
    assert info.state is State.RETRY
    assert (info.ready_at - bench.clock.now()).total_seconds() > 25


async def test_a_snooze_in_a_group_is_a_snooze(bench: Bench) -> None:
    @task()
    async def naps(context: RunContext) -> None:
        async def nap(seconds: int) -> None:
            context.snooze(seconds)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(nap(60))
            tasks.create_task(nap(600))

    job = await bench.client.enqueue(naps)
    await bench.work_off(naps)
    info = await bench.info(job)
    assert (info.state, info.attempts) == (State.PENDING, 0)
    assert (info.ready_at - bench.clock.now()).total_seconds() > 500


async def test_a_failure_beside_a_snooze_is_a_failure(bench: Bench) -> None:
    @task(retry_on=(ConnectionError,))
    async def fails() -> None:
        await fail_together(Snoozed(timedelta(minutes=1)), BROKEN)

    job = await bench.client.enqueue(fails)
    await bench.work_off(fails)
    info = await bench.info(job)
    assert (info.state, info.attempts) == (State.RETRY, 1)
    assert "Snoozed" not in (info.error or "")


async def test_what_a_failure_in_a_group_found_out_is_told(bench: Bench) -> None:
    @task(max_retries=0)
    async def fails() -> None:
        await fail_together(VALUE, TaskFailed("no", result={"done": 3}))

    await bench.client.enqueue(fails)
    await bench.work_off(fails)
    (finished,) = bench.told(RunFinished)
    assert finished.run.result == {"done": 3}


async def test_a_job_of_a_batch_may_be_answered_with_a_group(bench: Bench) -> None:
    class Many(BulkTask):
        name = "many"
        dont_retry_on = (ValueError,)

        async def execute_many(self, jobs: Sequence[BulkJob[None]]) -> Sequence[object]:
            return [nested(VALUE, KEY), group(KEY)][: len(jobs)]

    jobs = await bench.client.enqueue_many(Many, [None, None])
    await bench.work_off(Many)
    assert [(await bench.info(job)).state for job in jobs] == [State.FAILURE, State.RETRY]


async def test_a_hook_gets_the_group(bench: Bench) -> None:
    seen: list[BaseException] = []

    class Fails(BaseTask):
        name = "fails"
        queue = "default"
        max_retries = 0

        async def execute(self) -> None:
            await fail_together(VALUE)

        async def on_failure(self, error: BaseException, job: RunContext) -> None:
            seen.append(error)

    await bench.client.enqueue(Fails)
    await bench.work_off(Fails)
    assert leaves(seen[0]) == [VALUE]
