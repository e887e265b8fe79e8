"""The hooks of a task, as methods of a class and as functions: called, and unable to do harm."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.consuming import SHORT, Bench, open_bench
from worker import (
    BaseTask,
    BulkTask,
    DeadLetter,
    Drop,
    JobFailed,
    Retry,
    RunContext,
    RunLimits,
    State,
    TaskDefinitionError,
    current_run,
    task,
)
from worker.events import HookFailed
from worker.jobs.job import JobId, NewJob

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from worker import BulkJob

HOOKS = ("on_success", "on_retry", "on_failure", "handle_error")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


class Called:
    """What hooks were called with, and what they do then."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.does: dict[str, Callable[[], Any]] = {}

    async def hook(self, name: str, about: Any, job: RunContext) -> Any:
        assert current_run() is job
        self.calls.append((name, about if name == "on_success" else type(about).__name__))
        result = self.does.get(name, lambda: None)()
        return await result if asyncio.iscoroutine(result) else result

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def as_class(called: Called, execute: Any, **options: Any) -> Any:
    async def run(self: BaseTask) -> Any:
        return await execute()

    def method(name: str) -> Any:
        async def hook(self: BaseTask, about: Any, job: RunContext) -> Any:
            assert self.context is job
            return await called.hook(name, about, job)

        return hook

    body = {"name": "hooked", "queue": "default", "execute": run, **options}
    return type("T", (BaseTask,), body | {name: method(name) for name in HOOKS})


def as_function(called: Called, execute: Any, **options: Any) -> Any:
    def hook(name: str) -> Any:
        async def call(about: Any, job: RunContext) -> Any:
            return await called.hook(name, about, job)

        return call

    async def run() -> Any:
        return await execute()

    hooks: dict[str, Any] = {name: hook(name) for name in HOOKS}
    return task(**{"name": "hooked", **options, **hooks})(run)


FORMS = {"class": as_class, "function": as_function}


