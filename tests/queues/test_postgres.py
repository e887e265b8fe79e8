"""What only PostgreSQL does to jobs, and what only its engine promises."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from tests.support.jobs import (
    LONG,
    PROMPT_S,
    QUEUE,
    SECOND,
    SHORT,
    ZERO,
    back,
    ended,
    get,
    lease_all,
    lease_now,
    lease_one,
    new,
    passed,
)
from tests.support.outages import postgres_of_its_own
from tests.support.pgbouncer import pooled_url
from tests.support.postgres import connect, empty_schema, fresh_postgres_url
from tests.support.processes import clean_environment
from tests.support.servers import refused_port
from tests.support.waiting import wait_until
from worker.backends import migrate as migrate_module
from worker.backends.migrate import migrate, migration_config
from worker.backends.opening import open_store
from worker.backends.postgres import SCHEMA
from worker.backends.queries import load_queries, parse_queries
from worker.errors import StoreSchemaError, StoreUnavailable
from worker.jobs.declaration import Declaration, Terms
from worker.jobs.job import JobId, Rate, Requeued, Unique
from worker.ledger.book import Book, Change, Written
from worker.model import State
from worker.queues import postgres, postgres_connections
from worker.queues.postgres import PostgresJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from worker.jobs.job import NewJob

SECRET = "s3cr3t-pass"
NAME = f"worker-test-{uuid4().hex[:12]}"
"""As the server knows the connections of one test."""
WAITING = (State.PENDING, State.STARTED, State.RETRY)


@pytest.fixture
def url() -> Iterator[str]:
    """Migrated, and without any jobs."""
    with fresh_postgres_url() as url:
        yield url


@pytest.fixture
def unmigrated() -> Iterator[str]:
    with empty_schema() as url:
        yield url


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresJobs]:
    async with opened(url) as store:
        yield store


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection]:
    """Another's connection to the same jobs."""
    with connect(url) as connection:
        yield connection


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresJobs]:
    store = PostgresJobs(url)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def many_opened(url: str, count: int) -> AsyncIterator[list[PostgresJobs]]:
    stores = [PostgresJobs(url) for _ in range(count)]
    try:
        for store in stores:
            await store.open()
        yield stores
    finally:
        for store in stores:
            await store.close()


@contextmanager
def role_of(url: str) -> Iterator[tuple[str, str]]:
    """A role without any rights: its name, and the URL with its name."""
    name = f"worker_test_{uuid4().hex[:12]}"
    scheme, _, rest = url.partition("://")
    with connect(url) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN")
        try:
            yield name, f"{scheme}://{name}@{rest.rpartition('@')[2]}"
        finally:
            admin.execute(f"DROP OWNED BY {name}")
            admin.execute(f"DROP ROLE {name}")


def asked(admin: psycopg.Connection, query: str, *parameters: object) -> Any:
    """The first column of the only row."""
    row = admin.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


def schema_of(url: str) -> str:
    with connect(url) as admin:
        return str(asked(admin, "SELECT current_schema()"))


# The schema


def migrated_to(url: str, revision: str, *, down: bool = False) -> None:
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool
    )
    with engine.begin() as connection:
        move = command.downgrade if down else command.upgrade
        move(migration_config(connection), revision)


async def test_a_migration_that_waits_for_a_transaction_holds_up_nobody_else(
    unmigrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_module, "PAUSE_S", 0.1)
    migrated_to(unmigrated, "0005")
    told: list[str] = []
    with connect(unmigrated) as holder, connect(unmigrated) as other, ThreadPoolExecutor(1) as pool:
        with holder.transaction():
            holder.execute("SELECT FROM worker_queue")
            migration = pool.submit(migrate, unmigrated, on_wait=told.append)
            await wait_until(lambda: bool(told), "the migration gave way")
            assert asked(other, "SELECT worker_enqueue('ping', id => 'a')") == "a"
            assert not migration.done()
        assert migration.result(30) == ("0005", SCHEMA)
        assert "another transaction holds a lock on one of the tables" in told[0]
        assert f"process {holder.info.backend_pid} (" in told[0]


def test_a_migration_gives_up_and_has_changed_nothing(
    unmigrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_module, "PATIENCE_S", 0.0)
    migrated_to(unmigrated, "0005")
    with connect(unmigrated) as holder:
        with holder.transaction():
            holder.execute("SELECT FROM worker_queue")
            with pytest.raises(StoreUnavailable, match="another transaction holds a lock"):
                migrate(unmigrated)
        assert migrate(unmigrated) == ("0005", SCHEMA)


