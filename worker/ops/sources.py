"""How the ops part asks the ledger and the queues' engine: never for long, and never too much."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from worker.admin.schedules import ScheduleAdmin
from worker.app import redaction
from worker.errors import NotSupported, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from worker.app import Worker
    from worker.jobs.job import QueueCount
    from worker.ports import JobStore, LedgerStore

__all__ = ["Shared", "Sources"]

FRESH_S = 1.5
"""Shorter than the time between two looks of `worker.ops.live`, so that each finds news."""
PATIENCE_S = 5.0
"""How long an answer may take."""
MOST_LOOKS = 16
"""How many questions may wait for the ledger's thread at the same time."""

MOST_READS = 4
"""How many answers of the queues' engine are gathered at the same time: each may be large."""

T = TypeVar("T")


class Sources:
    """Asks in the name of the ops part.

    Attributes:
        by: Who it is, for the record.
        redact: Takes secrets out of a text.
        counts: How many jobs there are. Whoever scrapes and whoever looks share it.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._looks: set[asyncio.Task[object]] = set()
        self._reads = asyncio.Semaphore(MOST_READS)
        self.by = f"ops:full@{worker.ledger.replica}"
        self.redact = redaction(worker.settings)
        self.counts = Shared(self._count, fresh_s=FRESH_S)

    async def ledger(self, what: Callable[[ScheduleAdmin], T]) -> T:
        """What ``what`` returns. It is called in the ledger's thread: be quick.

        Raises:
            StoreUnavailable: The ledger cannot be asked now.
            WorkerError: What ``what`` raises.
        """
        if len(self._looks) >= MOST_LOOKS:
            raise StoreUnavailable("the ledger does not answer, and many questions wait already")

        def look(store: LedgerStore) -> T:
            tasks = self._worker.scheduler.tasks
            return what(ScheduleAdmin(tasks, store, by=self.by, redact=self.redact))

        # A question cannot be taken back, so it counts until the ledger's thread has seen it.
        looking = asyncio.create_task(self._worker.ledger.look(look), name="ops:look")
        self._looks.add(looking)
        looking.add_done_callback(self._forget)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.shield(looking)
        except TimeoutError as exc:
            raise StoreUnavailable(f"no answer of the ledger within {PATIENCE_S:g} s") from exc

    def _forget(self, looking: asyncio.Task[T]) -> None:
        self._looks.discard(looking)
        if not looking.cancelled():
            looking.exception()  # nobody may be there any more to hear of it

    async def engine(self, ask: Callable[[JobStore], Awaitable[T]]) -> T:
        """What the queues' engine answers. It is opened, if that is still to be done.

        A few are asked at a time; the others wait for their turn, and no longer than for an answer.

        Raises:
            StoreError, ConfigurationError: It cannot be asked now, or not at all.
            NotSupported: It keeps no records of jobs.
        """
        try:
            async with asyncio.timeout(PATIENCE_S), self._reads:
                engine = await self._worker.client.engine()
                able = engine.capabilities
                if not able.lookup:
                    raise NotSupported(f"{able.backend} cannot tell which jobs it has")
                return await ask(engine)
        except TimeoutError as exc:
            raise StoreUnavailable(
                f"no answer of the queues' engine within {PATIENCE_S:g} s"
            ) from exc

    async def _count(self) -> Sequence[QueueCount]:
        return await self.engine(lambda jobs: jobs.counts())


class Shared(Generic[T]):
    """A value that all who ask at about the same time share, as they do what went wrong with it.

    Args:
        gather: Called by the first who asks.
        fresh_s: How long the answer is good for.
    """

    def __init__(self, gather: Callable[[], Awaitable[T]], *, fresh_s: float) -> None:
        self._gather = gather
        self._fresh_s = fresh_s
        self._gathering: asyncio.Task[T] | None = None
        self._good_until = 0.0

    async def get(self) -> T:
        """The value, at most ``fresh_s`` old."""
        loop = asyncio.get_running_loop()
        gathering = self._gathering
        if gathering is None or (gathering.done() and loop.time() >= self._good_until):
            gathering = self._gathering = loop.create_task(self._gathered(), name="ops:gather")
            gathering.add_done_callback(self._note)
        return await asyncio.shield(gathering)

    def outdate(self) -> None:
        """Ask anew the next time: something was changed."""
        self._gathering = None

    async def _gathered(self) -> T:
        return await self._gather()

    def _note(self, gathering: asyncio.Task[T]) -> None:
        self._good_until = gathering.get_loop().time() + self._fresh_s
        if not gathering.cancelled():
            gathering.exception()
