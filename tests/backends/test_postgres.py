"""What only PostgreSQL can do to the ledger, and what only its backend promises."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from psycopg import errors
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from tests.support.postgres import (
    connect,
    empty_schema,
    fresh_postgres_url,
    in_schema,
    server_url,
)
from tests.support.processes import clean_environment
from tests.support.servers import refused_port
from tests.support.waiting import wait_until
from worker.backends import postgres, postgres_server
from worker.backends.migrate import migrate, migration_config
from worker.backends.opening import open_store
from worker.backends.postgres import QUERIES, SCHEMA, PostgresStore
from worker.backends.postgres_server import server_of
from worker.errors import (
    ConfigurationError,
    StoreError,
    StoreSchemaError,
    StoreUnavailable,
)
from worker.ledger.book import Book, Change, Entry, HistoryQuery, Outcome, SessionId, Written

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOT = datetime(2026, 11, 21, 9, 30, 0, 123456, tzinfo=UTC)
LONG = timedelta(minutes=10)
SHORT = timedelta(milliseconds=30)
SECRET = "s3cr3t-pass"


@pytest.fixture
def url() -> Iterator[str]:
    """An empty, migrated ledger."""
    with fresh_postgres_url() as url:
        yield url


@pytest.fixture
def unmigrated() -> Iterator[str]:
    with empty_schema() as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[PostgresStore]:
    store = PostgresStore(url)
    yield store
    store.close()


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection]:
    """Another's connection to the same ledger."""
    with connect(url) as connection:
        yield connection


def change(task: str = "sync", version: int = 0, **book: Any) -> Change:
    return Change(book=Book(task=task, version=version, **book))


def running(session: SessionId, task: str = "sync", **more: Any) -> Entry:
    given = {"slot": SLOT, "outcome": Outcome.RUNNING, "recorded_at": SLOT, "session": session}
    return Entry(task=task, **{**given, **more})


def backend(store: PostgresStore) -> int:
    """The process of the server that serves the store."""
    assert store._connection is not None
    return store._connection.info.backend_pid


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


# --- the schema


def test_a_database_without_tables_is_refused_with_the_command_that_makes_them(
    unmigrated: str,
) -> None:
    with pytest.raises(StoreSchemaError) as caught:
        open_store(unmigrated)
    said = str(caught.value)
    assert "has no tables of the worker" in said
    assert f"this worker needs schema {SCHEMA}" in said
    assert "`worker migrate`" in said


@pytest.mark.parametrize(
    ("found", "advice"),
    [("0000", "run `worker migrate`"), ("9999", "install a sidecar-worker at least as new")],
)
def test_tables_of_another_schema_are_refused(unmigrated: str, found: str, advice: str) -> None:
    migrate(unmigrated)
    with connect(unmigrated) as admin:
        admin.execute("UPDATE worker_alembic_version SET version_num = %s", [found])
    with pytest.raises(StoreSchemaError) as caught:
        open_store(unmigrated)
    said = str(caught.value)
    assert f"tables of schema {found}" in said
    assert f"this worker needs schema {SCHEMA}" in said
    assert advice in said


def test_newer_tables_are_not_migrated(unmigrated: str) -> None:
    migrate(unmigrated)
    with connect(unmigrated) as admin:
        admin.execute("UPDATE worker_alembic_version SET version_num = '9999'")
    with pytest.raises(StoreSchemaError, match="at least as new"):
        migrate(unmigrated)


def test_tables_that_no_migration_made_are_not_migrated(unmigrated: str) -> None:
    migrate(unmigrated)
    with connect(unmigrated) as admin:
        admin.execute("UPDATE worker_alembic_version SET version_num = '0000'")
    with pytest.raises(StoreSchemaError, match="'0000'"):
        migrate(unmigrated)


def test_migrate_says_what_was_and_what_is(unmigrated: str) -> None:
    assert migrate(unmigrated) == (None, SCHEMA)
    assert migrate(unmigrated) == (SCHEMA, SCHEMA)
    open_store(unmigrated).close()


def test_the_last_migration_is_the_one_this_worker_needs() -> None:
    scripts = ScriptDirectory.from_config(migration_config())
    names = [script.revision for script in scripts.walk_revisions()]
    assert scripts.get_current_head() == names[0] == SCHEMA
    assert names == sorted(names, reverse=True)


