"""uvicorn in the worker's own event loop, which costs nothing while nobody asks."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from worker.errors import ConfigurationError
from worker.open_files import within_limit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta

    from starlette.types import ASGIApp

    from worker.shared_tasks import TaskOwner

__all__ = ["Listener", "OpsServer", "listen", "most_connections"]

KEEP_ALIVE_S = 75
LONGEST_STOP_S = 1.0
BACKLOG = 64
"""How many newcomers the system lets wait."""
ACCEPTED_AT_ONCE = 1
"""How many newcomers asyncio takes in before it does anything else. Without a free file descriptor
it reports, and later repeats, each of these tries: 64 at a time would become thousands."""
REQUEST_S = 10.0
"""How long a request line and its headers may take to arrive."""
UNREAD_S = 30.0
"""How long an answer may lie about that its client does not read."""
MOST_AHEAD = 64 * 1024
"""Bytes of requests that may have come before it is their turn."""
MOST_CONNECTIONS = 100
"""Of one listener, unless that is more than an eighth of the files that may be open."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An application at an address.

    Attributes:
        said_by: The setting that says the port.
        keep_alive: Whether a connection may carry more than one request.
    """

    app: ASGIApp
    host: str
    port: int
    said_by: str
    keep_alive: bool = True


class OpsServer:
    """A service that serves each listener's application.

    Raises:
        ConfigurationError: An address cannot be had, when the service starts.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.listeners = tuple(listeners)
        self._serving: list[tuple[QuietServer, asyncio.Task[None]]] = []
        self.addresses: list[tuple[str, int]] = []
        """Where it listens, once it is started, in the order of the listeners."""

    def check(self) -> None:
        """Find out whether the addresses can be had.

        Raises:
            ConfigurationError: One cannot.
        """
        for listener in self.listeners:
            listen(listener).close()

    def start(self, group: TaskOwner) -> None:
        sockets = [listen(listener) for listener in self.listeners]
        for listener, sock in zip(self.listeners, sockets, strict=True):
            server = QuietServer(listener)
            serving = group.create_task(server.serve([sock]), name=f"ops:{listener.port}")
            self._serving.append((server, serving))
            self.addresses.append(sock.getsockname()[:2])

    async def stop(self, grace: timedelta) -> None:
        for server, _ in self._serving:
            server.ask_to_exit()
        if self._serving:
            await asyncio.wait([serving for _, serving in self._serving])


class BoundedProtocol(H11Protocol):
    """Gives nobody more than his share: uvicorn waits for a request's headers for ever.

    Who is too slow in sending a request, or in reading the answer, is hung up on. A newcomer is
    always let in: when there are too many connections one of the others goes, so that a probe gets
    through though somebody opens all he can. Who sends requests ahead of his turn without end is
    hung up on, too: uvicorn stops reading them only until the application next waits for anything.
    """

    _too_slow: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _is_put_out = False
    quiet_since = 0.0
    """When the last answer was complete, or the connection was made."""

    @property
    def answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn says that there is always one
        return cycle is not None and not cycle.response_complete

    @property
    def worth(self) -> tuple[int, float]:
        """Of how much use the connection is: who keeps us waiting, who is idle, who waits."""
        unread = self.transport.get_write_buffer_size() > 0
        if unread or (self.answering and self.cycle.more_body):
            return 0, self.quiet_since
        return 2 if self.answering else 1, self.quiet_since

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        others = [
            one
            for one in self.connections
            if isinstance(one, BoundedProtocol) and not one._is_put_out
        ]
        super().connection_made(cast("asyncio.Transport", transport))
        self._expect_request()
        if len(others) >= most_connections():
            min(others, key=lambda one: one.worth).put_out()

    def put_out(self) -> None:
        self._is_put_out = True  # it is told of the end later, when others have come already
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        ahead, _ = self.conn.trailing_data
        if len(ahead) > MOST_AHEAD:
            self.put_out()
        elif self.answering:
            self._too_slow = without(self._too_slow)
        elif self._too_slow is None:
            self._expect_request()

    def on_response_complete(self) -> None:
        self.quiet_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = without(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        self._too_slow, self._unread = without(self._too_slow), without(self._unread)
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        self.quiet_since = self.loop.time()
        self._too_slow = self.loop.call_later(REQUEST_S, self.transport.abort)


def most_connections() -> int:
    """How many connections one listener keeps."""
    return within_limit(MOST_CONNECTIONS, share=8)


def without(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Nothing, once the timer is cancelled."""
    if timer is not None:
        timer.cancel()
    return None


class QuietServer(uvicorn.Server):
    """Leaves signals to the worker, and waits for its end instead of looking ten times a second."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(
            uvicorn.Config(
                listener.app,
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # the guard logs what an application raises
                access_log=False,
                proxy_headers=False,  # anybody could say that he is somebody else
                server_header=False,
                date_header=False,  # uvicorn would have to wake every second for it
                backlog=ACCEPTED_AT_ONCE,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(LONGEST_STOP_S),
            )
        )
        if not listener.keep_alive:
            self.server_state.default_headers = [(b"connection", b"close")]
        self._exit = asyncio.Event()

    def ask_to_exit(self) -> None:
        self.should_exit = True
        self._exit.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or ():
            sock.listen(BACKLOG)  # asyncio has said how many it takes in at once

    async def main_loop(self) -> None:
        await self._exit.wait()


def listen(listener: Listener) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigurationError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((listener.host, listener.port))
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise ConfigurationError(
            [
                f"{listener.said_by}: cannot listen on {listener.host} port {listener.port}: "
                f"{exc.strerror or exc}{beside(listener, exc)}"
            ]
        ) from exc
    return sock


def beside(listener: Listener, exc: OSError) -> str:
    """What to do where another worker has the port."""
    if exc.errno != errno.EADDRINUSE:
        return ""
    return f"; if that is another worker, {listener.said_by}=0 has this one run beside it"
