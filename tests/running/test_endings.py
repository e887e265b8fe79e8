"""What becomes of a run whose code goes on after it was requested to end."""

from __future__ import annotations

import asyncio
import gc
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.waiting import wait_until
from worker import (
    CancelReason,
    Events,
    RetryPolicy,
    Run,
    RunContext,
    RunInterrupted,
    RunLimits,
    Runner,
    SoftTimeLimitExceeded,
    State,
    SystemClock,
    Trigger,
    current_run,
    task,
)
from worker.events import Event, RunAbandoned, RunRetrying, RunStuck
from worker.model import RunId
from worker.running import bounds
from worker.running.executor import RunExecutor
from worker.tasks.base import TaskDefinition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SHORT = timedelta(milliseconds=50)
HOUR = timedelta(hours=1)
ONLY = RunId("only")


@dataclass
class Bench:
    """A runner, a gate for code in threads, and what was announced."""

    announced: list[Event] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.client = httpx.AsyncClient()
        self.runner = Runner(
            self.client,
            clock=SystemClock(),
            events=Events(self.announced.append),
            limits=RunLimits(cancel_grace=SHORT),
            redact=lambda text: text.replace("hunter2", "***"),
        )

    def start(self, code: Any, **options: Any) -> asyncio.Task[Run]:
        definition = TaskDefinition.of(code, **options)
        run = self.runner.run(definition, trigger=Trigger.MANUAL, run_id=ONLY)
        return asyncio.create_task(run)

    async def is_stuck(self) -> None:
        await wait_until(lambda: bool(self.told(RunStuck)), "its code is stuck")

    def told(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.announced if isinstance(event, kind)]

    def hold(self) -> None:
        """Called by code in a thread: wait until the test lets it go on."""
        self.begun.set()
        assert self.release.wait(20)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.release.set()
    await bench.client.aclose()


async def end(bench: Bench, reason: CancelReason) -> None:
    """Request the end of the run that has begun."""
    await wait_until(bench.begun.is_set, "it has begun")
    if reason is CancelReason.CANCEL:
        bench.runner.request_end(ONLY)
    if reason is not CancelReason.TIME_LIMIT:
        bench.runner.interrupt(ONLY, reason)


def limit_for(reason: CancelReason) -> timedelta:
    return SHORT if reason is CancelReason.TIME_LIMIT else HOUR


LATE = [CancelReason.TIME_LIMIT, CancelReason.CANCEL, CancelReason.REPLACED]
ALL = [*LATE, CancelReason.SHUTDOWN, CancelReason.LEASE_LOST]


@pytest.mark.parametrize("reason", LATE)
@pytest.mark.parametrize("form", ["sync", "in_thread", "swallows"])
async def test_a_run_ends_when_its_code_does_and_a_late_result_is_its_result(
    bench: Bench, reason: CancelReason, form: str
) -> None:
    @task(name="sync", time_limit=limit_for(reason))
    def sync() -> str:
        bench.hold()
        return "charged"

    @task(name="in_thread", time_limit=limit_for(reason))
    async def in_thread(context: RunContext) -> str:
        await context.in_thread(bench.hold)
        return "charged"

    @task(name="swallows", time_limit=limit_for(reason))
    async def swallows() -> str:
        bench.begun.set()
        while not bench.release.is_set():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue
        return "charged"

    running = bench.start({"sync": sync, "in_thread": in_thread, "swallows": swallows}[form])
    await end(bench, reason)
    await bench.is_stuck()
    assert not running.done()
    assert bench.runner.busy == [form]
    assert [one.reason for one in bench.runner.stuck()] == [reason]

    bench.release.set()
    run = await running
    assert (run.state, run.result, run.error) == (State.SUCCESS, "charged", None)
    assert (run.overtime_ms is not None) is (reason is not CancelReason.REPLACED)
    assert bench.runner.busy == []
    assert not bench.runner.stuck()


@pytest.mark.parametrize("reason", ALL)
async def test_code_that_saw_its_end_requested_and_returns_was_stopped(
    bench: Bench, reason: CancelReason
) -> None:
    reasons: list[CancelReason | None] = []

    @task(time_limit=limit_for(reason))
    def cooperates(context: RunContext) -> str:
        bench.begun.set()
        while not context.cancelled:
            bench.release.wait(0.001)
        reasons.append(context.cancel_reason)
        return "half done"

    running = bench.start(cooperates)
    await end(bench, reason)
    run = await running
    assert reasons == [reason]
    assert run.result is None
    assert run.error is not None
    limited = reason is CancelReason.TIME_LIMIT
    assert run.error.type == ("TimeLimitExceeded" if limited else "RunInterrupted")
    assert run.state is (State.FAILURE if limited else State.REVOKED)