def test_a_migration_can_be_taken_back(unmigrated: str) -> None:
    migrate(unmigrated)
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(unmigrated), poolclass=NullPool
    )
    with engine.begin() as connection:
        command.downgrade(migration_config(connection), "base")
    with pytest.raises(StoreSchemaError, match="has no tables"):
        open_store(unmigrated)
    assert migrate(unmigrated) == (None, SCHEMA)


def test_four_processes_may_migrate_at_once(unmigrated: str) -> None:
    code = (
        "import sys; from worker.backends.migrate import migrate; "
        "input(); print(*migrate(sys.argv[1]))"
    )

    async def migrations() -> list[str]:
        processes = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", code, unmigrated),
                env=clean_environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            for _ in range(4)
        ]
        answers = await asyncio.gather(*(process.communicate(b"\n") for process in processes))
        assert [process.returncode for process in processes] == [0] * 4
        return sorted(out.decode().strip() for out, _ in answers)

    assert asyncio.run(migrations()) == [f"{SCHEMA} {SCHEMA}"] * 3 + [f"None {SCHEMA}"]
    open_store(unmigrated).close()


def test_a_migration_waits_for_another_before_it_looks(unmigrated: str) -> None:
    with connect(unmigrated) as other, ThreadPoolExecutor(1) as pool:
        with other.transaction():
            other.execute("SELECT pg_advisory_xact_lock(hashtext('sidecar-worker migrate'))")
            waiting = pool.submit(migrate, unmigrated)
            deadline = time.monotonic() + 10
            while not other.execute(
                "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ).fetchall():
                assert time.monotonic() < deadline
        assert waiting.result() == (None, SCHEMA)


def test_a_search_path_that_names_no_schema_is_explained() -> None:
    url = in_schema(server_url(), "nobody_made_this")
    with pytest.raises(StoreSchemaError, match="schema of the search_path to exist"):
        migrate(url)
    with pytest.raises(StoreSchemaError, match="search_path"):
        open_store(url)


def test_a_role_without_rights_is_told_which_it_lacks(url: str) -> None:
    with role_of(url) as (role, its_url), connect(url) as admin:
        with pytest.raises(StoreSchemaError, match="has no tables"):
            open_store(its_url)
        admin.execute(f"GRANT USAGE ON SCHEMA {schema_of(admin)} TO {role}")
        with pytest.raises(StoreSchemaError, match=r"permission denied.*may SELECT"):
            open_store(its_url)
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema_of(admin)} TO {role}")
        with pytest.raises(StoreSchemaError) as caught:
            open_store(its_url)
        assert f"the role {role} lacks rights" in str(caught.value)
        assert "DELETE on worker_books, INSERT on worker_books" in str(caught.value)
        admin.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON worker_books, worker_slots, worker_sessions"
            f" TO {role}"
        )
        store = open_store(its_url)
        assert store.open_session("one", LONG) > 0
        assert store.write([change()]) == [Written.DONE]
        assert migrate(its_url) == (SCHEMA, SCHEMA)
        admin.execute(f"REVOKE ALL ON worker_books FROM {role}")
        with pytest.raises(StoreUnavailable, match="permission denied"):
            store.tasks()
        store.close()


def schema_of(connection: psycopg.Connection) -> str:
    row = connection.execute("SELECT current_schema()").fetchone()
    assert row is not None
    return str(row[0])


def test_a_role_that_may_not_create_tables_cannot_migrate(unmigrated: str) -> None:
    with role_of(unmigrated) as (role, its_url), connect(unmigrated) as admin:
        admin.execute(f"GRANT USAGE ON SCHEMA {schema_of(admin)} TO {role}")
        with pytest.raises(StoreSchemaError, match=r"permission denied.*may CREATE"):
            migrate(its_url)


def test_a_database_that_cannot_hold_every_text_is_refused() -> None:
    name = f"worker_test_{uuid4().hex[:12]}"
    with connect(server_url()) as admin:
        admin.execute(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
            " STRATEGY file_copy"
        )
        try:
            with pytest.raises(StoreSchemaError, match="encoded in LATIN1; expected one in UTF8"):
                open_store(f"{server_url().rpartition('/')[0]}/{name}")
        finally:
            admin.execute(f"DROP DATABASE {name}")