async def test_a_worker_without_histories_goes_on_over_its_connections(unmigrated: str) -> None:
    """It names the columns of what functions return, and takes all of the view's."""
    migrated_to(unmigrated, "0003")
    leasing = (
        "SELECT id, receipt, losses FROM worker_lease('default', 1, interval '1 min', 'old', 1,"
        " '{0}', ARRAY['-infinity'::timestamptz])"
    )
    with connect(unmigrated) as old:
        columns = [c.name for c in old.execute("SELECT * FROM worker_job_list").description or ()]
        old.execute("SELECT worker_enqueue('ping', id => 'a')")
        old.execute(leasing)
        assert migrate(unmigrated) == ("0003", SCHEMA)
        seq = asked(old, "UPDATE worker_queue SET ready_at = now() RETURNING seq")
        row = old.execute(leasing).fetchone()
        assert row == ("a", f"{seq}.1", 1)
        said = f'[{{"place":0,"seq":{seq},"token":1,"state":"SUCCESS","attempts":1}}]'
        assert asked(old, "SELECT worker_settle(%s, NULL)", said) == []
        found = old.execute("SELECT * FROM worker_job_list")
        assert [c.name for c in found.description or ()] == columns
    jobs = PostgresJobs(unmigrated)
    await jobs.open()
    assert '"lost"' in ((await get(jobs, JobId("a"))).history or "")
    await jobs.close()
    migrated_to(unmigrated, "0003", down=True)
    with connect(unmigrated) as old:
        old.execute("SELECT worker_enqueue('ping', id => 'b')")
        assert (old.execute(leasing).fetchone() or ())[0] == "b"


async def test_a_ledger_of_the_first_schema_is_kept_when_jobs_come(unmigrated: str) -> None:
    migrated_to(unmigrated, "0001")
    with connect(unmigrated) as admin:
        admin.execute("INSERT INTO worker_books VALUES ('sync', 3, '{}')")
    unfit = r"schema 0001.*needs.*run `worker migrate`"
    with pytest.raises(StoreSchemaError, match=unfit):
        open_store(unmigrated)
    with pytest.raises(StoreSchemaError, match=unfit):
        await PostgresJobs(unmigrated).open()
    assert migrate(unmigrated) == ("0001", SCHEMA)
    ledger = open_store(unmigrated)
    assert ledger.read(["sync"])["sync"].version == 3
    assert ledger.write([Change(book=Book(task="sync", version=3))]) == [Written.DONE]
    ledger.close()
    async with opened(unmigrated) as store:
        await store.enqueue([new()])
        await lease_one(store)


async def test_the_jobs_can_be_taken_back_and_the_ledger_stays(unmigrated: str) -> None:
    migrate(unmigrated)
    async with opened(unmigrated) as store:
        await store.enqueue([new()])
    migrated_to(unmigrated, "0001", down=True)
    with connect(unmigrated) as admin:
        tables = admin.execute(
            "SELECT c.relname::text FROM pg_class c WHERE c.relkind IN ('r', 'v')"
            " AND c.relnamespace = current_schema()::regnamespace ORDER BY 1"
        ).fetchall()
        functions = asked(
            admin,
            "SELECT count(*) FROM pg_proc WHERE pronamespace = current_schema()::regnamespace",
        )
    assert [table for (table,) in tables] == [
        "worker_alembic_version",
        "worker_books",
        "worker_sessions",
        "worker_slots",
    ]
    assert functions == 0
    assert migrate(unmigrated) == ("0001", SCHEMA)


async def test_a_database_without_tables_or_with_newer_ones_is_refused(unmigrated: str) -> None:
    with pytest.raises(StoreSchemaError, match=r"has no tables of the worker.*`worker migrate`"):
        await PostgresJobs(unmigrated).open()
    migrate(unmigrated)
    with connect(unmigrated) as admin:
        admin.execute("UPDATE worker_alembic_version SET version_num = '9999'")
    with pytest.raises(StoreSchemaError, match="schema 9999, which is newer"):
        await PostgresJobs(unmigrated).open()


