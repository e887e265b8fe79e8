"""`worker explain`, as its users type it: each reason for a task not to run now."""

from __future__ import annotations

import getpass
import re
import socket
import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

from tests.support.job_sites import Clerk, JobSite
from tests.support.sites import HELD, HOURLY, REPLICA, Site, Tasks, ago
from worker.backends.opening import open_store
from worker.ledger.book import Outcome
from worker.ledger.ledger import Ask
from worker.model import Trigger
from worker.schedules.policies import Overlap

if TYPE_CHECKING:
    from pathlib import Path

ME = f"{getpass.getuser()}@{socket.gethostname()}"


async def verdict(site: Site, task: str = "report") -> tuple[str, list[str]]:
    """What `worker explain` says first, and all else."""
    first, *others = (await site.told(f"explain {task}")).splitlines()
    assert all(line.startswith("  - ") for line in others)
    return first, [line.removeprefix("  - ") for line in others]


async def test_explain_names_the_run_that_goes_on_and_what_waits_behind_it(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, HELD)
    async with site.worker() as worker:
        started = await worker.logged("run.started", task="report")
        first, _ = await verdict(site)
        assert first.startswith(f"report is running: on {REPLICA} since 20")
        assert first.endswith(f"ago), run {started['run_id']}")
        await site.told("schedule run report")
        first, others = await verdict(site)
        assert first.startswith("report is running: ")
        assert others[0].startswith("1 slot waits for its turn, the first of 20")


async def test_explain_names_who_paused_it_and_how_to_end_that(tmp_path: Path) -> None:
    site = Site(tmp_path, HOURLY)
    await site.told("schedule pause report -m", "moving house")
    first, others = await verdict(site)
    assert first.startswith("report is paused since 20")
    assert first.endswith(f"ago) by {ME}: moving house; `worker schedule resume report` ends that")
    assert "no worker has ever used this ledger: nothing runs before `worker start`" in others
    (slot,) = (line for line in others if line.startswith("its next slot"))
    assert slot.startswith("its next slot would be 20")
    assert slot.endswith("is recorded as paused unless it is resumed before")


async def test_explain_names_what_turned_it_off(tmp_path: Path) -> None:
    site = Site(tmp_path, HOURLY)
    first, _ = await verdict(site, "cleanup_old_orders")
    assert first == (
        "cleanup_old_orders is off: WORKER_CLEANUP_INTERVAL says so; it only runs by hand, "
        "`worker run cleanup_old_orders`"
    )
    (tmp_path / "schedules.toml").write_text("[tasks.report]\nenabled = false\n")
    site.environment["WORKER_SCHEDULES_FILE"] = "schedules.toml"
    first, _ = await verdict(site)
    assert first.startswith("report is off: schedules.toml says so; ")


async def test_explain_says_that_no_worker_is_up_and_who_was(tmp_path: Path) -> None:
    site = Site(tmp_path, HOURLY)
    first, others = await verdict(site)
    assert first == "no worker has ever used this ledger: nothing runs before `worker start`"
    assert "the ledger has not seen it yet" in others
    with site.claimant("the last of us") as past:
        past.ran("report", ago(minutes=1))
    first, others = await verdict(site)
    assert first.startswith("no worker is up, or none can write to the ledger: the last of us was")
    assert any(line.startswith("its last success was at 20") for line in others)


async def test_explain_says_when_it_runs_next_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    said: Tasks = {"report": ("fails", {"interval": "1h", "jitter": "10s", "max_age": "2h"})}
    site = Site(tmp_path, said)
    with site.claimant() as past:
        schedule = past.terms["report"].schedule
        assert schedule is not None
        for distance, outcome, error in (
            (timedelta(hours=5), Outcome.RAN, None),
            (timedelta(seconds=10), Outcome.FAILED, "the far side is full"),
        ):
            slot_then = schedule.until(ago() - distance)
            assert slot_then is not None
            past.ran("report", slot_then + timedelta(seconds=10), outcome, error)  # its jitter
        first, others = await verdict(site)
        told = await site.json("explain report")
    problem, runs_next = first.rsplit("; ", 1)
    assert problem.startswith("report is stale since 20")
    assert " ago): a success is due every 2h; its last success was at 20" in problem
    assert "; report fails: its last run failed, the last at 20" in problem
    assert problem.endswith(" ago): the far side is full")
    assert runs_next.startswith("it runs next at 20")
    slot, latest, success, every = others
    assert slot.startswith("its next slot is 20")
    assert slot.endswith(" later for its jitter")
    assert latest.startswith("its latest slot, of 20")
    assert latest.endswith("ago), failed: the far side is full")
    assert success.startswith("its last success was at 20")
    assert every == "its schedule is every 1h, said by own_tasks:fails"
    assert told["verdict"].startswith("report is stale since 20")
    assert len(told["facts"]) == len(others)