@pytest.mark.parametrize("reason", ALL)
@pytest.mark.parametrize("form", ["sync", "async"])
async def test_one_call_stops_code_whose_end_was_requested(
    bench: Bench, reason: CancelReason, form: str
) -> None:
    reasons: list[CancelReason | None] = []

    def stops(context: RunContext) -> None:
        bench.begun.set()
        try:
            while True:
                context.raise_if_cancelled()
                bench.release.wait(0.001)
        except RunInterrupted as exc:
            reasons.append(exc.reason)
            raise

    @task(time_limit=limit_for(reason))
    def sync(context: RunContext) -> None:
        stops(context)

    @task(time_limit=limit_for(reason))
    async def in_thread(context: RunContext) -> None:
        await context.in_thread(lambda: stops(context))

    running = bench.start(sync if form == "sync" else in_thread)
    await end(bench, reason)
    run = await running
    assert reasons == [reason]
    assert run.error is not None
    limited = reason is CancelReason.TIME_LIMIT
    assert run.error.type == ("TimeLimitExceeded" if limited else "RunInterrupted")


@pytest.mark.parametrize(
    ("reason", "saw", "error"),
    [
        (CancelReason.TIME_LIMIT, False, "ValueError"),
        (CancelReason.TIME_LIMIT, True, "ValueError"),
        (CancelReason.CANCEL, False, "RunInterrupted"),
        (CancelReason.CANCEL, True, "RunInterrupted"),
        (CancelReason.SHUTDOWN, False, "ValueError"),
        (CancelReason.SHUTDOWN, True, "RunInterrupted"),
    ],
)
async def test_a_late_exception_is_the_failure_unless_the_code_raised_it_to_stop(
    bench: Bench, reason: CancelReason, saw: bool, error: str
) -> None:
    @task(time_limit=limit_for(reason))
    def fails(context: RunContext) -> None:
        bench.begun.set()
        while context.end_reason is None:
            bench.release.wait(0.001)
        assert not saw or context.cancelled
        raise ValueError("no money")

    running = bench.start(fails)
    await end(bench, reason)
    run = await running
    assert run.error is not None
    assert run.error.type == error
    if reason is CancelReason.CANCEL:
        assert "ValueError: no money" in run.error.message


async def test_an_exception_in_answer_to_a_cancellation_is_no_failure_in_a_shutdown(
    bench: Bench,
) -> None:
    async def converts() -> None:
        bench.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            raise ConnectionError("closed") from exc

    running = bench.start(converts)
    await end(bench, CancelReason.SHUTDOWN)
    run = await running
    assert (run.state, run.error is not None and run.error.type) == (
        State.REVOKED,
        "RunInterrupted",
    )


async def test_a_late_exception_is_not_tried_again_within_the_run(bench: Bench) -> None:
    policy = RetryPolicy(attempts=5, base=timedelta(0), retry_on=(ValueError,))

    @task(time_limit=SHORT, retry=policy)
    def fails() -> None:
        bench.hold()
        raise ValueError("late")

    running = bench.start(fails)
    await bench.is_stuck()
    bench.release.set()
    run = await running
    assert (run.attempts, run.error is not None and run.error.message) == (1, "late")
    assert not bench.told(RunRetrying)


async def test_a_cancellation_during_a_call_in_a_thread_arrives_after_it(bench: Bench) -> None:
    steps: list[str] = []

    async def two_steps() -> None:
        run = current_run()
        assert run is not None
        await run.in_thread(bench.hold)
        steps.append("first")
        await run.in_thread(lambda: steps.append("second"))
        await asyncio.Event().wait()

    running = bench.start(two_steps, time_limit=SHORT)
    await bench.is_stuck()
    bench.release.set()
    run = await running
    assert run.error is not None
    assert run.error.type == "TimeLimitExceeded"
    assert steps[0] == "first"


async def test_a_timeout_around_a_call_in_a_thread_does_not_cancel_what_follows(
    bench: Bench,
) -> None:
    async def patient() -> str:
        run = current_run()
        assert run is not None
        async with asyncio.timeout(0.01):
            await run.in_thread(lambda: bench.release.wait(0.05))
        for _ in range(3):
            await asyncio.sleep(0)
        return "done"

    run = await bench.start(patient)
    assert (run.state, run.result) == (State.SUCCESS, "done")


async def test_a_cancel_takes_precedence_over_a_time_limit(bench: Bench) -> None:
    @task(time_limit=SHORT)
    def cooperates(context: RunContext) -> None:
        bench.hold()
        assert context.cancelled

    running = bench.start(cooperates)
    await bench.is_stuck()
    bench.runner.request_end(ONLY)
    bench.release.set()
    run = await running
    assert run.state is State.REVOKED


async def test_a_run_that_does_not_end_is_reported_again_and_again_with_its_stack(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "REPORT_S", 0.01)

    @task(time_limit=SHORT)
    def stuck() -> None:
        bench.hold()  # password=hunter2

    running = bench.start(stuck)
    await wait_until(lambda: len(bench.told(RunStuck)) >= 3, "it is reported three times")
    for event in bench.told(RunStuck):
        assert "bench.hold()  # password=***" in event.stack
        assert "worker/threads.py" not in event.stack
        assert (event.task, event.run_id, event.stuck) == ("stuck", ONLY, 1)
    overdue = [event.overdue_s for event in bench.told(RunStuck)]
    assert overdue == sorted(overdue)
    bench.release.set()
    await running


