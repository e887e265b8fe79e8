"""What becomes of slots when workers restart, stand still, or lose their store."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.accounts import Account, accounts, belied
from tests.support.outages import server_of_its_own
from tests.support.processes import LoggingProcess, running, worker_command
from tests.support.stores import SHARED_KINDS, fresh_url
from tests.support.waiting import wait_until
from tests.support.witness import Witness
from worker.backends.opening import open_store
from worker.ledger.book import HistoryQuery, Outcome
from worker.ledger.ledger import Attend, Claimant, Finish, apply
from worker.schedules.registration import ScheduleOptions, task_schedule
from worker.schedules.schedule import EPOCH, Schedule, next_due, phase_of, slots_between

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.ports import LedgerStore

KINDS = ("sqlite", *SHARED_KINDS)
AT_ONCE = {"WORKER_FIRST_RUN_DELAY": "0", "WORKER_FIRST_RUN_SPREAD": "0"}
SECOND, MINUTE, HOUR, DAY = (
    timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days")
)
THREE_HOURS = 3 * HOUR

MODULE = """
import asyncio
import os
from datetime import timedelta
from functools import partial

from tests.support.witness import note

SCHEDULES = {schedules!r}


async def quick():
    note("began")
    note("ended")


async def held():
    note("began")
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
    note("ended")


def register(scheduler):
    for name, (kind, options) in SCHEDULES.items():
        task = {{"quick": quick, "held": held}}[kind]
        scheduler.register_task(partial(task), name=name, **options)
"""
Tasks = dict[str, tuple[str, ScheduleOptions]]


class Place:
    """A folder with tasks, in which workers over one store run."""

    def __init__(self, folder: Path, tasks: Tasks, store_url: str | None = None) -> None:
        self.folder = folder
        self.store_url = store_url or f"sqlite:///{folder / '.worker' / 'worker.db'}"
        self.witness = Witness(folder)
        self.terms = {name: task_schedule(name, said) for name, (_, said) in tasks.items()}
        (folder / "own_tasks.py").write_text(MODULE.format(schedules=tasks))

    @property
    def schedules(self) -> dict[str, Schedule]:
        return {name: terms.schedule for name, terms in self.terms.items() if terms.schedule}

    def environment(self, replica: str = "one", **settings: str) -> dict[str, str]:
        return {
            **AT_ONCE,
            **self.witness.environment,
            "WORKER_CLEANUP_INTERVAL": "off",
            "WORKER_REMINDERS_INTERVAL": "off",
            "WORKER_SYNC_INTERVAL": "off",
            "WORKER_ORDERS_INTERVAL": "off",
            "WORKER_DATA_API_URL": "http://127.0.0.1:9",
            "WORKER_TASK_MODULES": "own_tasks",
            "WORKER_STORE_URL": self.store_url,
            "WORKER_REPLICA": replica,
            **settings,
        }

    def go(self) -> None:
        """Let the runs end that wait for it."""
        (self.folder / "go").touch()

    def account(self, task: str) -> Account:
        return accounts(self.store_url, self.schedules)[task]

    def open(self) -> LedgerStore:
        return open_store(self.store_url)


@pytest.fixture(params=KINDS)
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store that several workers of this machine share."""
    with fresh_url(request.param, tmp_path) as url:
        yield url


# --- restarts


@pytest.mark.timeout(120)
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
async def test_interval_runs_on_its_anchored_slots_although_the_worker_restarts_more_often(
    tmp_path: Path, ending: signal.Signals
) -> None:
    place = Place(tmp_path, {"rare": ("quick", {"interval": "3s"})})
    loop = asyncio.get_running_loop()
    names: list[str] = []
    give_up = loop.time() + 45
    ran = 0
    while (ran < 4 or len(names) <= ran) and loop.time() < give_up:
        names.append(f"life {len(names)}")
        environment = place.environment(names[-1], WORKER_LEASE="2s")
        async with running("start", environment=environment, cwd=tmp_path) as worker:
            await worker.logged("worker.ready")
            await asyncio.sleep(0.7)  # how long it lives: a quarter of the interval
            worker.signal(ending)
            assert await worker.ended() == (0 if ending is signal.SIGTERM else -ending)
        ran = len(place.witness.lines("ended"))
    async with running("start", environment=place.environment("last"), cwd=tmp_path) as worker:
        await worker.logged("run.started")  # soon; or once the lease of one that died in a run ends
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    account = place.account("rare")
    unreliable = names if ending is signal.SIGKILL else []
    assert not account.problems()
    assert not belied(account, place.witness.lines(), unreliable=unreliable)
    every = 3 * SECOND
    slots = place.witness.slots("rare")
    assert len(slots) >= 4
    assert all((slot - EPOCH - phase_of("rare", every)) % every == timedelta(0) for slot in slots)


