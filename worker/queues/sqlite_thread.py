"""The one thread that works on a SQLite file of jobs, and what the loop asks of it.

What was asked while a transaction went on shares the next one: so the more tasks ask at once, the
less each of them costs. Calls that do the same to many jobs become one.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby, islice
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from worker.backends.queries import load_queries
from worker.backends.sqlite_file import SqliteFile, now_micros
from worker.errors import StoreUnavailable
from worker.queues.sqlite_turn import News, Turn

if TYPE_CHECKING:
    import asyncio
    import sqlite3
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from datetime import timedelta
    from pathlib import Path

__all__ = ["Call", "Order", "SqliteThread"]

QUERIES = load_queries("sqlite.sql", "worker.queues")
QUICKEST_S, SLOWEST_S = 0.005, 0.05
"""How often the file is looked at for what other processes have changed, at most and at least."""
CALM = 20
"""It is looked at this many times in as long as it has been quiet."""


class Order(IntEnum):
    """In which order calls that came together are made. What frees something comes first."""

    READ = 0
    SETTLE = 1
    EXTEND = 2
    ENQUEUE = 3
    CHANGE = 4
    LEASE = 5


@dataclass(slots=True, eq=False)
class Call:
    """Something that the thread is to do, and the loop waits for.

    Attributes:
        work: What to do, given ``items`` if there are any. Then it answers each of them, and may
            be given those of several calls at once.
        look: Tells whether ``work`` would do anything. It only reads. If it would not, the answer
            is an empty list.
        undo: What to do with an answer that nobody waits for any more.
    """

    order: Order
    work: Callable[..., Any]
    future: asyncio.Future[Any]
    items: Sequence[Any] | None = None
    look: Callable[[Turn], bool] | None = None
    undo: Callable[[Any], None] | None = None
    answer: Any = None
    error: Exception | None = None


class SqliteThread:
    """Begun by `start`, ended by `stop`.

    Args:
        tell: Called in the loop with what has changed, after the calls were answered.

    Attributes:
        listeners: How many in the loop want to hear of what other processes change.
    """

    def __init__(
        self,
        path: Path,
        patience: timedelta,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[News], None],
    ) -> None:
        self.listeners = 0
        self._path = path
        self._patience = patience
        self._loop = loop
        self._tell = tell
        self._opened: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._version: tuple[int, int] | None = None
        self._calm_since = time.monotonic()

    def start(self) -> asyncio.Future[None]:
        """Open the file. Whatever that raises, the future does."""
        # Nobody has to wait for it at the end of the process: what was acknowledged is in the file.
        Thread(target=self._run, name="sqlite-jobs", daemon=True).start()
        return self._opened

    def submit(self, call: Call) -> None:
        self._calls.put(call)

    def stop(self) -> asyncio.Future[None]:
        """Have it end after what was asked before; the future is done when the file is closed."""
        self._calls.put(None)
        return self._closed

    def _run(self) -> None:
        opening = Call(Order.READ, SqliteFile, self._opened)
        try:
            file = SqliteFile(self._path, patience=self._patience, setting="WORKER_QUEUE_URL")
        except Exception as exc:  # whatever it is, it is for whoever waits
            opening.error = exc
            self._hand_over([opening], News())
            return
        try:
            self._hand_over([opening], News())
            while not self._loop.is_closed() and (calls := self._next(file)):
                going_on = [call for call in calls if call is not None]
                self._hand_over(going_on, self._make(file, going_on))
                if None in calls:
                    break
        finally:
            file.close()
        self._hand_over([Call(Order.READ, file.close, self._closed)], News())

    def _hand_over(self, calls: list[Call], news: News) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody waits any more
            self._loop.call_soon_threadsafe(self._answer, calls, news)

    def _answer(self, calls: list[Call], news: News) -> None:
        """In the loop."""
        for call in calls:
            if call.future.cancelled():
                if call.undo is not None and call.error is None:
                    call.undo(call.answer)
            elif call.error is not None:
                call.future.set_exception(call.error)
            else:
                call.future.set_result(call.answer)
        self._tell(news)

    def _next(self, file: SqliteFile) -> list[Call | None]:
        """What is to be done, once there is something. Meanwhile, look out for other processes.

        Nothing if the loop is closed.
        """
        while not self._loop.is_closed():
            try:
                calls = [self._calls.get(timeout=self._pause_s())]
            except Empty:
                self._look_out(file)
                continue
            with suppress(Empty):
                while calls[-1] is not None:
                    calls.append(self._calls.get_nowait())
            return calls
        return []

    def _pause_s(self) -> float | None:
        if not self.listeners:
            return None
        calm_s = time.monotonic() - self._calm_since
        return min(max(calm_s / CALM, QUICKEST_S), SLOWEST_S)

    def _look_out(self, file: SqliteFile) -> None:
        try:
            with file.connected() as connection:
                (changes,) = connection.execute(QUERIES["read_data_version"]).fetchone()
            version = (file.openings, changes)
        except StoreUnavailable:
            version = None  # whoever listens is to ask, and hears why
        if version != self._version:
            self._version = version
            self._calm_since = time.monotonic()
            self._hand_over([], News(elsewhere=True))

    def _make(self, file: SqliteFile, calls: list[Call]) -> News:
        calls = [call for call in calls if not call.future.cancelled()]
        calls.sort(key=lambda call: call.order)
        news = News()
        reads = [call for call in calls if call.order is Order.READ]
        writes = calls[len(reads) :]
        if all(call.look is not None for call in writes):
            # An empty queue is looked at without the lock that other processes may want.
            writes = self._together(file.connected, writes, news, look_for_work)
        self._together(file.connected, reads, news, do_work)
        self._together(file.writing, writes, news, do_work)
        self._calm_since = time.monotonic()
        return news

    def _together(
        self,
        begin: Callable[[], AbstractContextManager[sqlite3.Connection]],
        calls: list[Call],
        news: News,
        do: Callable[[Turn, list[Call]], list[Call]],
    ) -> list[Call]:
        """Make the calls in one go, or one by one if one of them cannot be made."""
        left: list[Call] = []
        if not calls:
            return left
        try:
            with begin() as connection:
                turn = Turn(connection, now_micros())
                left = do(turn, calls)
        except StoreUnavailable as exc:
            self._version = None
            for call in calls:
                call.error = StoreUnavailable(str(exc))
                call.error.__cause__ = exc
            return []
        except Exception as exc:  # what it is does not matter, it is for whoever waits
            if len(calls) > 1:
                return [rest for call in calls for rest in self._together(begin, [call], news, do)]
            calls[0].error = exc
            return []
        news.add(turn.news)
        return left


def look_for_work(turn: Turn, calls: list[Call]) -> list[Call]:
    """Those of the calls that would do something."""
    left = [call for call in calls if call.look is None or call.look(turn)]
    for call in calls:
        call.answer = []
    return left


def do_work(turn: Turn, calls: list[Call]) -> list[Call]:
    """Make the calls, and those in a row that do the same to some items as one. None is left."""
    for work, row in groupby(calls, lambda call: call.work):
        same = list(row)
        if same[0].items is None:
            for call in same:
                call.answer = call.work(turn)
            continue
        answers = iter(work(turn, [item for call in same for item in call.items or ()]))
        for call in same:
            call.answer = list(islice(answers, len(call.items or ())))
    return []
