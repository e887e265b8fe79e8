"""Jobs in the caller's own transaction on PostgreSQL, from Python and from SQL alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from inspect import isawaitable
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote
from uuid import UUID

import asyncpg
import psycopg
import pytest
import sqlalchemy
from psycopg import errors
from psycopg.rows import dict_row
from pydantic import AfterValidator
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from tests.support.jobs import LONG, QUEUE, SECOND, get, lease_now, lease_one, new
from tests.support.postgres import connect, fresh_postgres_url
from worker import ConcurrencyPer, UniquePer, task
from worker.client.client import WorkerClient
from worker.errors import InvalidOptions, StoreSchemaError
from worker.jobs.declaration import Declaration, left_open
from worker.jobs.job import Enqueued, JobId, Unique
from worker.model import State
from worker.queues.postgres import PostgresJobs
from worker.queues.postgres_transaction import enqueue_in
from worker.tasks.base import TaskDefinition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from worker.jobs.job import NewJob

WAITING = (State.PENDING, State.STARTED, State.RETRY)


@pytest.fixture
def url() -> Iterator[str]:
    with fresh_postgres_url() as url:
        yield url


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresJobs]:
    store = PostgresJobs(url)
    await store.open()
    yield store
    await store.close()


class Caller:
    """The caller's connection, in the middle of a transaction."""

    def __init__(self, connection: Any, execute: Callable[[str], Any], ends: Any) -> None:
        self.connection = connection
        self._execute = execute
        self._ends = ends

    async def execute(self, statement: str) -> None:
        await done(self._execute(statement))

    async def enqueue(self, jobs: list[NewJob]) -> list[Enqueued]:
        told: list[Enqueued] = await done(enqueue_in(self.connection, jobs))
        return told

    async def commit(self) -> None:
        await done(self._ends.commit())

    async def rollback(self) -> None:
        await done(self._ends.rollback())


async def done(answer: Any) -> Any:
    return await answer if isawaitable(answer) else answer


@asynccontextmanager
async def over_psycopg(url: str) -> AsyncIterator[Caller]:
    # Rows and cursors as nobody here has them.
    with psycopg.connect(url, row_factory=dict_row, cursor_factory=psycopg.RawCursor) as connection:
        yield Caller(connection, connection.execute, connection)


@asynccontextmanager
async def over_async_psycopg(url: str) -> AsyncIterator[Caller]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield Caller(connection, connection.execute, connection)


@asynccontextmanager
async def over_asyncpg(url: str) -> AsyncIterator[Caller]:
    connection = await asyncpg.connect(**asyncpg_arguments(url))
    transaction = connection.transaction()
    await transaction.start()
    # As some applications have it.
    await connection.set_type_codec("json", encoder=repr, decoder=repr, schema="pg_catalog")
    try:
        yield Caller(connection, connection.execute, transaction)
    finally:
        await connection.close()


def asyncpg_arguments(url: str) -> dict[str, Any]:
    place, _, query = url.partition("?")
    path = unquote(query).partition("search_path=")[2]
    return {"dsn": place, "server_settings": {"search_path": path}}


def engine_of(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url.replace("://", "+psycopg://"), poolclass=NullPool)


@asynccontextmanager
async def over_sqlalchemy(url: str) -> AsyncIterator[Caller]:
    with engine_of(url).connect() as connection:
        yield Caller(connection, connection.exec_driver_sql, connection)


@asynccontextmanager
async def over_session(url: str) -> AsyncIterator[Caller]:
    with Session(engine_of(url)) as session:
        yield Caller(session, lambda said: session.execute(sqlalchemy.text(said)), session)


@asynccontextmanager
async def over_scoped_session(url: str) -> AsyncIterator[Caller]:
    session = scoped_session(sessionmaker(engine_of(url)))
    yield Caller(session, lambda said: session.execute(sqlalchemy.text(said)), session)
    session.remove()


@asynccontextmanager
async def over_async_sqlalchemy(url: str) -> AsyncIterator[Caller]:
    engine = create_async_engine(
        url.partition("?")[0].replace("://", "+asyncpg://"),
        connect_args={"server_settings": asyncpg_arguments(url)["server_settings"]},
        poolclass=NullPool,
    )
    async with engine.connect() as connection:
        yield Caller(connection, connection.exec_driver_sql, connection)