async def test_a_role_without_rights_is_told_which_it_lacks(url: str) -> None:
    with role_of(url) as (role, its_url), connect(url) as admin:
        schema = schema_of(url)
        admin.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        with pytest.raises(StoreSchemaError, match=r"permission denied.*may SELECT"):
            await PostgresJobs(its_url).open()
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")
        admin.execute(f"REVOKE EXECUTE ON FUNCTION {schema}.worker_settle FROM PUBLIC")
        with pytest.raises(StoreSchemaError) as caught:
            await PostgresJobs(its_url).open()
        assert f"the role {role} lacks rights" in str(caught.value)
        assert "DELETE on worker_jobs, INSERT on worker_jobs" in str(caught.value)
        assert "EXECUTE on worker_settle" in str(caught.value)
        admin.execute(f"GRANT EXECUTE ON FUNCTION {schema}.worker_settle TO PUBLIC")
        admin.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
        )
        async with opened(its_url) as store:
            await every_call(store)


async def every_call(store: PostgresJobs) -> None:
    """Whatever an engine is asked for, once."""
    await store.publish([Declaration(task="ping")])
    assert await store.declaration("ping") == Declaration(task="ping")
    job = new(unique=Unique("u", WAITING), concurrency_key="k")
    await store.enqueue([job, new(queue="other"), new(delay=LONG)])
    lease = await lease_one(store)
    assert await store.apply_terms(lease, Terms(0, "{}", unique=job.unique)) == job.id
    await store.tell(lease, "{}")
    await store.extend([lease], LONG)
    await store.take("rate", Rate(1, SECOND), 1)
    await store.cancel([lease.id])
    await store.cancelled([lease.id])
    assert await store.settle([ended(lease, State.FAILURE)]) == [True]
    assert (await store.wait(lease.id, LONG)) is not None
    assert await store.retry([lease.id]) == [Requeued.DONE]
    await store.settle([back(await lease_one(store))])
    assert await store.cancel([lease.id]) == [Requeued.DONE]
    assert len(await store.counts()) == 3
    carried = new(queue="sqs/x")
    await store.enqueue([carried])
    (claimed,) = await store.claim([carried.id], ttl=LONG, worker="one")
    assert claimed is not None
    await store.prune(keep=ZERO)
    await store.drop([lease.id])


async def test_the_functions_find_their_tables_wherever_they_are_called_from(
    url: str, admin: psycopg.Connection, store: PostgresJobs
) -> None:
    schema = schema_of(url)
    admin.execute("CREATE TEMPORARY TABLE worker_jobs (trap text)")
    admin.execute("SET search_path = pg_temp")
    job = asked(admin, f"SELECT {schema}.worker_enqueue('ping')")
    assert (await lease_one(store)).id == job


async def test_a_server_that_was_migrated_further_is_not_used_by_a_new_connection(
    unmigrated: str,
) -> None:
    migrate(unmigrated)
    async with opened(f"{unmigrated}&application_name={NAME}") as store:
        with connect(unmigrated) as admin:
            admin.execute("UPDATE worker_alembic_version SET version_num = '9999'")
            assert await store.counts() == []
            end_connections(admin)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="at least as new"):
                await store.counts()


def end_connections(admin: psycopg.Connection) -> int:
    """End those that are called `NAME`; how many there were."""
    ended = admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s",
        [NAME],
    )
    return len(ended.fetchall())


# Notifications


WORKER = """
import asyncio, sys
from datetime import timedelta
from worker.queues import postgres
postgres.POLL_S = postgres.FRESH_S = 60.0  # so that it is woken, or not

async def main():
    store = postgres.PostgresJobs(sys.argv[1])
    await store.open()
    said = timedelta(seconds=50)
    if sys.argv[2] == "lease":
        leasing = asyncio.create_task(
            store.lease("default", limit=5, ttl=said, wait=said, worker="other"))
    else:
        leasing = asyncio.create_task(store.wait(sys.argv[2], said))
    while not store._news.hearing:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    print("waits", flush=True)
    await leasing
    print("woken", flush=True)
    await store.close()

asyncio.run(main())
"""


