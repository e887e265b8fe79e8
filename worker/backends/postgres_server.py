"""The way to a PostgreSQL server: its URL, how long anything may take, what its errors mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg.waiting import Ready

from worker.errors import ConfigurationError, StoreError, StoreSchemaError, StoreUnavailable
from worker.urls import display_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg.abc import RV, PQGen

__all__ = ["Connection", "Server", "server_of"]

ANSWER_S = 15.0
"""How long an answer may take, even from a server that is frozen and keeps no limit itself."""
DEFAULTS: Mapping[str, Any] = {
    "application_name": "sidecar-worker",
    "client_encoding": "UTF8",
    "connect_timeout": 5,
    # A dead network is noticed after eleven seconds of silence, or ten without an acknowledgement.
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    # A standby, or a primary that was demoted, is no place for a ledger.
    "target_session_attrs": "read-write",
}
OPTIONS = (
    "-c timezone=UTC -c statement_timeout=10s -c lock_timeout=5s"
    " -c idle_in_transaction_session_timeout=10s"
    r" -c default_transaction_isolation=read\ committed"
)
LONGEST_REASON = 400


class Connection(psycopg.Connection[DictRow]):
    """A connection that does not wait for an answer for ever."""

    def wait(
        self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None
    ) -> RV:  # psycopg 3.3.0 knows no timeout
        return super().wait(answered(gen, min(ANSWER_S, timeout or ANSWER_S)), interval)


def answered(gen: PQGen[RV], limit_s: float) -> PQGen[RV]:
    """``gen``, which asks the server something, ended when it got no answer for ``limit_s``."""
    deadline = monotonic() + limit_s
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready == Ready.NONE and monotonic() > deadline:
                raise psycopg.OperationalError(f"the server gave no answer for {limit_s:g} s")
            wanted = gen.send(ready)
    except StopIteration as exc:
        result: RV = exc.value
        return result


@dataclass(frozen=True, slots=True)
class Server:
    """Where the ledger is, as libpq takes it.

    Attributes:
        place: For people: without user, password and query.
    """

    place: str
    parameters: Mapping[str, Any] = field(repr=False)

    def connect(self) -> Connection:
        """Connect, in autocommit: each statement is a transaction, and holds no lock after it.

        Nothing is prepared on the server, so that a pgbouncer in transaction mode may stand
        between. There, ``ignore_startup_parameters = options`` is needed, and the time limits are
        the pool's.

        Raises:
            psycopg.Error: It did not work within ``connect_timeout``.
        """
        return Connection.connect(
            **self.parameters, autocommit=True, prepare_threshold=None, row_factory=dict_row
        )

    def problem(self, exc: psycopg.Error) -> StoreError:
        """What ``exc`` means, in our words and the server's."""
        said = f"PostgreSQL at {self.place}: {reason(exc)}"
        match exc:
            case errors.InsufficientPrivilege():
                return StoreSchemaError(
                    f"{said}; expected a role that may SELECT, INSERT, UPDATE and DELETE in the "
                    "worker_… tables, and to `worker migrate` a role that may CREATE in the schema"
                )
            case errors.InvalidSchemaName():
                return StoreSchemaError(
                    f"{said}; expected a schema of the search_path to exist (CREATE SCHEMA …)"
                )
            case _ if "unsupported startup parameter" in said:
                return StoreUnavailable(
                    f"{said}; expected pgbouncer to have ignore_startup_parameters = options"
                )
            case errors.ReadOnlySqlTransaction():
                return StoreUnavailable(f"{said}; expected a primary that may be written to")
            case psycopg.ProgrammingError():
                return StoreSchemaError(
                    f"{said}; expected the tables as `worker migrate` leaves them"
                )
            case _:
                return StoreUnavailable(said)


def reason(exc: psycopg.Error) -> str:
    """The error in one line. The server's own words, if it came to that, without its details."""
    text = " ".join((exc.diag.message_primary or str(exc)).split())
    text = text or type(exc).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def server_of(url: str) -> Server:
    """What the URL says, and `DEFAULTS` and `OPTIONS` where it says nothing.

    ``postgresql://`` and ``postgres://``, also with the name of a driver, as SQLAlchemy has it.
    The query may hold what libpq knows, such as ``sslmode`` or ``options``.

    Raises:
        ConfigurationError: It is no URL of libpq. Its message does not quote the URL.
    """
    rest = url.partition("://")[2]
    place = rest.partition("?")[0]
    authority, _, database = place.partition("/")
    try:
        given = conninfo_to_dict(f"postgresql://{rest}")
    except psycopg.ProgrammingError:  # quotes the URL, or a part of its password
        given = None
    # Where libpq and a reader could see the end of the password at different places.
    unclear = (
        authority.count("@") > 1
        or "@" in database
        or "#" in place
        or ("@" in rest.partition("/")[0] and "@" not in authority)
    )
    ports = str((given or {}).get("port", "")).split(",")
    if given is None or unclear or any(port and not port.isdecimal() for port in ports):
        raise ConfigurationError(
            [
                "WORKER_STORE_URL: expected postgresql://user:password@host:port/database?option=…"
                " with the options of libpq; in a user name or password write @ as %40, : as %3A,"
                " / as %2F, ? as %3F, # as %23 and % as %25"
            ]
        )
    options = f"{OPTIONS} {given.pop('options', '')}".strip()
    shown = display_url(f"postgresql://{authority.rpartition('@')[2]}/{database}")
    return Server(shown, {**DEFAULTS, **given, "options": options})