@asynccontextmanager
async def over_async_session(url: str) -> AsyncIterator[Caller]:
    engine = create_async_engine(url.replace("://", "+psycopg://"), poolclass=NullPool)
    async with AsyncSession(engine) as session:
        yield Caller(session, lambda said: session.execute(sqlalchemy.text(said)), session)


KINDS = [
    over_psycopg,
    over_async_psycopg,
    over_asyncpg,
    over_sqlalchemy,
    over_session,
    over_scoped_session,
    over_async_sqlalchemy,
    over_async_session,
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__.removeprefix("over_"))
async def caller(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Caller]:
    with connect(url) as admin:
        admin.execute("CREATE TABLE IF NOT EXISTS orders (number integer PRIMARY KEY)")
    async with request.param(url) as caller:
        yield caller


def orders(url: str) -> list[int]:
    with connect(url) as admin:
        return [number for (number,) in admin.execute("SELECT number FROM orders").fetchall()]


async def test_a_job_is_there_once_the_business_data_are(
    url: str, caller: Caller, store: PostgresJobs
) -> None:
    await caller.execute("INSERT INTO orders VALUES (7)")
    job = new(
        "send_invoice",
        params='{"order": 7, "note": "\\u0000 “ 100 % :x ; \N{SNOWMAN}"}',
        version=3,
        priority=5,
        expires=LONG,
        options='{"max_retries": 2}',
        headers='{"traceparent": "00-abc"}',
        unique=Unique("order-7", WAITING),
        concurrency_key="c",
        concurrency_limit=3,
    )
    other = new(delay=LONG)
    told = await caller.enqueue([job, other, new(unique=Unique("order-7", WAITING)), job])
    assert told == [
        Enqueued(job.id, created=True),
        Enqueued(other.id, created=True),
        Enqueued(job.id, created=False),
        Enqueued(job.id, created=False),
    ]
    assert await lease_now(store) == []
    assert await store.get([job.id]) == [None]
    await caller.commit()
    assert orders(url) == [7]
    lease = await lease_one(store)
    for name in ("id", "task", "queue", "params", "version", "priority", "options", "headers"):
        assert getattr(lease, name) == getattr(job, name), name
    kept = await get(store, job.id)
    assert (kept.unique_key, kept.concurrency_key) == ("order-7", "c")
    assert (await get(store, other.id)).state is State.PENDING


async def test_a_job_is_not_there_if_the_business_data_are_not(
    url: str, caller: Caller, store: PostgresJobs
) -> None:
    await caller.execute("INSERT INTO orders VALUES (7)")
    job = new(unique=Unique("order-7", WAITING))
    assert await caller.enqueue([job]) == [Enqueued(job.id, created=True)]
    assert await caller.enqueue([]) == []
    await caller.rollback()
    assert orders(url) == []
    assert await store.get([job.id]) == [None]
    again = new(unique=Unique("order-7", WAITING))
    assert await store.enqueue([again]) == [Enqueued(again.id, created=True)]


async def test_who_waits_for_jobs_is_woken_by_the_commit(
    caller: Caller, store: PostgresJobs
) -> None:
    waiting = asyncio.create_task(
        store.lease(QUEUE, limit=1, ttl=LONG, wait=10 * SECOND, worker="one")
    )
    job = new()
    await caller.enqueue([job])
    assert not waiting.done()
    await caller.commit()
    async with asyncio.timeout(2):
        assert [lease.id for lease in await waiting] == [job.id]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.removeprefix("over_"))
async def test_a_connection_whose_search_path_has_no_tables_is_told_so(
    url: str, kind: Callable[[str], Any]
) -> None:
    elsewhere = f"{url.partition('options=')[0]}options=-csearch_path%3Dpg_catalog"
    async with kind(elsewhere) as caller:
        with pytest.raises(StoreSchemaError, match=r"worker_enqueue_jobs.*search_path"):
            await caller.enqueue([new()])


class Connection:
    """Has the name of one, and nothing else."""


@pytest.mark.parametrize("connection", [Connection(), None, 7, sqlalchemy, "postgresql://x"])
def test_any_other_connection_is_refused(connection: object) -> None:
    with pytest.raises(InvalidOptions, match=r"expected a Connection, Session.*; got \w+\.\w+"):
        enqueue_in(connection, [new()])


