"""The API while a store or a queue is down: it says so, and what else is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis

from tests.support.api_sites import ApiSite
from tests.support.outages import server_of_its_own

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("postgres", "redis")


def critical(overview: dict[str, Any]) -> set[str]:
    """What is told to be down."""
    return {one["kind"] for one in overview["problems"] if one["severity"] == "critical"}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_store_that_is_down_is_told_and_nothing_else_breaks(
    tmp_path: Path, kind: str
) -> None:
    with server_of_its_own(kind, tmp_path) as server:
        site = ApiSite(tmp_path, server.url)
        async with site.api() as api, api.events() as events:
            assert (await anext(events))["schedules"]
            server.kill()
            await api.until(
                "overview",
                lambda told: {"store", "queue"} <= critical(told),
                "the overview says that the store is down",
            )
            for look in ("schedules", "running", "queues", "jobs", "schedules/tick", "jobs/a"):
                await api.comes_to("GET", look, 503)  # facts may be some seconds old
                assert (await api.refused("GET", look, 503))["detail"]
            for act in ("schedules/tick/pause", "tasks/ping/enqueue", "jobs/a/cancel"):
                await api.refused("POST", act, 503)
            await api.get("tasks")
            async for state in events:
                if state["schedules"] is None:
                    break
            server.start()
            await api.until(
                "overview",
                lambda told: told["replicas"] and told["status"] != "critical",
                "the store is back",
            )
            assert (await api.post("schedules/tick/pause"))["standing"] == "paused"
            await api.post("tasks/ping/enqueue", status=201)


async def test_a_queue_that_is_down_leaves_the_schedules_as_they_are(tmp_path: Path) -> None:
    with server_of_its_own("redis", tmp_path) as server:
        site = ApiSite(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", server.url)
        async with site.api() as api:
            await api.get("queues")
            server.kill()
            told = await api.until(
                "overview",
                lambda told: any("nothing is known" in one["what"] for one in told["problems"]),
                "the overview says that the queue is down",
            )
            assert critical(told) == {"queue"}
            assert (await api.get("schedules"))["schedules"]
            await api.comes_to("GET", "queues", 503)


async def test_a_store_that_was_never_up_is_told(tmp_path: Path) -> None:
    site = ApiSite(tmp_path, "redis://127.0.0.1:9/0")
    async with site.api() as api:
        told = await api.get("overview")
        assert told["status"] == "critical"
        assert told["worker"]["store"] == "redis://127.0.0.1:9/0"
        for look in ("schedules", "running", "queues", "jobs"):
            await api.refused("GET", look, 503)


async def test_a_store_that_comes_back_empty_is_told_though_all_works(tmp_path: Path) -> None:
    with server_of_its_own("redis", tmp_path) as server, Redis.from_url(server.url) as redis:
        redis.config_set("appendonly", "no")
        site = ApiSite(tmp_path, server.url)
        async with site.api() as api:
            told = await api.get("overview")
            lasting = [one for one in told["problems"] if "may be lost" in one["what"]]
            assert {one["severity"] for one in lasting} == {"info"}
            assert "appendonly is off" in lasting[0]["why"]
            redis.flushall()
            told = await api.until(
                "overview",
                lambda told: any("began anew" in one["what"] for one in told["problems"]),
                "that the ledger is another one is told",
            )
            (anew,) = [one for one in told["problems"] if "began anew" in one["what"]]
            assert anew["why"].endswith("jobs that waited in it are gone, too")
            assert anew["severity"] == "warning"
