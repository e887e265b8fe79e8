"""What the runner promises of every run, whatever its code does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.clock import START
from tests.support.waiting import wait_until
from worker import (
    BaseTask,
    DataApiUnreachable,
    Events,
    RetryPolicy,
    Run,
    RunLimits,
    Runner,
    State,
    SystemClock,
    TaskDefinitionError,
    TaskFailed,
    Trigger,
    current_run,
)
from worker.events import Event, RunFinished, RunRetrying, RunStarted, RunStuck
from worker.model import CancelReason, RunId
from worker.tasks.base import TaskDefinition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SHORT = timedelta(milliseconds=50)
NO_WAIT = RetryPolicy(attempts=3, base=timedelta(0))


@dataclass
class Bench:
    """A runner, and what it announced."""

    limits: RunLimits = field(default_factory=lambda: RunLimits(retry=NO_WAIT, cancel_grace=SHORT))
    announced: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = httpx.AsyncClient()
        self.runner = Runner(
            self.client,
            clock=SystemClock(),
            events=Events(self.announced.append),
            limits=self.limits,
        )

    async def run(self, task: Any, **options: Any) -> Run:
        definition = TaskDefinition.of(task, **options)
        return await self.runner.run(definition, trigger=Trigger.MANUAL)

    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self.announced]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.client.aclose()


async def test_a_run_that_succeeds_has_its_result(bench: Bench) -> None:
    async def answer() -> int:
        return 42

    run = await bench.run(answer)
    assert (run.state, run.result, run.error, run.attempts) == (State.SUCCESS, 42, None, 1)
    assert run.duration_ms is not None
    assert bench.kinds() == [RunStarted, RunFinished]


async def test_each_run_has_a_new_instance_with_the_shared_client(bench: Bench) -> None:
    instances = []

    class Remembers(BaseTask):
        name = "remembers"

        async def execute(self) -> None:
            instances.append(self)

    await bench.run(Remembers)
    await bench.run(Remembers)
    first, second = instances
    assert first is not second
    assert first.http_client is second.http_client is bench.client


async def exits() -> None:
    raise SystemExit(3)


async def interrupts() -> None:
    raise KeyboardInterrupt


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def raises_cancelled() -> None:
    raise asyncio.CancelledError


async def recurses() -> None:
    def deeper() -> None:
        deeper()

    deeper()


async def cannot_say_why() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    raise Mute


@pytest.mark.parametrize(
    ("hostile", "error"),
    [
        (exits, "TaskCrashed"),
        (interrupts, "TaskCrashed"),
        (cancels_itself, "TaskCrashed"),
        (raises_cancelled, "TaskCrashed"),
        (recurses, "RecursionError"),
        (cannot_say_why, "Mute"),
    ],
)
async def test_whatever_the_code_raises_is_its_own_runs_failure(
    bench: Bench, hostile: Callable[[], Any], error: str
) -> None:
    run = await bench.run(hostile)
    assert run.state is State.FAILURE
    assert run.error is not None
    assert run.error.type == error
    assert run.error.message


async def test_a_task_that_cannot_be_constructed_is_a_failed_run(bench: Bench) -> None:
    class Broken(BaseTask):
        name = "broken"

        def __init__(self, http_client: httpx.AsyncClient) -> None:
            raise LookupError("no config")

        async def execute(self) -> None: ...

    run = await bench.run(Broken)
    assert run.error is not None
    assert run.error.type == "LookupError"


async def test_a_hanging_run_ends_at_its_time_limit(bench: Bench) -> None:
    cleaned_up = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    run = await bench.run(hangs, time_limit=SHORT)
    assert run.state is State.FAILURE
    assert run.error is not None
    assert run.error.message == "took longer than its time limit of 50ms"
    assert cleaned_up.is_set()
    assert bench.runner.busy == []


async def test_the_time_limit_covers_the_retries(bench: Bench) -> None:
    class Slow(BaseTask):
        name = "slow_retries"
        time_limit = SHORT
        retry = RetryPolicy(attempts=50, base=timedelta(seconds=30), retry_on=(OSError,))

        async def execute(self) -> None:
            raise OSError

    run = await bench.run(Slow)
    assert run.error is not None
    assert run.error.type == "TimeLimitExceeded"


async def test_a_transient_failure_is_tried_again_until_the_attempts_are_spent(
    bench: Bench,
) -> None:
    attempts = []

    async def unreachable() -> None:
        run = current_run()
        assert run is not None
        attempts.append(run.attempt)
        raise httpx.ConnectError("down", request=httpx.Request("GET", "http://x"))

    run = await bench.run(unreachable)
    assert (run.state, run.attempts) == (State.FAILURE, 3)
    assert attempts == [1, 2, 3]
    assert bench.kinds() == [RunStarted, RunRetrying, RunRetrying, RunFinished]


async def test_a_failure_that_passes_is_a_success_in_the_end(bench: Bench) -> None:
    answers = iter([httpx.ReadTimeout("slow", request=httpx.Request("GET", "http://x")), None])

    async def flaky() -> str:
        failure = next(answers)
        if failure:
            raise failure
        return "done"

    run = await bench.run(flaky)
    assert (run.state, run.result, run.attempts) == (State.SUCCESS, "done", 2)


@pytest.mark.parametrize(
    "failure",
    [
        ValueError("a defect"),
        httpx.ReadTimeout("an unsafe call", request=httpx.Request("POST", "http://x")),
        DataApiUnreachable("sync", "already repeated by the call itself", transient=True),
    ],
)
async def test_what_is_not_for_the_runner_to_repeat_is_not_repeated(
    bench: Bench, failure: Exception
) -> None:
    async def fails() -> None:
        raise failure

    run = await bench.run(fails)
    assert run.attempts == 1


async def test_a_task_may_name_further_failures_that_are_worth_another_try(bench: Bench) -> None:
    async def fails() -> None:
        raise LookupError

    policy = RetryPolicy(attempts=4, base=timedelta(0), retry_on=(LookupError,))
    run = await bench.run(fails, retry=policy)
    assert run.attempts == 4


async def test_a_task_that_gives_up_can_still_say_what_it_found(bench: Bench) -> None:
    async def nothing_done() -> None:
        raise TaskFailed("nothing went through", result={"failed": 3})

    run = await bench.run(nothing_done)
    assert (run.state, run.result) == (State.FAILURE, {"failed": 3})


async def test_a_cancelled_runner_revokes_its_run_and_passes_the_cancellation_on(
    bench: Bench,
) -> None:
    began = asyncio.Event()

    async def works() -> None:
        began.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(bench.run(works))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    last = bench.announced[-1]
    assert isinstance(last, RunFinished)
    assert last.run.state is State.REVOKED
    assert bench.runner.busy == []


async def test_a_shutdown_while_a_hook_is_called_loses_no_outcome(bench: Bench) -> None:
    called, go_on = asyncio.Event(), asyncio.Event()

    class Thanks(BaseTask):
        name = "thanks"

        async def execute(self) -> int:
            return 42

        async def on_success(self, result: Any, job: Any) -> None:
            called.set()
            await go_on.wait()

    bench.runner = Runner(bench.client, clock=SystemClock(), events=Events(bench.announced.append))
    running = asyncio.create_task(bench.run(Thanks))
    await called.wait()
    running.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    last = bench.announced[-1]
    assert isinstance(last, RunFinished)
    assert (last.run.state, last.run.result) == (State.SUCCESS, 42)


async def test_a_run_that_was_begun_has_one_asyncio_task_and_its_outcome_is_told_once(
    bench: Bench,
) -> None:
    ends, told = asyncio.Event(), list[Run]()

    async def works() -> str | None:
        await ends.wait()
        run = current_run()
        return None if run is None else run.run_id

    before = asyncio.all_tasks()
    for number in range(3):
        bench.runner.begin(
            TaskDefinition.of(works),
            trigger=Trigger.QUEUE,
            run_id=RunId(f"r{number}"),
            done=told.append,
        )
    names = {task.get_name() for task in asyncio.all_tasks() - before}
    assert names == {"run:works:r0", "run:works:r1", "run:works:r2"}
    ends.set()
    await wait_until(lambda: len(told) == 3, "all runs have ended")
    assert [(run.run_id, run.state, run.result) for run in told] == [
        (name, State.SUCCESS, name) for name in ("r0", "r1", "r2")
    ]
    assert current_run() is None


async def test_a_listener_that_fails_stops_neither_the_run_nor_other_listeners(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Event] = []

    def fails(event: Event) -> None:
        raise RuntimeError("broken listener")

    events = Events(fails, heard.append)
    runner = Runner(bench.client, clock=SystemClock(), events=events)

    async def fine() -> None: ...

    run = await runner.run(TaskDefinition.of(fine), trigger=Trigger.MANUAL)
    assert run.state is State.SUCCESS
    assert len(heard) == 2
    assert "broken listener" in caplog.text


async def test_runs_of_different_tasks_go_on_at_the_same_time(bench: Bench) -> None:
    both = asyncio.Barrier(2)

    async def one() -> None:
        await both.wait()

    async def other() -> None:
        await both.wait()

    async with asyncio.timeout(5):
        runs = await asyncio.gather(bench.run(one), bench.run(other))
    assert [run.state for run in runs] == [State.SUCCESS, State.SUCCESS]


async def test_several_runs_of_one_task_go_on_at_the_same_time_each_with_its_id(
    bench: Bench,
) -> None:
    together = asyncio.Barrier(3)
    seen = []

    async def meets() -> None:
        current = current_run()
        assert current is not None
        seen.append((current.run_id, current.slot, current.trigger))
        await together.wait()

    definition = TaskDefinition.of(meets)
    async with asyncio.timeout(5):
        runs = await asyncio.gather(
            bench.runner.run(definition, trigger=Trigger.MANUAL),
            bench.runner.run(definition, trigger=Trigger.SCHEDULE, slot=START, run_id=RunId("a")),
            bench.runner.run(definition, trigger=Trigger.BACKFILL, slot=START, run_id=RunId("b")),
        )
    assert [run.state for run in runs] == [State.SUCCESS] * 3
    assert [(run.run_id, run.slot, run.trigger) for run in runs] == seen
    assert [run.run_id for run in runs[1:]] == ["a", "b"]
    assert len({run.run_id for run in runs}) == 3
    assert [run.late_ms is None for run in runs] == [True, False, True]


async def test_an_interrupted_run_is_revoked_with_the_reason_and_the_others_go_on(
    bench: Bench,
) -> None:
    release, inside = asyncio.Event(), []

    async def works() -> None:
        inside.append("in")
        await release.wait()

    definition = TaskDefinition.of(works)
    first, second = (
        asyncio.create_task(
            bench.runner.run(definition, trigger=Trigger.MANUAL, run_id=RunId(run_id))
        )
        for run_id in ("first", "second")
    )
    await wait_until(lambda: len(inside) == 2, "both go on")
    bench.runner.interrupt(RunId("first"), CancelReason.REPLACED)
    bench.runner.interrupt(RunId("first"), CancelReason.SHUTDOWN)
    revoked = await first
    assert revoked.state is State.REVOKED
    assert revoked.error is not None
    assert (revoked.error.type, revoked.error.message) == (
        "RunInterrupted",
        "cancelled: a later slot of the task has precedence",
    )
    assert bench.runner.busy == ["works"]
    release.set()
    assert (await second).state is State.SUCCESS
    bench.runner.interrupt(RunId("second"), CancelReason.SHUTDOWN)
    assert bench.runner.busy == []


async def test_a_run_that_gets_done_while_it_is_interrupted_is_a_success(bench: Bench) -> None:
    began = asyncio.Event()

    async def gets_done() -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done all the same"
        return "never"

    running = asyncio.create_task(
        bench.runner.run(TaskDefinition.of(gets_done), trigger=Trigger.MANUAL, run_id=RunId("only"))
    )
    await began.wait()
    bench.runner.interrupt(RunId("only"), CancelReason.SHUTDOWN)
    run = await running
    assert (run.state, run.result) == (State.SUCCESS, "done all the same")


async def test_a_shutdown_during_the_clean_up_of_an_overdue_run_cuts_nothing_short(
    bench: Bench,
) -> None:
    cleaning, cleaned = asyncio.Event(), asyncio.Event()
    release = asyncio.Event()

    async def overdue() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await release.wait()
            cleaned.set()

    bench.runner = Runner(
        bench.client,
        clock=SystemClock(),
        events=Events(bench.announced.append),
        limits=RunLimits(cancel_grace=timedelta(seconds=5)),
    )
    running = asyncio.create_task(bench.run(overdue, time_limit=SHORT))
    await cleaning.wait()
    running.cancel()
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cleaned.is_set()
    last = bench.announced[-1]
    assert isinstance(last, RunFinished)
    assert last.run.error is not None
    assert last.run.error.type == "TimeLimitExceeded"


@pytest.mark.parametrize("late", [False, True])
async def test_a_run_that_got_done_is_a_success_although_the_worker_shuts_down(
    bench: Bench, late: bool
) -> None:
    began = asyncio.Event()

    async def gets_done() -> str:
        began.set()
        try:
            await asyncio.sleep(3600 if late else 0)
        except asyncio.CancelledError:
            return "done all the same"
        return "done"

    running = asyncio.create_task(bench.run(gets_done))
    await began.wait()
    if not late:
        await asyncio.sleep(0)  # the code ends in this very tick
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    last = bench.announced[-1]
    assert isinstance(last, RunFinished)
    assert last.run.state is State.SUCCESS


async def test_code_that_swallows_one_cancellation_is_asked_twice(bench: Bench) -> None:
    async def swallows() -> None:
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    await bench.run(swallows, time_limit=SHORT)
    assert bench.runner.busy == []
    assert RunStuck not in bench.kinds()


@pytest.mark.parametrize(
    "options",
    [
        {"time_limit": True},
        {"time_limit": timedelta(0)},
        {"time_limit": -SHORT},
        {"retry": 5},
    ],
)
async def test_limits_of_the_wrong_kind_are_refused_before_anything_runs(
    bench: Bench, options: dict[str, Any]
) -> None:
    async def fine() -> None: ...

    with pytest.raises(TaskDefinitionError, match=r"(time_limit|retry): expected"):
        await bench.run(fine, **options)


async def test_nothing_that_a_policy_names_can_hide_a_cancellation(bench: Bench) -> None:
    policy = RetryPolicy(
        attempts=5,
        base=timedelta(0),
        retry_on=(BaseException,),  # type: ignore[arg-type]
    )
    run = await bench.run(raises_cancelled, retry=policy)
    assert run.attempts == 1
