"""``worker queues``: what waits, since when, what is dead, and who works on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.job_sites import Clerk, JobSite
from tests.support.jobs import fresh_queue_url
from tests.support.sites import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["sqlite", "postgres", "redis", "sqs"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobSite]:
    with fresh_queue_url(request.param, tmp_path) as url:
        yield JobSite(tmp_path, url)


async def test_each_queue_is_shown_with_what_lies_in_it(site: JobSite) -> None:
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.dies("dead")
        await clerk.runs("runs")
        await clerk.waits("waits", "send_invoice", queue="billing", params='{"order_id": 1}')
    _, out, err = await site.types("queues")
    billing, default = rows_of(out)
    shares = site.queue_url.startswith("sqlite")
    said = (
        "nobody polls the queue billing" if shares else "it is not known who polls: the ledger is"
    )
    assert said in err
    assert (billing["queue"], billing["waiting"], billing["dead"]) == ("billing", "1", "0")
    assert billing["oldest"].endswith("s")
    assert default == {
        "queue": "default",
        "waiting": "0",
        "oldest": "-",
        "running": "1",
        "dead": "1",
        "polled by": "not known, seen: one",
    }, "one runs a job of it, and the ledger has never heard of it"
    assert billing["polled by"] == ("nobody" if shares else "not known")
    _, out, _ = await site.types("queues --json")
    told = {queue["name"]: queue for queue in json.loads(out)}
    assert told["billing"]["oldest_age_s"] >= 0
    assert told["default"]["workers"] == ["one"]
    tasks = {task["task"]: task for task in told["default"]["tasks"]}
    assert tasks["fails"] == {
        "task": "fails",
        "waiting": 0,
        "running": 0,
        "dead": 1,
        "polled": None,
        "last_error": "TaskFailed: the far side is full",
    }
    _, shown, _ = await site.types("queues --tasks")
    assert "  send_invoice" in shown


async def test_queues_of_tasks_are_shown_though_nothing_lies_in_them(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    assert [row["queue"] for row in await site.table("queues")] == ["billing", "default"]


async def test_hostile_names_do_not_steer_the_terminal(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        await Clerk(jobs).waits("odd", "\x1b]0;title\x07evil", queue="a\x1b[2Jb")
    _, shown, err = await site.types("queues --tasks")
    assert "\x1b" not in shown + err
    assert "\\x1b[2J" in shown


async def test_a_queue_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    site = JobSite(tmp_path, "redis://127.0.0.1:9/0")
    code, out, err = await site.types("queues")
    assert (code, out) == (69, "")
    assert "127.0.0.1:9" in err
    for line in ("queues", "enqueue ping", "jobs list"):
        code, _, err = await site.types(line)
        assert code == 69
        assert "worker: the queue's engine cannot be used: " in err


async def test_the_store_is_to_blame_where_it_carries_the_jobs(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    site.environment |= {"WORKER_QUEUE_URL": "", "WORKER_STORE_URL": "redis://127.0.0.1:9/0"}
    code, _, err = await site.types("queues")
    assert code == 69
    assert "worker: the store cannot be used: " in err