# --- three hours without a worker


def daily_at(moment: datetime) -> str:
    return f"{moment.minute} {moment.hour} * * *"


def first_life(place: Place, at: datetime) -> None:
    """A worker that attended to every task at ``at``, ran what was due, and ended."""
    with closing(place.open()) as store:
        session = store.open_session("long ago", timedelta(minutes=1))
        one = Claimant("long ago", session)
        for terms in place.terms.values():
            (answer,) = apply(store, [Attend(terms=terms)], claimant=one, now=at)
            assert not isinstance(answer, Exception)
            for entry in answer.granted:
                done = Finish(terms=terms, entry=entry, outcome=Outcome.RAN, duration_ms=1)
                apply(store, [done], claimant=one, now=at)
        store.close_session(session)


async def test_after_three_hours_every_slot_is_accounted_for_and_each_overdue_task_runs_once(
    tmp_path: Path,
) -> None:
    now = datetime.now(UTC)
    stopped = now - THREE_HOURS
    tasks: Tasks = {
        "each_10s": ("quick", {"interval": "10s"}),
        "each_5m": ("quick", {"interval": "5m"}),
        "hourly": ("quick", {"interval": "1h"}),
        "daily_just_missed": ("quick", {"cron": daily_at(now - 30 * MINUTE)}),
        "daily_long_missed": ("quick", {"cron": daily_at(now - 2 * HOUR)}),
        "daily_in_a_wide_window": (
            "quick",
            {"cron": daily_at(now - 2 * HOUR), "catchup_window": "3h"},
        ),
        "daily_not_due": ("quick", {"cron": daily_at(now + 2 * HOUR)}),
    }
    place = Place(tmp_path, tasks)
    first_life(place, stopped)
    before = {name: place.account(name) for name in tasks}
    spread = 4 * SECOND
    started = datetime.now(UTC)
    overdue = ["each_10s", "each_5m", "hourly", "daily_just_missed", "daily_in_a_wide_window"]
    environment = place.environment(WORKER_FIRST_RUN_SPREAD=f"{spread.total_seconds()}s")
    async with running("start", environment=environment, cwd=tmp_path) as worker:
        for name in overdue:
            await worker.logged("run.finished", task=name)
        await worker.logged("slot.skipped", task="daily_long_missed")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert not worker.other_lines

    for name in tasks:
        account = place.account(name)
        since = before[name].book.cursor
        assert since is not None
        assert not account.problems(), name
        later = account.later_than(since)
        assert not belied(later, place.witness.lines()), name
        gap = list(slots_between(account.schedule, since, started))
        ran = later.with_outcome(Outcome.RAN)
        if name not in overdue:
            assert not ran, name
            continue
        # The newest alone is made good; unless another slot came while the worker started.
        assert ran[0] == gap[-1] or ran[0] > started, name
        missed = [slot for slot in later.with_outcome(Outcome.MISSED) if slot < ran[0]]
        assert missed == list(slots_between(account.schedule, since, ran[0]))[:-1], name
        rows = [entry for entry in later.entries if entry.slot < ran[0]]
        assert len(rows) <= 1, f"{name}: a gap is one row, however many slots it has"
    assert len(place.account("each_10s").with_outcome(Outcome.MISSED)) >= 3 * 360 - 1
    assert place.account("daily_long_missed").book.counts == {"missed": 1}
    assert place.account("daily_not_due").book.counts == {}

    # Spread out: none of them before its turn.
    for number, name in enumerate(tasks):
        terms = place.terms[name]
        assert terms.schedule is not None
        due = next_due(terms.schedule, name, timedelta(0), started)
        assert due is not None
        turn = min(started + spread * number / len(tasks), due[1])
        began = [line.at for line in place.witness.lines("began", name)]
        assert all(at >= turn for at in began), name


