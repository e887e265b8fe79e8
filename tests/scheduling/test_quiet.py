"""What is told when nothing happens: stale tasks, pings that stop, a loop that stands still."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tests.support.servers import answer, answering, raw_server
from tests.support.sites import Site, Tasks, ago
from tests.support.waiting import wait_until
from worker.backends.opening import open_store
from worker.ledger.book import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import LoggingProcess
    from tests.support.servers import RawServer

KEY = "s3cr3t-key"
NEVER = "2099-01-01T00:00:00Z"
MOODY: Tasks = {"report": ("moody", {"interval": "200ms", "max_age": "2s"})}
BLOCKS: Tasks = {"report": ("blocks", {"interval": "1h"})}


def pinged(server: RawServer) -> dict[str, str]:
    """The settings with which a worker calls the server while nothing is stale."""
    return {
        "WORKER_HEARTBEAT_URL": f"{server.url}/ping/{KEY}",
        "WORKER_HEARTBEAT_URL_INTERVAL": "100ms",
    }


async def came(server: RawServer, count: int) -> None:
    """Wait for so many more pings than there are."""
    wanted = len(server.requests) + count
    await wait_until(lambda: len(server.requests) >= wanted, f"{wanted} pings came")


def latest(worker: LoggingProcess) -> str | None:
    """Whether the task was said to be stale or fresh, last."""
    events = [line["event"] for line in worker.events]
    return next((e for e in reversed(events) if e in ("task.stale", "task.fresh")), None)


async def test_pings_stop_while_a_task_fails_for_longer_than_it_promised_and_begin_again(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, MOODY)
    site.touch("well")
    async with raw_server(answering(answer())) as server, site.worker(**pinged(server)) as worker:
        await worker.logged("run.finished", task="report")
        await came(server, 2)
        site.remove("well")
        await worker.logged("run.failed", task="report")
        await worker.until(lambda: latest(worker) == "task.stale", "the task is stale")
        stale = worker.told("task.stale", task="report")[-1]
        assert stale["max_age_s"] == 2
        assert stale["last_success"] < stale["stale_since"] < stale["time"]
        sent, failures = len(server.requests), len(worker.told("run.failed"))
        # Ten intervals of the task are twenty of the pings, of which one may have been under way.
        await worker.logged("run.failed", count=failures + 10)
        assert len(server.requests) <= sent + 1
        rows = [row for row in await site.table("schedule list") if row["task"] == "report"]
        assert rows[0]["state"].startswith(("stale since ", "running, stale since "))
        assert 'worker_task_fresh{task="report"} 0.0' in await site.told("schedule metrics")
        site.touch("well")
        await worker.until(lambda: latest(worker) == "task.fresh", "the task is fresh")
        await came(server, 2)
        assert {request.target for request in server.requests} == {f"/ping/{KEY}"}
        assert KEY not in json.dumps(worker.events)


async def test_last_success_before_a_restart_counts_after_it(tmp_path: Path) -> None:
    tasks: Tasks = {
        "lately": ("moody", {"at": NEVER, "max_age": "2h"}),
        "long_ago": ("moody", {"at": NEVER, "max_age": "30m"}),
    }
    site = Site(tmp_path, tasks)
    succeeded = ago(hours=1)
    with site.claimant("its earlier life") as past:
        for name in tasks:
            past.attends(name, ago(hours=3))  # since when it is known
            past.ran_by_hand(name, succeeded)
    async with raw_server(answering(answer())) as server, site.worker(**pinged(server)) as worker:
        stale = await worker.logged("task.stale")
        assert stale["task"] == "long_ago"
        assert datetime.fromisoformat(stale["last_success"]) == succeeded
        assert datetime.fromisoformat(stale["stale_since"]) == succeeded + timedelta(minutes=30)
        await worker.logged("worker.ready")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert len(worker.told("task.stale")) == 1
        assert not server.requests


async def test_success_of_another_replica_makes_a_task_fresh_and_pings_begin(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, {"report": ("moody", {"at": NEVER, "max_age": "2h"})})
    with site.claimant("another") as past:
        past.attends("report", ago(hours=5))
        past.ran_by_hand("report", ago(hours=4))
        settings = {"WORKER_HEARTBEAT_URL_INTERVAL": "1h"}
        async with (
            raw_server(answering(answer())) as server,
            site.worker(**{**pinged(server), **settings}) as worker,
        ):
            await worker.logged("task.stale", task="report")
            await worker.logged("worker.ready")
            assert not server.requests
            past.ran_by_hand("report", ago())
            await worker.logged("task.fresh", task="report")
            await wait_until(lambda: bool(server.requests), "it pings again")
            assert not worker.told("run.started")


async def test_code_that_blocks_the_loop_is_named_and_its_run_is_not_lost(tmp_path: Path) -> None:
    site = Site(tmp_path, BLOCKS)
    async with site.worker(WORKER_STALL_AFTER="300ms", WORKER_LEASE="2s") as worker:
        started = await worker.logged("run.started", task="report")
        stalled = await worker.logged("loop.stalled")
        assert (stalled["task"], stalled["run_id"]) == ("report", started["run_id"])
        assert stalled["holder"].startswith("run:report:")
        assert "own_tasks.py" in stalled["stack"]
        assert "in blocks" in stalled["stack"]
        await worker.until(
            lambda: any(line["stalled_s"] > 4 for line in worker.told("loop.stalled")),
            "the loop stands still for twice as long as the lease",
        )
        site.touch("go")
        resumed = await worker.logged("loop.resumed")
        assert resumed["stalled_s"] > 4
        await worker.logged("run.finished", task="report")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert not worker.told("lease.expired")
        assert not worker.told("outcome.refused")
        (stopped,) = worker.told("worker.stopped")
        assert stopped["stalls"] >= 1
    assert [entry.outcome for entry in site.history("report")] == [Outcome.RAN]


async def test_code_that_blocks_the_loop_beyond_the_limit_loses_its_run(tmp_path: Path) -> None:
    site = Site(tmp_path, BLOCKS)
    settings = {"WORKER_STALL_AFTER": "300ms", "WORKER_STALL_LIMIT": "500ms", "WORKER_LEASE": "1s"}
    async with site.worker(**settings) as worker:
        started = await worker.logged("run.started", task="report")
        await worker.logged("loop.stalled", task="report")
        with closing(open_store(site.store_url)) as store:
            await wait_until(
                lambda: not any(replica.alive for replica in store.replicas()),
                "the lease has run out",
            )
        site.touch("go")
        await worker.logged("loop.resumed")
        refused = await worker.logged("outcome.refused", task="report")
        assert refused["run_id"] == started["run_id"]
        await worker.logged("slot.skipped", task="report", outcome="lost")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    assert [entry.outcome for entry in site.history("report")] == [Outcome.LOST]
