"""What the SQLite store does when the disk, the file or another process fails it."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.functions import command, outcome_of, with_mounts
from tests.support.processes import clean_environment
from worker.backends import sqlite, sqlite_file
from worker.backends.codec import to_micros
from worker.backends.sqlite import SqliteStore
from worker.errors import ConfigurationError, LeaseLost, StoreSchemaError, StoreUnavailable
from worker.ledger.book import Book, Change, Entry, HistoryQuery, Outcome, Written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLOT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LONG = timedelta(minutes=10)
DEADLINE_S = 30.0
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "worker.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path, patience=timedelta(milliseconds=50))
    yield store
    store.close()


def ran(number: int, error: str | None = None) -> Entry:
    slot = SLOT + number * SECOND
    return Entry(task="sync", slot=slot, outcome=Outcome.RAN, recorded_at=slot, error=error)


def record(store: SqliteStore, number: int, error: str | None = None) -> None:
    """Count one more run in the book, and add its entry."""
    book = store.read(["sync"])["sync"]
    change = Change(book=replace(book, runs=book.runs + 1), entries=(ran(number, error),))
    assert store.write([change]) == [Written.DONE]


def fill(store: SqliteStore, first: int) -> tuple[int, StoreUnavailable]:
    """Record runs until that is refused; the number of the one that was, and the refusal."""
    for number in range(first, first + 100_000):
        try:
            record(store, number, "x" * 1000)
        except StoreUnavailable as exc:
            return number, exc
    raise AssertionError("nothing was refused")


def check(store: SqliteStore) -> int:
    """How many runs there are, after a look whether the book, the entries and the file agree."""
    runs = store.read(["sync"])["sync"].runs
    assert len(store.history(HistoryQuery(limit=10**6))) == runs
    with closing(sqlite3.connect(store._file.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return runs


# Opening


def test_the_folder_and_the_file_are_for_this_user_alone(store: SqliteStore, path: Path) -> None:
    record(store, 1)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert files == {"worker.db": 0o600, "worker.db-wal": 0o600, "worker.db-shm": 0o600}


def test_git_is_kept_out_of_a_folder_that_the_store_made_for_itself(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "made" / ".worker" / "worker.db").close()
    assert (tmp_path / "made" / ".worker" / ".gitignore").read_text() == "*\n"
    theirs = tmp_path / "theirs" / ".worker"
    theirs.mkdir(parents=True)
    SqliteStore(theirs / "worker.db").close()
    assert not (theirs / ".gitignore").exists()


def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "worker.db"
    path.touch()
    path.chmod(0o660)
    SqliteStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def below_a_file(folder: Path) -> tuple[Path, str]:
    (folder / "file").write_text("")
    return folder / "file" / "state" / "worker.db", "its folder cannot be made: Not a directory"


def a_folder(folder: Path) -> tuple[Path, str]:
    return folder, "it is a folder, expected a file"


def no_database(folder: Path) -> tuple[Path, str]:
    (folder / "notes.txt").write_text("milk, eggs, " * 100)
    return folder / "notes.txt", "is no SQLite database"


def of_another_program(folder: Path) -> tuple[Path, str]:
    with closing(sqlite3.connect(folder / "app.db")) as connection:
        connection.execute("CREATE TABLE books (title)")
    return folder / "app.db", "is the database of another program"


@pytest.mark.parametrize("unusable", [below_a_file, a_folder, no_database, of_another_program])
def test_a_path_that_cannot_be_used_is_refused_and_left_as_it_was(
    unusable: Callable[[Path], tuple[Path, str]], tmp_path: Path
) -> None:
    path, words = unusable(tmp_path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ConfigurationError) as refused:
        SqliteStore(path)
    message = str(refused.value)
    assert f"{path} " in message
    assert words in message
    for remedy in ("WORKER_STATE_DIR", "mounted volume", "memory://", "postgresql://"):
        assert remedy in message
    assert before == (path.read_bytes() if path.is_file() else None)


def test_sqlites_own_memory_is_not_taken_for_a_file() -> None:
    with pytest.raises(ConfigurationError, match="expected one, or memory://"):
        SqliteStore(Path(":memory:"))


def refuse_without_rights(path: str, words: str) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    with pytest.raises(ConfigurationError) as refused:
        SqliteStore(Path(path))
    assert words in str(refused.value)


def test_what_the_user_may_not_write_is_refused_with_the_reason() -> None:
    # Not below tmp_path: nobody but its owner may look into that.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        SqliteStore(folder / "theirs.db").close()
        (folder / "theirs.db").chmod(0o444)
        open_to_all = folder / "open"
        open_to_all.mkdir()
        SqliteStore(open_to_all / "theirs.db").close()
        (open_to_all / "theirs.db").chmod(0o444)
        open_to_all.chmod(0o777)
        folder.chmod(0o555)
        try:
            for path, words in (
                (folder / "worker.db", "its folder cannot be written by the user of this process"),
                (folder / "theirs.db", "its folder cannot be written by the user of this process"),
                (folder / "new" / "worker.db", "its folder cannot be made: Permission denied"),
                (open_to_all / "theirs.db", "it cannot be written by the user of this process"),
            ):
                outcome_of(command(refuse_without_rights, path, words))
        finally:
            folder.chmod(0o700)


def refuse_read_only(path: str) -> None:
    with pytest.raises(ConfigurationError, match="its file system is read-only"):
        SqliteStore(Path(path))


def test_a_read_only_file_system_is_refused_with_the_reason(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "worker.db").close()
    script = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"; shift; "$@"'
    for name in ("worker.db", "new.db"):
        refusal = command(refuse_read_only, tmp_path / name)
        outcome_of(with_mounts(script, tmp_path, *refusal))


# The tables

NOW = len(sqlite_file.MIGRATIONS)
"""The present version."""


def test_a_newer_schema_is_refused_and_left_as_it_was(path: Path, store: SqliteStore) -> None:
    record(store, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        with pytest.raises(StoreSchemaError) as refused:
            SqliteStore(path)
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)
    for words in (
        str(path),
        "version 99",
        f"expected {NOW} or less",
        "install",
        "WORKER_STORE_URL",
    ):
        assert words in str(refused.value)


def test_an_older_schema_is_brought_up_and_keeps_what_it_has(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 0")
    with closing(SqliteStore(path)) as store:
        record(store, 1)
    step = ("ALTER TABLE books ADD COLUMN mood TEXT", f"PRAGMA user_version = {NOW + 1}")
    monkeypatch.setattr(sqlite_file, "MIGRATIONS", (*sqlite_file.MIGRATIONS, step))
    for _ in range(2):
        with closing(SqliteStore(path)) as store:
            assert check(store) == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (NOW + 1,)
        assert connection.execute("SELECT task, mood FROM books").fetchall() == [("sync", None)]


def test_a_migration_that_fails_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SqliteStore(path).close()
    step = ("ALTER TABLE books ADD COLUMN mood TEXT", "ALTER TABLE moods ADD COLUMN mood TEXT")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_file, "MIGRATIONS", (*sqlite_file.MIGRATIONS, step))
        with pytest.raises(ConfigurationError, match="no such table"):
            SqliteStore(path)
    with closing(sqlite3.connect(path)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info (books)")]
    assert columns == ["task", "version", "state"]
    with closing(SqliteStore(path)) as store:
        record(store, 1)


def open_when_told(path: str) -> None:
    print("ready", flush=True)  # noqa: T201 - what the parent waits for
    sys.stdin.readline()
    with closing(SqliteStore(Path(path))) as store:
        print(store.open_session("one", LONG))  # noqa: T201 - what the parent reads


def test_processes_that_open_an_empty_file_at_once_all_get_its_tables(path: Path) -> None:
    processes = [
        subprocess.Popen(
            command(open_when_told, path),
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=DEADLINE_S) for process in processes]
    assert [err for _, err in answers] == [""] * 6
    assert len({int(out) for out, _ in answers}) == 6


# Afterwards


def test_a_full_disk_is_named_and_the_store_resumes_when_there_is_room(
    store: SqliteStore, path: Path
) -> None:
    session = store.open_session("one", LONG)
    record(store, 0)
    connection = store._file._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    written, refusal = fill(store, 1)
    assert str(refusal) == f"the disk of {path} is full"
    assert check(store) == written
    store.renew(session, LONG)
    connection.execute("PRAGMA max_page_count = 1000000")
    record(store, written)
    assert check(store) == written + 1


def fill_tmpfs(folder: str) -> None:
    path = Path(folder, "worker.db")
    ballast = Path(folder, "ballast")
    ballast.write_bytes(b"x" * 500_000)
    with closing(SqliteStore(path)) as store:
        session = store.open_session("one", LONG)
        written, refusal = fill(store, 0)
        assert str(refusal) == f"the disk of {path} is full"
        with pytest.raises(StoreUnavailable, match="is full"):
            record(store, written, "x" * 200_000)
        assert len(store.history(HistoryQuery(limit=10**6))) == written
        ballast.unlink()
        store.renew(session, LONG)
        record(store, written, "x" * 200_000)
        assert check(store) == written + 1
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    with pytest.raises(StoreUnavailable, match=r"other\.db is full"):
        SqliteStore(Path(folder, "other.db"))


def test_a_disk_that_is_really_full_is_named_too(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=1m tmpfs "$1"; shift; "$@"'
    outcome_of(with_mounts(script, tmp_path, *command(fill_tmpfs, tmp_path)))


def write_against_a_limit(path: str) -> None:
    # Python ignores SIGXFSZ, so that a write over the limit fails with EFBIG.
    with closing(SqliteStore(Path(path))) as store:
        session = store.open_session("one", LONG)
        record(store, 0)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        written, refusal = fill(store, 1)
        assert f"the disk of {path} cannot be read or written: " in str(refusal)
        with pytest.raises(StoreUnavailable):
            record(store, written, "x" * 200_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        store.renew(session, LONG)
        record(store, written, "x" * 200_000)
        assert check(store) == written + 1


def test_a_disk_that_fails_is_named_and_the_store_resumes(tmp_path: Path) -> None:
    outcome_of(command(write_against_a_limit, tmp_path / "worker.db"))


def test_a_lock_that_another_process_keeps_is_named_and_the_store_resumes(
    store: SqliteStore, path: Path
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert store.read(["sync"])["sync"].version == 0
        with pytest.raises(
            StoreUnavailable, match=r"locked by another process for more than 0\.05"
        ):
            record(store, 1)
        with pytest.raises(StoreUnavailable, match="locked"):
            SqliteStore(path, patience=timedelta(milliseconds=50))
        other.execute("ROLLBACK")
    record(store, 1)
    assert check(store) == 1


def test_a_file_that_was_deleted_is_noticed_and_a_new_one_begun(
    store: SqliteStore, path: Path
) -> None:
    session = store.open_session("one", LONG)
    record(store, 1)
    path.unlink()
    with pytest.raises(StoreUnavailable, match="deleted or replaced"):
        store.renew(session, LONG)
    with pytest.raises(LeaseLost):
        store.renew(session, LONG)
    assert store.open_session("one", LONG) > session
    assert check(store) == 0
    record(store, 1)
    assert check(store) == 1


def test_a_folder_that_was_deleted_is_made_again(store: SqliteStore, path: Path) -> None:
    record(store, 1)
    shutil.rmtree(path.parent)
    with pytest.raises(StoreUnavailable, match="deleted or replaced"):
        record(store, 2)
    record(store, 2)
    assert check(store) == 1


def test_the_log_of_a_file_that_another_has_begun_is_left_alone(
    store: SqliteStore, path: Path
) -> None:
    record(store, 1)
    for file in path.parent.iterdir():
        file.unlink()
    with closing(SqliteStore(path)) as other:
        for number in range(3):
            record(other, number)
        with pytest.raises(StoreUnavailable, match="deleted or replaced"):
            store.tasks()
        record(store, 3)
        record(other, 4)
        assert check(store) == check(other) == 5


def test_a_file_that_was_replaced_is_noticed_and_used_as_it_is(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    with closing(SqliteStore(tmp_path / "copy.db")) as copy:
        for number in range(3):
            record(copy, number)
    for number in range(200):
        record(store, number)
    (tmp_path / "copy.db").replace(path)
    with pytest.raises(StoreUnavailable, match="deleted or replaced"):
        store.tasks()
    assert check(store) == 3
    record(store, 3)
    assert check(store) == 4


def test_a_file_that_was_replaced_by_a_newer_one_is_unavailable(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    SqliteStore(tmp_path / "newer.db").close()
    with closing(sqlite3.connect(tmp_path / "newer.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    (tmp_path / "newer.db").replace(path)
    with pytest.raises(StoreUnavailable, match="deleted or replaced"):
        store.tasks()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="newer worker"):
            store.tasks()
    path.unlink()
    assert store.tasks() == []


def test_a_damaged_file_is_named_and_a_new_one_is_begun_once_it_is_away(
    store: SqliteStore, path: Path
) -> None:
    for number in range(100):
        record(store, number)
    store._file.drop()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(StoreUnavailable, match=r"worker\.db is damaged: .*; move it away"):
        record(store, 100)
    path.rename(path.with_suffix(".damaged"))
    record(store, 100)
    assert check(store) == 1


def test_tables_that_somebody_dropped_are_named(store: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE entries")
    with pytest.raises(StoreUnavailable, match="no such table: entries"):
        record(store, 1)


def test_a_closed_store_stays_closed(store: SqliteStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable, match="was closed"):
        store.tasks()


def write_until_killed(path: str) -> None:
    with closing(SqliteStore(Path(path))) as store:
        number = store.read(["sync"])["sync"].runs
        while True:
            record(store, number, "x" * 500)
            print(number, flush=True)  # noqa: T201 - what the parent counts
            number += 1


def test_a_killed_process_loses_nothing_that_was_committed(path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            command(write_until_killed, path),
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(50)]
        process.kill()
        with process.stdout:
            told += [int(line) for line in process.stdout]
        process.wait(DEADLINE_S)
        with closing(SqliteStore(path)) as store:
            assert check(store) - 1 in (told[-1], told[-1] + 1)


# Small promises


def test_a_closed_session_stays_closed_when_the_clock_is_set_back(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.open_session("one", LONG)
    store.close_session(first)
    monkeypatch.setattr(sqlite, "now_micros", lambda: to_micros(SLOT - 10_000 * LONG))
    with pytest.raises(LeaseLost):
        store.renew(first, LONG)
    assert store.open_session("one", LONG) > first


def test_text_that_utf_8_cannot_hold_is_kept_readable(store: SqliteStore) -> None:
    record(store, 1, "no such file: caf\udce9 \N{SNOWMAN} \0")
    (entry,) = store.history(HistoryQuery())
    assert entry.error == "no such file: caf\\udce9 \N{SNOWMAN} \0"
    session = store.open_session("host-\udcff", LONG)
    assert [(r.session, r.name) for r in store.replicas()] == [(session, "host-\\udcff")]


def test_two_changes_of_one_book_in_one_call_are_made_in_turn(store: SqliteStore) -> None:
    first = Change(book=Book(task="sync", runs=1))
    second = Change(book=Book(task="sync", version=1, runs=2))
    assert store.write([first, second, second]) == [Written.DONE, Written.DONE, Written.OUTDATED]
    assert store.read(["sync"])["sync"].runs == 2
