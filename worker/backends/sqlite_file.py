"""A SQLite file that the ledger and the jobs share: opened, kept, and lost in every known way."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, overload
from weakref import WeakSet

from worker.backends.queries import load_queries
from worker.errors import ConfigurationError, StoreSchemaError, StoreUnavailable
from worker.forking import on_fork

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["SqliteFile", "micros", "now_micros", "storable"]

QUERIES = load_queries("sqlite_file.sql")
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        QUERIES["set_application"],
        QUERIES["create_sessions"],
        QUERIES["create_books"],
        QUERIES["create_entries"],
        QUERIES["create_entries_active"],
        QUERIES["create_entries_by_slot"],
        QUERIES["create_entries_final"],
        QUERIES["set_version_1"],
    ),
    (
        QUERIES["create_jobs"],
        QUERIES["create_jobs_ready"],
        QUERIES["create_jobs_later"],
        QUERIES["create_jobs_ended"],
        QUERIES["create_jobs_created"],
        QUERIES["create_jobs_dead"],
        QUERIES["create_jobs_unique"],
        QUERIES["create_jobs_keyed"],
        QUERIES["create_jobs_keyed_leases"],
        QUERIES["create_jobs_keyed_ready"],
        QUERIES["create_rates"],
        QUERIES["set_version_2"],
    ),
    (
        QUERIES["add_presence"],
        QUERIES["set_version_3"],
    ),
    (
        QUERIES["add_jobs_history"],
        QUERIES["set_version_4"],
    ),
    (
        QUERIES["add_jobs_begun"],
        QUERIES["set_version_5"],
    ),
    (
        QUERIES["create_tasks"],
        QUERIES["set_version_6"],
    ),
)
"""What leads from each version of the tables to the next."""
APPLICATION = 0x5343574B
CONNECTION = (
    QUERIES["set_synchronous"],
    QUERIES["set_checkpoint"],
    QUERIES["set_journal_limit"],
    QUERIES["set_cache"],
    QUERIES["set_foreign_keys"],
    QUERIES["set_trust"],
)
LOG, SHARED_MEMORY = "-wal", "-shm"
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
HARMLESS = {*BUSY, sqlite3.SQLITE_FULL}
"""After these the connection is as good as before."""
NOT_NOW = {*BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM}
"""At opening, these may pass by themselves; the others are for somebody to mend."""

RETRY_S = 0.01
FORK_S = 1.0
PATIENCE = timedelta(seconds=5)

Identity = tuple[int, int]
"""A file's device and number: it is another file where these differ, whatever its name."""


