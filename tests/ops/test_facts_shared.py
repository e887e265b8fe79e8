"""How stores and engines are asked for facts: once for all who look, and never for ever."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Event
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette

from tests.support.ops import FULL, ops_door
from tests.support.sites import OFF
from tests.support.waiting import wait_until
from worker.app import open_worker
from worker.errors import StoreUnavailable
from worker.events import LoopResumed, LoopStalled
from worker.ops import sources as sources_module
from worker.ops.api import api_routes
from worker.ops.facts import Facts
from worker.ops.figures import Reading
from worker.ops.health import Health
from worker.ops.live import Live
from worker.ops.sources import Sources
from worker.queues.memory import MemoryJobs
from worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from worker.admin.schedules import ScheduleAdmin
    from worker.jobs.job import QueueCount
    from worker.ports import LedgerStore

NAMES = {name.removeprefix("WORKER_").lower(): value for name, value in OFF.items()}


class Counting(MemoryJobs):
    """It counts how often it was asked for counts."""

    asked = 0

    async def counts(self) -> list[QueueCount]:
        self.asked += 1
        await asyncio.sleep(0)
        return await super().counts()


class Blind(MemoryJobs):
    """It carries jobs, and knows none of them."""

    capabilities = replace(MemoryJobs.capabilities, lookup=False)


class Hanging(MemoryJobs):
    """It never answers."""

    async def counts(self) -> list[QueueCount]:
        await asyncio.Event().wait()
        raise AssertionError


@asynccontextmanager
async def asked(jobs: MemoryJobs) -> AsyncIterator[tuple[Facts, httpx.AsyncClient]]:
    """The facts of a worker with that engine, and a client of its API."""
    settings: dict[str, Any] = {"data_api_url": "http://127.0.0.1:9", "store_url": "memory://"}
    async with open_worker(load_settings(**settings, **NAMES)) as worker:
        worker.client.jobs = jobs
        worker.ledger.start()
        facts = Facts(worker, Health(worker), Sources(worker))
        app = Starlette(routes=api_routes(facts, Live(facts.state)))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ops/api/v1/") as http:
            yield facts, http
        await worker.ledger.stop(timedelta(seconds=5))


async def test_all_who_ask_at_the_same_time_are_answered_by_one_look() -> None:
    jobs = Counting()
    async with asked(jobs) as (facts, http):
        answers = await asyncio.gather(*(http.get("queues") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert jobs.asked == 1
        facts.outdate()
        await http.get("queues")
        assert jobs.asked == 2


async def test_scrapes_and_the_dashboard_share_one_look_at_the_queues() -> None:
    jobs = Counting()
    async with asked(jobs) as (facts, http):
        reading = Reading(facts.worker, Health(facts.worker), facts.sources, queues=["default"])
        await asyncio.gather(*(reading.figures({}) for _ in range(5)), http.get("queues"))
        await reading.figures({})
        assert jobs.asked == 1


async def test_a_replica_that_was_started_anew_is_listed_once() -> None:
    async with asked(MemoryJobs()) as (facts, http):

        def restart(store: LedgerStore) -> None:
            for name in ("other", "one", "one"):
                session = store.open_session(name, timedelta(minutes=1))
                if name == "other":
                    store.close_session(session)

        await facts.worker.ledger.look(restart)
        listed = (await http.get("overview")).json()["replicas"]
        names = [replica["name"] for replica in listed]
        assert names.count("one") == 1
        assert names.count("other") == 1


async def test_what_held_the_loop_is_in_the_banner(tmp_path: Path) -> None:
    async with ops_door(tmp_path) as door, door.client(FULL) as client:
        door.worker.events.announce(LoopStalled(task="sync", stalled_s=1.0, stack=""))
        door.worker.events.announce(LoopResumed(stalled_s=2.5))
        told = (await client.get("/api/v1/overview")).json()
        (stall,) = [one for one in told["problems"] if "event loop" in one["what"]]
        assert stall["what"] == "this worker's event loop stood still, once within 10m"
        assert stall["why"].startswith("sync held it for 2.5 s, from 20")
        assert (stall["severity"], told["status"] != "ok") == ("warning", True)


async def test_an_engine_that_keeps_no_records_is_no_fault_of_anybody() -> None:
    async with asked(Blind()) as (_, http):
        for look in ("jobs", "queues", "running", "jobs/a"):
            answer = await http.get(look)
            assert answer.status_code == 501
            assert "cannot tell which jobs it has" in answer.json()["detail"]
        overview = (await http.get("overview")).json()
        assert overview["status"] == "ok"
        assert (await http.get("schedules")).status_code == 200


async def test_an_engine_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "PATIENCE_S", 0.05)
    async with asked(Hanging()) as (_, http):
        answer = await http.get("queues")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "2"
        overview = (await http.get("overview")).json()
        assert "no answer of the queues' engine" in overview["problems"][0]["why"]


async def test_a_ledger_that_hangs_is_not_asked_more_and_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources_module, "PATIENCE_S", 0.05)
    async with asked(MemoryJobs()) as (facts, http):
        free = Event()

        def hang(admin: ScheduleAdmin) -> None:
            free.wait(30)

        try:
            with pytest.raises(StoreUnavailable, match="no answer of the ledger"):
                await facts.sources.ledger(hang)
            seen: list[str] = []

            def look(admin: ScheduleAdmin) -> None:
                seen.append("looked")

            async def ask() -> str:
                with pytest.raises(StoreUnavailable) as caught:
                    await facts.sources.ledger(look)
                return str(caught.value)

            told = await asyncio.gather(*(ask() for _ in range(100)))
            assert sum("many questions wait" in one for one in told) > 80
            assert (await http.get("schedules")).status_code == 503
        finally:
            free.set()
        monkeypatch.setattr(sources_module, "PATIENCE_S", 10.0)
        await wait_until(lambda: not looks(), "the ledger has seen all that waited for it")
        async with asyncio.timeout(30):
            # A request in this process need not suspend: what has ended is forgotten in between.
            answer = await http.get("schedules/nope")
            while answer.status_code == 503:
                await asyncio.sleep(0)
                answer = await http.get("schedules/nope")
        assert answer.status_code == 404
        assert len(seen) < 20


def looks() -> list[str]:
    return [name for task in asyncio.all_tasks() if (name := task.get_name()) == "ops:look"]


async def test_what_did_not_change_is_not_read_again() -> None:
    """Of thousands of slots the latest are read, and those once for each change."""
    async with asked(MemoryJobs()) as (facts, http):
        reads: list[str] = []

        def spy(store: LedgerStore) -> None:
            history = store.history

            def counted(query: Any) -> Any:
                reads.append(query.task)
                assert query.limit <= 200
                return history(query)

            store.history = counted  # type: ignore[method-assign]

        await facts.worker.ledger.look(spy)
        for _ in range(3):
            facts.outdate()
            assert (await http.get("schedules")).status_code == 200
        assert len(reads) == len(set(reads)) > 0