@pytest.fixture(params=FORMS)
def made(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Both forms of a task with every hook."""
    return FORMS[request.param]


async def succeeds() -> int:
    return 42


async def fails() -> None:
    raise ValueError("no")


def failing_until(attempt: int) -> Any:
    async def execute() -> None:
        run = current_run()
        assert run is not None
        if run.attempt < attempt:
            raise ValueError("not yet")

    return execute


async def test_a_job_that_succeeds(bench: Bench, made: Callable[..., Any]) -> None:
    called = Called()
    job = await bench.client.enqueue(t := made(called, succeeds))
    await bench.work_off(t)
    assert called.calls == [("on_success", 42)]
    assert await job.result() == 42


async def test_a_job_that_fails_for_good(bench: Bench, made: Callable[..., Any]) -> None:
    called = Called()
    await bench.client.enqueue(t := made(called, fails, max_retries=1, retry_delay="0s"))
    await bench.work_off(t)
    assert called.calls == [
        ("handle_error", "ValueError"),
        ("on_retry", "ValueError"),
        ("handle_error", "ValueError"),
        ("on_failure", "ValueError"),
    ]


async def test_a_job_that_succeeds_at_last(bench: Bench, made: Callable[..., Any]) -> None:
    called = Called()
    await bench.client.enqueue(t := made(called, failing_until(2), retry_delay="0s"))
    await bench.work_off(t)
    assert called.names == ["handle_error", "on_retry", "on_success"]


async def test_a_job_whose_parameters_do_not_fit_has_failed(
    bench: Bench, made: Callable[..., Any]
) -> None:
    called = Called()
    await bench.memory.enqueue([NewJob(JobId("x"), "hooked", "default", '{"n": 1}')])
    await bench.work_off(made(called, succeeds))
    assert called.calls == [("handle_error", "InvalidParams"), ("on_failure", "InvalidParams")]
    assert (await bench.info("x")).dead


async def test_snoozed_and_interrupted_jobs_have_neither_failed_nor_succeeded(
    bench: Bench, made: Callable[..., Any]
) -> None:
    called, begun = Called(), asyncio.Event()

    async def snoozes() -> None:
        run = current_run()
        assert run is not None
        if not begun.is_set():
            begun.set()
            run.snooze("0s")
        await asyncio.Event().wait()

    await bench.client.enqueue(t := made(called, snoozes))
    async with bench.working(t, grace=timedelta(0)):
        await begun.wait()
    assert called.calls == []


@pytest.mark.parametrize(
    ("wish", "state", "dead", "attempts"),
    [
        (lambda: None, State.FAILURE, True, 3),
        (lambda: Retry(), State.FAILURE, True, 3),
        (lambda: Retry(after="0s"), State.FAILURE, True, 3),
        (lambda: DeadLetter(), State.FAILURE, True, 1),
        (lambda: Drop(), State.FAILURE, False, 1),
    ],
)
async def test_handle_error_says_what_becomes_of_a_job(
    bench: Bench,
    made: Callable[..., Any],
    wish: Callable[[], Any],
    state: State,
    dead: bool,
    attempts: int,
) -> None:
    called = Called()
    called.does["handle_error"] = wish
    job = await bench.client.enqueue(t := made(called, fails, max_retries=2, retry_delay="0s"))
    await bench.work_off(t)
    info = await bench.info(job)
    assert (info.state, info.dead, info.attempts) == (state, dead, attempts)
    assert info.error is not None
    assert "ValueError" in info.error
    with pytest.raises(JobFailed):
        await job.result()


async def test_handle_error_says_when_to_try_again(bench: Bench, made: Callable[..., Any]) -> None:
    called = Called()
    called.does["handle_error"] = lambda: Retry(after="7m")
    job = await bench.client.enqueue(t := made(called, fails, dont_retry_on=(ValueError,)))
    await bench.work_off(t)
    info = await bench.info(job)
    assert (info.state, info.ready_at) == (
        State.RETRY,
        bench.clock.now() + timedelta(minutes=7),
    )


@pytest.mark.parametrize("wish", ["retry", Retry, Drop, 5, State.RETRY])
async def test_what_is_no_answer_is_told_and_means_none(
    bench: Bench, made: Callable[..., Any], wish: Any
) -> None:
    called = Called()
    called.does["handle_error"] = lambda: wish
    job = await bench.client.enqueue(t := made(called, fails, max_retries=1, retry_delay="0s"))
    await bench.work_off(t)
    assert (await bench.info(job)).attempts == 2
    told = bench.told(HookFailed)[0]
    assert told.hook == "handle_error"
    assert "expected Retry(…), DeadLetter(), Drop() or None" in str(told.failure)


class Odd(BaseException):
    """As no library should raise one."""


def raises(failure: BaseException) -> Callable[[], Any]:
    def does() -> None:
        raise failure

    return does


@pytest.mark.parametrize(
    "failure",
    [ValueError("no"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), Odd("odd")],
)
@pytest.mark.parametrize("hook", HOOKS)
async def test_a_hook_that_fails_is_told_and_changes_nothing(
    bench: Bench, made: Callable[..., Any], hook: str, failure: BaseException
) -> None:
    called = Called()
    called.does[hook] = raises(failure)
    good = made(called, failing_until(2), retry_delay="0s")
    job = await bench.client.enqueue(good)
    await bench.work_off(good)
    assert (await bench.info(job)).state is State.SUCCESS
    bad = made(called, fails, max_retries=1, retry_delay="0s")
    job = await bench.client.enqueue(bad)
    await bench.work_off(bad)
    info = await bench.info(job)
    assert (info.state, info.dead, info.attempts) == (State.FAILURE, True, 2)
    assert {told.hook for told in bench.told(HookFailed)} == {hook}


@pytest.mark.parametrize("hook", HOOKS)
async def test_a_hook_that_hangs_is_ended(made: Callable[..., Any], hook: str) -> None:
    async with open_bench(limits=RunLimits(cancel_grace=SHORT)) as bench:
        called = Called()
        called.does[hook] = lambda: asyncio.Event().wait()
        t = made(called, failing_until(2), retry_delay="0s", max_retries=1)
        job = await bench.client.enqueue(t)
        if hook == "on_failure":
            job = await bench.client.enqueue(t, max_retries=0)
        await bench.work_off(t)
        assert (await bench.info(job)).state.final
        told = bench.told(HookFailed)[0]
        assert (told.hook, type(told.failure).__name__) == (hook, "TimeLimitExceeded")


async def test_each_job_of_a_batch_has_its_own_hooks_called(bench: Bench) -> None:
    calls: list[tuple[str, str, Any]] = []

    class Save(BulkTask):
        name = "save"
        max_retries = 0
        max_wait = timedelta(0)

        async def execute_many(self, jobs: Sequence[BulkJob[Any]]) -> list[Any]:
            return [ValueError("no") if job.id == "b" else job.id for job in jobs]

        async def on_success(self, result: Any, job: RunContext) -> None:
            calls.append(("success", job.job_id, result))

        async def on_failure(self, error: BaseException, job: RunContext) -> None:
            calls.append(("failure", job.job_id, str(error)))

    await bench.client.enqueue_many(Save, [None] * 3, ids=["a", "b", "c"])
    await bench.work_off(Save)
    assert sorted(calls) == [("failure", "b", "no"), ("success", "a", "a"), ("success", "c", "c")]


def test_a_hook_has_to_be_async() -> None:
    with pytest.raises(TaskDefinitionError, match="write `async def on_success"):

        class Sync(BaseTask):
            name = "sync"
            queue = "default"

            async def execute(self) -> None: ...

            def on_success(self, result: Any, job: RunContext) -> None:  # type: ignore[override]
                ...

    with pytest.raises(TaskDefinitionError, match="on_failure: expected an async function"):
        task(on_failure=lambda error, job: None)(succeeds)  # type: ignore[arg-type, return-value]