class SqliteFile:
    """One connection to a file of ours, which the processes of one machine share.

    Blocking, and used by one thread at a time.

    A commit survives the end of the process, ``kill -9`` included. A power cut or a crash of the
    system can take the last commits, as far back as the last checkpoint, but never part of one,
    nor the file: the log is not waited for (``synchronous=NORMAL``), which would cost milliseconds
    at each commit.

    The log (WAL) needs memory that its processes share. On a network file system (NFS, SMB) it
    does not work, and may damage the file: put it on a local disk, or use PostgreSQL.

    If the file is deleted or replaced while it is open, the call that notices (any call but
    `close` looks) raises `StoreUnavailable`; the next one uses the file that is there now, or
    begins an empty one. Still, stop every worker before a copy is put back: one that is written
    *into* the open file (``cp``) cannot be noticed, and a process that opens the new file before
    the others have noticed finds the old one's log beside it.

    Args:
        path: The file. It and its folder are made if they are missing, for this user alone.
        patience: How long to wait for another process that writes.
        setting: Which setting named it, for messages.

    Attributes:
        openings: How often it was opened. SQLite's count of changes starts again each time.

    Raises:
        ConfigurationError: The file cannot be made, read or written, or is not ours.
        StoreUnavailable: The disk is full, or another process keeps the file locked.
        StoreSchemaError: A newer worker has written it.
    """

    def __init__(
        self, path: Path, *, patience: timedelta = PATIENCE, setting: str = "WORKER_STORE_URL"
    ) -> None:
        if str(path) == ":memory:":
            raise ConfigurationError(
                [f"{setting}: sqlite:///:memory: names no file; expected one, or memory://"]
            )
        self._path = path.absolute()
        self._name = str(self._path)
        self._patience_s = patience.total_seconds()
        self._closed = False
        self._in_use = Lock()
        self._for_fork = False
        self._identity: Identity | None = None
        self._log_identity: Identity | None = None
        self._connection: sqlite3.Connection | None = None
        self.openings = 0
        _files.add(self)
        try:
            with self._in_use:
                self._connection = self._open()
        except Unusable as exc:
            raise ConfigurationError([exc.advice(setting)]) from exc

    @property
    def path(self) -> Path:
        return self._path

    def close(self) -> None:
        self._closed = True
        with self._in_use:
            self.drop()

    def close_for_fork(self) -> None:
        """Close the connection until `end_fork`, so that no child inherits it.

        SQLite forbids to use one in a child, and it would take the parent's locks for the child's.
        A transaction that goes on is waited for, but not longer than it may take.
        """
        if self._in_use.acquire(timeout=self._patience_s + FORK_S):
            self.drop()
            self._for_fork = True

    def end_fork(self) -> None:
        if self._for_fork:
            self._for_fork = False
            self._in_use.release()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that has the lock from its beginning, so that what it reads stays true."""
        with self.connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    # A full disk or a broken one may have rolled it back already.
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                raise

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """The connection; opened again if it was lost. SQLite's errors become our own."""
        with self._in_use:
            if self._connection is None:
                self._connection = self._reopen()
            elif identity(self._name) != self._identity:
                self._abandon()
                raise StoreUnavailable(
                    f"{self._name} was deleted or replaced while it was in use; from now on the "
                    "file that is there is used, or a new one"
                )
            connection = self._connection
            try:
                yield connection
            except sqlite3.Error as exc:
                if primary(exc) not in HARMLESS or connection.in_transaction:
                    self.drop()
                raise StoreUnavailable(self._words(exc)) from exc

    def drop(self) -> None:
        """Let go of the connection; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _abandon(self) -> None:
        """Let go of a file that is not there any more.

        SQLite leaves its log behind then, and would fold it into whatever file comes next. It is
        told from the log of a new file before it is closed: after that its number may come again.
        """
        left_behind = identity(self._name + LOG) == self._log_identity
        self.drop()
        if left_behind:
            for suffix in (LOG, SHARED_MEMORY):
                with suppress(OSError):
                    os.unlink(self._name + suffix)

    def _reopen(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreUnavailable(f"{self._name} was closed")
        try:
            return self._open()
        except (Unusable, StoreSchemaError) as exc:
            raise StoreUnavailable(str(exc)) from exc

    def _open(self) -> sqlite3.Connection:
        """Open the file, made if need be, with tables of this version.

        Several processes may do so at once. One of them then finds the file locked in ways for
        which SQLite does not wait by itself.
        """
        self._make_folder()
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return self._connect()
            except sqlite3.Error as exc:
                if primary(exc) in BUSY and time.monotonic() < deadline:
                    time.sleep(RETRY_S)
                elif primary(exc) in NOT_NOW:
                    raise StoreUnavailable(self._words(exc)) from exc
                else:
                    raise Unusable(self._words(exc)) from exc

    def _make_folder(self) -> None:
        folder = self._path.parent
        try:
            folder.mkdir(mode=0o700, parents=True)
        except OSError as exc:
            if not folder.is_dir():
                problem = f"its folder cannot be made: {exc.strerror or exc}"
                raise Unusable(f"{self._name} cannot be used: {problem}") from exc
            return
        if folder.name == ".worker":
            with suppress(OSError):
                folder.joinpath(".gitignore").write_text("*\n", encoding="utf-8")

    def _connect(self) -> sqlite3.Connection:
        if fault := self._fault():
            raise Unusable(f"{self._name} cannot be used: {fault}")
        is_new = not self._path.exists()
        connection = sqlite3.connect(
            self._name,
            timeout=self._patience_s,
            isolation_level=None,  # nothing begins or commits behind our back
            check_same_thread=False,
        )
        try:
            version = self._version(connection)
            if is_new:
                # Not by os.open with a mode: closing such a file would let go of the locks that
                # another store of this process has on it. Files beside it get the same mode.
                with suppress(OSError):
                    self._path.chmod(0o600)
            connection.execute(QUERIES["set_journal"])
            for statement in CONNECTION:
                connection.execute(statement)
            if version < len(MIGRATIONS):
                connection.execute("BEGIN EXCLUSIVE")
                for migration in MIGRATIONS[self._version(connection) :]:
                    for statement in migration:
                        connection.execute(statement)
                connection.execute("COMMIT")
            else:
                # To learn now whether the file can be written.
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("COMMIT")
            self._identity = identity(self._name)
            self._log_identity = identity(self._name + LOG)
            self.openings += 1
        except BaseException:
            with suppress(sqlite3.Error):
                connection.close()
            raise
        return connection

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of the tables: 0 in an empty file."""
        row = connection.execute(QUERIES["read_identity"]).fetchone()
        application, version, used = row
        if used and application != APPLICATION:
            raise Unusable(f"{self._name} is the database of another program")
        if version > len(MIGRATIONS):
            raise StoreSchemaError(
                f"{self._name} was written by a newer worker: its tables have version {version}, "
                f"expected {len(MIGRATIONS)} or less; install that version of sidecar-worker "
                "again, or have WORKER_STATE_DIR or WORKER_STORE_URL name another file"
            )
        return int(version)

    def _fault(self) -> str | None:
        """What is wrong with the path, as far as can be seen without opening it."""
        path, folder = self._path, self._path.parent
        try:
            if path.is_dir():
                return "it is a folder, expected a file"
            if os.statvfs(folder).f_flag & os.ST_RDONLY:
                return "its file system is read-only"
            user = f"the user of this process (uid {os.geteuid()})"
            if not may(folder, os.R_OK | os.W_OK | os.X_OK):
                return f"its folder cannot be written by {user}"
            if path.exists() and not may(path, os.R_OK | os.W_OK):
                return f"it cannot be written by {user}"
        except OSError as exc:
            return exc.strerror or str(exc)
        return None

    def _words(self, exc: sqlite3.Error) -> str:
        """What happened, and what to do."""
        name, code = self._name, primary(exc)
        detail = f"{exc} ({getattr(exc, 'sqlite_errorname', type(exc).__name__)})"
        if code == sqlite3.SQLITE_FULL:
            return f"the disk of {name} is full"
        if code in BUSY:
            return f"{name} was locked by another process for more than {self._patience_s:g} s"
        if code == sqlite3.SQLITE_IOERR:
            return f"the disk of {name} cannot be read or written: {detail}"
        if code == sqlite3.SQLITE_NOTADB:
            return f"{name} is no SQLite database"
        if code == sqlite3.SQLITE_CORRUPT:
            return f"{name} is damaged: {detail}; move it away, and a new one is begun"
        return f"{name} cannot be used: {self._fault() or detail}"


