"""What jobs in a SQLite file do when the disk, the file or another process fails them."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.functions import command, outcome_of, with_mounts
from tests.support.jobs import (
    LONG,
    PROMPT_S,
    QUEUE,
    SECOND,
    SHORT,
    ZERO,
    ended,
    get,
    lease_all,
    lease_now,
    lease_one,
    new,
    passed,
)
from tests.support.processes import clean_environment
from tests.support.waiting import wait_until
from worker.backends import sqlite_file
from worker.backends.queries import load_queries
from worker.backends.sqlite import SqliteStore
from worker.backends.sqlite_file import SqliteFile
from worker.errors import ConfigurationError, StoreSchemaError, StoreUnavailable
from worker.jobs.job import Enqueued, JobId, JobQuery, NewJob, Unique
from worker.ledger.book import Book, Change
from worker.model import State
from worker.queues import sqlite_work
from worker.queues.sqlite import SqliteJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from worker.queues.sqlite_turn import Turn

DEADLINE_S = 30.0
PATIENCE = timedelta(milliseconds=50)
SQL = load_queries("sqlite.sql", "worker.queues")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "worker.db"


@pytest.fixture
async def jobs(path: Path) -> AsyncIterator[SqliteJobs]:
    jobs = await opened(path)
    yield jobs
    await jobs.close()


async def opened(path: Path) -> SqliteJobs:
    jobs = SqliteJobs(path, patience=PATIENCE)
    await jobs.open()
    return jobs


def sound(path: Path) -> None:
    """The file is whole, and its indexes agree with its tables."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def run(function: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
    asyncio.run(function(*arguments))


def big(number: int) -> NewJob:
    return new(id=f"job-{number}", params=f'"{"x" * 1000}"')


async def fill(jobs: SqliteJobs, first: int) -> tuple[int, StoreUnavailable]:
    """Enqueue jobs until that is refused; the number of the one that was, and the refusal."""
    for number in range(first, first + 100_000):
        try:
            await jobs.enqueue([big(number)])
        except StoreUnavailable as exc:
            return number, exc
    raise AssertionError("nothing was refused")


async def count(jobs: SqliteJobs) -> int:
    return sum(counted.jobs for counted in await jobs.counts())


