"""What ``/metrics`` says of a worker that works, and that it says no more than it may."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NoReturn

import httpx
import pytest
from structlog.testing import capture_logs

from tests.support.ops import READ, ops_door
from tests.support.ops_worker import OPEN_METRICS, OpsWorker, ops_worker, settled
from tests.support.servers import answer, answering, raw_server, refused_port
from tests.support.waiting import wait_until
from worker.backends.sqlite import SqliteStore
from worker.errors import StoreUnavailable
from worker.events import CallEnded, CallRetrying, JobDead, JobRefused, RunFinished
from worker.jobs.job import NewJob, new_job_id
from worker.model import Run, State, Trigger, new_run_id
from worker.ops import figures
from worker.ops.families import BUCKETS_S, all_families

if TYPE_CHECKING:
    from pathlib import Path

TASKS = ("tests.support.ops_tasks",)


async def test_runs_are_counted_by_task_trigger_and_outcome() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        await site.run("failing")
        await site.run("flaky")
        job = await site.worker.client.enqueue("greet", {"name": "you"})
        await site.work_off(job.id)
        runs = [s for s in await site.samples() if s.name == "worker_runs_total" and s.value]
        assert {(s.labels["task"], s.labels["trigger"], s.labels["outcome"]) for s in runs} == {
            ("failing", "manual", "failure"),
            ("flaky", "manual", "success"),
            ("greet", "queue", "success"),
        }


async def test_failure_of_a_task_that_never_failed_is_seen_to_rise_from_nought() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        for task, trigger in (("failing", "schedule"), ("poison", "queue")):
            said = await site.value(
                "worker_runs_total", task=task, trigger=trigger, outcome="failure"
            )
            assert said == 0.0


async def test_durations_fall_into_buckets_from_5_ms_to_an_hour() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        await site.run("failing")
        families = await site.families()
        ends = [
            float(sample.labels["le"])
            for sample in families["worker_run_duration_seconds"].samples
            if sample.name.endswith("_bucket")
        ]
        assert ends == [*BUCKETS_S, float("inf")]
        assert (BUCKETS_S[0], BUCKETS_S[-1]) == (0.005, 3600)
        assert await site.value("worker_run_duration_seconds_count", task="failing") == 1.0


async def test_slot_that_began_late_is_measured_from_its_nominal_time() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        definition = site.worker.scheduler.tasks["failing"].definition
        slot = datetime.now(UTC) - timedelta(seconds=90)
        await site.worker.runner.run(definition, trigger=Trigger.SCHEDULE, slot=slot)
        bucket = "worker_run_lateness_seconds_bucket"
        assert await site.value(bucket, task="failing", le="60.0") == 0.0
        assert await site.value(bucket, task="failing", le="300.0") == 1.0


async def test_retries_are_counted_by_reason() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        await site.run("flaky")
        await site.worker.client.enqueue("again")
        await wait_until(
            lambda: site.worker.tally.counts["again", "retry"] == 1, "the job is put off"
        )
        retries = "worker_run_retries_total"
        assert await site.value(retries, task="flaky", reason="connect") == 2.0
        assert await site.value(retries, task="again", reason="timeout") == 1.0


async def test_repeated_calls_are_counted_by_reason_and_requests_by_status_and_try() -> None:
    busy = answer(status="429 Too Many Requests")
    down = answer(status="503 Service Unavailable")
    done = answer(b'{"deleted_count": 1}')
    async with (
        raw_server(answering(busy, down, down, done)) as server,
        ops_worker(
            task_modules=TASKS,
            data_api_url=server.url,
            cleanup_interval="1h",
            retry_attempts=4,
            retry_base="1ms",
        ) as site,
    ):
        await site.run("cleanup_old_orders")
        retries, requests = "worker_call_retries_total", "worker_http_requests_total"
        call = "orders.cleanup"
        assert await site.value(retries, call=call, reason="429") == 1.0
        assert await site.value(retries, call=call, reason="5xx") == 2.0
        assert await site.value(requests, call=call, status="4xx", attempt="1") == 1.0
        assert await site.value(requests, call=call, status="5xx", attempt="2") == 1.0
        assert await site.value(requests, call=call, status="5xx", attempt="3+") == 1.0
        assert await site.value(requests, call=call, status="2xx", attempt="3+") == 1.0
        assert await site.value("worker_http_request_duration_seconds_count", call=call) == 4.0


async def test_requests_without_an_answer_and_those_of_a_task_itself_are_counted() -> None:
    async with ops_worker(
        task_modules=TASKS, data_api_url=f"http://127.0.0.1:{refused_port()}"
    ) as site:
        await site.run("calling")
        assert (
            await site.value("worker_http_requests_total", call="other", status="none", attempt="1")
            == 1.0
        )


async def test_queues_are_told_by_state_age_and_dead_letters() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        client = site.worker.client
        await site.work_off((await client.enqueue("poison")).id)
        await settled(site)
        await client.enqueue("greet", {"name": "later"}, delay=timedelta(hours=1))
        await client.jobs.enqueue([NewJob(new_job_id(), "greet", "elsewhere")])
        depth = "worker_queue_jobs"
        assert await site.value(depth, queue="default", state="pending") == 1.0
        assert await site.value(depth, queue="poisoned", state="pending") == 0.0
        assert await site.value(depth, queue="other", state="pending") == 1.0
        assert await site.value("worker_dead_letters", queue="poisoned") == 1.0
        assert await site.value("worker_dead_letters", queue="default") == 0.0
        assert await site.value("worker_jobs_dead_total", task="poison") == 1.0
        waited = await site.value("worker_queue_oldest_age_seconds", queue="other")
        assert waited is not None
        assert 0 <= waited < 60
        assert await site.value("worker_queue_oldest_age_seconds", queue="default") == 0.0


async def test_wait_of_a_job_is_measured_by_queue() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        await site.work_off((await site.worker.client.enqueue("greet", {"name": "you"})).id)
        assert await site.value("worker_job_wait_seconds_count", queue="default") == 1.0
        assert await site.value("worker_job_wait_seconds_bucket", queue="default", le="60.0") == 1.0


async def test_success_of_a_job_is_stamped_though_no_ledger_knows_of_it() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        before = datetime.now(UTC).timestamp()
        await site.work_off((await site.worker.client.enqueue("greet", {"name": "you"})).id)
        stamped = await site.value("worker_last_success_timestamp_seconds", task="greet")
        assert stamped is not None
        assert before - 1 <= stamped <= datetime.now(UTC).timestamp() + 1


async def test_figures_of_ledger_loop_and_process_are_there() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        await wait_until(lambda: site.worker.ledger.trouble is None, "the ledger answers")
        assert await site.value("worker_store_up") == 1.0
        assert await site.value("worker_queue_up") == 1.0
        assert await site.value("worker_task_fresh", task="failing") == 1.0
        assert await site.value("worker_slots_total", task="failing", outcome="missed") == 0.0
        assert await site.value("worker_event_loop_stalls_total") == 0.0
        assert (await site.value("worker_event_loop_lag_seconds_count")) is not None
        assert (await site.value("process_resident_memory_bytes") or 0) > 0
        assert (await site.value("process_open_fds") or 0) > 0


async def test_a_store_that_can_be_read_and_not_written_is_not_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full: what stands there is read as ever."""
    file = f"sqlite:///{tmp_path / 'ledger.db'}"
    async with ops_worker(task_modules=TASKS, store_url=file) as site:
        assert await site.value("worker_store_up") == 1.0

        def full(*_: object) -> None:
            raise StoreUnavailable("database or disk is full")

        monkeypatch.setattr(SqliteStore, "renew", full)
        await wait_until(lambda: site.worker.ledger.trouble is not None, "a renewal has failed")
        assert await site.value("worker_ready") == 0.0
        assert await site.value("worker_store_up") == 0.0
        assert await site.value("worker_queue_up") == 0.0, "jobs are in the same file"
        assert await site.value("worker_replicas") is not None, "it can be read still"