# --- a replica that stands still


async def suspended_in_a_run(
    place: Place, stack: AsyncExitStack
) -> tuple[LoggingProcess, LoggingProcess]:
    """Two replicas, of which the one that runs the task is stopped; it, and the other."""

    async def start(name: str) -> LoggingProcess:
        environment = place.environment(name, WORKER_LEASE="3s")
        process = running("start", environment=environment, cwd=place.folder)
        return await stack.enter_async_context(process)

    one = await start("one")
    await one.logged("run.started", task="held")
    other = await start("other")
    await other.logged("worker.ready")
    one.signal(signal.SIGSTOP)
    return one, other


async def test_replica_that_was_suspended_past_its_lease_cannot_record_an_outcome(
    tmp_path: Path, shared_url: str
) -> None:
    place = Place(tmp_path, {"held": ("held", {"interval": "1h"})}, shared_url)
    async with AsyncExitStack() as stack:
        one, other = await suspended_in_a_run(place, stack)
        lost = await other.logged("slot.skipped", task="held", outcome="lost")
        place.go()
        one.signal(signal.SIGCONT)
        refused = await one.logged("outcome.refused", task="held")
        assert refused["run_id"] == one.told("run.started")[0]["run_id"]
        await one.logged("lease.expired")
        for process in (one, other):
            process.signal(signal.SIGTERM)
            assert await process.ended() == 0
        assert not other.told("run.started")
        assert len(other.told("slot.skipped", outcome="lost")) == 1
    account = place.account("held")
    assert not account.problems()
    (entry,) = account.entries
    assert entry.outcome is Outcome.LOST
    assert entry.slot.isoformat() == lost["slot"]
    assert entry.error == "replica one lost its lease while it ran"
    assert place.witness.slots("held") == [entry.slot]


async def test_slot_of_a_suspended_replica_runs_elsewhere_once_if_its_task_may(
    tmp_path: Path, shared_url: str
) -> None:
    tasks: Tasks = {"held": ("held", {"interval": "1h", "retry_lost": 1})}
    place = Place(tmp_path, tasks, shared_url)
    async with AsyncExitStack() as stack:
        one, other = await suspended_in_a_run(place, stack)
        await other.logged("run.started", task="held")
        place.go()
        await other.logged("run.finished", task="held")
        one.signal(signal.SIGCONT)
        await one.logged("outcome.refused", task="held")
        for process in (one, other):
            process.signal(signal.SIGTERM)
            assert await process.ended() == 0
    account = place.account("held")
    assert not account.problems()
    (entry,) = account.entries
    assert (entry.outcome, entry.replica, entry.losses) == (Outcome.RAN, "other", 1)
    began = [(line.replica, line.slot) for line in place.witness.lines("began")]
    assert began == [("one", entry.slot), ("other", entry.slot)]


# --- by hand, beside a running worker


async def test_run_by_hand_is_refused_while_the_worker_runs_the_task(
    tmp_path: Path, shared_url: str
) -> None:
    place = Place(tmp_path, {"held": ("held", {"interval": "1h"})}, shared_url)
    async with running("start", environment=place.environment(), cwd=tmp_path) as worker:
        await worker.logged("run.started", task="held")
        by_hand = place.environment("hand")
        code, out, err = await worker_command("run", "held", environment=by_hand, cwd=tmp_path)
        assert (code, out) == (75, "")
        assert "held runs already, on one, since" in err
        place.go()
        await worker.logged("run.finished", task="held")
        code, out, _ = await worker_command("run", "held", environment=by_hand, cwd=tmp_path)
        assert (code, json.loads(out)["state"]) == (0, "SUCCESS")
    assert [line.replica for line in place.witness.lines("began")] == ["one", "hand"]


async def test_run_by_hand_that_may_wait_begins_when_the_other_has_ended(
    tmp_path: Path, shared_url: str
) -> None:
    place = Place(tmp_path, {"held": ("held", {"interval": "1h"})}, shared_url)
    hand = place.environment("hand")
    async with running("start", environment=place.environment(), cwd=tmp_path) as worker:
        await worker.logged("run.started", task="held")
        words = ("run", "held", "--overlap", "buffer_one")
        async with running(*words, environment=hand, cwd=tmp_path) as waiting:
            with closing(place.open()) as store:
                await wait_until(
                    lambda: any(r.name == "by hand, hand" and r.alive for r in store.replicas()),
                    "the run by hand has asked the ledger",
                )
            place.go()
            assert await waiting.ended() == 0
        await worker.logged("run.finished", task="held")
    told = [(line.replica, line.what) for line in place.witness.lines()]
    assert told == [("one", "began"), ("one", "ended"), ("hand", "began"), ("hand", "ended")]