def enqueue_by_another_process(path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from worker import WorkerClient\n"
        "async def main():\n"
        f"    async with WorkerClient('sqlite:///{path}') as client:\n"
        "        await client.enqueue('ping')\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


# The file


async def test_a_job_that_comes_while_the_file_is_closed_is_noticed(
    path: Path, jobs: SqliteJobs
) -> None:
    waits = asyncio.create_task(
        jobs.lease(QUEUE, limit=1, ttl=LONG, wait=LONG, worker="one"), name="waits"
    )
    thread = jobs._thread
    assert thread is not None
    await wait_until(lambda: thread._version is not None, "it looks for changes of others")
    sqlite_file.before_fork()
    try:
        await asyncio.to_thread(enqueue_by_another_process, path)
    finally:
        sqlite_file.after_fork()
    async with asyncio.timeout(10):
        (lease,) = await waits
    assert lease.task == "ping"


async def test_the_ledger_and_the_jobs_share_a_file(path: Path, jobs: SqliteJobs) -> None:
    with closing(SqliteStore(path)) as store:
        store.write([Change(book=Book(task="sync"))])
        await jobs.enqueue([new()])
        store.write([Change(book=Book(task="sync", version=1, runs=1))])
        assert await count(jobs) == 1
        assert store.read(["sync"])["sync"].runs == 1
    sound(path)


async def test_a_ledger_of_version_1_gets_the_tables_of_jobs_and_keeps_what_it_has(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_file, "MIGRATIONS", sqlite_file.MIGRATIONS[:1])
        with closing(SqliteStore(path)) as store:
            store.write([Change(book=Book(task="sync", runs=7))])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    jobs = await opened(path)
    await jobs.enqueue([new()])
    await jobs.close()
    with closing(SqliteStore(path)) as store:
        assert store.read(["sync"])["sync"].runs == 7
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (
            len(sqlite_file.MIGRATIONS),
        )
    sound(path)


async def test_a_newer_file_is_refused_and_left_as_it_was(path: Path) -> None:
    await (await opened(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        with pytest.raises(StoreSchemaError, match="version 99, expected 6 or less"):
            await opened(path)
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


async def test_a_path_that_cannot_be_used_is_refused_with_the_name_of_its_setting(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigurationError, match=r"WORKER_QUEUE_URL: .* is a folder"):
        await opened(tmp_path)


async def test_a_closed_engine_stays_closed(jobs: SqliteJobs) -> None:
    waiting = asyncio.create_task(jobs.wait((await enqueued(jobs)), LONG))
    leasing = asyncio.create_task(
        jobs.lease("other", limit=1, ttl=LONG, wait=LONG, worker="one"),
    )
    await passed(SHORT)
    await jobs.close()
    await jobs.close()
    for task in (waiting, leasing):
        with pytest.raises(StoreUnavailable, match="is not open"):
            await task
    with pytest.raises(StoreUnavailable, match="is not open"):
        await jobs.counts()


async def enqueued(jobs: SqliteJobs, **rest: Any) -> JobId:
    (told,) = await jobs.enqueue([new(**rest)])
    return told.id


# Trouble


async def test_a_full_disk_is_named_and_the_engine_resumes_when_there_is_room(
    jobs: SqliteJobs, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enqueued(jobs)
    lease = await lease_one(jobs)
    (pages,) = await pragma(jobs, "PRAGMA page_count")
    await pragma(jobs, f"PRAGMA max_page_count = {pages + 5}")
    written, refusal = await fill(jobs, 0)
    assert str(refusal) == f"the disk of {path} is full"
    assert await count(jobs) == written + 1
    assert await jobs.settle([ended(lease)]) == [True]
    await pragma(jobs, "PRAGMA max_page_count = 1000000")
    assert await jobs.enqueue([big(written)]) == [Enqueued(JobId(f"job-{written}"), True)]
    sound(path)


async def pragma(jobs: SqliteJobs, statement: str) -> Any:
    return await jobs._read(lambda turn: turn.connection.execute(statement).fetchone())


async def fill_tmpfs(folder: str) -> None:
    path = Path(folder, "worker.db")
    ballast = Path(folder, "ballast")
    ballast.write_bytes(b"x" * 500_000)  # noqa: ASYNC240 - nobody else waits
    jobs = await opened(path)
    written, refusal = await fill(jobs, 0)
    assert str(refusal) == f"the disk of {path} is full"
    assert await count(jobs) == written
    with pytest.raises(StoreUnavailable, match="is full"):
        await jobs.enqueue([big(number) for number in range(written, written + 100)])
    assert await count(jobs) == written
    ballast.unlink()  # noqa: ASYNC240
    lease = await lease_one(jobs)
    assert await jobs.settle([ended(lease)]) == [True]
    told = await jobs.enqueue([big(number) for number in range(written, written + 100)])
    assert all(answer.created for answer in told)
    await jobs.close()
    sound(path)


def run_fill_tmpfs(folder: str) -> None:
    run(fill_tmpfs, folder)


def test_a_disk_that_is_really_full_is_named_too(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=2m tmpfs "$1"; shift; "$@"'
    outcome_of(with_mounts(script, tmp_path, *command(run_fill_tmpfs, tmp_path)))


async def test_a_lock_that_another_process_keeps_is_named_and_the_engine_resumes(
    jobs: SqliteJobs, path: Path
) -> None:
    job = await enqueued(jobs)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert (await get(jobs, job)).state is State.PENDING
        with pytest.raises(
            StoreUnavailable, match=r"locked by another process for more than 0\.05"
        ):
            await enqueued(jobs)
        assert await jobs.lease("other", limit=1, ttl=LONG, wait=ZERO, worker="one") == []
        other.execute("ROLLBACK")
    assert (await lease_one(jobs)).id == job


async def test_many_that_ask_in_vain_wait_no_longer_than_one(jobs: SqliteJobs, path: Path) -> None:
    loop = asyncio.get_running_loop()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        at = loop.time()
        asked = [enqueued(jobs) for _ in range(100)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert loop.time() - at < 20 * PATIENCE.total_seconds()
        other.execute("ROLLBACK")
    assert {type(answer) for answer in answers} == {StoreUnavailable}
    assert len({id(answer) for answer in answers}) == 100
    assert await count(jobs) == 0


async def test_a_call_that_cannot_be_made_spoils_no_other(jobs: SqliteJobs) -> None:
    wrong = new()._replace(version=object())  # type: ignore[arg-type]
    asked = [jobs.enqueue([new()]), jobs.enqueue([new(), wrong]), jobs.enqueue([new(), new()])]
    one, two, three = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(two, TypeError)
    assert not isinstance(one, BaseException)
    assert not isinstance(three, BaseException)
    assert [answer.created for answer in [*one, *three]] == [True] * 3
    assert await count(jobs) == 3


async def test_a_file_that_was_deleted_is_noticed_and_a_new_one_begun(
    jobs: SqliteJobs, path: Path
) -> None:
    await enqueued(jobs)
    lease = await lease_one(jobs)
    for file in path.parent.iterdir():
        file.unlink()
    with suppress(StoreUnavailable):  # unless its thread has noticed by itself before
        assert await jobs.settle([ended(lease)]) == [False]
    assert await jobs.settle([ended(lease)]) == [False]
    job = await enqueued(jobs)
    young = await lease_one(jobs)
    assert young.id == job
    assert await jobs.settle([ended(lease), ended(young)]) == [False, True]


async def test_who_waits_uses_the_file_that_is_there_when_theirs_was_deleted(
    jobs: SqliteJobs, path: Path
) -> None:
    waiting = asyncio.create_task(
        jobs.lease(QUEUE, limit=1, ttl=LONG, wait=10 * SECOND, worker="one")
    )
    await passed(SHORT)
    for file in path.parent.iterdir():
        file.unlink()
    other = await opened(path)
    job = await enqueued(other)
    async with asyncio.timeout(PROMPT_S + 1):
        assert [lease.id for lease in await waiting] == [job]
    await other.close()


async def test_tables_that_somebody_dropped_are_named(jobs: SqliteJobs, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE jobs")
    with pytest.raises(StoreUnavailable, match="no such table: "):
        await enqueued(jobs)


# Processes


async def produce(path: str) -> None:
    jobs = await opened(Path(path))
    number = 0
    while True:
        batch = [new(id=f"{number + offset}") for offset in range(7)]
        await jobs.enqueue(batch)
        number += 7
        print(number, flush=True)  # noqa: T201 - what the parent counts


def run_produce(path: str) -> None:
    run(produce, path)


async def consume(path: str) -> None:
    jobs = SqliteJobs(Path(path))
    await jobs.open()
    while True:
        leases = await jobs.lease(QUEUE, limit=10, ttl=SECOND / 2, wait=SECOND, worker="one")
        said = [ended(lease, result=f'"{lease.id}"') for lease in leases]
        for lease, kept in zip(leases, await jobs.settle(said), strict=True):
            if kept:
                print(lease.id, flush=True)  # noqa: T201


def run_consume(path: str) -> None:
    run(consume, path)


def started(function: Callable[[str], None], path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(function, path), env=clean_environment(), stdout=subprocess.PIPE, text=True
    )


def killed(process: subprocess.Popen[str], lines: int) -> list[int]:
    """Kill the process after that many lines; all that it said."""
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(lines)]
    process.kill()
    with process.stdout:
        told += [int(line) for line in process.stdout]
    process.wait(DEADLINE_S)
    return told


async def test_a_killed_producer_loses_nothing_that_was_acknowledged(path: Path) -> None:
    told = await asyncio.to_thread(killed, started(run_produce, path), 50)
    jobs = await opened(path)
    there = await count(jobs)
    assert there % 7 == 0
    assert there in (told[-1], told[-1] + 7)
    await jobs.close()
    sound(path)


async def test_a_killed_worker_loses_no_job_and_no_outcome(jobs: SqliteJobs, path: Path) -> None:
    ids = [JobId(str(number)) for number in range(5000)]
    await jobs.enqueue([new(id=job) for job in ids])
    told: list[int] = []
    for _ in range(2):
        told += await asyncio.to_thread(killed, started(run_consume, path), 30)
    assert len(set(told)) == len(told)
    done = {
        job.id for job in await jobs.find(JobQuery(states=frozenset({State.SUCCESS}), limit=9999))
    }
    assert {str(number) for number in told} <= done
    rest = await lease_all(jobs, len(ids) - len(done))
    assert {lease.id for lease in rest} | done == set(ids)
    assert all(await jobs.settle([ended(lease) for lease in rest]))
    assert all(job and job.state is State.SUCCESS for job in await jobs.get(ids))
    sound(path)


async def test_who_waits_is_woken_by_another_process(path: Path) -> None:
    jobs = SqliteJobs(path)  # patient: the other process writes all the time
    await jobs.open()
    waiting = asyncio.create_task(
        jobs.lease(QUEUE, limit=100, ttl=LONG, wait=10 * SECOND, worker="one")
    )
    await passed(SHORT)
    process = started(run_produce, path)
    try:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        async with asyncio.timeout(PROMPT_S + 1):
            assert await waiting
    finally:
        await asyncio.to_thread(killed, process, 0)
        await jobs.close()


async def leave_open(path: str) -> None:
    jobs = await opened(Path(path))
    waiting = asyncio.create_task(jobs.lease(QUEUE, limit=1, ttl=LONG, wait=LONG, worker="one"))
    await enqueued(jobs, queue="other")
    waiting.cancel()


def run_leave_open(path: str) -> None:
    run(leave_open, path)


def test_a_program_that_does_not_close_its_engine_ends_nonetheless(path: Path) -> None:
    outcome_of(command(run_leave_open, path))
    sound(path)


# Costs


async def test_who_waits_asks_the_file_only_when_there_is_something_to_see(
    jobs: SqliteJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enqueued(jobs, delay=LONG)
    asked: list[str] = []
    look = sqlite_work.look

    def counted(turn: Turn, queue: str) -> bool:
        asked.append(queue)
        return look(turn, queue)

    monkeypatch.setattr(sqlite_work, "look", counted)
    assert await jobs.lease(QUEUE, limit=1, ttl=LONG, wait=4 * SHORT, worker="one") == []
    assert len(asked) <= 3


async def test_calls_that_come_together_share_a_transaction(jobs: SqliteJobs) -> None:
    (before,) = await pragma(jobs, "SELECT total_changes()")
    other = sqlite3.connect(jobs._path)
    with closing(other):
        other.execute("PRAGMA data_version")
        versions = set()
        asked = [asyncio.create_task(enqueued(jobs)) for _ in range(500)]
        while not all(task.done() for task in asked):
            versions.add(other.execute("PRAGMA data_version").fetchone()[0])
            await asyncio.sleep(0)
        versions.add(other.execute("PRAGMA data_version").fetchone()[0])
    (after,) = await pragma(jobs, "SELECT total_changes()")
    assert after - before == 500
    assert max(versions) - min(versions) < 50


def test_every_statement_is_used_and_none_is_missing() -> None:
    modules = [
        file.read_text()
        for file in files("worker.queues").iterdir()
        if re.fullmatch(r"sqlite\w*\.py", file.name)
    ]
    named = {name for text in modules for name in re.findall(r'"([a-z]+(?:_[a-z0-9]+)+)"', text)}
    assert set(SQL) <= named
    asked = r'(?:QUERIES\[|turn\.(?:run|row|rows|listed)\(|\bdo\()\s*"(\w+)"'
    assert {name for text in modules for name in re.findall(asked, text)} <= set(SQL)


UNFINISHED = re.compile("COVERING INDEX jobs_(ready|later|keyed)$")
"""Indexes that hold those jobs alone that have not ended: few, however many are kept."""


@pytest.mark.parametrize("name", sorted(set(SQL) - {"read_data_version", "count_jobs"}))
def test_no_statement_reads_the_whole_table(name: str, path: Path) -> None:
    values: Any = dict.fromkeys(re.findall(r":(\w+)", SQL[name]))
    with closing(SqliteFile(path)) as file, file.connected() as connection:
        rows = connection.execute(
            f"EXPLAIN QUERY PLAN {SQL[name]}", values or [None] * SQL[name].count("?")
        ).fetchall()
    steps = [step for *_, step in rows]
    if name == "list_last":  # the last ones, and no more
        steps.remove("SCAN jobs")
    assert not [
        step for step in steps if step.startswith("SCAN jobs") and not UNFINISHED.search(step)
    ]


async def test_jobs_are_counted_by_indexes_alone(path: Path) -> None:
    with closing(SqliteFile(path)) as file, file.connected() as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN {SQL['count_jobs']}", {"now": 0}).fetchall()
    steps = [step for *_, step in rows if " jobs " in step]
    assert all(re.search("COVERING INDEX|INTEGER PRIMARY KEY", step) for step in steps), steps
    scanned = [step for step in steps if step.startswith("SCAN")]
    assert all(UNFINISHED.search(step) for step in scanned), scanned


# Small promises


async def test_as_many_jobs_are_leased_as_fit_into_one_text(jobs: SqliteJobs) -> None:
    for number in range(20):
        await jobs.enqueue([big(number)])
    await jobs._read(lambda turn: turn.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 9000))
    assert 1 < len(await lease_now(jobs, 20)) < 9
    assert len(await lease_all(jobs, 10)) == 10


async def test_texts_that_utf_8_cannot_hold_are_kept(jobs: SqliteJobs) -> None:
    odd = "caf\udce9 \0 \N{SNOWMAN} \N{PILE OF POO}"
    unique = Unique(f"key {odd}", (State.PENDING,))
    job = new(params='{"a": "caf\udce9 \N{PILE OF POO}"}', unique=unique, concurrency_key=odd)
    await jobs.enqueue([job])
    assert await jobs.enqueue([new(unique=unique)]) == [Enqueued(job.id, False)]
    lease = await lease_one(jobs, worker=odd)
    assert lease.params == '{"a": "caf\\udce9 \N{PILE OF POO}"}'
    assert await jobs.settle([ended(lease, error='{"message": "\udcff"}')]) == [True]
    kept = await get(jobs, job.id)
    assert kept.error == '{"message": "\\udcff"}'
    assert kept.worker == "caf\\udce9 \\0 \N{SNOWMAN} \N{PILE OF POO}"


async def test_a_cancelled_lease_is_given_back_at_once(jobs: SqliteJobs) -> None:
    job = await enqueued(jobs)
    for pause in range(8):
        leasing = asyncio.create_task(jobs.lease(QUEUE, limit=5, ttl=LONG, wait=LONG, worker="one"))
        for _ in range(pause):
            await asyncio.sleep(0)
        leasing.cancel()
        with suppress(asyncio.CancelledError):
            for lease in await leasing:
                await jobs.settle([ended(lease, State.PENDING, attempts=0)])
        lease = await lease_one(jobs)
        assert (lease.id, lease.losses, lease.attempts) == (job, 0, 0)
        await jobs.settle([ended(lease, State.PENDING, attempts=0)])


async def test_more_urgent_jobs_of_a_full_key_go_before_those_that_were_ready(
    jobs: SqliteJobs,
) -> None:
    usual = await enqueued(jobs, concurrency_key="k")
    urgent = await enqueued(jobs, concurrency_key="k", priority=9)
    lease = await lease_one(jobs)
    assert lease.id == urgent
    await jobs.settle([ended(lease)])
    assert (await lease_one(jobs)).id == usual


async def test_a_revoked_job_leaves_its_place_in_its_key_to_the_next(jobs: SqliteJobs) -> None:
    first = await enqueued(jobs, concurrency_key="k")
    second = await enqueued(jobs, concurrency_key="k")
    await jobs.cancel([first])
    assert [lease.id for lease in await lease_now(jobs)] == [second]


async def test_jobs_of_a_key_with_different_limits_each_keep_to_their_own(
    jobs: SqliteJobs,
) -> None:
    strict = [await enqueued(jobs, concurrency_key="k", concurrency_limit=1) for _ in range(2)]
    lax = [await enqueued(jobs, concurrency_key="k", concurrency_limit=3) for _ in range(4)]
    leases = await lease_now(jobs)
    assert [lease.id for lease in leases] == [strict[0], *lax[:2]]
    await jobs.settle([ended(lease) for lease in leases[1:]])
    assert [lease.id for lease in await lease_now(jobs)] == lax[2:]


async def test_jobs_whose_time_has_come_are_made_ready_in_parts(
    jobs: SqliteJobs,
) -> None:
    asked = [new(delay=SHORT) for _ in range(1000)]
    await jobs.enqueue(asked)
    await passed(2 * SHORT)
    first = await lease_now(jobs, 1)
    assert len(first) == 1
    (ready,) = await pragma(jobs, "SELECT count(*) FROM jobs WHERE stage = 0")
    assert 0 < ready < 100
    assert len(await lease_all(jobs, 999)) == 999