class Unusable(Exception):
    """The file cannot be used before somebody mends something."""

    def advice(self, setting: str) -> str:
        return (
            f"{setting}: {self}. Expected a file in a folder that the worker can write: set "
            f"WORKER_STATE_DIR to such a folder or to a mounted volume, or {setting} to "
            "memory:// (nothing is remembered over a restart) or to postgresql://…"
        )


@overload
def storable(text: str) -> str: ...


@overload
def storable(text: None) -> None: ...


def storable(text: str | None) -> str | None:
    r"""The text, with what has no UTF-8 (as in the name of a file that is none) as ``\udcff``.

    That is how JSON writes it, too, so that a JSON text means the same afterwards.
    """
    if text is None or text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def now_micros() -> int:
    """This machine's wall clock, which judges the leases."""
    return time.time_ns() // 1000


def micros(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


def identity(path: str) -> Identity | None:
    """Which file the path names now, if any."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def primary(exc: sqlite3.Error) -> int:
    """SQLite's result code without the detail; 0 if the error came from Python's module."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


_files: WeakSet[SqliteFile] = WeakSet()


def before_fork() -> None:
    for file in list(_files):
        file.close_for_fork()


def after_fork() -> None:
    for file in list(_files):
        file.end_fork()


on_fork(before=before_fork, parent=after_fork, child=after_fork)
