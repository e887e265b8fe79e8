"""Who is there, who polls, who was lost: concluded from the sessions of a ledger."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.support.clock import FakeClock
from tests.support.ledgers import Desk, only
from worker.admin.presence import blind_to_pollers, casualties
from worker.backends.memory import MemoryStore
from worker.ledger.attendance import LOST_FOR, lost_replicas, pollers, serving, takers
from worker.ledger.ledger import Attend, Promote
from worker.ledger.presence import Presence
from worker.schedules.policies import Policies, TaskSchedule
from worker.schedules.schedule import Interval
from worker.settings import load_settings

LEASE = timedelta(seconds=30)
SECOND = timedelta(seconds=1)
SERVES = Presence(queues=("billing",))


class Fleet:
    """Replicas that come and go, and one store that all of them use."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)

    def starts(self, name: str, presence: Presence | None = SERVES) -> Any:
        return self.store.open_session(name, LEASE, presence)

    def passes(self, duration: timedelta, *living: Any) -> None:
        for session in living:
            self.store.renew(session, duration + LEASE)
        self.clock.advance(duration.total_seconds())

    def lost(self) -> list[tuple[str, bool]]:
        """The names of those that were lost, and whether somebody should look."""
        found = lost_replicas(self.store.replicas(), self.clock.now())
        return [(one.name, one.is_missing) for one in found]


def test_a_replica_that_falls_silent_is_lost_and_one_that_stops_is_not() -> None:
    fleet = Fleet()
    fleet.starts("killed")
    stopped = fleet.starts("stopped")
    fleet.store.close_session(stopped)
    fleet.passes(29 * SECOND)
    assert fleet.lost() == []
    fleet.passes(2 * SECOND)
    assert fleet.lost() == [("killed", True)]
    (lost,) = lost_replicas(fleet.store.replicas(), fleet.clock.now())
    assert lost.at - lost.seen == LEASE
    assert lost.what == f"replica killed was lost at {lost.at:%Y-%m-%d %H:%M:%S}Z"
    assert lost.why == (
        f"no sign of life since {lost.seen:%Y-%m-%d %H:%M:%S}Z, and it did not say that it ends: "
        "killed, out of memory, or cut off from the store; it polled billing and took slots"
    )


def test_a_lost_replica_that_nobody_of_its_name_replaces_is_told_for_a_bounded_time() -> None:
    fleet = Fleet()
    fleet.starts("pod-a")
    fleet.passes(LEASE)
    replacement = fleet.starts("pod-b")
    fleet.passes(LOST_FOR, replacement)
    assert fleet.lost() == [("pod-a", True)]
    fleet.passes(SECOND, replacement)
    assert fleet.lost() == []


def test_a_lost_replica_that_is_back_under_its_name_needs_nobody() -> None:
    fleet = Fleet()
    fleet.starts("one")
    fleet.passes(10 * SECOND)  # killed, and started again before its lease has run out
    again = fleet.starts("one")
    assert serving(fleet.store.replicas()) == ["one"], "two sessions, and one replica"
    fleet.passes(LEASE, again)
    assert fleet.lost() == [("one", False)]
    fleet.store.close_session(again)
    assert fleet.lost() == [("one", False)], "it came back, and then stopped in order"


def test_a_replica_that_is_lost_again_and_again_is_told_though_it_is_back() -> None:
    fleet = Fleet()
    for _ in range(3):
        fleet.starts("one")
        fleet.passes(LEASE + SECOND)
    fleet.starts("one")
    assert fleet.lost() == [("one", True)]
    (lost,) = lost_replicas(fleet.store.replicas(), fleet.clock.now())
    assert lost.what.startswith("replica one was lost 3 times, last at ")
    assert "; it is back since 20" in lost.why


def test_a_hand_and_a_worker_that_does_not_say_are_never_lost() -> None:
    fleet = Fleet()
    fleet.starts("old", None)
    fleet.starts("by hand, old", None)
    fleet.starts("shell", Presence(hand=True))
    assert serving(fleet.store.replicas()) == ["old"]
    fleet.passes(2 * LEASE)
    assert fleet.lost() == []


def test_who_takes_a_tasks_slots() -> None:
    fleet = Fleet()
    fleet.starts("old", None)
    fleet.starts("all")
    fleet.starts("jobs", Presence(slots=False, queues=("billing",)))
    fleet.starts("other", Presence(only=("clean",)))
    assert takers(fleet.store.replicas(), "sync") == ["all", "old"]
    assert takers(fleet.store.replicas(), "clean") == ["all", "old", "other"]


def test_who_polls_is_known_of_those_who_are_up_and_say_so() -> None:
    fleet = Fleet()
    fleet.starts("one")
    fleet.starts("shell", Presence(hand=True))

    def polled(queue: str, **rest: Any) -> list[str] | None:
        return pollers(fleet.store.replicas(), fleet.clock.now(), **rest).of(queue)

    assert (polled("billing"), polled("images")) == (["one"], [])
    assert polled("sqs/billing") == ["one"], "as an engine's records have it"
    assert polled("images", own=("me", Presence(queues=("images",)))) == ["me"]
    assert (polled("billing", blind="why"), polled("images", blind="why")) == (["one"], None)
    old = fleet.starts("old", None)
    assert (polled("billing"), polled("images")) == (["one"], None)
    fleet.store.close_session(old)
    assert polled("images") == []
    fleet.passes(LEASE + SECOND)
    assert polled("billing") == []


@pytest.mark.parametrize(
    ("store", "queue", "known"),
    [
        ("sqlite:///a.db", None, True),
        ("memory://", None, True),
        ("sqlite:///a.db", "sqlite:///b.db", True),
        ("postgresql://db/a", "sqs://eu", True),
        ("redis://r", "postgresql://db/a", True),
        ("sqlite:///a.db", "sqs://eu", False),
        ("memory://", "redis://r", False),
        ("memory://", "sqlite:///a.db", False),
    ],
)
def test_a_ledger_that_fewer_share_than_the_queues_cannot_know_who_polls(
    store: str, queue: str | None, known: bool
) -> None:
    settings = load_settings(data_api_url="http://api", store_url=store, queue_url=queue)
    assert (blind_to_pollers(settings) is None) == known


def test_what_became_of_a_lost_replicas_slots_is_told() -> None:
    desk = Desk()
    plain, again = (
        TaskSchedule(name, Interval(timedelta(hours=1)), Policies(retry_lost=losses))
        for name, losses in (("plain", 0), ("again", 1))
    )
    dead = desk.claimant("dead", presence=SERVES)
    for terms in (plain, again):
        assert desk.ask(Attend(terms=terms), dead).granted
    desk.pass_time(2 * LEASE)

    def told() -> tuple[str, ...]:
        replicas = desk.store.inner.replicas()
        return only(casualties(desk.store, replicas, desk.time.now())).runs

    slots = told()
    assert {slot.rpartition(" of ")[0] for slot in slots} == {"plain", "again"}
    assert all(slot.endswith("Z (is not settled yet)") for slot in slots)
    other = desk.claimant("other")
    desk.ask(Promote(terms=plain), other)
    assert any(slot.startswith("plain") and slot.endswith("(is lost)") for slot in told())
    claimed = desk.ask(Promote(terms=again), other)
    assert [entry.replica for entry in claimed.granted] == ["other"]
    assert [slot.partition(" ")[0] for slot in told()] == ["plain"], "the other one runs again"
