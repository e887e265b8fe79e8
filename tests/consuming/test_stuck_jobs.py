"""Jobs whose code cannot be interrupted, over each engine that several processes can share."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.job_sites import JobSite
from tests.support.jobs import fresh_queue_url
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ("sqlite", "postgres", "redis", "sqs")
TASKS = """
import os
import time

from worker import RunContext, task


def wrote(text):
    with open("told", "a") as file:
        file.write(f"{text}\\n")


def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.01)


@task(name="pay", time_limit=LIMIT, max_retries=2, retry_delay="50ms", OPTIONS)
def pay(order: int, context: RunContext) -> str:
    wrote(f"begun {order} {context.attempt} {os.getpid()}")
    wait_for("go")
    wrote(f"charged {order}")
    return "charged"


@task(name="polite", time_limit="10m")
def polite(context: RunContext) -> str:
    wrote(f"begun polite {context.attempt} {os.getpid()}")
    while not context.cancelled:
        time.sleep(0.01)
    return "half done"
"""


class StuckSite(JobSite):
    """Where jobs run that do not end by themselves."""

    def write(self, kind: str, *, limit: str = "300ms") -> None:
        options = "" if kind == "sqs" else "concurrency=1"
        text = TASKS.replace("OPTIONS", options).replace("LIMIT", repr(limit))
        (self.folder / "own_tasks.py").write_text(text)
        self.environment["WORKER_SHUTDOWN_GRACE"] = "100ms"

    def lines(self, word: str) -> list[list[str]]:
        path = self.folder / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1:] for line in lines if line.startswith(f"{word} ")]

    async def is_begun(self, count: int = 1) -> None:
        await wait_until(lambda: len(self.lines("begun")) == count, f"{count} have begun")


@contextmanager
def site_over(kind: str, folder: Path, limit: str) -> Iterator[StuckSite]:
    with fresh_queue_url(kind, folder) as url:
        site = StuckSite(folder, url)
        site.write(kind, limit=limit)
        yield site


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(kind: str, tmp_path: Path) -> Iterator[StuckSite]:
    with site_over(kind, tmp_path, "300ms") as made:
        yield made


@pytest.fixture
def patient(kind: str, tmp_path: Path) -> Iterator[StuckSite]:
    """One in which no time limit passes."""
    with site_over(kind, tmp_path, "10m") as made:
        yield made


def late_of(shown: Any) -> list[bool]:
    return [one["overtime_ms"] is not None for one in shown["history"]]


async def test_no_other_attempt_begins_while_the_code_goes_on_and_its_late_result_counts(
    site: StuckSite,
) -> None:
    # Leases that would run out several times while the code goes on.
    site.environment["WORKER_VISIBILITY_TIMEOUT"] = "3s"
    async with site.starts() as first, site.starts(WORKER_REPLICA="two") as second:
        await first.logged("worker.ready")
        await second.logged("worker.ready")
        job = await site.asks("pay", '{"order": 7}')
        await site.is_begun()
        ours = first if site.lines("begun")[0][2] == str(first.process.pid) else second
        stuck = await ours.logged("run.stuck", task="pay", run_id=job)
        assert stuck["reason"] == "time_limit"
        assert 'wait_for("go")' in stuck["stack"]
        assert (await site.shown(job))["state"] == "STARTED"
        assert len(site.lines("begun")) == 1
        site.touch("go")
        late = await ours.logged("job.finished_late", run_id=job)
        assert late["overtime_ms"] > 1000
        await wait_until(lambda: site.lines("charged") == [["7"]], "it is charged")
        for worker in (first, second):
            worker.signal(signal.SIGTERM)
            assert await worker.ended() == 0
    shown = await site.shown(job)
    assert (shown["state"], shown["result"], shown["attempts"]) == ("SUCCESS", "charged", 1)
    assert shown["losses"] == 0
    assert late_of(shown) == [True]
    assert len(site.lines("begun")) == 1


async def test_its_concurrency_key_stays_taken(kind: str, site: StuckSite) -> None:
    if kind == "sqs":
        pytest.skip("sqs lacks the capability 'concurrency'")
    async with site.starts() as worker:
        await worker.logged("worker.ready")
        await site.asks("pay", '{"order": 1}')
        await site.is_begun()
        await site.asks("pay", '{"order": 2}')
        await worker.logged("run.stuck", task="pay")
        assert [order for order, *_ in site.lines("begun")] == ["1"]
        site.touch("go")
        await wait_until(lambda: site.lines("charged") == [["1"], ["2"]], "both are charged")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0


async def test_a_worker_that_has_to_exit_hands_the_job_back_and_does_exit(
    site: StuckSite,
) -> None:
    async with site.starts() as worker:
        await worker.logged("worker.ready")
        job = await site.asks("pay", '{"order": 7}')
        await worker.logged("run.stuck", task="pay")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert worker.told("run.abandoned", task="pay")
        assert worker.told("job.returned", run_id=job)
    shown = await site.shown(job)
    assert (shown["state"], shown["attempts"], shown["losses"]) == ("PENDING", 0, 0)
    site.touch("go")
    async with site.starts(WORKER_REPLICA="two") as worker:
        await worker.logged("worker.ready")
        await wait_until(lambda: len(site.lines("charged")) == 1, "another worker runs it")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    assert [attempt for _, attempt, _ in site.lines("begun")] == ["1", "1"]
    assert (await site.shown(job))["state"] == "SUCCESS"


async def test_cancel_says_that_the_job_still_runs_and_its_result_counts(
    patient: StuckSite,
) -> None:
    site = patient
    async with site.starts() as worker:
        await worker.logged("worker.ready")
        job = await site.asks("pay", '{"order": 7}')
        await site.is_begun()
        told = await site.told(f"jobs cancel {job}")
        assert told == f"{job}: cancel requested, still running on one\n"
        shown = await site.shown(job)
        assert (shown["state"], shown["cancel_asked"]) == ("STARTED", True)
        assert "cancel requested, still running" in await site.told(f"jobs show {job}")
        stuck = await worker.logged("run.stuck", run_id=job)
        assert stuck["reason"] == "cancel"
        site.touch("go")
        await worker.logged("job.finished_late", run_id=job)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    shown = await site.shown(job)
    assert (shown["state"], shown["result"]) == ("SUCCESS", "charged")


@pytest.mark.parametrize("how", ["shutdown", "cancel"])
async def test_code_that_saw_that_it_should_end_was_stopped(patient: StuckSite, how: str) -> None:
    site = patient
    async with site.starts() as worker:
        await worker.logged("worker.ready")
        job = await site.asks("polite")
        await site.is_begun()
        if how == "cancel":
            await site.told(f"jobs cancel {job}")
            await worker.logged("job.cancelled", run_id=job)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert not worker.told("run.stuck")
        assert not worker.told("run.abandoned")
    shown = await site.shown(job)
    expected = "REVOKED" if how == "cancel" else "PENDING"
    assert (shown["state"], shown["attempts"], shown["result"]) == (expected, 0, None)