async def test_run_by_hand_that_has_precedence_ends_the_other_first(
    tmp_path: Path, shared_url: str
) -> None:
    place = Place(tmp_path, {"held": ("held", {"interval": "1h"})}, shared_url)
    hand = place.environment("hand")
    async with running("start", environment=place.environment(), cwd=tmp_path) as worker:
        await worker.logged("run.started", task="held")
        words = ("run", "held", "--overlap", "cancel_other")
        async with running(*words, environment=hand, cwd=tmp_path) as urgent:
            await worker.logged("run.interrupted", task="held")
            await urgent.logged("run.started", task="held")
            place.go()
            assert await urgent.ended() == 0
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    told = [(line.replica, line.what) for line in place.witness.lines()]
    assert told == [("one", "began"), ("hand", "began"), ("hand", "ended")]
    with closing(place.open()) as store:
        history = store.history(HistoryQuery(task="held"))
    outcomes = [(entry.trigger.value, entry.outcome.value) for entry in reversed(history)]
    assert outcomes == [("schedule", "failed"), ("manual", "ran")]
    assert history[1].error == "cancelled: a later slot of the task has precedence"


# --- a store that goes away


@pytest.mark.parametrize("kind", ["postgres", "redis"])
async def test_store_that_goes_down_and_comes_back_costs_no_slot_its_outcome(
    tmp_path: Path, kind: str
) -> None:
    tasks: Tasks = {
        "careful": ("quick", {"interval": "500ms"}),
        "careless": ("quick", {"interval": "500ms", "needs_ledger": False}),
        "held": ("held", {"interval": "1h"}),
    }
    with server_of_its_own(kind, tmp_path) as server:
        place = Place(tmp_path, tasks, server.url)
        async with running("start", environment=place.environment(), cwd=tmp_path) as worker:
            for name in ("careful", "careless"):
                await worker.logged("run.finished", task=name, count=3)
            await worker.logged("run.started", task="held")
            await asyncio.to_thread(server.kill)
            down = await worker.logged("store.unavailable")
            assert down["waiting"] == ["careful", "held"]
            assert down["unrecorded"] == ["careless"]
            so_far = len(worker.told("run.finished", task="careless"))
            await worker.logged("run.finished", task="careless", count=so_far + 6)
            place.go()
            await worker.logged("run.finished", task="held")
            outage = worker.events[worker.events.index(down) :]
            assert not [
                line
                for line in outage
                if (line["event"], line.get("task")) == ("run.started", "careful")
                and line["slot"] > down["time"]
            ]
            await asyncio.to_thread(server.start)
            up = await worker.logged("store.available")
            since = worker.events.index(up)

            def ran_again(task: str) -> bool:
                return any(
                    (line["event"], line.get("task")) == ("run.finished", task)
                    for line in worker.events[since:]
                )

            await worker.until(lambda: ran_again("careful"), "careful runs again")
            await worker.until(lambda: ran_again("careless"), "careless runs again")
            worker.signal(signal.SIGTERM)
            assert await worker.ended() == 0
            assert len(worker.told("store.unavailable")) == 1
            assert len(worker.told("store.available")) == 1
            assert not worker.other_lines
        went_down, came_up = (datetime.fromisoformat(line["time"]) for line in (down, up))
        for name in tasks:
            account = place.account(name)
            assert not account.problems(), name
            assert not belied(account, place.witness.lines()), name
        careful, careless = place.account("careful"), place.account("careless")
        outage_slots = [s for s in careful.by_slot if went_down < s < came_up]
        missed = careful.with_outcome(Outcome.MISSED)
        assert set(outage_slots[:-1]) <= set(missed), "the newest of them alone is made good"
        in_outage = [s for s in careless.with_outcome(Outcome.RAN) if went_down < s < came_up]
        assert len(in_outage) >= 5
        assert [e.outcome for e in place.account("held").entries] == [Outcome.RAN]
