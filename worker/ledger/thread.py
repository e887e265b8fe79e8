"""The ledger in a thread of its own: the event loop asks, and never waits for a store.

What is asked while the thread is busy is decided together, so that a store which is slow is asked
less often, not later and later. The thread also renews the replica's lease, whether the loop turns
or not.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from worker.clock import Clock, SystemClock
from worker.errors import (
    ConfigurationError,
    LeaseLost,
    StoreError,
    StoreUnavailable,
    WorkerError,
)
from worker.ledger.book import LEASE, Pulse
from worker.ledger.ledger import Answer, Claimant, Request, apply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    from worker.ledger.book import Book, SessionId
    from worker.ledger.presence import Presence
    from worker.ports import LedgerStore
    from worker.shared_tasks import TaskOwner

__all__ = ["Lease", "LedgerThread"]

Found = TypeVar("Found")

PULSE_S = 2.0
"""The longest time between two renewals, and so how soon others' wishes are heard."""
REOPEN_S = 1.0
BATCH = 500
JOIN_S = 3.0
"""How long a store that hangs may delay the end of the worker."""
PRUNE_S = 3600.0
PRUNED = 5000
LOOK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """How a replica holds its lease.

    Attributes:
        ttl: How long the replica may be silent before its runs count as lost.
        stall_limit: How long it is renewed for an event loop that does not turn.
        stalled_for: Seconds since the event loop last turned; called in the ledger's thread.
    """

    ttl: timedelta = LEASE
    stall_limit: timedelta = 10 * LEASE
    stalled_for: Callable[[], float] = lambda: 0.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and whom to answer."""

    request: Request
    reply: Callable[[Answer | WorkerError], None]


@dataclass(frozen=True, slots=True)
class Look:
    """Something to be done with the store, and whom to tell what came of it."""

    what: Callable[[LedgerStore], Any]
    found: asyncio.Future[Any]


LEISURE_S = 0.005
STOP = None
STOPPED = "the worker has stopped"


class LedgerThread:
    """Asks the store in the name of one replica. Create it anywhere, start it inside of a loop.

    Args:
        open_store: Connects to the store.
        replica: The replica's name, for people.
        keep: How long last words are kept.

    Attributes:
        presence: What it says that it is for, when its session begins.
        forgotten: Whether the lease that was lost last did not run out: the store has forgotten it.
        anew_at: When that happened last: what the store knew before is gone.
        on_pulse: Called in the loop after each renewal; with ``None`` when the lease was lost, and
            all that ran under it.
        on_store: Called in the loop when the store fails, with what is wrong, and with ``None``
            when it works again.
        on_books: Called in the loop with the books of the ``watched`` tasks, every ten seconds.
    """

    def __init__(
        self,
        open_store: Callable[[], LedgerStore],
        *,
        replica: str,
        keep: timedelta,
        lease: Lease = Lease(),
        clock: Clock | None = None,
    ) -> None:
        self._open_store = open_store
        self._replica = replica
        self._keep = keep
        self._lease = lease
        self._clock = clock or SystemClock()
        self._queue: SimpleQueue[Asked | Look | None] = SimpleQueue()
        self._held: list[Asked] = []
        self._store: LedgerStore | None = None
        self._session: SessionId | None = None
        self._runs: set[str] = set()
        self._trouble: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._next_pulse = 0.0
        self._next_prune = 0.0
        self._next_look = 0.0
        self.presence: Presence | None = None
        self.forgotten = False
        self.anew_at: datetime | None = None
        self.watched: tuple[str, ...] = ()
        self.on_books: Callable[[Sequence[Book]], None] = lambda books: None
        self.on_pulse: Callable[[Pulse | None], None] = lambda pulse: None
        self.on_store: Callable[[StoreError | None], None] = lambda trouble: None

    @property
    def replica(self) -> str:
        return self._replica

    @property
    def trouble(self) -> str | None:
        """What is wrong with the store; ``None`` when nothing is."""
        return self._trouble

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be known of the store, if it was opened."""
        return () if self._store is None else self._store.warnings

    def connect(self) -> LedgerStore:
        """Open the store in the calling thread, before `start`.

        Raises:
            ConfigurationError: The store's URL, folder or library is wrong.
            StoreError: It cannot be reached, or its schema does not fit.
        """
        if self._store is None:
            self._store = self._open_store()
        return self._store

    def start(self, group: TaskOwner | None = None) -> None:
        """Begin to answer, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: Request,
        reply: Callable[[Answer | WorkerError], None],
        *,
        at_leisure: bool = False,
    ) -> None:
        """Ask; ``reply`` is called in the event loop, with the answer or with what was wrong.

        Args:
            at_leisure: It may wait some milliseconds, to be asked together with others.
        """
        if self._thread is None:
            asyncio.get_running_loop().call_soon(reply, StoreUnavailable(STOPPED))
            return
        self._held.append(Asked(request, reply))
        if not at_leisure:
            self._hand_over()
        elif len(self._held) == 1:
            asyncio.get_running_loop().call_later(LEISURE_S, self._hand_over)

    def _hand_over(self) -> None:
        """Wake the thread for all that was asked meanwhile: each time costs more than a request."""
        held, self._held = self._held, []
        for item in held:
            self._queue.put(item)

    async def ask(self, request: Request, *, at_leisure: bool = False) -> Answer:
        """Ask, and wait for the answer.

        Args:
            at_leisure: As `submit` has it.

        Raises:
            StoreUnavailable: The store cannot be asked now. Nothing is known of the request.
            LeaseLost: This replica's lease has run out.
            WorkerError: What the request itself may raise.
        """
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def reply(answer: Answer | WorkerError) -> None:
            if answered.done():
                return
            if isinstance(answer, Answer):
                answered.set_result(answer)
            else:
                answered.set_exception(answer)

        self.submit(request, reply, at_leisure=at_leisure)
        return await answered

    async def look(self, what: Callable[[LedgerStore], Found]) -> Found:
        """What ``what`` returns for the store. It is called in the ledger's thread: be quick.

        Raises:
            StoreUnavailable: The store cannot be asked now.
            WorkerError: What ``what`` raises.
        """
        if self._thread is None:
            raise StoreUnavailable(STOPPED)
        found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._queue.put(Look(what, found))
        return await found

    async def stop(self, grace: timedelta) -> None:
        """Answer what was asked, give the lease back, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._hand_over()
        self._queue.put(STOP)
        # A store that hangs is left behind: the thread is a daemon, its lease runs out by itself.
        await asyncio.to_thread(thread.join, JOIN_S)

    def _work(self) -> None:
        stopping = False
        while not stopping:
            asked, stopping = self._next_batch()
            if asked:
                self._answer(asked)
            if not stopping:
                self._pulse_if_due()
        self._refuse_the_rest()
        with suppress(Exception):  # the lease runs out by itself
            if self._store is not None and self._session is not None:
                self._store.close_session(self._session)
        if self._store is not None:
            self._store.close()

    def _refuse_the_rest(self) -> None:
        """Nobody shall wait for ever for an answer that came too late to be asked."""
        with suppress(Empty):
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, Look):
                    self._in_loop(partial(tell, item.found, StoreUnavailable(STOPPED)))
                elif item is not STOP:
                    self._in_loop(partial(item.reply, StoreUnavailable(STOPPED)))

    def _next_batch(self) -> tuple[list[Asked], bool]:
        asked: list[Asked] = []
        try:
            item = self._queue.get(timeout=max(0.0, self._next_pulse - self._clock.monotonic()))
            while item is not STOP:
                if isinstance(item, Look):
                    self._look(item)
                else:
                    asked.append(item)
                if len(asked) >= BATCH:
                    return asked, False
                item = self._queue.get_nowait()
        except Empty:
            return asked, False
        return asked, True

    def _answer(self, asked: Sequence[Asked]) -> None:
        answers: Sequence[Answer | WorkerError]
        try:
            store, session = self._ready()
            answers = apply(
                store,
                [item.request for item in asked],
                claimant=Claimant(self._replica, session, self._runs),
                now=self._clock.now(),
                meanwhile=self._pulse_if_due,
            )
        except Exception as exc:
            answers = [self._failed(exc)] * len(asked)
        else:
            self._worked()
            if any(isinstance(answer, LeaseLost) for answer in answers):
                self._next_pulse = 0.0  # find out whether it is all of it that is lost
        self._in_loop(lambda: deliver(asked, answers))

    def _look(self, look: Look) -> None:
        try:
            found = look.what(self.connect())
        except WorkerError as exc:
            if isinstance(exc, StoreUnavailable):
                self._failed(exc)
            found = exc
        except Exception as exc:
            found = self._failed(exc)
        self._in_loop(partial(tell, look.found, found))

    def _ready(self) -> tuple[LedgerStore, SessionId]:
        store = self.connect()
        if self._session is None:
            self._session = store.open_session(self._replica, self._lease.ttl, self.presence)
        return store, self._session

    def _pulse_if_due(self) -> None:
        if self._clock.monotonic() >= self._next_pulse:
            self._pulse()

    def _pulse(self) -> None:
        lease = self._lease
        every = min(PULSE_S, lease.ttl.total_seconds() / 3)
        self._next_pulse = self._clock.monotonic() + every
        if lease.stalled_for() > lease.stall_limit.total_seconds():
            return
        try:
            store, session = self._ready()
            try:
                pulse = store.renew(session, lease.ttl)
            except LeaseLost:
                self._note_loss(store, session)
                return
            self._worked()
            self._in_loop(lambda: self.on_pulse(pulse))
            self._look_after(store)
        except Exception as exc:
            self._failed(exc)
            self._next_pulse = self._clock.monotonic() + min(every, REOPEN_S)

    def _note_loss(self, store: LedgerStore, session: SessionId) -> None:
        """The lease is lost: it ran out, or nobody knows any more that it was there."""
        known = any((one.session, one.name) == (session, self._replica) for one in store.replicas())
        self.forgotten = not known
        if not known:
            self.anew_at = self._clock.now()
        self._session = None
        self._runs.clear()
        self._next_pulse = 0.0
        self._in_loop(lambda: self.on_pulse(None))

    def _look_after(self, store: LedgerStore) -> None:
        """What has to be done now and then."""
        now = self._clock.monotonic()
        if self.watched and now >= self._next_look:
            self._next_look = now + LOOK_S
            books = list(store.read(self.watched).values())
            self._in_loop(lambda: self.on_books(books))
        if now >= self._next_prune:
            self._next_prune = now + LOOK_S  # if it fails; else at once again while there is more
            pruned = store.prune(age=self._keep, limit=PRUNED)
            self._next_prune = now if pruned == PRUNED else now + PRUNE_S

    def _failed(self, exc: Exception) -> StoreError:
        """Tell that the store is of no use now. The thread goes on whatever it was."""
        if not isinstance(exc, StoreError | ConfigurationError):
            structlog.get_logger("worker").error("ledger.failed", exc_info=exc)
            exc = StoreUnavailable(f"{type(exc).__name__}: {exc}")
        trouble = exc if isinstance(exc, StoreError) else StoreUnavailable(str(exc))
        is_new, self._trouble = self._trouble is None, str(trouble)
        if is_new:  # one outage has many words: a lost connection, then a refused one
            self._in_loop(lambda: self.on_store(trouble))
        return trouble

    def _worked(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            self._in_loop(lambda: self.on_store(None))

    def _in_loop(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody waits for an answer any more
            self._loop.call_soon_threadsafe(call)


def tell(future: asyncio.Future[Any], found: object) -> None:
    if future.done():
        return
    if isinstance(found, WorkerError):
        future.set_exception(found)
    else:
        future.set_result(found)


def deliver(asked: Sequence[Asked], answers: Sequence[Answer | WorkerError]) -> None:
    for item, answer in zip(asked, answers, strict=True):
        try:
            item.reply(answer)
        except Exception:
            structlog.get_logger("worker").exception("ledger.reply_failed", task=item.request.task)
