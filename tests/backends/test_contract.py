"""What every store of the ledger promises, whichever it is."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import clean_environment
from tests.support.stores import KINDS
from tests.support.waiting import wait_until
from worker.backends.opening import open_store
from worker.errors import LeaseLost
from worker.ledger.book import (
    Book,
    Change,
    Entry,
    HistoryQuery,
    Outcome,
    Pause,
    ScheduleVersion,
    SessionId,
    Written,
)
from worker.ledger.presence import Presence
from worker.model import Trigger

if TYPE_CHECKING:
    from worker.ports import LedgerStore

SLOT = datetime(2026, 11, 21, 9, 30, 0, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LONG = timedelta(minutes=10)
SHORT = timedelta(milliseconds=30)
SEVERAL_PROCESSES = [kind for kind in KINDS if kind != "memory"]


def running(session: SessionId, slot: datetime = SLOT, task: str = "sync") -> Entry:
    return Entry(
        task=task,
        slot=slot,
        outcome=Outcome.RUNNING,
        recorded_at=slot + SECOND,
        run_id="abc",
        session=session,
        replica="one",
        late_ms=12.5,
    )


def ran(entry: Entry) -> Entry:
    return replace(entry, outcome=Outcome.RAN, duration_ms=3.25)


async def expired(store: LedgerStore, session: SessionId) -> None:
    await wait_until(
        lambda: not any(r.alive for r in store.replicas() if r.session == session),
        "the lease has run out",
    )


def test_a_task_that_nobody_knows_has_a_book_of_version_0(store: LedgerStore) -> None:
    assert store.read(["sync", "clean"]) == {
        "sync": Book(task="sync"),
        "clean": Book(task="clean"),
    }
    assert store.tasks() == []


def test_a_book_comes_back_as_it_was_written(store: LedgerStore) -> None:
    book = Book(
        task="sync",
        versions=(
            ScheduleVersion(
                spec="{}",
                text="0 3 * * * Europe/Berlin",
                since=SLOT - LONG,
                cursor=SLOT - SECOND,
                until=SLOT,
                sessions=(SessionId(7), SessionId(2**53)),
                served=SLOT + SECOND,
                jitter=LONG,
                max_runs=3,
            ),
            version_at(SLOT),
        ),
        settled=SLOT - LONG,
        known_since=SLOT - LONG,
        pause=Pause(SLOT, "anna", "the API moves; “later” \N{SNOWMAN}"),
        runs=3,
        runs_of={"0 3 * * * Europe/Berlin": 2},
        failures=2,
        last_success=SLOT - SECOND,
        last_outcome=Outcome.FAILED,
        last_error="boom",
        last_ended=SLOT,
        counts={"ran": 1, "failed": 2},
    )
    assert store.write([Change(book=book)]) == [Written.DONE]
    assert store.read(["sync"]) == {"sync": replace(book, version=1)}
    assert store.tasks() == ["sync"]


def test_the_replicas_of_some_sessions_are_found(store: LedgerStore) -> None:
    one, two = store.open_session("one", LONG), store.open_session("two", LONG)
    unknown = SessionId(two + 1)
    assert [each.session for each in store.replicas()] == [two, one]
    assert [each.name for each in store.replicas([one, unknown])] == ["one"]
    assert [each.name for each in store.replicas((one, two))] == ["two", "one"]
    assert store.replicas([]) == []


def test_an_entry_comes_back_as_it_was_written(store: LedgerStore) -> None:
    session = store.open_session("one", LONG)
    entry = Entry(
        task="sync",
        slot=SLOT,
        trigger=Trigger.BACKFILL,
        outcome=Outcome.RUNNING,
        recorded_at=SLOT + SECOND,
        last=SLOT + LONG,
        count=7_000_000_000,
        run_id="abc",
        session=session,
        replica="one",
        late_ms=12.5,
        duration_ms=0.125,
        error='say "no"\n\x1b[31m',
        cancel=True,
        overlap="allow_all",
        losses=2,
    )
    assert store.write([Change(book=Book(task="sync"), entries=(entry,))]) == [Written.DONE]
    assert store.read(["sync"])["sync"].active == (entry,)
    assert store.history(HistoryQuery()) == [entry]


def test_a_change_of_a_book_that_was_changed_meanwhile_writes_nothing(store: LedgerStore) -> None:
    session = store.open_session("one", LONG)
    first = Change(book=Book(task="sync", runs=1), entries=(running(session),), session=session)
    late = Change(
        book=Book(task="sync", runs=9),
        entries=(running(session, SLOT + SECOND),),
        session=session,
    )
    assert store.write([first]) == [Written.DONE]
    assert store.write([late]) == [Written.OUTDATED]
    book = store.read(["sync"])["sync"]
    assert (book.version, book.runs, book.active) == (1, 1, (running(session),))
    again = replace(late, book=replace(late.book, version=1))
    assert store.write([again]) == [Written.DONE]
    assert store.read(["sync"])["sync"].version == 2


def test_of_many_changes_each_is_made_or_not_by_itself(store: LedgerStore) -> None:
    session = store.open_session("one", LONG)
    store.write([Change(book=Book(task="b"))])
    tasks = ("a", "b", "c")
    changes = [
        Change(book=Book(task=task), entries=(running(session, task=task),)) for task in tasks
    ]
    assert store.write(changes) == [Written.DONE, Written.OUTDATED, Written.DONE]
    assert [entry.task for entry in store.history(HistoryQuery())] == ["c", "a"]


def test_a_last_word_stays(store: LedgerStore) -> None:
    session = store.open_session("one", LONG)
    entry = running(session)
    store.write([Change(book=Book(task="sync"), entries=(entry,))])
    book = store.read(["sync"])["sync"]
    assert store.write([Change(book=book, entries=(ran(entry),))]) == [Written.DONE]
    book = store.read(["sync"])["sync"]
    other = running(session, SLOT + SECOND)
    twice = Change(book=replace(book, runs=99), entries=(other, replace(entry, error="again")))
    assert store.write([twice]) == [Written.TAKEN]
    assert store.read(["sync"])["sync"] == book
    assert store.history(HistoryQuery()) == [ran(entry)]


def test_the_same_slot_has_an_entry_for_each_trigger(store: LedgerStore) -> None:
    entry = ran(running(SessionId(1)))
    again = replace(entry, trigger=Trigger.BACKFILL)
    assert store.write([Change(book=Book(task="sync"), entries=(entry, again))]) == [Written.DONE]
    assert len(store.history(HistoryQuery(task="sync"))) == 2


async def test_a_lease_that_ran_out_stays_lost_and_can_write_nothing(store: LedgerStore) -> None:
    session = store.open_session("one", SHORT)
    await expired(store, session)
    with pytest.raises(LeaseLost):
        store.renew(session, LONG)
    change = Change(book=Book(task="sync"), entries=(running(session),), session=session)
    assert store.write([change]) == [Written.NO_LEASE]
    assert store.history(HistoryQuery()) == []
    assert store.open_session("one", LONG) > session


async def test_the_runs_of_a_dead_session_are_orphans_that_others_are_told_of(
    store: LedgerStore,
) -> None:
    dead, living = store.open_session("one", SHORT), store.open_session("two", LONG)
    store.write([Change(book=Book(task="sync"), entries=(running(dead),))])
    await expired(store, dead)
    (orphan,) = store.read(["sync"])["sync"].orphans
    assert orphan.session == dead
    assert store.renew(living, LONG).orphaned == {"sync"}
    book = store.read(["sync"])["sync"]
    lost = replace(orphan, outcome=Outcome.LOST, alive=True)
    assert store.write([Change(book=book, entries=(lost,), session=living)]) == [Written.DONE]
    assert store.renew(living, LONG).orphaned == frozenset()
    assert store.read(["sync"])["sync"].active == ()


def test_a_session_that_was_closed_is_dead_at_once(store: LedgerStore) -> None:
    session, living = store.open_session("one", LONG), store.open_session("two", LONG)
    store.write([Change(book=Book(task="sync"), entries=(running(session),))])
    assert store.renew(living, LONG).orphaned == frozenset()
    store.close_session(session)
    assert store.renew(living, LONG).orphaned == {"sync"}
    assert [(r.session, r.name, r.alive) for r in store.replicas()] == [
        (living, "two", True),
        (session, "one", False),
    ]
    store.close_session(session)
    with pytest.raises(LeaseLost):
        store.renew(session, LONG)


SERVES = Presence(slots=False, queues=("billing", "f\xfcr \u2603"), only=("resize",))


def test_what_a_session_is_for_is_kept_with_it(store: LedgerStore) -> None:
    hand = Presence(hand=True)
    sessions = [store.open_session("one", LONG, said) for said in (SERVES, hand, None)]
    assert [(r.session, r.presence, r.works) for r in reversed(store.replicas())] == [
        (sessions[0], SERVES, True),
        (sessions[1], hand, False),
        (sessions[2], None, True),
    ]
    for session in sessions:
        store.renew(session, LONG)
    latest = store.replicas()[-1]
    assert (latest.presence, latest.until - latest.seen) == (SERVES, LONG)


async def test_a_session_that_was_closed_is_told_from_one_whose_lease_ran_out(
    store: LedgerStore,
) -> None:
    closed, silent, late = (
        store.open_session(name, ttl, SERVES)
        for name, ttl in (("closed", LONG), ("silent", SHORT), ("late", SHORT))
    )
    store.close_session(closed)
    await expired(store, silent)
    await expired(store, late)
    store.close_session(late)
    assert [(r.session, r.alive, r.closed, r.lost) for r in reversed(store.replicas())] == [
        (closed, False, True, False),
        (silent, False, False, True),
        (late, False, True, False),
    ]
    gone = store.replicas()[1]
    assert gone.seen <= gone.until <= datetime.now(UTC)


async def test_of_a_session_that_did_not_say_what_it_is_for_nothing_is_concluded(
    store: LedgerStore,
) -> None:
    old = store.open_session("old", SHORT)
    await expired(store, old)
    assert [(r.presence, r.closed, r.lost) for r in store.replicas()] == [(None, False, False)]


async def test_what_is_known_of_pruned_sessions_is_forgotten_with_them(store: LedgerStore) -> None:
    closed = store.open_session("closed", LONG, SERVES)
    store.close_session(closed)
    silent = store.open_session("silent", SHORT, SERVES)
    await expired(store, silent)
    await wait_until(
        lambda: store.prune(age=timedelta(0)) == 0 and not store.replicas(), "both are pruned"
    )


def test_a_renewal_tells_what_waits_and_what_shall_end(store: LedgerStore) -> None:
    mine, theirs = store.open_session("one", LONG), store.open_session("two", LONG)
    own = replace(running(mine), cancel=True)
    other = replace(running(theirs, task="clean"), cancel=True)
    waits = replace(running(mine, task="report"), outcome=Outcome.WAITING, session=None)
    for entry in (own, other, waits):
        store.write([Change(book=Book(task=entry.task), entries=(entry,))])
    pulse = store.renew(mine, LONG)
    assert pulse.cancelled == {own.key}
    assert pulse.waiting == {"report"}
    assert pulse.orphaned == frozenset()


def test_active_entries_come_the_oldest_first(store: LedgerStore) -> None:
    session = store.open_session("one", LONG)
    entries = tuple(running(session, SLOT + n * SECOND) for n in (5, 1, 3))
    store.write([Change(book=Book(task="sync"), entries=entries)])
    slots = [entry.slot for entry in store.read(["sync"])["sync"].active]
    assert slots == [SLOT + n * SECOND for n in (1, 3, 5)]


def test_history_can_be_asked_by_task_outcome_and_time(store: LedgerStore) -> None:
    for task in ("clean", "sync"):
        entries = tuple(
            replace(ran(running(SessionId(1), SLOT + n * SECOND, task)), outcome=outcome)
            for n, outcome in enumerate((Outcome.RAN, Outcome.MISSED, Outcome.RAN, Outcome.FAILED))
        )
        store.write([Change(book=Book(task=task), entries=entries)])

    def asked(query: HistoryQuery) -> list[tuple[str, int]]:
        return [(e.task, round((e.slot - SLOT) / SECOND)) for e in store.history(query)]

    assert asked(HistoryQuery(limit=3)) == [("sync", 3), ("clean", 3), ("sync", 2)]
    assert asked(HistoryQuery(task="sync")) == [("sync", n) for n in (3, 2, 1, 0)]
    ran_only = HistoryQuery(task="clean", outcomes=frozenset({Outcome.RAN}))
    assert asked(ran_only) == [("clean", 2), ("clean", 0)]
    part = HistoryQuery(task="sync", since=SLOT + SECOND, until=SLOT + 3 * SECOND)
    assert asked(part) == [("sync", 2), ("sync", 1)]
    assert asked(HistoryQuery(task="nobody")) == []


def test_pruning_forgets_old_last_words_and_nothing_else(store: LedgerStore) -> None:
    session = store.open_session("one", LONG)
    now = datetime.now(UTC)
    old = replace(ran(running(session)), recorded_at=now - timedelta(days=2))
    fresh = replace(ran(running(session, SLOT + SECOND)), recorded_at=now)
    going_on = replace(running(session, SLOT + 2 * SECOND), recorded_at=now - timedelta(days=2))
    store.write([Change(book=Book(task="sync"), entries=(old, fresh, going_on))])
    assert store.prune(age=timedelta(days=1)) == 1
    assert store.history(HistoryQuery()) == [going_on, fresh]
    assert [r.session for r in store.replicas()] == [session]
    assert store.prune(age=timedelta(days=1)) == 0


def test_one_call_prunes_no_more_than_its_limit(store: LedgerStore) -> None:
    entries = tuple(
        replace(
            ran(running(SessionId(1), SLOT + n * SECOND)), recorded_at=SLOT - timedelta(days=400)
        )
        for n in range(10)
    )
    store.write([Change(book=Book(task="sync"), entries=entries)])
    forgotten = [store.prune(age=timedelta(days=1), limit=4) for _ in range(3)]
    assert sum(forgotten) == 10
    assert forgotten[0] >= 4
    assert store.history(HistoryQuery()) == []


def test_a_pruned_entry_leaves_the_book(store: LedgerStore) -> None:
    entry = replace(ran(running(SessionId(1))), recorded_at=SLOT - timedelta(days=400))
    store.write([Change(book=Book(task="sync", counts={"ran": 1}), entries=(entry,))])
    store.prune(age=timedelta(days=1))
    assert store.read(["sync"])["sync"].counts == {"ran": 1}


def test_a_thousand_tasks_are_read_and_written_at_once(store: LedgerStore) -> None:
    session = store.open_session("one", LONG)
    tasks = [f"task_{number:04}" for number in range(1000)]
    changes = [
        Change(book=Book(task=task), entries=(running(session, task=task),), session=session)
        for task in tasks
    ]
    assert store.write(changes) == [Written.DONE] * 1000
    books = store.read(tasks)
    assert list(books) == tasks
    assert all(book.version == 1 and len(book.active) == 1 for book in books.values())
    assert store.tasks() == tasks


def version_at(cursor: datetime) -> ScheduleVersion:
    """A version whose slots are accounted for up to ``cursor``."""
    return ScheduleVersion(spec="{}", text="every 1h", since=SLOT, cursor=cursor)


def claim_by_turns(url: str, task: str, slots: int) -> int:
    """Try to claim each slot of a task, as several processes do at once; how many were got."""
    store = open_store(url)
    try:
        session = store.open_session("racer", LONG)
        won = 0
        for number in range(slots):
            slot = SLOT + number * SECOND
            book = store.read([task])[task]
            while book.cursor is None or book.cursor < slot:
                change = Change(
                    book=replace(book, versions=(version_at(slot),)),
                    entries=(running(session, slot, task),),
                    session=session,
                )
                won += store.write([change]) == [Written.DONE]
                book = store.read([task])[task]
        return won
    finally:
        store.close()


@pytest.mark.parametrize("store_url", SEVERAL_PROCESSES, indirect=True)
def test_each_slot_is_claimed_once_however_many_processes_claim(
    store: LedgerStore, store_url: str
) -> None:
    code = (
        "import sys; from tests.backends.test_contract import claim_by_turns; "
        "print(claim_by_turns(sys.argv[1], 'race', 40))"
    )

    async def racer() -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, store_url),
            env=clean_environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        return int(out)

    async def race() -> list[int]:
        return list(await asyncio.gather(*(racer() for _ in range(4))))

    assert sum(asyncio.run(race())) == 40
    entries = store.history(HistoryQuery(task="race", limit=1000))
    assert len({entry.slot for entry in entries}) == len(entries) == 40


@pytest.mark.parametrize("store_url", SEVERAL_PROCESSES, indirect=True)
def test_threads_that_each_have_a_store_of_their_own_do_not_race_either(
    store: LedgerStore, store_url: str
) -> None:
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda _: claim_by_turns(store_url, "race", 40), range(4)))
    assert sum(won) == 40
    assert store.read(["race"])["race"].version == 40
