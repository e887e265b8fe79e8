"""Real workers that are killed, stopped, or poll nothing, and what the others say of it."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from tests.support.job_sites import JobSite
from tests.support.postgres import fresh_postgres_url
from tests.support.servers import refused_port
from tests.support.stores import SHARED_KINDS, fresh_url
from worker.backends.opening import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.support.processes import LoggingProcess

TOKEN = "full-token-0123456789"
SHORT = {"WORKER_LEASE": "3s"}
PATIENCE_S = 40.0
Overview = dict[str, Any]


class Watch:
    """A worker whose banner is looked at."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def state(self, part: str = "overview") -> Any:
        answer = await self._client.get(part)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def told(self, of: str, holds: Callable[[list[Overview]], bool]) -> list[Overview]:
        """The problems that name somebody or something, once they are as expected."""
        found: list[Overview] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not holds(found):
                    await asyncio.sleep(0.05)
                    found = [p for p in (await self.state())["problems"] if p["name"] == of]
        except TimeoutError:
            raise AssertionError(f"the banner says of {of}: {found}") from None
        return found

    async def listed(self, name: str) -> Overview:
        (one,) = [r for r in (await self.state())["replicas"] if r["name"] == name]
        return dict(one)


@pytest.fixture(params=SHARED_KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobSite]:
    with fresh_url(request.param, tmp_path) as url:
        yield site_over(url, tmp_path)


def site_over(url: str, folder: Path) -> JobSite:
    site = JobSite(folder, url)
    site.store_url = url
    site.environment["WORKER_STORE_URL"] = url
    return site


async def once(holds: Callable[[], object]) -> None:
    """Return once it is so, of what another process does."""
    async with asyncio.timeout(PATIENCE_S):
        found = holds()
        while not found:
            await asyncio.sleep(0.05)
            found = holds()


@asynccontextmanager
async def watching(site: JobSite, line: str = "--queues default") -> AsyncIterator[Watch]:
    """A worker named *watch* with a banner."""
    port = refused_port()
    settings = {
        "WORKER_REPLICA": "watch",
        "WORKER_OPS_PORT": str(port),
        "WORKER_OPS_TOKEN": TOKEN,
    }
    async with (
        site.starts(line, **settings) as worker,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/api/v1/",
            headers={"Authorization": f"Bearer {TOKEN}"},
            trust_env=False,
        ) as client,
    ):
        await worker.logged("worker.ready")
        yield Watch(client)


@asynccontextmanager
async def replica(
    site: JobSite, name: str, line: str = "--queues billing"
) -> AsyncIterator[LoggingProcess]:
    async with site.starts(line, WORKER_REPLICA=name) as worker:
        await worker.logged("worker.ready")
        yield worker


async def test_a_replica_that_is_killed_is_told_until_one_of_its_name_is_back(
    site: JobSite,
) -> None:
    site.environment |= SHORT
    async with watching(site) as watch:
        async with replica(site, "prey") as prey:
            assert (await watch.listed("prey"))["queues"] == ["billing"]
            prey.signal(signal.SIGKILL)
            await prey.ended()
        (lost,) = await watch.told("prey", bool)
        assert lost["severity"] == "warning"
        assert lost["what"].startswith("replica prey was lost at 20")
        assert lost["why"].startswith("no sign of life since 20")
        assert "it polled billing and took slots" in lost["why"]
        state = await watch.state()
        assert state["status"] == "warning"
        listed = await watch.listed("prey")
        assert (listed["alive"], listed["lost"]) == (False, True)

        code, _, err = await site.types("schedule list")
        assert code == 0
        assert "worker: replica prey was lost at 20" in err
        metrics = await site.told("schedule metrics")
        assert "worker_replicas 1.0\n" in metrics
        assert "worker_replicas_lost 1.0\n" in metrics
        explained = await site.told("explain send_invoice")
        assert "replica prey was lost at 20" in explained

        async with replica(site, "prey"):
            (back,) = await watch.told("prey", lambda p: bool(p) and p[0]["severity"] == "info")
            assert "it is back since 20" in back["why"]
            metrics = await site.told("schedule metrics")
            assert "worker_replicas 2.0\n" in metrics
            assert "worker_replicas_lost 0.0\n" in metrics


