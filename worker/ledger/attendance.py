"""Who is there: which replicas serve, who polls a queue, who was lost. Asked of all sessions."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.ledger.presence import Presence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from worker.ledger.book import Replica, SessionId

__all__ = ["LOST_FOR", "Lost", "Pollers", "lost_replicas", "pollers", "serving", "takers"]

LOST_FOR = timedelta(minutes=10)
"""How long it is said that a replica was lost: pods come back under other names, or never."""
LATELY = timedelta(minutes=2)
"""How long a poller may be gone and still be the one who ended jobs of the last minute."""


def serving(replicas: Iterable[Replica]) -> list[str]:
    """The names of the workers that are up, but for hands: each once, however many sessions."""
    return sorted({one.name for one in replicas if one.alive and one.works})


def takers(replicas: Iterable[Replica], task: str) -> list[str]:
    """The names of those of them that take a task's slots, as far as they say."""
    up = [one for one in replicas if one.alive and one.works]
    return sorted({one.name for one in up if one.presence is None or one.presence.takes(task)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A replica whose lease ran out, though it never said that it ended.

    Attributes:
        seen: Its last sign of life.
        at: When its lease ran out.
        back: Since when a replica of its name is, or was, up again; ``None`` if none has come.
        times: How often a replica of that name was lost within `LOST_FOR`.
        presence: What it served.
        sessions: Its lost sessions.
    """

    name: str
    seen: datetime
    at: datetime
    back: datetime | None
    times: int
    presence: Presence
    sessions: frozenset[SessionId]

    @property
    def is_missing(self) -> bool:
        """Whether somebody should look: it is not back, or is lost again and again."""
        return self.back is None or self.times > 1

    @property
    def what(self) -> str:
        """What happened, for people."""
        if self.times > 1:
            return f"replica {self.name} was lost {self.times} times, last at {clock(self.at)}"
        return f"replica {self.name} was lost at {clock(self.at)}"

    @property
    def why(self) -> str:
        """What is known of it, for people."""
        served = [f"polled {', '.join(self.presence.queues)}"] if self.presence.queues else []
        served += ["took slots"] if self.presence.slots else []
        back = "" if self.back is None else f"; it is back since {clock(self.back)}"
        return (
            f"no sign of life since {clock(self.seen)}, and it did not say that it ends: killed, "
            f"out of memory, or cut off from the store; it {' and '.join(served or ['was up'])}"
            f"{back}"
        )


def lost_replicas(replicas: Iterable[Replica], now: datetime) -> list[Lost]:
    """Those that were lost within `LOST_FOR`, each name once, the latest first."""
    by_name: dict[str, list[Replica]] = {}
    for one in replicas:
        if one.works:
            by_name.setdefault(one.name, []).append(one)
    found = []
    for name, lives in by_name.items():
        latest = max(lives, key=lambda life: life.session)
        lost = [life for life in lives if life.lost and now - life.until <= LOST_FOR]
        last = max(lost, key=lambda life: life.session, default=None)
        if last is None or last.presence is None:
            continue
        found.append(
            Lost(
                name=name,
                seen=last.seen,
                at=last.until,
                back=None if latest is last else latest.since,
                times=len(lost),
                presence=last.presence,
                sessions=frozenset(life.session for life in lost),
            )
        )
    return sorted(found, key=lambda one: one.at, reverse=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pollers:
    """Who polls which queue, as the ledger knows it.

    Attributes:
        served: What each worker that is up serves, by name; ``None`` for one that does not say,
            as those of older versions.
        known: The names of all workers that the ledger knows, dead ones too.
        lately: The queues that somebody polled within the last minutes.
        blind: Why the ledger cannot know all who poll; ``None`` if it does.
    """

    served: Mapping[str, Presence | None] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    lately: frozenset[str] = frozenset()
    blind: str | None = None

    @property
    def why_unknown(self) -> str | None:
        """Why there may be others that poll; ``None`` if there are none."""
        silent = sorted(name for name, presence in self.served.items() if presence is None)
        if self.blind is None and silent:
            return f"{', '.join(silent)} did not say, as older versions do not"
        return self.blind

    def of(self, queue: str, task: str = "") -> list[str] | None:
        """The names of those who poll a queue, for a task's jobs; ``None`` if that is not known.

        Where some are known, and others may be, those are told.
        """
        name = queue.rpartition("/")[2]  # an engine's records say whose they are
        found = [
            one
            for one, presence in self.served.items()
            if presence is not None and presence.polls(name, task)
        ]
        return sorted(found) if found or self.why_unknown is None else None


def pollers(
    replicas: Sequence[Replica],
    now: datetime,
    *,
    blind: str | None = None,
    own: tuple[str, Presence] | None = None,
) -> Pollers:
    """Who polls which queue.

    Args:
        own: The worker that asks, and what it serves: its session may be about to begin.
    """
    workers = [one for one in replicas if one.works]
    served = {one.name: one.presence for one in reversed(workers) if one.alive}
    if own is not None:
        served.setdefault(*own)
    return Pollers(
        served=served,
        known=frozenset([*(one.name for one in workers), *([] if own is None else [own[0]])]),
        lately=frozenset(
            queue
            for one in workers
            if one.presence is not None and now - one.seen <= LATELY
            for queue in one.presence.queues
        ),
        blind=blind,
    )


def clock(moment: datetime) -> str:
    """A moment as it stays: what is told of it does not change all the time."""
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"