def test_an_engine_or_a_pool_is_no_connection(url: str) -> None:
    with pytest.raises(InvalidOptions, match=r"got sqlalchemy\.engine\.base\.Engine"):
        enqueue_in(engine_of(url), [new()])


async def test_a_connection_of_a_pool_of_asyncpg_will_do(url: str, store: PostgresJobs) -> None:
    job = new()
    async with (
        asyncpg.create_pool(**asyncpg_arguments(url), min_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        await done(enqueue_in(connection, [job]))
    assert (await lease_one(store)).id == job.id


async def test_an_error_of_the_callers_transaction_stays_the_callers(url: str) -> None:
    with psycopg.connect(url) as connection:
        with pytest.raises(errors.UndefinedTable):
            connection.execute("SELECT FROM nowhere")
        with pytest.raises(errors.InFailedSqlTransaction):
            enqueue_in(connection, [new()])
        connection.rollback()


async def test_the_client_enqueues_over_a_connection_of_any_kind(
    caller: Caller, store: PostgresJobs
) -> None:
    async with WorkerClient(jobs=store) as client:
        handle = await client.enqueue("ping", {"n": 1}, connection=caller.connection)
        many = await client.enqueue_many("ping", [{"n": 2}] * 2, connection=caller.connection)
        assert await handle.status() is State.UNKNOWN
        await caller.commit()
        assert {await one.status() for one in [handle, *many]} == {State.PENDING}


# SQL alone


@pytest.fixture
def sql(url: str) -> Iterator[Callable[..., str]]:
    """What ``SELECT worker_enqueue(…)`` answers."""
    with connect(url) as admin:

        def ask(arguments: str, *parameters: object) -> str:
            row = admin.execute(f"SELECT worker_enqueue({arguments})", parameters).fetchone()
            assert row is not None
            assert isinstance(row[0], str)
            return row[0]

        yield ask


async def test_sql_alone_enqueues_a_job(sql: Callable[..., str], store: PostgresJobs) -> None:
    job = sql("""'send_invoice', '{"order_id": 7}'""")
    lease = await lease_one(store)
    assert (lease.id, lease.task, lease.params) == (job, "send_invoice", '{"order_id": 7}')
    assert (lease.version, lease.priority, lease.headers) == (1, 0, "{}")
    assert left_open(lease.options) == ("priority", "expires", "unique", "concurrency")
    assert lease.expires_at is None


async def test_sql_alone_knows_the_queues_that_workers_published(
    sql: Callable[..., str], store: PostgresJobs
) -> None:
    invoices = Declaration(task="send_invoice", queue="billing", version=3)
    await store.publish([invoices, Declaration(task="ping")])
    await store.publish([replace(invoices, queue="invoices", version=4)])
    await store.publish([invoices])  # by an older worker that starts again
    await store.publish([])
    job = sql("'send_invoice'")
    lease = await lease_one(store, queue="invoices")
    assert (lease.id, lease.version) == (job, 4)
    sql("'send_invoice', queue => 'other'")
    assert (await lease_one(store, queue="other")).version == 4


async def test_sql_alone_says_all_that_can_be_said_of_a_job(
    sql: Callable[..., str], store: PostgresJobs
) -> None:
    job = sql(
        """
        task => 'ping', params => %s::jsonb, id => 'order:7', queue => 'billing', priority => 9,
        delay => '5 minutes', expires => '1 hour', options => '{"max_retries": 2}',
        headers => '{"traceparent": "00-abc"}', unique_key => 'u', unique_for => '1 day',
        unique_states => '{PENDING}', concurrency_key => 'c', concurrency_limit => 3
        """,
        '{"a": "\N{SNOWMAN}"}',
    )
    assert job == "order:7"
    kept = await get(store, new(id=job).id)
    assert (kept.queue, kept.priority, kept.params) == ("billing", 9, '{"a": "\N{SNOWMAN}"}')
    assert (kept.options, kept.headers) == ('{"max_retries": 2}', '{"traceparent": "00-abc"}')
    assert (kept.unique_key, kept.concurrency_key) == ("u", "c")
    assert kept.ready_at - kept.created_at == timedelta(minutes=5)
    assert kept.expires_at is not None
    assert kept.expires_at - kept.created_at == timedelta(hours=1)
    assert sql("'other', unique_key => 'u'") == job
    with pytest.raises(errors.UniqueViolation, match="job order:7 exists already: it is of the"):
        sql("'other', id => 'order:7'")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("'ping', '[1]'", "params: expected a JSON object, got array"),
        ("'ping', NULL", "params: expected a JSON object, got null"),
        ("'ping', 'null'", "params: expected a JSON object, got null"),
        (
            "'ping', jsonb_build_object('a', repeat('x', 300000))",
            "params: expected up to 262144 bytes, got 300009",
        ),
        ("'ping', id => repeat('x', 201)", "id: expected up to 200 letters.*; got 201 characters"),
        ("'ping', id => '-x'", "id: expected up to 200 letters"),
        ("'ping', id => ''", "id: expected up to 200 letters"),
        ("'ping', id => E'a\\nb'", "id: expected up to 200 letters"),
        ("NULL", "task: expected a name"),
        ("''", "task: expected a name"),
        ("'ping', queue => 'a b'", "queue: expected up to 80 letters"),
        ("'ping', queue => 'sqs/x'", "queue: expected up to 80 letters"),
        ("'ping', priority => 101", "priority: expected -100 to 100"),
        ("'ping', delay => '-1 s'", "delay: expected an interval that is not negative"),
        ("'ping', expires => '0'", "expires: expected an interval greater than zero"),
        ("'ping', options => '7'", "options: expected a JSON object"),
        ("'ping', headers => '[]'", "headers: expected a JSON object"),
        ("'ping', unique_states => '{NEW}'", "unique_states: expected some of PENDING"),
        ("'ping', unique_for => '0'", "unique_for: expected an interval greater than zero"),
        ("'ping', concurrency_limit => 0", "concurrency_limit: expected 1 or more"),
        ("'ping', delay => '9000 years'", "delay: expected up to 366 days, got 9000 years"),
        ("'ping', delay => '366 days 1 s'", "delay: expected up to 366 days"),
        ("'ping', expires => '9000 years'", "expires: expected up to 366 days, got 9000 years"),
        ("'ping', unique_for => '2 years'", "unique_for: expected up to 366 days, got 2 years"),
        (
            "'ping', unique_key => repeat(md5('x'), 300)",
            "unique_key: expected up to 500 characters, got 9600",
        ),
        (
            "'ping', concurrency_key => repeat(md5('x'), 300)",
            "concurrency_key: expected up to 500 characters, got 9600",
        ),
    ],
)
async def test_sql_alone_is_told_what_is_wrong(
    sql: Callable[..., str], store: PostgresJobs, arguments: str, said: str
) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=f"worker_enqueue: {said}"):
        sql(arguments)
    assert await store.counts() == []