def test_the_tables_read_well_for_people(store: PostgresStore, admin: psycopg.Connection) -> None:
    session = store.open_session("one", LONG)
    entry = running(session, outcome=Outcome.RAN, replica="one", run_id="abc", duration_ms=2.5)
    store.write([replace(change(), entries=(entry,))])
    (row,) = admin.execute("SELECT * FROM worker_slots").fetchall()
    assert row[:6] == ("sync", SLOT, "schedule", "ran", SLOT, None)
    (name,) = admin.execute(
        "SELECT name FROM worker_sessions s JOIN worker_slots ON session = s.id"
    ).fetchall()
    assert name == ("one",)


# --- the connection


def test_a_connection_that_the_server_ended_is_made_anew_by_the_next_call(
    store: PostgresStore, admin: psycopg.Connection
) -> None:
    session = store.open_session("one", LONG)
    assert store.write([change()]) == [Written.DONE]
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", [backend(store)])
    with pytest.raises(StoreUnavailable, match="PostgreSQL at postgresql://"):
        store.read(["sync"])
    assert store.read(["sync"])["sync"].version == 1
    store.renew(session, LONG)


def test_tables_that_vanish_make_the_store_unavailable_until_they_are_back(
    store: PostgresStore, admin: psycopg.Connection
) -> None:
    store.write([change()])
    admin.execute("ALTER TABLE worker_books RENAME TO elsewhere")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.tasks()
    admin.execute("ALTER TABLE elsewhere RENAME TO worker_books")
    assert store.tasks() == ["sync"]


def test_a_server_that_was_migrated_further_is_not_used_by_a_new_connection(
    unmigrated: str,
) -> None:
    migrate(unmigrated)
    store = PostgresStore(unmigrated)
    with connect(unmigrated) as admin:
        admin.execute("UPDATE worker_alembic_version SET version_num = '9999'")
        assert store.tasks() == []
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [backend(store)])
    for expected in ("terminat", "at least as new"):
        with pytest.raises(StoreUnavailable, match=expected):
            store.tasks()
    store.close()


def test_a_refused_connection_makes_the_store_unavailable() -> None:
    port = refused_port()
    with pytest.raises(StoreUnavailable, match=f"postgresql://127.0.0.1:{port}/test: .*refused"):
        open_store(f"postgresql://root:{SECRET}@127.0.0.1:{port}/test")
    with pytest.raises(StoreUnavailable, match="refused"):
        migrate(f"postgresql://root:{SECRET}@127.0.0.1:{port}/test")


def test_a_port_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="timeout"):
            open_store(f"postgresql://root@127.0.0.1:{port}/test?connect_timeout=2")
        assert time.monotonic() - began < 10


def test_an_answer_that_never_comes_is_given_up_and_the_next_call_works(
    store: PostgresStore, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_server, "ANSWER_S", 0.2)
    with admin.transaction():
        admin.execute("LOCK TABLE worker_books")
        with pytest.raises(StoreUnavailable, match=r"no answer for 0\.2 s"):
            store.tasks()
    monkeypatch.undo()
    assert store.tasks() == []


def test_a_lock_that_somebody_holds_makes_the_store_unavailable_for_a_while(
    url: str, admin: psycopg.Connection
) -> None:
    store = PostgresStore(f"{url}%20-clock_timeout%3D50")
    with admin.transaction():
        admin.execute("LOCK TABLE worker_books")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            store.tasks()
    assert store.tasks() == []
    store.close()


def test_the_server_limits_every_statement(store: PostgresStore) -> None:
    assert store._connection is not None
    for setting, value in {
        "application_name": "sidecar-worker",
        "statement_timeout": "10s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "10s",
        "TimeZone": "UTC",
        "transaction_isolation": "read committed",
    }.items():
        shown = store._connection.execute("SELECT current_setting(%s) AS set", [setting])
        assert shown.fetchone() == {"set": value}
    settings = {option.keyword: option.val for option in store._connection.pgconn.info}
    idle, interval, count = (
        int(settings[f"keepalives_{name}".encode()] or 0) for name in ("idle", "interval", "count")
    )
    assert idle + interval * count < 15
    assert int(settings[b"tcp_user_timeout"] or 0) < 15_000