async def test_the_stack_of_async_code_leads_to_where_it_waits(bench: Bench) -> None:
    async def deep_inside() -> None:
        while not bench.release.is_set():
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue

    async def stubborn() -> None:
        await deep_inside()

    running = bench.start(stubborn, time_limit=SHORT)
    await bench.is_stuck()
    (event,) = bench.told(RunStuck)
    assert "await deep_inside()" in event.stack
    assert "await asyncio.sleep(0.001)" in event.stack
    bench.release.set()
    await running


async def test_a_worker_that_exits_leaves_stuck_code_behind(bench: Bench) -> None:
    @task(time_limit=SHORT)
    def stuck() -> None:
        bench.hold()
        raise ValueError("nothing is interested any more")

    running = bench.start(stuck)
    await bench.is_stuck()
    bench.runner.interrupt(ONLY, CancelReason.SHUTDOWN)
    run = await running
    assert (run.state, run.error is not None and run.error.message) == (
        State.REVOKED,
        "the worker is shutting down",
    )
    assert [event.task for event in bench.told(RunAbandoned)] == ["stuck"]
    assert bench.runner.busy == ["stuck"]
    bench.release.set()
    await wait_until(lambda: bench.runner.busy == [], "its code has ended")
    gc.collect()  # an exception that was never retrieved would be reported now


async def test_the_soft_limit_is_raised_once_in_a_thread_that_asks(bench: Bench) -> None:
    raised: list[str] = []

    @task(soft_time_limit="30ms", time_limit="10s")
    def slow(context: RunContext) -> str:
        for _ in range(10_000):
            try:
                context.raise_if_cancelled()
            except SoftTimeLimitExceeded as exc:
                raised.append(str(exc))
                break
            bench.release.wait(0.001)
        context.raise_if_cancelled()
        assert not context.cancelled
        return "half of it"

    run = await bench.start(slow)
    assert (run.state, run.result, run.overtime_ms) == (State.SUCCESS, "half of it", None)
    assert raised == ["took longer than its soft time limit of 30ms"]


async def test_the_soft_limit_is_the_failure_of_a_thread_that_lets_it_pass(bench: Bench) -> None:
    @task(soft_time_limit="30ms", time_limit="10s")
    def slow(context: RunContext) -> None:
        while True:
            context.raise_if_cancelled()
            bench.release.wait(0.001)

    run = await bench.start(slow)
    assert run.error is not None
    assert run.error.type == "SoftTimeLimitExceeded"


async def test_the_soft_limit_is_raised_once_in_all_in_async_code_with_a_thread(
    bench: Bench,
) -> None:
    raised: list[str] = []

    @task(soft_time_limit="30ms", time_limit="10s")
    async def slow(context: RunContext) -> str:
        def inside() -> None:
            while True:
                context.raise_if_cancelled()
                bench.release.wait(0.001)

        try:
            await context.in_thread(inside)
        except SoftTimeLimitExceeded:
            raised.append("soft")
        for _ in range(5):
            await asyncio.sleep(0)
        return "cleaned up"

    run = await bench.start(slow)
    assert (run.state, run.result, raised) == (State.SUCCESS, "cleaned up", ["soft"])


async def test_async_code_gets_the_soft_limit_after_a_thread_that_does_not_ask(
    bench: Bench,
) -> None:
    @task(soft_time_limit="30ms", time_limit="10s")
    async def slow(context: RunContext) -> None:
        await context.in_thread(lambda: bench.release.wait(0.1))
        await asyncio.Event().wait()

    run = await bench.start(slow)
    assert run.error is not None
    assert run.error.type == "SoftTimeLimitExceeded"


@pytest.mark.parametrize("how", ["its time is up", "it fails"])
async def test_a_call_by_to_thread_is_awaited_before_the_run_ends(bench: Bench, how: str) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(RunExecutor())
    ended: list[bool] = []

    def blocks() -> None:
        bench.hold()
        ended.append(True)

    async def uses_to_thread() -> None:
        call = asyncio.create_task(asyncio.to_thread(blocks))
        await wait_until(bench.begun.is_set, "it has begun")
        if how == "it fails":
            raise ValueError("no")
        await call

    running = bench.start(uses_to_thread, time_limit=SHORT)
    await bench.is_stuck()
    (stuck,) = bench.runner.stuck()
    assert "assert self.release.wait(20)" in stuck.stack
    assert not running.done()
    bench.release.set()
    run = await running
    assert ended == [True]
    assert run.error is not None
    assert run.error.type == ("TimeLimitExceeded" if how == "its time is up" else "ValueError")