async def test_psql_enqueues_in_a_transaction(url: str, store: PostgresJobs) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is missing: it is not in PATH")

    def run(script: str) -> Awaitable[subprocess.CompletedProcess[str]]:
        command = [psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", url]
        return asyncio.to_thread(
            subprocess.run, command, input=script, capture_output=True, text=True, check=False
        )

    done = await run("SELECT worker_enqueue('ping', id => 'x');")
    assert "no worker has published a task ping yet, so the job waits in" in done.stderr
    assert (await lease_one(store)).id == "x"
    await store.publish([Declaration(task="ping")])
    asked = "BEGIN; SELECT worker_enqueue('ping', '{\"n\": 1}');"
    done = await run(f"{asked} ROLLBACK;")
    assert (done.returncode, done.stderr) == (0, "")
    assert await lease_now(store) == []
    done = await run(f"{asked} COMMIT;")
    lease = await lease_one(store)
    assert (lease.id, lease.params) == (done.stdout.strip(), '{"n": 1}')
    done = await run("SELECT worker_enqueue('ping', '7');")
    assert "worker_enqueue: params: expected a JSON object, got number" in done.stderr


@task(name="wide", queue="default", unique=UniquePer(), concurrency=ConcurrencyPer("order"))
async def wide(
    order: int,
    note: str = "none",
    price: Decimal = Decimal("1.0"),
    ref: UUID | None = None,
    ratio: float = 0.5,
    *,
    is_new: bool = False,
) -> None: ...


@task(name="lower", queue="q", unique=True, expires="1h", priority=4)
async def lower(email: Annotated[str, AfterValidator(str.lower)]) -> None: ...


async def publish(store: PostgresJobs, *tasks: Any) -> None:
    definitions = [TaskDefinition.of(one) for one in tasks]
    await store.publish(
        [Declaration.of(d.name, d.params, d.options) for d in definitions if d.options is not None]
    )


@pytest.mark.parametrize(
    "said",
    [
        {"order": 7},
        {"order": 7.0, "price": 1, "note": "none"},
        {"order": 7, "price": "1.50", "note": '\N{SNOWMAN} \\ " \n \N{PILE OF POO}'},
        {"order": 7, "ref": "6b6b6b6b-AAAA-aaaa-aaaa-000000000000", "is_new": True},
        {"order": -(10**30), "price": "-0.10", "ratio": 1e-9},
        {"order": 1, "ratio": 1e22, "ref": None},
        {"order": 1, "ratio": 0.1, "price": 12345.678},
    ],
)
async def test_sql_alone_makes_the_keys_that_the_task_declares(
    sql: Callable[..., str], store: PostgresJobs, said: dict[str, Any]
) -> None:
    await publish(store, wide)
    client = WorkerClient(jobs=store)
    job = sql("'wide', %s::jsonb", json.dumps(said))
    again = await client.enqueue(wide, said)
    assert (again.id, again.created) == (job, False)
    assert sql("'wide', %s::jsonb", json.dumps(said)) == job
    assert (await client.enqueue("wide", said)).id == job
    own = await client.enqueue(wide, said, unique=False)
    one, other = await store.get([JobId(job), own.id])
    assert one is not None and other is not None  # noqa: PT018
    assert one.concurrency_key == other.concurrency_key
    assert (one.unique_key, one.options) != (None, "{}")
    assert sql("'wide', %s::jsonb, unique_key => ''", json.dumps(said)) not in (job, own.id)


async def test_sql_alone_leaves_to_the_worker_what_only_the_code_knows(
    sql: Callable[..., str], store: PostgresJobs
) -> None:
    await publish(store, lower)
    job = await get(store, JobId(sql("""'lower', '{"email": "A"}'""")))
    assert left_open(job.options) == ("unique",)
    assert (job.queue, job.priority) == ("q", 4)
    assert job.expires_at == job.created_at + timedelta(hours=1)
    own = await get(
        store, JobId(sql("""'lower', '{"email": "B"}', priority => 0, expires => '5 min'"""))
    )
    assert own.priority == 0
    assert own.expires_at == own.created_at + timedelta(minutes=5)


async def test_sql_alone_is_told_that_an_id_is_taken(
    sql: Callable[..., str], store: PostgresJobs
) -> None:
    await publish(store, wide)
    client = WorkerClient(jobs=store)
    job = await client.enqueue(wide, {"order": 1}, id="x")
    assert sql("""'wide', '{"order": 1.0, "price": "1.00"}', id => 'x'""") == job.id
    assert sql("""'wide', '{"order": 1}', id => 'x', priority => 0""") == job.id
    for arguments, said in (
        ("""'wide', '{"order": 2}', id => 'x'""", "other parameters"),
        ("""'lower', '{"order": 1}', id => 'x'""", "of the task wide"),
        ("""'wide', '{"order": 1}', id => 'x', queue => 'other'""", "in the queue default"),
        ("""'wide', '{"order": 1}', id => 'x', priority => 3""", "its priority is 0"),
        ("""'wide', '{"order": 1}', id => 'x', options => '{"max_retries": 1}'""", "options"),
    ):
        with pytest.raises(errors.UniqueViolation, match=f"job x exists already: .*{said}"):
            sql(arguments)
    await job.cancel()
    with pytest.raises(errors.UniqueViolation, match="it is REVOKED"):
        sql("""'wide', '{"order": 1}', id => 'x'""")


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 BC"])
@pytest.mark.parametrize("column", ["ready_at", "due_at", "expires_at"])
async def test_no_moment_is_stored_that_a_worker_cannot_read(
    url: str, sql: Callable[..., str], store: PostgresJobs, column: str, moment: str
) -> None:
    sql("'ping'")
    with connect(url) as admin, pytest.raises(errors.CheckViolation, match="readable"):
        admin.execute(f"UPDATE worker_queue SET {column} = '{moment}'")
