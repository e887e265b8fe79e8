"""Two versions at the same time: what docs/upgrades.md promises for the minutes of a rollout."""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import closing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from tests.support.postgres import fresh_postgres_url
from tests.support.processes import running, worker_command
from tests.support.stores import fresh_url
from worker import WorkerClient
from worker.backends.migrate import VERSION_TABLE
from worker.backends.opening import open_store
from worker.backends.postgres import SCHEMA
from worker.ledger.book import HistoryQuery
from worker.schedules.schedule import Interval, slots_between

if TYPE_CHECKING:
    from pathlib import Path

OLD = """
from worker import task

async def tick(): ...

def register(scheduler):
    scheduler.register_task(tick, interval="1s")

@task(name="greet", queue="greetings")
def greet(name: str) -> str:
    return f"hello {name}"
"""
NEW = """
from worker import task

@task(name="greet", queue="greetings", version=2)
def greet(name: str, language: str = "en") -> str:
    return f"{language}: {name}"

@task(name="wave", queue="greetings")
def wave() -> str:
    return "waved"
"""
SET_SCHEMA = sql.SQL("UPDATE {} SET version_num = %s").format(sql.Identifier(VERSION_TABLE))
OFF = {f"WORKER_{name}_INTERVAL": "off" for name in ("CLEANUP", "REMINDERS", "SYNC", "ORDERS")}


def environment(folder: Path, url: str, name: str, code: str) -> dict[str, str]:
    (folder / f"{name}.py").write_text(code)
    return {
        **OFF,
        "WORKER_DATA_API_URL": "http://127.0.0.1:1",
        "WORKER_STORE_URL": url,
        "WORKER_TASK_MODULES": name,
        "WORKER_REPLICA": name,
    }


async def test_an_old_worker_outlives_a_migration_and_stops_working_when_it_reconnects(
    tmp_path: Path,
) -> None:
    with fresh_postgres_url() as url:
        own = f"mixed-versions-{uuid4().hex}"  # tells these connections from all others
        old = environment(tmp_path, f"{url}&application_name={own}", "old", OLD)
        async with (
            running("start", environment=old, cwd=tmp_path) as worker,
            await psycopg.AsyncConnection.connect(url, autocommit=True) as database,
        ):
            await worker.logged("run.finished", task="tick")
            await database.execute(SET_SCHEMA, ["9999"])
            done = len(worker.told("run.finished"))
            await worker.logged("run.finished", count=done + 2)
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = %s",
                [own],
            )
            await worker.logged("store.unavailable")
            code, said, _ = await worker_command("check", environment=old, cwd=tmp_path)
            assert code != 0
            assert "9999, which is newer" in said
            assert worker.process.returncode is None
            assert not worker.told("store.available")
            await database.execute(SET_SCHEMA, [SCHEMA])
            await worker.logged("store.available")
            worker.signal(signal.SIGTERM)
            assert await worker.ended() == 0


async def test_a_job_that_the_old_version_does_not_know_waits_for_the_new_one(
    tmp_path: Path,
) -> None:
    with fresh_postgres_url() as url:
        old, new = (
            environment(tmp_path, url, name, code) for name, code in (("old", OLD), ("new", NEW))
        )
        arguments = ("start", "--queues", "greetings", "--no-schedules")
        async with (
            running(*arguments, environment=old, cwd=tmp_path) as old_worker,
            WorkerClient(url) as client,
        ):
            await old_worker.logged("worker.ready")
            wave = await client.enqueue("wave", {}, queue="greetings")
            await old_worker.logged("job.refused", task="wave")
            async with running(*arguments, environment=new, cwd=tmp_path) as new_worker:
                await new_worker.logged("worker.ready")
                old_worker.signal(signal.SIGTERM)
                assert await wave.result(timeout="20s") == "waved"


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
async def test_slots_of_the_old_and_of_the_new_schedule_run_once_each(
    tmp_path: Path, kind: str
) -> None:
    """Both are up for some seconds; then the old one is killed, and what it owed is recorded."""
    second, half = timedelta(seconds=1), timedelta(milliseconds=500)
    with fresh_url(kind, tmp_path) as url:
        on_the_second = OLD.replace('interval="1s"', 'interval="1s", phase="0s"')
        between = OLD.replace('interval="1s"', 'interval="1s", phase="500ms"')
        old, new = (
            {**environment(tmp_path, url, name, code), "WORKER_LEASE": "3s"}
            for name, code in (("old", on_the_second), ("new", between))
        )
        arguments = ("start", "--no-queues")
        async with running(*arguments, environment=old, cwd=tmp_path) as old_worker:
            await old_worker.logged("run.finished", task="tick", count=2)
            async with running(*arguments, environment=new, cwd=tmp_path) as new_worker:
                changed = await new_worker.logged("schedule.changed", task="tick")
                await new_worker.logged("run.finished", task="tick", count=4)
                old_worker.signal(signal.SIGKILL)
                retired = await new_worker.logged("schedule.retired", task="tick")
                done = len(new_worker.told("run.finished"))
                await new_worker.logged("run.finished", count=done + 2)
                new_worker.signal(signal.SIGTERM)
                assert await new_worker.ended() == 0
        since = datetime.fromisoformat(changed["since"])
        until = datetime.fromisoformat(retired["until"])
        with closing(open_store(url)) as store:
            entries = store.history(HistoryQuery(task="tick", limit=1000))
            book = store.read(["tick"])["tick"]
    recorded = Counter(
        entry.slot + number * second for entry in entries for number in range(entry.count)
    )
    first, last = min(recorded), max(recorded)
    assert book.cursor is not None
    owed = {*slots_between(Interval(second), first - half / 2, until)}
    owed |= {*slots_between(Interval(second, half), since, book.cursor)}
    assert set(recorded) == owed
    assert set(recorded.values()) == {1}
    assert last > until