async def test_every_family_that_is_declared_is_told_and_no_other() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        families = await site.families()
        told = {
            f"{name}_total" if family.type == "counter" else name: family.type
            for name, family in families.items()
            if name.startswith("worker_")
        }
        assert told == {family.name: family.kind for family in all_families()}


async def test_text_and_open_metrics_tell_the_same_families() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        await site.run("failing")
        text, opened = await site.families(), await site.open_metrics()
        assert {n: f.type for n, f in text.items()} == {n: f.type for n, f in opened.items()}
        runs = {(s.name, *s.labels.values()): s.value for s in text["worker_runs"].samples}
        assert runs == {
            (s.name, *s.labels.values()): s.value for s in opened["worker_runs"].samples
        }


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
async def test_promtool_finds_nothing_to_say_about_the_names_and_units() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        text = await site.scrape()
    checked = await asyncio.to_thread(
        subprocess.run,
        ["promtool", "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


async def test_hostile_names_ids_and_calls_do_not_make_series() -> None:
    async with ops_worker(task_modules=TASKS) as site:
        for status in (None, 100, 200, 300, 400, 401, 403, 500, 700):
            for attempt in (1, 2, 3):
                abuse(site, "warm-up", attempt, status)
        await site.worker.client.jobs.enqueue([hostile_job("warm-up")])
        before = len(await site.samples())
        with capture_logs():
            for number in range(10_000):
                abuse(site, f"x{number}/../?id={number}", 1 + number, number)
        await site.worker.client.jobs.enqueue([hostile_job(f"x{n}") for n in range(10_000)])
        text = await site.scrape()
        assert len(await site.samples()) == before
        assert "x1" not in text
        assert await site.value("worker_queue_jobs", queue="other", state="pending") == 10_001.0


def hostile_job(name: str) -> NewJob:
    return NewJob(new_job_id(), f"task-{name}", f"queue-{name}")


def abuse(site: OpsWorker, text: str, attempt: int, status: int | None) -> None:
    """Announce what could only come from a stranger's job, or a task that calls what it likes."""
    announce, run_id, failure = site.worker.events.announce, new_run_id(), ValueError(text)
    run = Run(run_id, text, Trigger.QUEUE, State.FAILURE, datetime.now(UTC), duration_ms=1.0)
    announce(RunFinished(task=text, run=run, failure=failure))
    announce(JobDead(task=text, job_id=text, kind=text, reason=text))
    announce(JobRefused(task=text, job_id=text, queue=text, reason=text, refusals=1, wait_s=1.0))
    announce(
        CallRetrying(task=text, run_id=run_id, call=text, attempt=1, wait_s=1.0, failure=failure)
    )
    announce(
        CallEnded(
            task=text, run_id=run_id, call=text, attempt=attempt, status=status, duration_s=1.0
        )
    )


async def test_store_that_fails_costs_a_scrape_its_figures_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ops_worker(task_modules=TASKS) as site:
        await site.run("failing")
        store = await asyncio.to_thread(site.worker.ledger.connect)
        with monkeypatch.context() as broken:
            broken.setattr(store, "replicas", refuse)
            broken.setattr(site.worker.client.jobs, "counts", refuse_soon)
            assert await site.value("worker_store_up") == 0.0
            assert await site.value("worker_queue_up") == 0.0
            assert await site.value("worker_task_fresh", task="failing") is None
            assert (
                await site.value(
                    "worker_runs_total", task="failing", trigger="manual", outcome="failure"
                )
                == 1.0
            )
        await wait_until(lambda: site.worker.ledger.trouble is None, "a renewal has succeeded")
        assert await site.value("worker_store_up") == 1.0
        assert await site.value("worker_queue_up") == 1.0


async def test_store_that_hangs_is_asked_once_and_waited_for_no_longer_than_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "LONGEST_S", 0.05)
    hangs, asked = threading.Event(), 0

    def hang(*_: object) -> NoReturn:
        nonlocal asked
        asked += 1
        hangs.wait()
        raise StoreUnavailable("too late")

    async with ops_worker(task_modules=TASKS) as site:
        store = await asyncio.to_thread(site.worker.ledger.connect)
        with monkeypatch.context() as broken:
            broken.setattr(store, "replicas", hang)
            for _ in range(3):
                assert await site.value("worker_store_up") == 0.0
            assert asked == 1
            hangs.set()
        await until_up(site)


async def until_up(site: OpsWorker) -> None:
    async with asyncio.timeout(10):
        while await site.value("worker_store_up") != 1.0:
            pass


def refuse(*_: object) -> NoReturn:
    raise StoreUnavailable("down")


async def refuse_soon(*_: object) -> NoReturn:
    raise StoreUnavailable("down")


@pytest.mark.parametrize("listener", ["ops", "probes"])
async def test_metrics_are_served_by_both_listeners_to_who_has_a_token(
    listener: str, tmp_path: Path
) -> None:
    async with ops_door(tmp_path) as door:
        url = door.url if listener == "ops" else door.probe_url
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            assert (await http.get("/metrics")).status_code == 401
            token = {"Authorization": f"Bearer {READ}"}
            said = await http.get("/metrics", headers={**token, "Accept": OPEN_METRICS})
            assert said.status_code == 200
            assert said.headers["content-type"].startswith("application/openmetrics-text")
            assert said.text.endswith("# EOF\n")
            for odd in ("abc", "1.0.0.0.x", ";", "", "1e9"):
                accept = f"application/openmetrics-text; version={odd}"
                told = await http.get("/metrics", headers={**token, "Accept": accept})
                assert told.status_code == 200, odd
            plain = await http.get("/metrics", headers=token)
            assert plain.headers["content-type"].startswith("text/plain")
            assert "worker_store_up 0.0\n" in plain.text  # it is put together, and does not run
