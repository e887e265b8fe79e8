"""uvicorn in the worker's own event loop, which costs nothing while nobody asks."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from worker.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta

    from starlette.types import ASGIApp

__all__ = ["BREAK_OFF", "Listener", "OpsServer", "listen"]

KEEP_ALIVE_S = 75
LONGEST_STOP_S = 1.0
BACKLOG = 64
BREAK_OFF = "worker.break_off"
"""The extension of a request's scope that breaks its connection off when it is called."""


@dataclass(frozen=True, slots=True)
class Listener:
    """An application at an address.

    Attributes:
        said_by: The setting that says the port.
    """

    app: ASGIApp
    host: str
    port: int
    said_by: str


class OpsServer:
    """A service that serves each listener's application.

    Raises:
        ConfigurationError: An address cannot be had, when the service starts.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)
        self._serving: list[tuple[QuietServer, asyncio.Task[None]]] = []
        self.addresses: list[tuple[str, int]] = []
        """Where it listens, once it is started, in the order of the listeners."""

    def check(self) -> None:
        """Find out whether the addresses can be had.

        Raises:
            ConfigurationError: One cannot.
        """
        for listener in self._listeners:
            listen(listener).close()

    def start(self, group: asyncio.TaskGroup) -> None:
        sockets = [listen(listener) for listener in self._listeners]
        for listener, sock in zip(self._listeners, sockets, strict=True):
            server = QuietServer(listener.app)
            serving = group.create_task(server.serve([sock]), name=f"ops:{listener.port}")
            self._serving.append((server, serving))
            self.addresses.append(sock.getsockname()[:2])

    async def stop(self, grace: timedelta) -> None:
        for server, _ in self._serving:
            server.ask_to_exit()
        if self._serving:
            await asyncio.wait([serving for _, serving in self._serving])


class Protocol(H11Protocol):
    """HTTP/1.1 whose applications can break a connection off: to end one in the usual way is to
    wait for a client that does not read."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        app: Any = self.app

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})[BREAK_OFF] = transport.abort
            await app(scope, receive, send)

        self.app = serve


class QuietServer(uvicorn.Server):
    """Leaves signals to the worker, and waits for its end instead of looking ten times a second."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                date_header=False,  # uvicorn would have to wake every second for it
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(LONGEST_STOP_S),
            )
        )
        self._exit = asyncio.Event()

    def ask_to_exit(self) -> None:
        self.should_exit = True
        self._exit.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

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
                f"{exc.strerror or exc}"
            ]
        ) from exc
    return sock
