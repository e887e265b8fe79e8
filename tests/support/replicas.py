"""Several workers over one store, killed at random and started again."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from benchmarks.report import percentile
from tests.support.accounts import Account, accounts, belied
from tests.support.processes import LoggingProcess, running
from tests.support.replica_tasks import TASKS
from tests.support.witness import Line, Witness
from worker.backends.opening import open_store
from worker.ledger.book import Outcome
from worker.schedules.schedule import Interval, Schedule, phase_of

if TYPE_CHECKING:
    from pathlib import Path

SECOND = timedelta(seconds=1)
SCHEDULES: dict[str, Schedule] = {name: Interval(SECOND, phase_of(name, SECOND)) for name in TASKS}
ENVIRONMENT = {
    "WORKER_DATA_API_URL": "http://127.0.0.1:9",
    "WORKER_CLEANUP_INTERVAL": "off",
    "WORKER_REMINDERS_INTERVAL": "off",
    "WORKER_SYNC_INTERVAL": "off",
    "WORKER_ORDERS_INTERVAL": "off",
    "WORKER_TASK_MODULES": "tests.support.replica_tasks",
    "WORKER_LOG_LEVEL": "debug",
    "WORKER_LEASE": "3s",
}
SETTLED_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Siege:
    """How long, how many, how often, and the seed of what is random."""

    length_s: float
    kill_every_s: float
    seed: int
    replicas: int = 5


@dataclass(eq=False)
class Life:
    """One process."""

    name: str
    worker: LoggingProcess
    killed: bool = False

    @property
    def unreliable(self) -> bool:
        """Whether the ledger may say that a run of it was lost."""
        told = self.worker.told
        return self.killed or bool(told("lease.expired") or told("outcome.refused"))

    def total(self, event: str) -> int:
        return sum(int(line["count"]) for line in self.worker.told(event))


@dataclass
class Fleet:
    """Starts workers over one store, and kills them."""

    url: str
    folder: Path
    witness: Witness
    stack: AsyncExitStack
    lives: list[Life] = field(default_factory=list)
    up: dict[int, Life] = field(default_factory=dict)

    async def start(self, number: int) -> None:
        name = f"{number}.{sum(life.name.startswith(f'{number}.') for life in self.lives)}"
        environment = {
            **ENVIRONMENT,
            **self.witness.environment,
            "WORKER_STORE_URL": self.url,
            "WORKER_REPLICA": name,
        }
        process = running("start", environment=environment, cwd=self.folder)
        life = Life(name, await self.stack.enter_async_context(process))
        self.lives.append(life)
        self.up[number] = life

    async def kill(self, *numbers: int) -> None:
        """All at the same moment; they are started again at once."""
        for number in numbers:
            self.up[number].killed = True
            self.up[number].worker.signal(signal.SIGKILL)
        for number in numbers:
            await self.up[number].worker.ended()
            await self.start(number)

    async def all_ready(self) -> None:
        for life in self.up.values():
            await life.worker.logged("worker.ready")

    async def stop(self) -> None:
        for life in self.up.values():
            life.worker.signal(signal.SIGTERM)
        for life in self.up.values():
            assert await life.worker.ended() == 0, life.worker.report()


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What there was to see afterwards.

    Attributes:
        blackout: When all replicas were killed at once; of each earlier moment some were up.
    """

    siege: Siege
    took_s: float
    blackout: datetime
    lives: list[Life]
    lines: list[Line]
    accounts: dict[str, Account]
    problems: list[str]

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(
            outcome.value
            for account in self.accounts.values()
            for outcome in account.outcomes().values()
        )

    def figures(self) -> dict[str, object]:
        ran = [
            entry
            for account in self.accounts.values()
            for entry in account.entries
            if entry.outcome is Outcome.RAN
        ]
        earlier = [
            slot
            for account in self.accounts.values()
            for slot in account.with_outcome(Outcome.MISSED)
            if slot < self.blackout - 2 * SECOND  # later ones could still be waited for
        ]
        late = [entry.late_ms for entry in ran if entry.late_ms is not None]
        per_replica = Counter((entry.replica or "").partition(".")[0] for entry in ran)
        return {
            "seed": self.siege.seed,
            "seconds": round(self.took_s, 1),
            "slots": sum(len(account.expected()) for account in self.accounts.values()),
            **{str(outcome): self.outcomes[outcome] for outcome in Outcome if outcome.final},
            "missed while some were up": len(earlier),
            "runs begun": sum(line.what == "began" for line in self.lines),
            "runs ended": sum(line.what == "ended" for line in self.lines),
            "kills": sum(life.killed for life in self.lives),
            "leases lost alive": sum(life.unreliable and not life.killed for life in self.lives),
            "elsewhere": sum(life.total("slot.elsewhere") for life in self.lives),
            "late p50 ms": round(percentile(late, 50), 1),
            "late p99 ms": round(percentile(late, 99), 1),
            "ran per replica": dict(sorted(per_replica.items())),
            "problems": len(self.problems),
        }


async def besiege(url: str, folder: Path, siege: Siege) -> Findings:
    """Run the fleet, kill one at random every so often, in the end all at once; then look."""
    chance = random.Random(siege.seed)
    witness = Witness(folder)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        fleet = Fleet(url, folder, witness, stack)
        for number in range(siege.replicas):
            await fleet.start(number)
        await fleet.all_ready()
        began = loop.time()
        for kill in range(1, int(siege.length_s / siege.kill_every_s)):
            # What is waited for here is the next kill, nothing else.
            await asyncio.sleep(began + kill * siege.kill_every_s - loop.time())
            await fleet.kill(chance.randrange(siege.replicas))
        await asyncio.sleep(began + siege.length_s - loop.time())
        took_s, blackout = loop.time() - began, datetime.now(UTC)
        await fleet.kill(*range(siege.replicas))
        await fleet.all_ready()
        restarted = datetime.now(UTC)
        await asyncio.to_thread(settled, url, since=restarted)
        await fleet.stop()
    lines = witness.lines()
    found = accounts(url, SCHEDULES)
    unreliable = [life.name for life in fleet.lives if life.unreliable]
    problems = [
        problem for account in found.values() for problem in account.problems(stopped=restarted)
    ]
    if not problems:
        for account in found.values():
            problems += belied(account, lines, unreliable=unreliable)
    return Findings(
        siege=siege,
        took_s=took_s,
        blackout=blackout,
        lives=fleet.lives,
        lines=lines,
        accounts=found,
        problems=problems,
    )


def settled(url: str, since: datetime) -> None:
    """Return once every task was looked at after ``since``, and no dead replica's run is left."""
    deadline = time.monotonic() + SETTLED_S
    with closing(open_store(url)) as store:
        while True:
            books = store.read(TASKS)
            behind = {
                task: book
                for task, book in books.items()
                if book.cursor is None or book.cursor <= since or book.orphans
            }
            if not behind:
                return
            assert time.monotonic() < deadline, f"never accounted for: {behind}"
            time.sleep(0.1)