async def test_explain_says_that_a_schedule_is_over(tmp_path: Path) -> None:
    tasks: Tasks = {
        "limited": ("quick", {"interval": "1h", "max_runs": 1}),
        "once": ("quick", {"at": "2020-01-01T00:00:00Z"}),
    }
    site = Site(tmp_path, tasks)
    with site.claimant() as past:
        past.ran("limited", ago(hours=3))
        past.attends("once", ago())
        first, others = await verdict(site, "limited")
        assert first == "limited is over: 1 runs of at most 1 are done"
        assert not any("no worker is up" in line for line in others)
    first, others = await verdict(site, "once")
    assert first == "once is over: its schedule has no slot any more"
    assert not any("no worker is up" in line for line in others)
    assert others[0].startswith("its latest slot, of 2020-01-01 00:00:00Z (")
    assert others[0].endswith("was missed: no worker looked at it within its catch-up window")


async def test_explain_says_that_something_waits_a_slot_is_left_or_a_clock_was_ahead(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, {name: ("quick", {"interval": "1h"}) for name in ("a", "b", "c")})
    with site.claimant() as past:
        now = ago()
        past.ran("a", now)
        asked = Ask(task="a", slots=(now,), trigger=Trigger.MANUAL, overlap=Overlap.BUFFER_ALL)
        past.ask(asked, now)
        first, _ = await verdict(site, "a")
        assert first.startswith("1 slot waits for its turn, the first of 20")
        past.ran("b", ago(hours=2.5))
        first, _ = await verdict(site, "b")
        assert first.startswith("the slot of 20")
        assert " ago) is due, and no worker has looked at it: " in first
        past.ran("c", now + timedelta(hours=5))
        first, others = await verdict(site, "c")
        assert first.startswith("slots are accounted for until 20")
        assert first.endswith(
            "which is to come: a worker's clock was ahead, and no slot is run twice"
        )
        assert others[0].startswith("its next slot is 20")


async def test_explain_leads_with_what_is_wrong_unless_it_is_known_why(tmp_path: Path) -> None:
    site = Site(tmp_path, {"report": ("fails", {"interval": "1h"})})
    with site.claimant() as past:
        for slot in (ago(hours=2), ago(hours=1), ago()):
            past.ran("report", slot, Outcome.FAILED, "the far side is full")
        first, _ = await verdict(site)
        wrong = r"report fails: its last 3 runs failed, the last at 20[^;]+: the far side is full"
        assert re.match(f"{wrong}; it runs next at 20", first)
        await site.told("schedule pause report")
        first, others = await verdict(site)
        assert first.startswith("report is paused since 20")
        assert others[0].startswith("its next slot would be 20")
        assert others[0].endswith(", and is recorded as paused unless it is resumed before")
        assert any(re.fullmatch(wrong, line) for line in others)


async def test_explain_says_that_nobody_polls_a_tasks_queue(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    first, _ = await verdict(site, "send_invoice")
    assert first.startswith("send_invoice has no schedule")
    async with site.engine() as jobs:
        await Clerk(jobs).waits("a", "send_invoice", queue="billing", params='{"order_id": 1}')
    first, others = await verdict(site, "send_invoice")
    stuck = "nobody polls the queue billing: 1 job waits: of the workers that are up none polls it"
    assert first.startswith(stuck)
    assert others[0].startswith("send_invoice has no schedule")
    assert stuck in await site.told("jobs show a")


async def test_explain_guesses_whether_anybody_works_on_a_queue_where_that_is_not_known(
    tmp_path: Path,
) -> None:
    site = JobSite(tmp_path)
    with closing(open_store(site.store_url)) as store:
        store.open_session("of an older version", timedelta(hours=1))
    first, _ = await verdict(site, "send_invoice")
    assert first.startswith("send_invoice has no schedule")
    async with site.engine() as jobs:
        await Clerk(jobs).waits("a", "send_invoice", queue="billing", params='{"order_id": 1}')
    first, _ = await verdict(site, "send_invoice")
    assert first.startswith("send_invoice has no schedule"), "it only just came"
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as file, file:
        file.execute("UPDATE jobs SET ready_at = ready_at - 300 * 1000000")
    first, others = await verdict(site, "send_invoice")
    stuck = "nobody seems to work on the queue billing: 1 job waits, the oldest for 5m, and none"
    assert first.startswith(stuck)
    assert others[0].startswith("send_invoice has no schedule")
    assert stuck.partition(",")[0] in await site.told("jobs show a")


async def test_explain_says_that_a_tasks_queue_cannot_be_reached(tmp_path: Path) -> None:
    site = JobSite(tmp_path, "redis://127.0.0.1:9/0")
    first, others = await verdict(site, "send_invoice")
    assert first.startswith("the queue's engine cannot be used: ")
    assert others[0].startswith("send_invoice has no schedule")