async def test_of_a_replica_that_stops_in_order_nothing_is_said(site: JobSite) -> None:
    site.environment |= SHORT
    async with watching(site) as watch:
        async with replica(site, "guest") as guest:
            guest.signal(signal.SIGTERM)
            assert await guest.ended() == 0
        async with replica(
            site, "prey"
        ) as prey:  # once this one is told, the other's lease is over
            prey.signal(signal.SIGKILL)
            await prey.ended()
        await watch.told("prey", bool)
        assert [p for p in (await watch.state())["problems"] if p["name"] == "guest"] == []
        listed = await watch.listed("guest")
        assert (listed["alive"], listed["lost"]) == (False, False)


async def test_a_queue_that_nobody_polls_is_told_as_soon_as_a_job_waits_in_it(
    site: JobSite,
) -> None:
    async with watching(site) as watch:
        job_id = await site.asks("send_invoice", '{"order_id": 1}')
        (told,) = await watch.told("billing", bool)
        assert told["severity"] == "warning"
        assert told["what"] == "nobody polls the queue billing: 1 job waits"
        queues = {queue["name"]: queue for queue in (await watch.state("queues"))["queues"]}
        assert queues["billing"]["polled_by"] == []
        assert queues["default"]["polled_by"] == ["watch"]

        code, out, err = await site.types("queues")
        assert code == 0
        assert "nobody polls the queue billing: 1 job waits" in err
        rows = {line.split()[0]: line.split()[-1] for line in out.splitlines()}
        assert (rows["billing"], rows["default"]) == ("nobody", "watch")
        for line in ("explain send_invoice", f"jobs show {job_id}"):
            assert "nobody polls the queue billing: 1 job waits" in await site.told(line)

        async with replica(site, "clerk"):
            await watch.told("billing", lambda problems: not problems)
            (told,) = (queue for queue in await site.json("queues") if queue["name"] == "billing")
            assert told["polled_by"] == ["clerk"]


async def test_a_run_by_hand_is_no_replica_and_no_loss(site: JobSite) -> None:
    async with watching(site, "--no-queues") as watch, asyncio.TaskGroup() as group:
        running = group.create_task(site.types("run held", WORKER_REPLICA="hand"))
        with closing(open_store(site.store_url)) as store:
            await once(lambda: [r for r in store.replicas() if r.name == "by hand, hand"])
        assert "worker_replicas 1.0\n" in await site.told("schedule metrics")
        site.touch("go")
        await running
        problems = (await watch.state())["problems"]
        assert [p for p in problems if p["kind"] == "worker" and p["name"] != "watch"] == []


async def test_a_worker_of_an_older_version_is_shown_and_nothing_is_concluded_from_it(
    tmp_path: Path,
) -> None:
    """It writes its session as it did before the migration, on the connection that it has."""
    with fresh_postgres_url() as url:
        site = site_over(url, tmp_path)
        async with watching(site) as watch:
            with psycopg.connect(url, autocommit=True) as old:
                old.execute(
                    "INSERT INTO worker_sessions (name, started_at, seen_at, lease_until)"
                    " SELECT 'old', now(), now(), now() + interval '1 hour'"
                )
                await site.asks("send_invoice", '{"order_id": 1}')
                code, out, err = await site.types("queues")
                assert code == 0
                assert "it is not known who polls: old did not say" in err
                assert "nobody" not in err
                assert "not known" in out
                assert await watch.told("billing", lambda problems: not problems) == []
                listed = await watch.listed("old")
                assert (listed["alive"], listed["lost"], listed["queues"]) == (True, False, None)
                old.execute(
                    "UPDATE worker_sessions SET lease_until = clock_timestamp() WHERE name = 'old'"
                )
            await watch.told("billing", bool)
            assert [p for p in (await watch.state())["problems"] if p["name"] == "old"] == []


async def test_workers_with_ledgers_of_their_own_conclude_nothing_of_a_queue_that_they_share(
    tmp_path: Path,
) -> None:
    with fresh_url("redis", tmp_path) as queue_url:
        site = JobSite(tmp_path, queue_url)
        async with watching(site) as watch:
            await site.asks("send_invoice", '{"order_id": 1}')
            code, out, err = await site.types("queues")
            assert code == 0
            assert "the ledger is this machine's only (sqlite), and the queues (redis) are" in err
            assert "nobody" not in out + err
            assert [p for p in (await watch.state())["problems"] if p["kind"] == "queue"] == []
