"""What becomes of jobs: retried, dead-lettered, snoozed, cancelled, and what their tasks see."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import BaseModel

from tests.support.consuming import SHORT, Bench, open_bench
from tests.support.waiting import wait_until
from worker import (
    BaseTask,
    DataApiError,
    InvalidParams,
    JobFailed,
    JobRevoked,
    Retry,
    RetryPolicy,
    RunContext,
    RunLimits,
    SoftTimeLimitExceeded,
    State,
    current_run,
    task,
)
from worker.events import RunFinished
from worker.jobs.job import JobId, NewJob

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


def run() -> RunContext:
    """The run that the calling code belongs to."""
    context = current_run()
    assert context is not None
    return context


# Retries


async def test_a_job_that_fails_is_tried_again_and_then_dead_lettered(bench: Bench) -> None:
    attempts: list[int] = []

    @task(max_retries=2, retry_delay="10s", retry_jitter=False)
    async def fails() -> None:
        attempts.append(run().attempt)
        raise ValueError(f"no {len(attempts)}")

    job = await bench.client.enqueue(fails)
    waits = []
    await bench.work_off(fails)
    while (info := await bench.info(job)).state is State.RETRY:
        waits.append((info.ready_at - bench.clock.now()).total_seconds())
        assert info.error is not None
        assert f"no {len(attempts)}" in info.error  # of the attempt that failed last
        await bench.later(info.ready_at - bench.clock.now(), fails)
    assert waits == [10, 20]
    assert attempts == [1, 2, 3]
    assert (info.state, info.dead, info.attempts) == (State.FAILURE, True, 3)
    with pytest.raises(JobFailed, match="ValueError: no 3"):
        await job.result()


async def test_a_job_that_succeeds_at_last_has_no_error(bench: Bench) -> None:
    @task(retry_delay="0s")
    async def third_time() -> int:
        if run().attempt < 3:
            raise ValueError("not yet")
        return run().attempt

    job = await bench.client.enqueue(third_time)
    await bench.work_off(third_time)
    info = await bench.info(job)
    assert (info.state, info.attempts, info.error, info.result) == (State.SUCCESS, 3, None, "3")


async def test_the_number_of_attempts_can_be_said_for_one_job(bench: Bench) -> None:
    attempts: list[int] = []

    @task(max_retries=5, retry_delay="0s")
    async def fails() -> None:
        attempts.append(1)
        raise ValueError

    await bench.client.enqueue(fails, max_retries=0)
    await bench.work_off(fails)
    assert len(attempts) == 1


async def test_what_is_not_worth_another_attempt_is_dead_at_once(bench: Bench) -> None:
    @task(retry_on=(OSError,), dont_retry_on=(ConnectionError,), retry_delay="0s", max_retries=1)
    async def fails(kind: str) -> None:
        raise {"os": OSError, "connection": ConnectionRefusedError, "value": ValueError}[kind]

    attempts = {}
    for kind in ("os", "connection", "value"):
        job = await bench.client.enqueue(fails, {"kind": kind})
        await bench.work_off(fails)
        info = await bench.info(job)
        assert (info.state, info.dead) == (State.FAILURE, True)
        attempts[kind] = info.attempts
    assert attempts == {"os": 2, "connection": 1, "value": 1}


async def exits() -> None:
    raise SystemExit(3)


async def interrupts() -> None:
    raise KeyboardInterrupt


async def cancels_itself() -> None:
    raise asyncio.CancelledError


async def raises_an_odd_one() -> None:
    class Odd(BaseException):
        pass

    raise Odd("odd")


async def stops_iterating() -> None:
    raise StopIteration


async def leaves_a_generator() -> None:
    raise GeneratorExit


def exits_a_thread() -> None:
    raise SystemExit(3)


def stops_iterating_in_a_thread() -> None:
    raise StopIteration


@pytest.mark.parametrize(
    "hostile",
    [
        exits,
        interrupts,
        cancels_itself,
        raises_an_odd_one,
        stops_iterating,
        leaves_a_generator,
        exits_a_thread,
        stops_iterating_in_a_thread,
    ],
)
async def test_whatever_the_code_raises_the_job_has_failed_and_the_worker_goes_on(
    bench: Bench, hostile: Callable[[], Any]
) -> None:
    hostile_task = task(max_retries=1, retry_delay="0s")(hostile)

    @task()
    async def harmless() -> str:
        return "fine"

    job = await bench.client.enqueue(hostile_task)
    async with bench.working(hostile_task, harmless):
        await bench.is_in(job, State.FAILURE)
        assert await (await bench.client.enqueue(harmless)).result("5s") == "fine"
    info = await bench.info(job)
    assert (info.attempts, info.dead) == (2, True)


# Parameters that do not fit


class Order(BaseModel):
    order_id: int


@dataclass
class Parcel:
    order_id: int


def with_model() -> Any:
    class Strict(BaseTask):
        name = "with_model"
        Params = Order

        async def execute(self, params: Order) -> None:
            raise AssertionError("it must not run")

    return Strict


def with_dataclass() -> Any:
    class Strict(BaseTask):
        name = "with_dataclass"
        Params = Parcel

        async def execute(self, params: Parcel) -> None:
            raise AssertionError("it must not run")

    return Strict


def with_signature() -> Any:
    @task(name="with_signature")
    async def strict(order_id: int) -> None:
        raise AssertionError("it must not run")

    return strict


FORMS = [with_model, with_dataclass, with_signature]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ('{"order_id": "seven"}', "order_id: Input should be a valid integer"),
        ("{}", "order_id: "),
        ('{"order_id": 7, "more": 1}', "more: "),
        ("no json", "JSON"),
    ],
)
async def test_parameters_that_do_not_fit_when_run_are_dead_lettered_and_not_retried(
    bench: Bench, form: Callable[[], Any], params: str, words: str
) -> None:
    await bench.memory.enqueue([NewJob(JobId("x"), form.__name__, "default", params)])
    await bench.work_off(form())
    info = await bench.info("x")
    assert (info.state, info.dead, info.attempts) == (State.FAILURE, True, 1)
    assert info.error is not None
    assert '"type":"InvalidParams"' in info.error
    assert words in info.error
    assert "seven" not in info.error


async def test_each_form_gets_its_parameters(bench: Bench) -> None:
    got: list[Any] = []

    class WithModel(BaseTask):
        name = "model"
        Params = Order

        async def execute(self, params: Order) -> None:
            got.append((params.order_id, self.context.params.order_id))

    class WithDataclass(BaseTask):
        name = "dataclass"
        Params = Parcel

        async def execute(self, params: Parcel) -> None:
            got.append((params.order_id, self.context.params.order_id))

    @task()
    async def signature(order_id: int) -> None:
        got.append((order_id, run().params["order_id"]))

    for each in (WithModel, WithDataclass, signature):
        await bench.client.enqueue(each, {"order_id": 7})
    await bench.work_off(WithModel, WithDataclass, signature)
    assert got == [(7, 7)] * 3


@pytest.mark.parametrize("form", FORMS)
async def test_parameters_are_validated_when_they_are_said(
    bench: Bench, form: Callable[[], Any]
) -> None:
    with pytest.raises(InvalidParams, match=f"{form.__name__}: order_id"):
        await bench.client.enqueue(form(), {"order_id": "seven"})


# Limits


@pytest.fixture
async def strict() -> AsyncIterator[Bench]:
    """A bench where cancelled code is given little time."""
    async with open_bench(limits=RunLimits(cancel_grace=SHORT)) as bench:
        yield bench


async def test_a_job_that_takes_too_long_is_cancelled_and_tried_again(strict: Bench) -> None:
    cleaned_up: list[int] = []

    @task(time_limit="20ms", retry_delay="0s", max_retries=1)
    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.append(run().attempt)

    job = await strict.client.enqueue(endless)
    await strict.work_off(endless)
    assert cleaned_up == [1, 2]
    with pytest.raises(JobFailed, match="TimeLimitExceeded: took longer than its time limit of 20"):
        await job.result()


async def test_the_time_limit_can_be_said_for_one_job(strict: Bench) -> None:
    @task(max_retries=0)
    async def endless() -> None:
        await asyncio.Event().wait()

    job = await strict.client.enqueue(endless, time_limit="10ms")
    await strict.work_off(endless)
    assert (await strict.info(job)).dead


async def test_the_soft_limit_lets_the_code_clean_up_and_the_hard_one_ends_it(
    strict: Bench,
) -> None:
    seen: list[str] = []

    @task(soft_time_limit="20ms", time_limit="60ms", max_retries=0)
    async def slow(obey: bool) -> str:
        try:
            await asyncio.Event().wait()
        except SoftTimeLimitExceeded:
            seen.append("soft")
            if obey:
                return "half of it"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("hard")
            raise
        return "never"

    obeys = await strict.client.enqueue(slow, {"obey": True})
    await strict.work_off(slow)
    assert (await obeys.result(), seen) == ("half of it", ["soft"])
    does_not = await strict.client.enqueue(slow, {"obey": False})
    await strict.work_off(slow)
    assert seen == ["soft", "soft", "hard"]
    with pytest.raises(JobFailed, match="TimeLimitExceeded"):
        await does_not.result()


async def test_a_job_that_ends_with_the_soft_limit_says_so(strict: Bench) -> None:
    @task(soft_time_limit="10ms", max_retries=0)
    async def slow() -> None:
        await asyncio.Event().wait()

    job = await strict.client.enqueue(slow)
    await strict.work_off(slow)
    with pytest.raises(JobFailed, match="SoftTimeLimitExceeded: took longer than its soft"):
        await job.result()


async def test_the_code_knows_its_deadline(bench: Bench) -> None:
    @task(time_limit="1h")
    async def left() -> float:
        deadline = run().deadline
        assert deadline is not None
        return (deadline - bench.clock.now()).total_seconds()

    job = await bench.client.enqueue(left)
    await bench.work_off(left)
    assert 3590 < await job.result() <= 3600


# Snooze, progress, cancel


async def test_a_snooze_spends_no_attempt(bench: Bench) -> None:
    attempts: list[int] = []

    @task(max_retries=0)
    async def waits_for_others() -> str:
        attempts.append(run().attempt)
        if len(attempts) < 5:
            run().snooze("1m")
        return "at last"

    job = await bench.client.enqueue(waits_for_others)
    await bench.work_off(waits_for_others)
    for _ in range(4):
        info = await bench.info(job)
        assert (info.state, info.attempts) == (State.PENDING, 0)
        assert info.ready_at == bench.clock.now() + MINUTE
        await bench.later(MINUTE, waits_for_others)
    assert await job.result() == "at last"
    assert attempts == [1] * 5


@pytest.mark.parametrize(
    ("asked_s", "waits"), [(20, 20), (1, 5), (7200, 60), (None, 5), (float("inf"), 60)]
)
@pytest.mark.parametrize("hooked", [False, True])
async def test_a_job_waits_at_least_as_long_as_the_service_asked(
    bench: Bench, asked_s: float | None, waits: float, hooked: bool
) -> None:
    async def wishes(error: BaseException, job: RunContext) -> Retry | None:
        return Retry() if hooked else None

    @task(retry_delay="5s", retry_jitter=False, handle_error=wishes)
    async def turned_away() -> None:
        raise DataApiError("list orders", "busy", transient=True, retry_after_s=asked_s)

    job = await bench.client.enqueue(turned_away)
    await bench.work_off(turned_away)
    info = await bench.info(job)
    assert (info.state, info.attempts) == (State.RETRY, 1)
    assert info.ready_at == bench.clock.now() + timedelta(seconds=waits)


async def test_a_retry_after_of_any_http_call_counts_and_a_delay_of_the_tasks_own_wins(
    bench: Bench,
) -> None:
    async def at_once(error: BaseException, job: RunContext) -> Retry:
        return Retry("1s")

    def turn_away() -> None:
        request = httpx.Request("GET", "http://elsewhere")
        httpx.Response(503, headers={"Retry-After": "30"}, request=request).raise_for_status()

    @task(retry_delay="0s")
    async def plain() -> None:
        turn_away()

    @task(retry_delay="0s", handle_error=at_once)
    async def wishes() -> None:
        turn_away()

    @task(retry_delay="0s", retry=RetryPolicy(attempts=1, retry_after_cap=timedelta(seconds=9)))
    async def capped() -> None:
        turn_away()

    tasks = (plain, wishes, capped)
    jobs = [await bench.client.enqueue(each) for each in tasks]
    await bench.work_off(*tasks)
    waits = [(await bench.info(job)).ready_at - bench.clock.now() for job in jobs]
    assert waits == [timedelta(seconds=s) for s in (30, 1, 9)]


@pytest.fixture
def quick_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.consuming.held_leases.TURN_S", 0.01)


@pytest.mark.usefixtures("quick_turns")
async def test_progress_is_seen_from_async_code_and_from_threads(bench: Bench) -> None:
    go_on = asyncio.Event()

    @task()
    async def in_the_loop() -> None:
        run().progress(10)
        run().progress(50, done=5, of="ten")  # the latest word counts
        await go_on.wait()

    @task()
    def in_a_thread(job: RunContext) -> None:
        job.progress(25.5)
        while not go_on.is_set():
            time.sleep(0.001)

    async with bench.working(in_the_loop, in_a_thread):
        looped = await bench.client.enqueue(in_the_loop)
        threaded = await bench.client.enqueue(in_a_thread)
        assert await looped.progress() is None
        for job in (looped, threaded):
            await bench.is_in(job, State.PROGRESS)
        assert await looped.progress() == {"percent": 50, "done": 5, "of": "ten"}
        assert await threaded.progress() == {"percent": 25.5}
        assert await looped.status() is State.PROGRESS
        go_on.set()
        await looped.result("5s")
        await threaded.result("5s")


async def test_a_job_that_waits_is_revoked_at_once(bench: Bench) -> None:
    ran: list[int] = []

    @task()
    async def never() -> None:
        ran.append(1)

    job = await bench.client.enqueue(never)
    assert await job.cancel()
    assert await job.status() is State.REVOKED
    await bench.work_off(never)
    assert not ran


@pytest.mark.usefixtures("quick_turns")
async def test_a_job_that_runs_is_asked_to_end_and_may_do_so_by_itself(bench: Bench) -> None:
    @task()
    async def polite(how: str) -> str:
        await wait_until(lambda: run().cancelled, "it is asked to end")
        if how == "raise":
            raise RuntimeError("stopped half way")
        return "stopped in good order"

    @task()
    def thread(job: RunContext) -> None:
        while not job.cancelled:
            time.sleep(0.001)
        raise RuntimeError("stopped half way")

    async with bench.working(polite, thread, cancel_grace=MINUTE):
        returns = await bench.client.enqueue(polite, {"how": "return"})
        raises = await bench.client.enqueue(polite, {"how": "raise"})
        threaded = await bench.client.enqueue(thread)
        for job in (returns, raises, threaded):
            await bench.is_in(job, State.STARTED)
            assert await job.cancel()
        for job in (returns, raises, threaded):  # it saw the request, so it was stopped
            with pytest.raises(JobRevoked):
                await job.result("5s")


@pytest.mark.usefixtures("quick_turns")
async def test_a_job_that_snoozes_when_asked_to_end_has_ended(bench: Bench) -> None:
    @task()
    async def puts_it_off() -> None:
        await wait_until(lambda: run().cancelled, "it is asked to end")
        run().snooze("1h")

    async with bench.working(puts_it_off, cancel_grace=MINUTE):
        job = await bench.client.enqueue(puts_it_off)
        await bench.is_in(job, State.STARTED)
        assert await job.cancel()
        with pytest.raises(JobRevoked):
            await job.result("5s")


async def test_a_job_that_fails_before_it_hears_of_its_cancellation_is_not_tried_again(
    bench: Bench,
) -> None:
    attempts: list[int] = []

    @task(retry_delay="1h")
    async def fails() -> None:
        attempts.append(run().attempt)
        await job.cancel()
        raise ValueError("no")

    job = await bench.client.enqueue(fails)
    async with bench.working(fails):
        with pytest.raises(JobRevoked):
            await job.result("5s")
    assert attempts == [1]


@pytest.mark.usefixtures("quick_turns")
async def test_a_job_that_does_not_end_when_asked_is_cancelled_after_a_while(bench: Bench) -> None:
    saw: list[bool] = []

    @task()
    async def deaf() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            saw.append(run().cancelled)

    async with bench.working(deaf, cancel_grace=SHORT):
        job = await bench.client.enqueue(deaf)
        await bench.is_in(job, State.STARTED)
        assert await job.cancel()
        with pytest.raises(JobRevoked):
            await job.result("5s")
    assert saw == [True]
    info = await bench.info(job)
    assert (info.state, info.attempts, info.dead) == (State.REVOKED, 0, False)


# Results


async def test_a_result_is_json(bench: Bench) -> None:
    class Answer(BaseModel):
        at: timedelta = MINUTE
        tags: set[str] = {"a"}

    @task()
    async def answers() -> Any:
        return [Answer(), (1, 2), None, b"text", Parcel(7)]

    job = await bench.client.enqueue(answers)
    await bench.work_off(answers)
    assert await job.result() == [
        {"at": "PT1M", "tags": ["a"]},
        [1, 2],
        None,
        "text",
        {"order_id": 7},
    ]


async def test_what_is_no_json_is_a_failure_that_no_attempt_can_mend(bench: Bench) -> None:
    def recursive() -> Any:
        endless: list[Any] = []
        endless.append(endless)
        return endless

    makers: dict[str, Callable[[], Any]] = {
        "object": object,
        "bytes": lambda: b"\xff",
        "surrogate": lambda: "\ud800",
        "recursive": recursive,
        "large": lambda: "x" * 300_000,
        "trap": lambda: (1 // n for n in range(3)),
    }

    @task()
    async def answers(what: str) -> Any:
        return makers[what]()

    for what in makers:
        job = await bench.client.enqueue(answers, {"what": what})
        await bench.work_off(answers)
        info = await bench.info(job)
        assert (what, info.state, info.dead, info.attempts) == (what, State.FAILURE, True, 1)
        with pytest.raises(JobFailed, match="InvalidResult") as failed:
            await job.result()
        if what == "large":
            assert "300002 bytes as JSON, expected up to 262144" in str(failed.value)


async def test_a_result_that_nobody_wants_is_not_kept(bench: Bench) -> None:
    @task(ignore_result=True)
    async def answers() -> object:
        return object()  # nor does it have to be JSON

    @task()
    async def plain() -> int:
        return 42

    ignored = await bench.client.enqueue(answers)
    own = await bench.client.enqueue(plain, ignore_result=True)
    await bench.work_off(answers, plain)
    for job in (ignored, own):
        assert await job.status() is State.SUCCESS
        assert await job.result() is None
        assert (await bench.info(job)).result is None


async def test_an_error_that_cannot_be_put_into_words_is_still_an_error(bench: Bench) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @task(max_retries=0)
    async def fails(kind: str) -> None:
        raise Mute if kind == "mute" else ValueError("\ud800\x00" + "x" * 100_000)

    for kind in ("mute", "odd"):
        job = await bench.client.enqueue(fails, {"kind": kind})
        await bench.work_off(fails)
        info = await bench.info(job)
        assert (info.state, info.dead) == (State.FAILURE, True)
        assert info.error is not None
        assert len(info.error) < 20_000
        with pytest.raises(JobFailed):
            await job.result()


async def test_what_was_run_is_announced(bench: Bench) -> None:
    @task(max_retries=1, retry_delay="0s")
    async def fails() -> None:
        raise ValueError("no")

    job = await bench.client.enqueue(fails)
    await bench.work_off(fails)
    runs = [event.run for event in bench.told(RunFinished)]
    assert [(str(run.run_id), run.state, run.attempts, run.dead) for run in runs] == [
        (job.id, State.RETRY, 1, False),
        (job.id, State.FAILURE, 2, True),
    ]


async def test_sync_functions_have_as_many_threads_as_jobs_may_run(bench: Bench) -> None:
    inside = 0
    everybody = asyncio.Event()

    @task()
    def blocks() -> None:
        nonlocal inside
        inside += 1
        while not everybody.is_set():
            time.sleep(0.001)

    await bench.client.enqueue_many(blocks, [None] * 60)
    async with bench.working(blocks, concurrency=60):
        await wait_until(lambda: inside == 60, "all of them block at the same time")
        everybody.set()