@asynccontextmanager
async def other_process(url: str, what: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, url, what),
        env=clean_environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def says(process: asyncio.subprocess.Process, word: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert (await process.stdout.readline()).decode().strip() == word


async def test_a_notification_wakes_who_waits_for_jobs_in_another_process(
    url: str, store: PostgresJobs
) -> None:
    async with other_process(url, "lease") as process:
        await says(process, "waits")
        await store.enqueue([new()])
        async with asyncio.timeout(PROMPT_S):
            await says(process, "woken")


async def test_a_notification_wakes_who_waits_for_an_end_in_another_process(
    url: str, store: PostgresJobs
) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    async with other_process(url, lease.id) as process:
        await says(process, "waits")
        await store.settle([ended(lease)])
        async with asyncio.timeout(PROMPT_S):
            await says(process, "woken")


async def test_a_thousand_jobs_are_one_notification_and_none_while_nobody_waits(
    url: str, store: PostgresJobs, admin: psycopg.Connection
) -> None:
    admin.execute("SELECT worker_listen()")

    def heard() -> list[str]:
        return [note.payload for note in admin.notifies(timeout=0.2)]

    await store.enqueue([new() for _ in range(1000)])
    leases = await lease_all(store, 1000)
    await store.settle([ended(lease) for lease in leases[:500]])
    assert heard() == []
    async with opened(url) as other:
        idle = asyncio.create_task(lease_one(other, queue="idle"))
        waits = asyncio.create_task(other.wait(leases[999].id, LONG))
        await wait_until(
            lambda: asked(admin, "SELECT count(*) FROM worker_watch") == 2, "both are known to wait"
        )
        await store.enqueue([new() for _ in range(1000)])
        assert heard() == []
        await store.enqueue([new(queue="idle", delay=LONG)])
        assert heard() == []
        jobs = [new(queue="idle") for _ in range(1000)]
        await store.enqueue(jobs)
        assert heard() == ["idle"]
        await store.settle([ended(lease) for lease in leases[500:510]])
        (told,) = heard()
        assert sorted(told.split(" ")) == sorted(lease.id for lease in leases[500:510])
        await store.settle([ended(lease) for lease in leases[510:]])
        assert heard() == [""]  # more ids than a notification can hold
        await asyncio.gather(idle, waits)


async def test_who_listens_does_so_again_after_the_connection_was_lost(
    url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(f"{url}&application_name={NAME}") as store:
        assert await store.lease(QUEUE, limit=1, ttl=LONG, wait=SHORT, worker="one") == []
        await wait_until(lambda: store._news.hearing, "it listens")
        assert end_connections(admin) == 2
        await wait_until(lambda: not store._news.hearing, "it has noticed")
        assert await lease_now(store) == []
        waiting = asyncio.create_task(lease_one(store))
        await wait_until(lambda: store._news.hearing, "it listens again")
        monkeypatch.setattr(postgres, "POLL_S", 60.0)
        await store.enqueue([new()])
        await waiting


# The connections


async def test_the_connections_are_few_and_shared_by_all_that_ask(
    url: str, admin: psycopg.Connection
) -> None:
    async with opened(f"{url}&application_name={NAME}") as store:
        await asyncio.gather(*[store.enqueue([new()]) for _ in range(50)])
        count = asked(
            admin, "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", NAME
        )
        assert 1 <= count <= postgres_connections.MOST
        assert sum(row.jobs for row in await store.counts()) == 50


async def test_an_answer_that_never_comes_is_given_up_and_the_next_call_works(
    store: PostgresJobs, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.enqueue([new()])
    monkeypatch.setattr(postgres_connections, "ANSWER_S", 0.3)
    with admin.transaction():
        admin.execute("LOCK TABLE worker_queue")
        calls = [asyncio.create_task(lease_now(store)) for _ in range(8)]
        for call in calls:
            with pytest.raises(StoreUnavailable, match=r"no answer for 0\.3 s|was free for 0\.3 s"):
                await call
    monkeypatch.undo()
    await lease_one(store)


async def test_a_call_that_is_cancelled_leaves_the_connection_usable(
    url: str, admin: psycopg.Connection
) -> None:
    async with opened(f"{url}&application_name={NAME}") as store:
        with admin.transaction():
            admin.execute("LOCK TABLE worker_queue")
            calls = [asyncio.create_task(store.enqueue([new()])) for _ in range(8)]
            await passed(SHORT)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            assert all(call.cancelled() for call in calls)
        await asyncio.gather(*[store.enqueue([new()]) for _ in range(8)])
        assert end_connections(admin) <= postgres_connections.MOST


async def test_a_job_that_somebody_has_locked_is_passed_over_without_a_hot_loop(
    store: PostgresJobs, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.enqueue([new()])
    questions = 0
    ask_rows = store._connections.ask_rows

    async def counted(query: str, **parameters: object) -> Any:
        nonlocal questions
        questions += 1
        return await ask_rows(query, **parameters)

    monkeypatch.setattr(store._connections, "ask_rows", counted)
    with admin.transaction():
        admin.execute("SELECT FROM worker_queue FOR UPDATE")
        assert await store.lease(QUEUE, limit=5, ttl=LONG, wait=2 * SECOND, worker="one") == []
    assert questions < 40
    await lease_one(store)


def kinds_of_error(base: type[psycopg.Error] = psycopg.Error) -> set[type[psycopg.Error]]:
    found = {base}
    for kind in base.__subclasses__():
        found |= kinds_of_error(kind)
    return found


async def test_no_error_of_psycopg_leaks(
    store: PostgresJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.enqueue([new()])
    lease = await lease_one(store)
    failing: list[psycopg.Error] = []

    async def fails(*_: object) -> None:
        raise failing[0]

    monkeypatch.setattr(postgres_connections, "run", fails)
    for kind in kinds_of_error():
        failing[:] = [kind("boom")]
        for call in (
            lambda: store.enqueue([new()]),
            lambda: store.get([lease.id]),
        ):
            with pytest.raises(StoreUnavailable):
                await call()


@pytest.mark.parametrize(
    "rest", [f"root:{SECRET}@127.0.0.1:1/test", f"nobody_here:{SECRET}@{{place}}"]
)
async def test_no_message_tells_the_password(url: str, rest: str) -> None:
    place = url.partition("@")[2]
    with pytest.raises(StoreUnavailable) as caught:
        await PostgresJobs(f"postgresql://{rest.format(place=place)}").open()
    chain: BaseException | None = caught.value
    while chain is not None:
        assert SECRET not in f"{chain}{chain!r}"
        chain = chain.__cause__


async def test_a_port_that_nobody_listens_on_makes_the_engine_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match="refused"):
        await PostgresJobs(f"postgresql://root@127.0.0.1:{refused_port()}/test").open()


# A pooler in between


@pytest.fixture
def pooled(url: str) -> Iterator[str]:
    """The URL of the same jobs, behind pgbouncer in transaction mode."""
    with pooled_url(url, schema_of(url)) as pooled:
        yield pooled


async def test_everything_works_behind_a_pooler_by_looking_alone(
    pooled: str, admin: psycopg.Connection
) -> None:
    async with opened(pooled) as store, opened(pooled) as other:
        for _ in range(5):  # a statement that were prepared would meet another session by then
            await asyncio.gather(every_call(store), store.counts(), store.cancelled([JobId("x")]))
            admin.execute("DELETE FROM worker_jobs")
            admin.execute("DELETE FROM worker_queue")
            admin.execute("DELETE FROM worker_outcomes")
        for producer in (store, other):
            waiting = asyncio.create_task(lease_one(store))
            await passed(SHORT)
            await producer.enqueue([new()])
            async with asyncio.timeout(PROMPT_S):
                lease = await waiting
            assert lease.created_at.utcoffset() == ZERO
            waits = asyncio.create_task(other.wait(lease.id, LONG))
            await passed(SHORT)
            await store.settle([ended(lease)])
            async with asyncio.timeout(PROMPT_S):
                await waits
        assert not store._news.hearing


# The server dies


async def test_what_was_acknowledged_outlives_a_server_that_dies_in_the_middle() -> None:
    with postgres_of_its_own() as server:
        async with opened(server.url) as store:
            jobs = [new() for _ in range(50)]
            await store.enqueue(jobs)
            leases = await lease_all(store, 20)
            await store.settle([ended(lease) for lease in leases[:10]])
            waiting = asyncio.create_task(
                store.lease("idle", limit=1, ttl=LONG, wait=20 * SECOND, worker="one")
            )
            waits = asyncio.create_task(store.wait(leases[15].id, 20 * SECOND))
            await wait_until(
                lambda: store._news.hearing and store._ends is not None, "it listens for both"
            )
            server.kill()
            with pytest.raises(StoreUnavailable):
                await store.enqueue([new()])
            with pytest.raises(StoreUnavailable):
                await waiting
            server.start()
            found = await until_it_answers(store, jobs)
            assert {job.state for job in found[:10]} == {State.SUCCESS}
            assert {job.state for job in found[20:]} == {State.PENDING}
            # A lease may be forgotten: then its job waits, and the receipt is of no use.
            held = await store.settle([ended(lease) for lease in leases[10:]])
            left = await lease_all(store, 30 + held.count(False))
            assert len({lease.id for lease in left}) == len(left)
            assert await store.settle([ended(lease) for lease in left]) == [True] * len(left)
            ended_job = await waits
            assert ended_job is not None
            assert ended_job.state is State.SUCCESS


async def until_it_answers(store: PostgresJobs, jobs: list[NewJob]) -> list[Any]:
    async with asyncio.timeout(10):
        while True:
            try:
                return await store.get([job.id for job in jobs])
            except StoreUnavailable:
                await asyncio.sleep(0.01)


# Many at once


async def test_of_twenty_connections_that_want_one_unique_key_one_gets_it(url: str) -> None:
    async with many_opened(url, 20) as stores:
        for number in range(10):
            unique = Unique(f"key-{number}", WAITING)
            told = await asyncio.gather(
                *[store.enqueue([new(unique=unique), new()]) for store in stores]
            )
            assert sum(answers[0].created for answers in told) == 1
            assert len({answers[0].id for answers in told}) == 1
            assert all(answers[1].created for answers in told)


async def test_a_key_that_is_let_go_while_many_want_it_goes_to_one(url: str) -> None:
    async with many_opened(url, 10) as stores:
        unique = Unique("key", WAITING)
        holder = new(unique=unique)
        await stores[0].enqueue([holder])
        for _ in range(10):
            lease = await lease_one(stores[0])
            settling = asyncio.create_task(stores[0].settle([ended(lease)]))
            told = await asyncio.gather(*[store.enqueue([new(unique=unique)]) for store in stores])
            assert await settling == [True]
            created = [answers[0].id for answers in told if answers[0].created]
            assert len(created) <= 1
            if not created:
                (late,) = await stores[0].enqueue([new(unique=unique)])
                assert late.created


async def test_producers_in_opposite_order_all_succeed(url: str) -> None:
    async with many_opened(url, 4) as stores:
        for number in range(5):
            jobs = [
                new(id=f"job-{number}-{i}", unique=Unique(f"key-{number}-{i}", WAITING))
                for i in range(100)
            ]
            orders = [jobs, jobs[::-1], jobs[50:] + jobs[:50], jobs[::-1]]
            told = await asyncio.gather(
                *[store.enqueue(order) for store, order in zip(stores, orders, strict=True)]
            )
            assert sum(answer.created for answers in told for answer in answers) == 100


async def test_a_transaction_that_wants_a_key_does_not_hold_up_the_worker_of_its_holder(
    store: PostgresJobs, admin: psycopg.Connection
) -> None:
    holder = new(unique=Unique("key", WAITING))
    await store.enqueue([holder])
    with admin.transaction():
        assert asked(admin, "SELECT worker_enqueue('ping', unique_key => 'key')") == holder.id
        async with asyncio.timeout(PROMPT_S):
            assert await store.settle([ended(await lease_one(store))]) == [True]


async def test_a_concurrency_key_is_never_overfull_under_eight_workers(
    url: str, admin: psycopg.Connection
) -> None:
    async with many_opened(url, 8) as stores:
        jobs = [
            new(
                queue=f"queue-{number % 2}",
                concurrency_key=f"key-{number % 3}",
                concurrency_limit=number % 3 + 1,
                priority=number % 2,
            )
            for number in range(150)
        ]
        await stores[0].enqueue([*jobs, *[new(queue="queue-0") for _ in range(20)]])
        done = 0
        most = [0, 0, 0]

        async def look() -> None:
            while done < 170:
                for key, running in admin.execute(
                    "SELECT concurrency_key, count(*) FROM worker_queue"
                    " WHERE token IS NOT NULL AND concurrency_key IS NOT NULL GROUP BY 1"
                ).fetchall():
                    number = int(key[-1])
                    most[number] = max(most[number], running)
                await asyncio.sleep(0.002)

        async def work(number: int) -> None:
            nonlocal done
            store = stores[number]
            while done < 170:
                leases = await store.lease(
                    f"queue-{number % 2}", limit=5, ttl=LONG, wait=SHORT, worker="some"
                )
                await asyncio.sleep(0)
                said = [
                    ended(lease, State.RETRY) if lease.deliveries == 1 else ended(lease)
                    for lease in leases
                ]
                assert all(await store.settle(said))
                done += sum(one.state is State.SUCCESS for one in said)

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(look())
            for number in range(8):
                group.create_task(work(number))
        assert all(count <= number + 1 for number, count in enumerate(most)), most
        assert asked(admin, "SELECT count(*) FROM worker_queue") == 0


# What a lease costs


async def pages_of_a_lease(admin: psycopg.Connection, store: PostgresJobs) -> int:
    """How many pages a lease looks at that finds nothing, once its plans are made."""
    await passed(postgres.SLACK)
    await store._look(QUEUE, store._looks[QUEUE], watching=False)
    floor = store._looks[QUEUE].floors[0]
    pages = []
    for _ in range(5):
        plan = asked(
            admin,
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM worker_lease("
            "'default', 100, '1 min', 'one', 1, '{0}', ARRAY[%s::timestamptz])",
            floor,
        )[0]["Plan"]
        pages.append(int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"]))
    return min(pages)


async def work_off(store: PostgresJobs, jobs: int) -> None:
    for _ in range(jobs // 1000):
        await store.enqueue([new() for _ in range(1000)])
        await store.settle([ended(lease) for lease in await lease_all(store, 1000)])


async def test_jobs_that_have_ended_do_not_make_leases_slower(
    store: PostgresJobs, admin: psycopg.Connection
) -> None:
    admin.execute("ALTER TABLE worker_queue SET (autovacuum_enabled = false)")
    try:
        await work_off(store, 1000)
        before = await pages_of_a_lease(admin, store)
        await work_off(store, 10_000)
        assert await pages_of_a_lease(admin, store) <= before + 5
    finally:
        admin.execute("ALTER TABLE worker_queue RESET (autovacuum_enabled)")


async def test_jobs_that_are_not_due_do_not_make_leases_slower(
    store: PostgresJobs, admin: psycopg.Connection
) -> None:
    await store.enqueue([new()])
    await lease_one(store)
    for _ in range(5):
        await store.enqueue([new(delay=LONG) for _ in range(1000)])
    assert await pages_of_a_lease(admin, store) < 20


async def test_jobs_that_wait_for_a_concurrency_key_do_not_make_leases_slower(
    store: PostgresJobs, admin: psycopg.Connection
) -> None:
    await store.enqueue([new(concurrency_key="k") for _ in range(3000)])
    await lease_one(store)
    for _ in range(4):
        assert await lease_now(store) == []
    assert asked(admin, "SELECT count(*) FROM worker_queue WHERE due_at IS NOT NULL") == 2999
    assert await pages_of_a_lease(admin, store) < 20


# Texts


async def test_texts_that_postgresql_cannot_hold_come_back_readable(store: PostgresJobs) -> None:
    job = new(params='{"a": "\ud800"}', unique=Unique("u\0", WAITING), concurrency_key="c\0")
    await store.enqueue([job])
    lease = await lease_one(store, worker="one\0\ud800")
    assert lease.params == '{"a": "?"}'
    await store.settle([ended(lease, result='"\ud800\0"')])
    found = await get(store, lease.id)
    assert (found.worker, found.result) == ("one\ufffd?", '"?\ufffd"')
    assert (found.unique_key, found.concurrency_key) == ("u\ufffd", "c\ufffd")


# The package


def test_every_query_is_described_and_used() -> None:
    package = files("worker.queues")
    source = "".join(
        file.read_text("utf-8")
        for file in package.iterdir()
        if file.name.startswith("postgres") and file.name.endswith(".py")
    )
    queries = load_queries("postgres.sql", "worker.queues")
    assert set(queries) <= set(re.findall(r'"([a-z_]+)"', source))
    migrations = files("worker.backends").joinpath("migrations", "versions")
    statements = {
        name
        for file in migrations.iterdir()
        if file.name.endswith(".sql")
        for name in parse_queries(file.read_text("utf-8"))
    }
    assert len(statements) > 20


def test_running_imports_neither_sqlalchemy_nor_alembic_nor_asyncpg(url: str) -> None:
    code = (
        "import asyncio, sys\n"
        "from worker.queues.opening import make_jobs\n"
        "import worker.queues.postgres_transaction\n"
        "async def main():\n"
        "    store = make_jobs(sys.argv[1]); await store.open(); await store.close()\n"
        "asyncio.run(main())\n"
        "sys.exit(', '.join({'sqlalchemy', 'alembic', 'asyncpg'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, url],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
