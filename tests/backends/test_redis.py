"""What only Redis can do to the ledger: each test has a redis-server of its own."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.redis_server import BINARY, MISSING, RedisServer, redis_server
from tests.support.servers import refused_port
from tests.support.waiting import wait_until
from worker.backends.opening import open_store
from worker.backends.redis import RedisStore
from worker.errors import ConfigurationError, LeaseLost, StoreSchemaError, StoreUnavailable
from worker.ledger.book import Book, Change, Entry, HistoryQuery, Outcome, SessionId, Written
from worker.model import Trigger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SLOT = datetime(2026, 11, 21, 9, 30, 0, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LONG = timedelta(minutes=10)
LONGEST_WAIT_S = 15.0
PASSWORD = "se/cr et"
ESCAPED = "se%2Fcr%20et"

pytestmark = pytest.mark.skipif(BINARY is None, reason=MISSING)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, appendonly="yes", appendfsync="always") as server:
        yield server


@contextmanager
def opened(url: str) -> Iterator[RedisStore]:
    with closing(RedisStore(url)) as store:
        yield store


def ran(slot: datetime = SLOT, task: str = "sync", **others: Any) -> Entry:
    values = {"outcome": Outcome.RAN, "recorded_at": slot + SECOND, **others}
    return Entry(task=task, slot=slot, **values)


def running(session: SessionId, slot: datetime = SLOT, task: str = "sync") -> Entry:
    return ran(slot, task, outcome=Outcome.RUNNING, session=session, replica="one")


def change(version: int, *entries: Entry, session: SessionId | None = None) -> Change:
    return Change(
        book=Book(task="sync", version=version, runs=version), entries=entries, session=session
    )


def test_a_restart_of_redis_forgets_nothing_that_it_wrote_to_its_file(server: RedisServer) -> None:
    with opened(server.url) as store:
        session = store.open_session("one", LONG)
        entries = (running(session), ran(SLOT - SECOND))
        assert store.write([change(0, *entries, session=session)]) == [Written.DONE]
        book = store.read(["sync"])
        server.end()
        server.start()
        assert store.read(["sync"]) == book
        assert store.history(HistoryQuery()) == list(entries)
        assert store.renew(session, LONG).orphaned == frozenset()
        assert store.write([change(1, session=session)]) == [Written.DONE]


def test_a_killed_redis_is_told_of_and_used_again_once_it_is_back(server: RedisServer) -> None:
    with opened(server.url) as store:
        session = store.open_session("one", LONG)
        server.end(signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=f":{server.port}/0 cannot be reached"):
                store.renew(session, LONG)
            with pytest.raises(StoreUnavailable):
                store.write([change(0)])
        server.start()
        store.renew(session, LONG)
        assert store.write([change(0)]) == [Written.DONE]


def test_session_ids_do_not_start_anew_if_redis_forgot_everything(server: RedisServer) -> None:
    with opened(server.url) as store:
        before = store.open_session("one", LONG)
        server.ask("FLUSHALL")
        with pytest.raises(LeaseLost):
            store.renew(before, LONG)
        after = store.open_session("one", LONG)
        assert after >= before
        server.ask("SET", "worker:last_session", str(after + 1000))
        assert store.open_session("one", LONG) == after + 1001


def test_scripts_that_redis_forgot_are_sent_again(server: RedisServer) -> None:
    with opened(server.url) as store:
        for number in range(3):
            server.ask("SCRIPT", "FLUSH")
            assert store.write([change(number)]) == [Written.DONE]
        server.ask("SCRIPT", "FLUSH")
        tasks = [f"task_{number}" for number in range(250)]
        changes = [Change(book=Book(task=task)) for task in tasks]
        assert store.write(changes) == [Written.DONE] * 250
        assert store.tasks() == sorted([*tasks, "sync"])


def test_a_full_memory_is_told_of_and_nothing_is_half_written(server: RedisServer) -> None:
    with opened(server.url) as store:
        session = store.open_session("one", LONG)
        store.write([change(0, running(session), ran(SLOT - SECOND))])
        book, history = store.read(["sync"]), store.history(HistoryQuery())
        kept = everything(server)
        server.ask("CONFIG", "SET", "maxmemory", "1")
        more = [change(1, ran(), running(session, SLOT + SECOND), session=session)]
        for write in (
            lambda: store.write(more),
            lambda: store.open_session("two", LONG),
            lambda: store.renew(session, LONG),
        ):
            with pytest.raises(StoreUnavailable, match="has reached its maxmemory"):
                write()
        assert everything(server) == kept
        assert store.read(["sync"]) == book
        assert store.history(HistoryQuery()) == history
        assert store.prune(age=timedelta(0)) in (0, 1)
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert store.write(more) == [Written.DONE]


def everything(server: RedisServer) -> dict[str, bytes]:
    """All that Redis keeps, as it would dump it."""
    keys: list[str] = server.ask("KEYS", "*")
    return {key: server.ask_raw("DUMP", key) for key in keys}


def test_a_disk_that_takes_no_snapshot_is_told_of(tmp_path: Path) -> None:
    with redis_server(tmp_path, save="3600 1000") as server, opened(server.url) as store:
        store.write([change(0)])
        (tmp_path / "dump.rdb").mkdir()
        server.ask("BGSAVE")
        server.wait_for("Background saving error")
        with pytest.raises(StoreUnavailable, match="cannot save to its disk"):
            store.write([change(1)])
        assert store.read(["sync"])["sync"].version == 1


def test_the_password_is_needed_and_never_told(tmp_path: Path) -> None:
    with redis_server(tmp_path, requirepass=PASSWORD) as server:
        with opened(f"redis://:{ESCAPED}@127.0.0.1:{server.port}/0") as store:
            assert store.write([change(0)]) == [Written.DONE]
            assert not any(PASSWORD in warning for warning in store.warnings)
        for credentials in ("", ":wr0ng@", f"nobody:{ESCAPED}@"):
            with pytest.raises(StoreUnavailable, match="refused the credentials") as caught:
                RedisStore(f"redis://{credentials}127.0.0.1:{server.port}/0")
            told = whole_story(caught.value)
            assert f"redis://127.0.0.1:{server.port}/0" in told
            assert not [word for word in ("wr0ng", PASSWORD, ESCAPED) if word in told]


def test_a_server_that_repeats_the_password_is_not_quoted(tmp_path: Path) -> None:
    config = tmp_path / "redis.conf"
    config.write_text('rename-command AUTH ""\n')
    with redis_server(tmp_path, include=str(config)) as server:
        with pytest.raises(StoreUnavailable, match="withheld") as caught:
            RedisStore(f"redis://:{ESCAPED}@127.0.0.1:{server.port}/0")
        assert PASSWORD not in whole_story(caught.value)


def whole_story(exc: BaseException) -> str:
    """All that a traceback says, its causes too."""
    told = [str(exc), repr(exc)]
    while cause := exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__):
        told += [str(cause), repr(cause)]
        exc = cause
    return "\n".join(told)


def test_a_user_who_may_not_write_is_refused_with_what_is_missing(server: RedisServer) -> None:
    with opened(server.url) as store:
        store.write([change(0)])
    server.ask(
        *("ACL", "SETUSER", "reader", "on", f">{PASSWORD}", "~worker:*", "+@read", "+@scripting"),
        *("+@connection", "-@admin", "+time"),
    )
    url = server.url.replace("//", f"//reader:{ESCAPED}@")
    with pytest.raises(StoreSchemaError, match=r"reader lacks rights .*HSET.*on worker:\*"):
        RedisStore(url)
    server.ask("ACL", "SETUSER", "reader", "+@write")
    with opened(url) as store:
        assert store.warnings == ()
        assert store.write([change(1)]) == [Written.DONE]


def test_a_replica_is_read_and_takes_no_writes(server: RedisServer, tmp_path: Path) -> None:
    with opened(server.url) as store:
        store.write([change(0)])
    server.ask("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    folder = tmp_path / "replica"
    folder.mkdir()
    with redis_server(folder, replicaof=f"127.0.0.1 {server.port}") as replica:
        replica.wait_for("Finished with success", "Successful partial resynchronization")
        with opened(replica.url) as store:
            assert any("is a replica" in warning for warning in store.warnings)
            assert store.read(["sync"])["sync"].version == 1
            with pytest.raises(StoreUnavailable, match="is a replica and takes no writes"):
                store.write([change(1)])
            replica.ask("REPLICAOF", "NO", "ONE")
            assert store.write([change(1)]) == [Written.DONE]


def test_a_redis_that_still_loads_its_data_is_told_of(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server, opened(server.url) as store:
        store.write(
            [Change(book=Book(task=f"task_{n}", last_error="x" * 2000)) for n in range(200)]
        )
        server.ask("SAVE")
        server.end()
        slowly = {"key-load-delay": "20000", "loading-process-events-interval-bytes": "1024"}
        server.start(ready="Loading RDB", **slowly)
        with pytest.raises(StoreUnavailable, match="is loading its data"):
            store.tasks()
        server.ask("CONFIG", "SET", "key-load-delay", "0")
        server.wait_for("Ready to accept connections")
        assert len(store.tasks()) == 200


def test_a_port_that_nobody_listens_on_is_told_of_at_once() -> None:
    url = f"redis://user:{ESCAPED}@127.0.0.1:{refused_port()}/0"
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
        open_store(url)
    assert time.monotonic() - begun < 2
    assert PASSWORD not in whole_story(caught.value)


def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match="did not answer within 5 s"):
            RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        assert time.monotonic() - begun < LONGEST_WAIT_S


def test_a_server_that_stops_answering_is_given_up_and_used_again(server: RedisServer) -> None:
    with opened(server.url) as store:
        store.write([change(0)])
        server.send(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match="did not answer"):
            store.write([change(1)])
        assert time.monotonic() - begun < LONGEST_WAIT_S
        server.send(signal.SIGCONT)
        # Nobody knew whether it was made. It was, later; and no answer is taken for another's.
        assert store.read(["sync"])["sync"].version == 2
        assert store.write([change(1)]) == [Written.OUTDATED]


def test_a_connection_that_redis_closed_is_opened_again(server: RedisServer) -> None:
    with opened(server.url) as store:
        for number in range(3):
            assert store.write([change(number)]) == [Written.DONE]
            server.ask("CLIENT", "KILL", "TYPE", "normal")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"appendonly": "yes", "maxmemory-policy": "noeviction"}, []),
        ({"appendonly": "yes", "maxmemory-policy": "volatile-lru"}, []),
        ({"appendonly": "yes", "maxmemory-policy": "allkeys-lru"}, ["allkeys-lru"]),
        ({"appendonly": "no"}, ["appendonly is off"]),
    ],
)
def test_a_redis_that_may_forget_is_warned_of(
    tmp_path: Path, options: dict[str, str], told: list[str]
) -> None:
    with redis_server(tmp_path, **options) as server, opened(server.url) as store:
        assert len(store.warnings) == len(told)
        for warning, word in zip(store.warnings, told, strict=True):
            assert word in warning
            assert warning.startswith(f"redis://127.0.0.1:{server.port}/0: ")


def test_a_redis_cluster_is_refused(tmp_path: Path) -> None:
    options = {"cluster-enabled": "yes", "cluster-port": str(refused_port())}
    with redis_server(tmp_path, **options) as server:
        server.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        server.wait_for("Cluster state changed: ok")
        with pytest.raises(ConfigurationError, match="is a Redis Cluster"):
            RedisStore(server.url)


def test_a_ledger_of_a_newer_worker_is_left_alone(server: RedisServer) -> None:
    with opened(server.url):
        assert server.ask("GET", "worker:schema") == "1"
    server.ask("SET", "worker:schema", "2")
    with pytest.raises(StoreSchemaError, match="layout '2', expected 1"):
        RedisStore(server.url)
    with opened(f"{server.url}?prefix=other"):
        assert server.ask("GET", "other:schema") == "1"


def test_prefixes_keep_ledgers_apart(server: RedisServer) -> None:
    with opened(server.url) as one, opened(f"{server.url}?prefix=two") as two:
        one.write([change(0, ran())])
        assert (two.tasks(), two.history(HistoryQuery())) == ([], [])
        assert two.read(["sync"])["sync"].version == 0
    assert {key.partition(":")[0] for key in server.ask("KEYS", "*")} == {"worker", "two"}


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:s3cret",
        "redis://:s3#cret@host/0",
        "redis://:s3cret@host:port/0",
        "redis://:s3cret@[host/0",
        "redis://:s3cret@host/name",
        "redis:///0",
        "redis://:s3cret@host/0?prefix=",
        "redis://:s3cret@host/0?prefix=a:b",
        "redis://:s3cret@host/0?socket_timeout=3600",
        "redis://:s3cret@host/0?ssl_ca_certs=ca.pem",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="WORKER_STORE_URL: expected") as caught:
        RedisStore(url)
    assert "cret" not in whole_story(caught.value)


def test_tls_is_checked_and_used(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl is installed, which makes the certificate")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    port = refused_port()
    options = {"tls-port": str(port), "tls-cert-file": str(certificate), "tls-key-file": str(key)}
    with redis_server(tmp_path, **options, **{"tls-auth-clients": "no"}):
        with opened(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}") as store:
            assert store.write([change(0)]) == [Written.DONE]
        with opened(f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none") as store:
            assert store.tasks() == ["sync"]
        for wrong in (
            f"rediss://localhost:{port}/0",
            f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}",
        ):
            with pytest.raises(StoreUnavailable, match="certificate verify failed"):
                RedisStore(wrong)


def test_reading_and_renewing_do_not_touch_the_history(server: RedisServer) -> None:
    with opened(server.url) as store:
        session = store.open_session("one", LONG)
        store.write([change(0, running(session), ran(SLOT - SECOND))])
        with monitored(server) as seen:
            store.read(["sync"])
            store.renew(session, LONG)
    touched = {key for key in seen if key.startswith("worker:")}
    assert touched == {"worker:book:sync", "worker:leases", "worker:active", "worker:seen"}


@contextmanager
def monitored(server: RedisServer) -> Iterator[set[str]]:
    """The words of all commands that Redis carries out until the block is left."""
    seen: set[str] = set()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"MONITOR\r\n")
        lines = sock.makefile("r")
        assert lines.readline() == "+OK\n"
        done = "the block was left"

        def read() -> None:
            for line in lines:
                if done in line:
                    return
                seen.update(word.strip('"') for word in line.split()[3:])

        thread = threading.Thread(target=read)
        thread.start()
        yield seen
        server.ask("ECHO", done)
        thread.join()
        lines.close()


def test_pruning_goes_through_more_than_one_portion(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with redis_server(tmp_path) as server, opened(server.url) as store:
        old = tuple(ran(SLOT - n * SECOND, recorded_at=now - LONG) for n in range(1201))
        fresh = ran(SLOT + SECOND, recorded_at=now)
        store.write([change(0, *old, fresh)])
        sessions = [store.open_session("dead", timedelta(microseconds=1)) for _ in range(1100)]
        living = store.open_session("living", LONG)
        orphans = (running(sessions[0], SLOT + LONG), running(sessions[700], SLOT + 2 * LONG))
        assert store.write([change(1, *orphans)]) == [Written.DONE]
        assert store.prune(age=timedelta(0)) == 1202
        assert [entry.key for entry in store.history(HistoryQuery(limit=5))] == [
            orphan.key for orphan in reversed(orphans)
        ]
        assert [r.session for r in store.replicas()] == [living, sessions[700], sessions[0]]
        assert len(store.read(["sync"])["sync"].orphans) == 2
        assert server.ask("EXISTS", "worker:entries:sync", "worker:recorded") == 0


def test_an_entry_that_goes_from_waiting_to_its_last_word_is_listed_once(
    server: RedisServer,
) -> None:
    with opened(server.url) as store:
        session = store.open_session("one", LONG)
        waiting = replace(running(session), outcome=Outcome.WAITING)
        row = (waiting, running(session), replace(running(session), cancel=True), ran())
        for version, entry in enumerate(row):
            assert store.write([change(version, entry)]) == [Written.DONE]
            assert store.history(HistoryQuery()) == [entry]
            for outcome in Outcome:
                listed = store.history(HistoryQuery(outcomes=frozenset({outcome}), task="sync"))
                assert listed == ([entry] if outcome is entry.outcome else [])
        assert store.renew(session, LONG).cancelled == frozenset()


def test_of_entries_with_the_same_slot_the_limit_takes_the_last(server: RedisServer) -> None:
    with opened(server.url) as store:
        for task in ("a", "a-b", "a.b", "a:b", "aa"):
            entries = tuple(ran(task=task, trigger=trigger) for trigger in Trigger)
            store.write([Change(book=Book(task=task), entries=entries)])
        whole = [entry.key for entry in store.history(HistoryQuery())]
        assert whole == sorted(whole, key=lambda key: (key[1], key[0], key[2]), reverse=True)
        for limit in range(len(whole) + 1):
            assert [e.key for e in store.history(HistoryQuery(limit=limit))] == whole[:limit]


def test_any_text_and_any_moment_come_back(server: RedisServer) -> None:
    entry = ran(
        datetime(1, 1, 1, tzinfo=UTC),
        recorded_at=datetime.max.replace(tzinfo=UTC),
        error="\x00 \ud800 \N{SNOWMAN} \r\n",
        duration_ms=0.1 + 0.2,
        count=2**60,
    )
    with opened(server.url) as store:
        session = store.open_session("a b \ud800 \x00", LONG)
        book = Book(task="sync", runs=2**60, counts={}, last_error="\udfff")
        assert store.write([Change(book=book, entries=(entry,))]) == [Written.DONE]
        assert store.history(HistoryQuery()) == [entry]
        assert store.read(["sync"])["sync"] == replace(book, version=1)
        assert [(r.session, r.name) for r in store.replicas()] == [(session, "a b \ud800 \x00")]


def test_a_foreign_key_in_its_place_is_told_of(server: RedisServer) -> None:
    server.ask("SET", "worker:book:sync", json.dumps({"not": "ours"}))
    with opened(server.url) as store:
        with pytest.raises(StoreUnavailable, match="cannot do what it was asked: WRONGTYPE"):
            store.read(["sync"])
        with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
            store.write([change(0)])
        assert store.tasks() == []


async def test_the_time_of_redis_judges_a_lease_and_no_other(server: RedisServer) -> None:
    with opened(server.url) as store:
        session = store.open_session("one", timedelta(milliseconds=20))
        store.write([change(0, running(session))])
        await wait_until(lambda: not store.replicas()[0].alive, "the lease has run out")
        (replica,) = store.replicas()
        seconds, micros = server.ask("TIME")
        assert abs(replica.since.timestamp() - seconds - micros / 1e6) < 10
        assert store.write([change(1, session=session)]) == [Written.NO_LEASE]


def test_every_script_says_what_it_does() -> None:
    scripts = list((files("worker.backends") / "redis_scripts").iterdir())
    assert len(scripts) > 5
    for script in scripts:
        assert script.name.endswith(".lua")
        assert script.read_text("utf-8").startswith("-- ")
