"""A folder with tasks and a ledger, in which commands are typed and workers run."""

from __future__ import annotations

import json
import re
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.support.processes import LoggingProcess, running, worker_command
from tests.support.waiting import wait_until
from worker.backends.opening import open_store
from worker.errors import WorkerError
from worker.ledger.book import Book, Entry, HistoryQuery, Outcome, SessionId
from worker.ledger.ledger import Answer, Attend, Begin, Claimant, Finish, Request, apply
from worker.schedules.policies import Overlap
from worker.schedules.registration import ScheduleOptions, task_schedule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from worker.ports import LedgerStore
    from worker.schedules.policies import TaskSchedule

REPLICA = "one"
OFF = {f"WORKER_{name}_INTERVAL": "off" for name in ("CLEANUP", "REMINDERS", "SYNC", "ORDERS")}
MODULE = """
import asyncio
import os
import time
from functools import partial

from worker import TaskFailed

SCHEDULES = {schedules!r}


async def quick(): ...


async def fails():
    raise TaskFailed("the far side is full")


async def moody():
    if not os.path.exists("well"):
        raise TaskFailed("not today")


async def held():
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)


async def blocks():
    while not os.path.exists("go"):
        time.sleep(0.02)


def register(scheduler):
    for name, (kind, options) in SCHEDULES.items():
        scheduler.register_task(partial(globals()[kind]), name=name, **options)
"""
Tasks = dict[str, tuple[str, ScheduleOptions]]
"""By name: which function of `MODULE` it is, and when it runs."""
HOURLY: Tasks = {"report": ("quick", {"interval": "1h"})}
HELD: Tasks = {"report": ("held", {"interval": "1h"})}
NIGHTLY: Tasks = {"nightly": ("quick", {"cron": "30 2 * * *", "timezone": "Europe/Berlin"})}


class Site:
    """Where the commands are typed.

    Attributes:
        environment: What each command gets; a test may add to it.
    """

    def __init__(self, folder: Path, tasks: Tasks, store_url: str | None = None) -> None:
        self.folder = folder
        self.store_url = store_url or f"sqlite:///{folder / 'ledger.db'}"
        self.terms = {name: task_schedule(name, said) for name, (_, said) in tasks.items()}
        (folder / "own_tasks.py").write_text(MODULE.format(schedules=tasks))
        self.environment = {
            **OFF,
            "WORKER_DATA_API_URL": "http://127.0.0.1:9",
            "WORKER_TASK_MODULES": "own_tasks",
            "WORKER_STORE_URL": self.store_url,
            "WORKER_REPLICA": REPLICA,
            "WORKER_FIRST_RUN_DELAY": "0",
            "WORKER_FIRST_RUN_SPREAD": "0",
        }

    async def types(self, line: str, *words: str, **settings: str) -> tuple[int, str, str]:
        """``worker LINE WORDS``: exit code, standard output, standard error."""
        environment = {**self.environment, **settings}
        return await worker_command(*line.split(), *words, environment=environment, cwd=self.folder)

    async def told(self, line: str, *words: str, **settings: str) -> str:
        """What a command that succeeds prints; it complains of nothing."""
        code, out, err = await self.types(line, *words, **settings)
        assert (code, err) == (0, ""), f"{line}: {out}{err}"
        return out

    async def table(self, line: str, *words: str, **settings: str) -> list[dict[str, str]]:
        """The rows that a command prints, by the heads of their columns."""
        return rows_of(await self.told(line, *words, **settings))

    async def json(self, line: str, *words: str, **settings: str) -> Any:
        """What a command prints with ``--json``."""
        return json.loads(await self.told(line, *words, "--json", **settings))

    def worker(self, **settings: str) -> AbstractAsyncContextManager[LoggingProcess]:
        """A worker that runs until the block is left."""
        environment = {**self.environment, **settings}
        return running("start", environment=environment, cwd=self.folder)

    def touch(self, name: str) -> None:
        (self.folder / name).touch()

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def history(self, task: str, *outcomes: Outcome) -> list[Entry]:
        """The entries of a task, the oldest first."""
        with closing(open_store(self.store_url)) as store:
            query = HistoryQuery(task=task, outcomes=frozenset(outcomes), limit=10_000)
            return store.history(query)[::-1]

    def book(self, task: str) -> Book:
        with closing(open_store(self.store_url)) as store:
            return store.read([task])[task]

    async def has_joined(self, task: str) -> None:
        """Wait until a worker has said which schedule it has for a task."""
        await wait_until(lambda: bool(self.book(task).versions), f"a worker has {task}")

    @contextmanager
    def claimant(self, name: str = REPLICA) -> Iterator[Past]:
        """A replica that is up until the block is left, and asks what a test has it ask."""
        with closing(open_store(self.store_url)) as store:
            session = store.open_session(name, timedelta(minutes=5))
            yield Past(store, Claimant(name, session), self.terms)
            store.close_session(session)


class Past:
    """What workers do, done by hand and at any time."""

    def __init__(
        self, store: LedgerStore, claimant: Claimant, terms: Mapping[str, TaskSchedule]
    ) -> None:
        self.store = store
        self.claimant = claimant
        self.terms = terms

    @property
    def session(self) -> SessionId:
        assert self.claimant.session is not None
        return self.claimant.session

    def ask(self, request: Request, at: datetime) -> Answer:
        (answer,) = apply(self.store, [request], claimant=self.claimant, now=at)
        if isinstance(answer, WorkerError):
            raise answer
        assert isinstance(answer, Answer)
        return answer

    def attends(self, task: str, at: datetime) -> list[Entry]:
        """It looks at the task's slots at that moment; what it has to run."""
        return list(self.ask(Attend(terms=self.terms[task]), at).granted)

    def ran(
        self, task: str, at: datetime, outcome: Outcome = Outcome.RAN, error: str | None = None
    ) -> None:
        """It looks at the task's slots, and runs the one that is due."""
        self._finish(self.attends(task, at), at, outcome, error)

    def ran_by_hand(self, task: str, at: datetime) -> None:
        """Someone runs the task there, and it succeeds."""
        begin = Begin(terms=self.terms[task], overlap=Overlap.SKIP)
        self._finish(self.ask(begin, at).granted, at, Outcome.RAN)

    def _finish(
        self, granted: Sequence[Entry], at: datetime, outcome: Outcome, error: str | None = None
    ) -> None:
        (entry,) = granted
        terms = self.terms[entry.task]
        done = Finish(terms=terms, entry=entry, outcome=outcome, duration_ms=1, error=error)
        self.ask(done, at)


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of a table, by the heads of their columns."""
    head, *lines = text.splitlines()
    columns = [(found.start(), found[0]) for found in re.finditer(r"\S+(?: \S+)*", head)]
    ends = [*(start for start, _ in columns[1:]), None]
    return [
        {name: line[start:end].strip() for (start, name), end in zip(columns, ends, strict=True)}
        for line in lines
    ]


def ago(**distance: float) -> datetime:
    return datetime.now(UTC) - timedelta(**distance)