def test_nothing_is_prepared_or_left_open_on_the_server(
    store: PostgresStore, admin: psycopg.Connection
) -> None:
    session = store.open_session("one", LONG)
    for version in range(10):
        entry = running(session, slot=SLOT + timedelta(seconds=version))
        book = store.read(["sync"])["sync"]
        assert store.write([Change(book=book, entries=(entry,))]) == [Written.DONE]
    assert store._connection is not None
    prepared = store._connection.execute("SELECT name FROM pg_prepared_statements")
    assert prepared.fetchall() == []
    pid = backend(store)
    state = admin.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", [pid])
    assert state.fetchone() == ("idle",)
    assert admin.execute("SELECT FROM pg_locks WHERE pid = %s", [pid]).fetchall() == []


# --- errors


def kinds_of_error(base: type[psycopg.Error] = psycopg.Error) -> set[type[psycopg.Error]]:
    found = {base}
    for kind in base.__subclasses__():
        found |= kinds_of_error(kind)
    return found


def test_no_error_of_psycopg_leaks(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = kinds_of_error()
    assert len(kinds) > 200

    class Failing:
        def __init__(self, error: psycopg.Error) -> None:
            self.error = error

        def execute(self, *_: object) -> None:
            raise self.error

        def close(self) -> None:
            raise self.error

    store.close()
    for kind in kinds:
        failing = Failing(kind("boom\n  at once"))
        problem = store._server.problem(failing.error)
        assert type(problem) in (StoreSchemaError, StoreUnavailable)
        assert "boom at once" in str(problem)
        for call in (
            lambda: store.open_session("one", LONG),
            lambda: store.renew(SessionId(1), LONG),
            lambda: store.close_session(SessionId(1)),
            lambda: store.read(["sync"]),
            lambda: store.write([change()]),
            lambda: store.tasks(),
            lambda: store.history(HistoryQuery()),
            lambda: store.replicas(),
            lambda: store.prune(age=LONG),
        ):
            monkeypatch.setattr(store, "_connection", failing)
            with pytest.raises(StoreUnavailable):
                call()
            assert store._connection is None
        monkeypatch.setattr(store, "_connection", failing)
        store.close()


@pytest.mark.parametrize("kind", [errors.DeadlockDetected, errors.SerializationFailure])
def test_what_the_server_asks_to_try_again_is_tried_again(
    store: PostgresStore, kind: type[psycopg.Error], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = store._connection
    assert connection is not None
    failures = [kind("a"), kind("b"), kind("c")]
    execute = connection.execute

    def fails_first(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return execute(*arguments)

    monkeypatch.setattr(connection, "execute", fails_first)
    assert store.write([change()]) == [Written.DONE]
    assert store._connection is connection


# --- URLs


HIDING = [
    f"postgresql://anna:{SECRET}@127.0.0.1:1/test",
    f"postgresql://anna:{SECRET}@nowhere.invalid/test",
    f"postgresql://127.0.0.1:1/test?user=anna&password={SECRET}",
    f"postgresql://anna:{SECRET}@127.0.0.1:port/test",
    f"postgresql://anna:{SECRET}@127.0.0.1:1/test?no_such_option=1",
    f"postgresql://anna:{SECRET}@127.0.0.1:1/test?sslmode=nonsense",
    f"postgresql://anna:{SECRET}@[::1/test",
    f"postgresql://anna:%zz{SECRET}@127.0.0.1:1/test",
    f"postgresql://anna:x/{SECRET}@127.0.0.1:1/test",
    f"postgresql://anna:12/{SECRET}@127.0.0.1:1/test",
    f"postgresql://anna:{SECRET}/x@127.0.0.1:1/test",
    f"postgresql://anna:x@{SECRET}@127.0.0.1:1/test",
    f"postgresql://anna:x?{SECRET}@127.0.0.1:1/test",
    f"postgresql://anna:{SECRET}?x@127.0.0.1:1/test",
    f"postgresql://anna:{SECRET}#x@127.0.0.1:1/test",
    f"postgresql://anna:x#{SECRET}@127.0.0.1:1/test",
]


@pytest.mark.parametrize("url", HIDING)
def test_no_message_tells_the_password(url: str) -> None:
    for use in (open_store, migrate):
        with pytest.raises((ConfigurationError, StoreUnavailable)) as caught:
            use(url)
        chain: BaseException | None = caught.value
        while chain is not None:
            assert SECRET not in f"{chain}{chain!r}"
            chain = chain.__cause__


def test_a_password_that_is_wrong_is_not_told_either() -> None:
    with pytest.raises(StoreError) as caught:
        open_store(f"postgresql://nobody_here:{SECRET}@{server_url().rpartition('@')[2]}")
    assert SECRET not in str(caught.value)
    assert "nobody_here" in str(caught.value)


@pytest.mark.parametrize(
    "scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+asyncpg", "POSTGRES"]
)
def test_a_url_may_begin_as_other_tools_have_it(url: str, scheme: str) -> None:
    store = open_store(f"{scheme}://{url.partition('://')[2]}")
    assert store.tasks() == []
    store.close()


def test_the_urls_options_win_over_the_workers() -> None:
    server = server_of(
        "postgresql://anna:p%40ss@one:1,two:2/ledger?sslmode=require&connect_timeout=9"
        "&application_name=shop&options=-csearch_path%3Dapp"
    )
    assert server.place == "postgresql://one:1,two:2/ledger"
    given = server.parameters
    assert given["password"] == "p@ss"
    assert (given["host"], given["port"], given["dbname"]) == ("one,two", "1,2", "ledger")
    assert (given["sslmode"], given["application_name"]) == ("require", "shop")
    assert given["connect_timeout"] == "9"
    assert given["options"].endswith(" -csearch_path=app")
    assert "p@ss" not in repr(server)


# --- writing


def test_texts_that_postgresql_cannot_hold_come_back_readable(store: PostgresStore) -> None:
    session = store.open_session("one\0", LONG)
    entry = running(session, error="a\0b\0\0 \\u0000 \\\0 \ud800 \N{SNOWMAN}")
    book = Book(task="sync", last_error="nul \0")
    assert store.write([Change(book=book, entries=(entry,))]) == [Written.DONE]
    kept = store.read(["sync"])["sync"]
    assert kept.last_error == "nul \ufffd"
    expected = "a\ufffdb\ufffd\ufffd \\u0000 \\\ufffd ? \N{SNOWMAN}"
    assert kept.active[0].error == expected
    assert store.replicas()[0].name == "one\ufffd"


def test_two_changes_of_one_book_follow_one_another(store: PostgresStore) -> None:
    changes = [change(runs=1), change("other"), change(version=1, runs=2), change(runs=3)]
    done, outdated = Written.DONE, Written.OUTDATED
    assert store.write(changes) == [done, done, done, outdated]
    assert store.read(["sync"])["sync"] == Book(task="sync", version=2, runs=2)


def test_of_two_entries_with_one_key_the_last_is_kept(store: PostgresStore) -> None:
    session = store.open_session("one", LONG)
    first, last = running(session, error="first"), running(session, error="last")
    assert store.write([replace(change(), entries=(first, last))]) == [Written.DONE]
    assert store.read(["sync"])["sync"].active == (last,)


def test_writing_nothing_asks_nobody(store: PostgresStore) -> None:
    store.close()
    assert store.write([]) == []


@pytest.mark.parametrize("known", [True, False], ids=["of known tasks", "of new tasks"])
def test_replicas_that_write_the_same_books_in_opposite_order_never_deadlock(
    url: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "TRIES", 1)
    tasks = [f"task_{number:02}" for number in range(40)]
    rounds = 20

    def write_in(order: int) -> int:
        store = PostgresStore(url)
        session = store.open_session(f"order {order}", LONG)
        done = 0
        for number in range(rounds):
            names = tasks if known else [f"{task}_{number}" for task in tasks]
            books = store.read(names)
            written = store.write(
                [
                    Change(
                        book=books[task],
                        entries=(running(session, task, slot=SLOT + books[task].version * LONG),),
                        session=session,
                    )
                    for task in names[::order]
                ]
            )
            assert set(written) <= {Written.DONE, Written.OUTDATED}
            done += written.count(Written.DONE)
        store.close()
        return done

    with ThreadPoolExecutor(4) as pool:
        done = sum(pool.map(write_in, (1, -1, 1, -1)))
    reader = PostgresStore(url)
    versions = [book.version for book in reader.read(reader.tasks()).values()]
    assert sum(versions) == done == len(reader.history(HistoryQuery(limit=100_000)))
    assert done >= len(tasks) * rounds
    reader.close()


async def test_a_replica_suspended_between_reading_and_writing_loses(url: str) -> None:
    suspended, other = PostgresStore(url), PostgresStore(url)
    session = suspended.open_session("suspended", SHORT)
    book = suspended.read(["sync"])["sync"]
    late = Change(book=book, entries=(running(session),), session=session)
    await wait_until(lambda: not other.replicas()[0].alive, "its lease has run out")
    assert suspended.write([late]) == [Written.NO_LEASE]
    mine = other.open_session("other", LONG)
    taken_over = Change(book=book, entries=(running(mine),), session=mine)
    assert other.write([taken_over]) == [Written.DONE]
    assert suspended.write([late]) == [Written.OUTDATED]
    assert other.read(["sync"])["sync"].active == (running(mine),)
    suspended.close()
    other.close()


def test_a_change_that_waited_for_another_looks_at_the_version_again(
    store: PostgresStore, admin: psycopg.Connection
) -> None:
    """And its neighbours in the batch are made all the same."""
    session = store.open_session("one", LONG)
    store.write([change(), change("zebra")])
    late = [
        Change(book=Book(task=task, version=1), entries=(running(session, task),))
        for task in ("sync", "zebra")
    ]
    with ThreadPoolExecutor(1) as pool:
        with admin.transaction():
            admin.execute("UPDATE worker_books SET version = 2 WHERE task = 'sync'")
            waiting = pool.submit(store.write, late)
            wait_for_lock(admin, backend(store))
        assert waiting.result() == [Written.OUTDATED, Written.DONE]
    assert [entry.task for entry in store.history(HistoryQuery())] == ["zebra"]


def test_a_first_change_that_waited_for_another_is_outdated(
    store: PostgresStore, admin: psycopg.Connection
) -> None:
    session = store.open_session("one", LONG)
    first = Change(book=Book(task="sync"), entries=(running(session),))
    with ThreadPoolExecutor(1) as pool:
        with admin.transaction():
            admin.execute("INSERT INTO worker_books VALUES ('sync', 1, '{}')")
            waiting = pool.submit(store.write, [first, change("zebra")])
            wait_for_lock(admin, backend(store))
        assert waiting.result() == [Written.OUTDATED, Written.DONE]
    assert store.history(HistoryQuery()) == []


def wait_for_lock(admin: psycopg.Connection, pid: int) -> None:
    """Until the process of the server waits for a lock that another holds."""
    deadline = time.monotonic() + 10
    query = "SELECT FROM pg_locks WHERE pid = %s AND NOT granted"
    while not admin.execute(query, [pid]).fetchall():
        assert time.monotonic() < deadline


async def test_dead_sessions_are_pruned_once_nothing_depends_on_them(store: PostgresStore) -> None:
    needed, free = store.open_session("one", SHORT), store.open_session("two", SHORT)
    living = store.open_session("three", LONG)
    store.write([replace(change(), entries=(running(needed),))])
    await wait_until(lambda: sum(r.alive for r in store.replicas()) == 1, "the leases ran out")

    def left() -> list[SessionId]:
        store.prune(age=timedelta(0))
        return [replica.session for replica in store.replicas()]

    await wait_until(lambda: free not in left(), "the free one is pruned")
    assert left() == [living, needed]


# --- the package


def test_running_imports_neither_sqlalchemy_nor_alembic(url: str) -> None:
    code = (
        "import sys; from worker.backends.opening import open_store; "
        "open_store(sys.argv[1]).close(); "
        "sys.exit(', '.join({'sqlalchemy', 'alembic'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, url],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_query_is_described_and_used() -> None:
    file = Path(postgres.__file__).with_suffix(".sql")
    lines = file.read_text("utf-8").splitlines()
    source = Path(postgres.__file__).read_text("utf-8")
    assert len(QUERIES) == 12
    for name in QUERIES:
        assert lines[lines.index(f"-- name: {name}") + 1].startswith("-- ")
        assert f'"{name}"' in source
