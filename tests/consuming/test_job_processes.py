"""Jobs as their users have them: asked for by one process, run by another, seen by a third."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.job_sites import Clerk, JobSite
from tests.support.jobs import fresh_queue_url
from tests.support.stores import fresh_url
from tests.support.waiting import wait_until
from worker.client.client import WorkerClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ("sqlite", "postgres", "redis", "sqs")
PASSWORD = "s3cr3t-pw"


@contextmanager
def site_over(kind: str, folder: Path) -> Iterator[JobSite]:
    with fresh_queue_url(kind, folder) as url:
        yield JobSite(folder, url)


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobSite]:
    """A folder with tasks, and an empty queue of each kind that several processes can share."""
    with site_over(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def local(tmp_path: Path) -> JobSite:
    """One over SQLite, for what is the same with each engine."""
    return JobSite(tmp_path)


async def waited_for(site: JobSite, line: str, *words: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = await site.types(f"enqueue {line} --wait --timeout 20s", *words)
    return code, json.loads(out)


# --- asked for here, run there


async def test_a_job_that_one_process_asks_for_is_run_by_another(site: JobSite) -> None:
    async with site.starts() as worker:
        ready = await worker.logged("worker.ready")
        assert ready["queues"] == ["billing", "default"]
        code, job = await waited_for(site, "send_invoice --id invoice:7", '{"order_id": 7}')
        assert (code, job["state"], job["id"]) == (0, "SUCCESS", "invoice:7")
        assert job["result"] == {"sent": 7, "by": "mail"}
        assert (job["attempts"], job["worker"]) == (1, "one")
        code, job = await waited_for(site, "fails", '{"message": "no luck"}')
        assert (code, job["state"], job["dead"]) == (1, "FAILURE", True)
        assert job["error"] == {"type": "TaskFailed", "message": "no luck"}
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        stopped = worker.events[-1]
        assert (stopped["event"], stopped["returned"], stopped["abandoned"]) == (
            *("worker.stopped", 0),
            [],
        )


async def test_a_program_without_the_code_has_what_the_worker_published(site: JobSite) -> None:
    async with site.starts() as worker, site.engine() as jobs:
        await worker.logged("worker.ready")
        assert (await waited_for(site, "ping"))[0] == 0  # it has published its tasks by then
        client = WorkerClient(jobs=jobs)
        job = await client.enqueue("send_invoice", {"order_id": 7})
        assert (job.published, (await job.info()).queue) == (True, "billing")
        assert await job.result("20s") == {"sent": 7, "by": "mail"}
        assert not (await client.enqueue("nobody")).published


async def test_a_job_that_is_asked_for_twice_by_its_id_is_run_once(site: JobSite) -> None:
    async with site.starts() as worker:
        await worker.logged("worker.ready")
        assert (await waited_for(site, "ping --id once"))[0] == 0
        code, out, err = await site.types("enqueue ping --id once --json")
        assert (code, json.loads(out)) == (0, {"id": "once", "created": False})
        assert err == "worker: job once was there already; nothing was asked for\n"
        assert (await site.shown("once"))["deliveries"] == 1


# --- SIGTERM in the middle of a job


async def test_a_job_that_ends_within_the_grace_period_is_not_disturbed(site: JobSite) -> None:
    async with site.starts() as worker:
        job = await site.asks("held")
        await wait_until(lambda: len(site.begun()) == 1, "the job has begun")
        worker.signal(signal.SIGTERM)
        stopping = await worker.logged("worker.stopping")
        assert stopping["running"] == ["held"]
        assert (await site.shown(job))["state"] == "STARTED"
        site.touch("go")
        assert await worker.ended() == 0
    shown = await site.shown(job)
    assert (shown["state"], shown["result"], shown["attempts"]) == ("SUCCESS", "let go", 1)


async def test_a_job_that_does_not_goes_back_unspent_and_another_worker_has_it_at_once(
    site: JobSite,
) -> None:
    """At once, and not when its lease of a minute has run out."""
    async with site.starts(WORKER_SHUTDOWN_GRACE="100ms") as first:
        await first.logged("worker.ready")
        job = await site.asks("held")
        await wait_until(lambda: len(site.begun()) == 1, "the job has begun")
        async with site.starts(WORKER_REPLICA="two") as second:
            await second.logged("worker.ready")
            first.signal(signal.SIGTERM)
            returned = await first.logged("job.returned", run_id=job)
            assert returned["reason"] == "the worker is shutting down"
            await wait_until(lambda: len(site.begun()) == 2, "another worker has begun the job")
            assert await first.ended() == 0
            assert site.begun() == [first.process.pid, second.process.pid]
            shown = await site.shown(job)
            assert (shown["state"], shown["worker"]) == ("STARTED", "two")
            assert (shown["attempts"], shown["losses"], shown["deliveries"]) == (0, 0, 2)
            site.touch("go")
            second.signal(signal.SIGTERM)
            assert await second.ended() == 0
    shown = await site.shown(job)
    assert (shown["state"], shown["attempts"]) == ("SUCCESS", 1)


async def test_a_job_that_went_back_waits_if_there_is_no_other_worker(site: JobSite) -> None:
    async with site.starts(WORKER_SHUTDOWN_GRACE="0") as worker:
        job = await site.asks("held")
        await wait_until(lambda: len(site.begun()) == 1, "the job has begun")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    shown = await site.shown(job)
    assert (shown["state"], shown["attempts"], shown["losses"]) == ("PENDING", 0, 0)
    (line,) = await site.table("jobs list")
    assert line["note"].startswith("waits since ")


# --- how much is done


async def test_after_so_many_jobs_the_worker_ends(site: JobSite) -> None:
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        for n in range(5):
            await clerk.waits(f"job:{n}")
    async with site.starts("--max-jobs 3") as worker:
        assert await worker.ended() == 0
        assert worker.told("worker.stopping")[0]["reason"] == "3 jobs"
    states = [job["state"] for job in await site.json("jobs list")]
    assert sorted(states) == ["PENDING"] * 2 + ["SUCCESS"] * 3
    waiting = await site.json("jobs list --state PENDING")
    assert {job["deliveries"] for job in waiting} == {0}, "none was taken in vain"


async def test_a_burst_ends_when_nothing_is_ready_though_a_job_will_be_retried(
    site: JobSite,
) -> None:
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        for n in range(5):
            await clerk.waits(f"job:{n}")
        await clerk.waits("later", "fails_for_now")
        await clerk.waits("twice", "fails_twice")
        await clerk.waits("invoice", "send_invoice", queue="billing", params='{"order_id":1}')
    async with site.starts("--burst") as worker:
        assert await worker.ended() == 0
        assert worker.told("worker.stopping")[0]["reason"] == "the queues are empty"
    states = {job["id"]: job["state"] for job in await site.json("jobs list")}
    # Its next attempt may have been leased, and given back, as the burst ended.
    assert states.pop("twice") in ("RETRY", "FAILURE", "PENDING")
    assert states == {
        **{f"job:{n}": "SUCCESS" for n in range(5)},
        "later": "RETRY",
        "invoice": "SUCCESS",
    }


async def test_a_burst_over_empty_queues_ends_at_once(site: JobSite) -> None:
    async with site.starts("--burst") as worker:
        assert await worker.ended() == 0
        assert worker.told("worker.ready") != []


async def test_only_the_queues_that_are_named_are_polled(local: JobSite) -> None:
    async with local.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.waits("one")
        await clerk.waits("two", "send_invoice", queue="billing", params='{"order_id":1}')
    async with local.starts("--queues billing --burst --no-schedules") as worker:
        assert await worker.ended() == 0
        ready = worker.told("worker.ready")[0]
        assert (ready["queues"], ready["schedules"]) == (["billing"], {})
        assert worker.told("run.started") == []
    assert (await local.shown("one"))["state"] == "PENDING"
    assert (await local.shown("two"))["state"] == "SUCCESS"


async def test_without_queues_only_schedules_are_kept(local: JobSite) -> None:
    job = await local.asks("ping")
    async with local.starts("--no-queues") as worker:
        ready = await worker.logged("worker.ready")
        assert "queues" not in ready
        assert ready["schedules"] == {"tick": "every 300ms"}
        await worker.logged("run.finished", task="tick", count=2)
        assert (await local.shown(job))["state"] == "PENDING"


async def test_only_the_tasks_that_are_named_run_and_others_are_left_alone(local: JobSite) -> None:
    ping, other = await local.asks("ping"), await local.asks("fails")
    async with local.starts("--only ping") as worker:
        ready = await worker.logged("worker.ready")
        assert (ready["queues"], ready["schedules"]) == (["default"], {})
        code, job = await waited_for(local, f"ping --id {ping}")
        assert (code, job["state"]) == (0, "SUCCESS")
        assert worker.told("queue.unknown_tasks") == []
        shown = await local.shown(other)
        assert (shown["state"], shown["attempts"], shown["refusals"]) == ("PENDING", 0, 0)


# --- told at start, or refused


async def test_jobs_that_the_worker_does_not_know_are_told_at_start(site: JobSite) -> None:
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.waits("one", "mystery")
        await clerk.waits("two", "mystery")
        await clerk.waits("three", "riddle", queue="other")
    async with site.starts() as worker:
        told = await worker.logged("queue.unknown_tasks")
        assert (told["queue"], told["jobs"], told["level"]) == (
            *("default", {"mystery": 2}),
            "warning",
        )
        refused = await worker.logged("job.refused", run_id="one")
        assert (refused["queue"], refused["refusals"], refused["wait_s"]) == ("default", 1, 5)
        assert "unknown task 'mystery'" in refused["reason"]
    _, out, _ = await site.types("check")
    # They have gone back, and wait.
    assert "the queue default has jobs of tasks that are not known here: mystery (2)" in out


async def test_queues_that_neither_a_task_nor_the_file_has_are_refused(local: JobSite) -> None:
    code, _, log = await local.types("start --queues biling,default,nope --burst")
    assert code == 78
    assert "no task has the queue biling (did you mean 'billing'?), nope; known:" in log
    assert "billing" in log.partition("known:")[2]


async def test_a_queue_that_only_the_file_has_is_polled_and_told_at_start(local: JobSite) -> None:
    (local.folder / "queues.toml").write_text('[express]\npoll_interval = "1s"\n')
    file = {"WORKER_QUEUES_FILE": "queues.toml"}
    async with local.starts("--queues express,default", **file) as worker:
        told = await worker.logged("queue.without_tasks")
        assert told["queue"] == "express"
        ready = await worker.logged("worker.ready")
        assert ready["queues"] == ["express", "default"]


async def test_all_unknown_tasks_of_only_are_named(local: JobSite) -> None:
    code, _, log = await local.types("start --only nobody --only nothing --burst")
    assert code == 2
    assert "unknown tasks 'nobody'" in log
    assert "'nothing'" in log


async def test_where_jobs_wait_is_told_without_a_password(tmp_path: Path) -> None:
    with fresh_url("redis", tmp_path) as url:
        site = JobSite(tmp_path, url.replace("redis://", f"redis://:{PASSWORD}@"))
        async with site.starts() as worker:
            ready = await worker.logged("worker.ready")
            assert ready["queue"] == url.partition("?")[0]
            assert ready["queues"] == ["billing", "default"]
            assert PASSWORD not in json.dumps(worker.events) + "".join(worker.other_lines)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"WORKER_QUEUES_FILE": "missing.toml"}, "WORKER_QUEUES_FILE"),
        ({"WORKER_QUEUES_FILE": "slip.toml"}, "unknown option pol_interval (did you mean"),
        ({"WORKER_QUEUES_FILE": "typo.toml"}, "no task has the queue biling (did you mean"),
        ({"WORKER_VISIBILITY_TIMEOUT": "1s"}, "must be 3 s or more"),
        ({"WORKER_CALL_FUNCTIONS": "nowhere:nothing"}, "WORKER_CALL_FUNCTIONS: nowhere:nothing"),
        ({"WORKER_QUEUE_URL": "amqp://host"}, "WORKER_QUEUE_URL: expected memory://"),
    ],
)
async def test_what_is_half_configured_is_refused_at_start(
    local: JobSite, settings: dict[str, str], complaint: str
) -> None:
    (local.folder / "slip.toml").write_text('[billing]\npol_interval = "1s"\n')
    (local.folder / "typo.toml").write_text("[biling]\nconcurrency = 2\n")
    for line in ("start", "check"):
        code, out, err = await local.types(line, **settings)
        assert (code, out) == (78, "")
        assert complaint in err
        assert "Traceback" not in err


async def test_an_option_that_the_engine_cannot_do_is_refused_at_start(local: JobSite) -> None:
    (local.folder / "own_tasks.py").write_text(
        "from worker import task\n\n\n"
        "@task(priority=5, concurrency=2)\nasync def urgent():\n    pass\n"
    )
    code, out, err = await local.types("start", WORKER_QUEUE_URL="sqs://127.0.0.1/1?region=x-y-1")
    assert (code, out) == (78, "")
    assert "urgent: priority is not possible with sqs" in err
    assert "urgent: concurrency is not possible with sqs" in err


async def test_a_queue_that_a_newer_worker_has_written_is_refused_at_start(
    local: JobSite, tmp_path: Path
) -> None:
    local.environment["WORKER_QUEUE_URL"] = f"sqlite:///{tmp_path / 'queue.db'}"
    await local.asks("ping")
    with closing(sqlite3.connect(tmp_path / "queue.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    for line in ("start", "jobs list", "enqueue ping"):
        code, out, err = await local.types(line)
        assert (code, out) == (78, "")
        assert "was written by a newer worker" in err
    code, out, _ = await local.types("check")
    assert code == 69, "the Data API is not there either"
    assert "FAIL  the queue: " in out


async def test_a_task_to_run_only_that_does_not_exist_is_refused_at_start(local: JobSite) -> None:
    code, out, err = await local.types("start --only pong")
    assert (code, out) == (2, "")
    assert "unknown task 'pong' (did you mean 'ping'?)" in err


@pytest.mark.parametrize("line", ["start --no-queues --burst", "start --max-jobs 0"])
async def test_options_that_contradict_each_other_are_wrong_usage(
    local: JobSite, line: str
) -> None:
    assert (await local.types(line))[0] == 2


# --- the life of a job in the log


async def test_the_log_tells_the_life_of_a_job_under_its_id(local: JobSite) -> None:
    async with local.starts(WORKER_LOG_LEVEL="debug") as worker:
        await worker.logged("worker.ready")
        assert (await waited_for(local, "fails_twice --id twice"))[0] == 1
        assert (await waited_for(local, "ping --id fine"))[0] == 0
        twice = [line for line in worker.events if line.get("run_id") == "twice"]
        assert [line["event"] for line in twice] == ["job.retrying", "job.dead"]
        assert [line["level"] for line in twice] == ["warning", "error"]
        assert [line["attempt"] for line in twice] == [1, 2]
        assert {line["task"] for line in twice} == {"fails_twice"}
        assert {line["trigger"] for line in twice} == {"queue"}
        assert {line["error"] for line in twice} == {"nobody is at home"}
        assert 0 < twice[0]["wait_s"] <= 0.05
        assert all("LookupError: nobody is at home" in line["exception"] for line in twice)
        (fine,) = [line for line in worker.events if line.get("run_id") == "fine"]
        assert (fine["event"], fine["level"], fine["attempt"]) == ("job.finished", "debug", 1)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert (worker.events[-1]["retried"], worker.events[-1]["failed"]) == (1, 1)
