"""Runs the service on a real socket: in a thread beside a test, or in the foreground."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette

from worker.demo.api import app_of
from worker.demo.dice import Dice
from worker.demo.faults import NO_FAULTS, Faults
from worker.demo.seed import SeedSpec
from worker.demo.store import Store
from worker.demo.wire import WireProtocol
from worker.telemetry.loop_errors import LoopErrors

_LONGEST_STOP_S = 1
_KEEP_ALIVE_S = 75
_LONGEST_START_S = 10.0
_BACKLOG = 128


class _Server(uvicorn.Server):
    """uvicorn, which tells when it serves, leaves signals alone and ends all pauses at the stop."""

    def __init__(self, app: Starlette, dice: Dice, started: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http=WireProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            backlog=1,  # asyncio takes in so many at once: see worker.ops.server.ACCEPTED_AT_ONCE
            # httpx drops an idle connection after 5 s, which is uvicorn's default too: the two
            # would race, and a request could be sent into a connection that is being closed.
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_LONGEST_STOP_S,
        )
        super().__init__(config)
        self._dice = dice
        self._tell_started = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(LoopErrors(_log))
        await super().startup(sockets)
        for sock in sockets or ():
            sock.listen(_BACKLOG)
        self._tell_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._dice.stop()
        await super().shutdown(sockets)


class DemoServer:
    """The service in a thread with its own event loop; a context manager, to be used once.

    `port` 0 takes a free one. The store stays the caller's, who may read it while the server runs.
    """

    def __init__(
        self,
        store: Store,
        *,
        faults: Faults = NO_FAULTS,
        token: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        require_key: bool = True,
    ) -> None:
        self.store = store
        self._host = host
        self._port = port
        self._dice = Dice(faults)
        self._app = app_of(store, self._dice, token=token, require_key=require_key)
        self._started: Future[None] = Future()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end; known once it was started."""
        return _url(self._host, self._port)

    @property
    def faults(self) -> Faults:
        """The faults in force, their counters counted down."""
        return self._dice.faults

    def inject(self, faults: Faults) -> None:
        """These faults from now on."""
        self._dice.load(faults)

    def start(self) -> None:
        """Serve; returns when connections are accepted.

        Raises OSError if the port cannot be had, and whatever else keeps the server from starting.
        """
        listener = listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        self._server = _Server(self._app, self._dice, lambda: self._started.set_result(None))
        self._thread = threading.Thread(
            target=self._run, args=(self._server, listener), name="demo-api", daemon=True
        )
        self._thread.start()
        self._started.result(_LONGEST_START_S)

    def stop(self) -> None:
        """Stop serving; returns when the thread has ended. A second call does nothing."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()

    def _run(self, server: _Server, listener: socket.socket) -> None:
        try:
            asyncio.run(server.serve([listener]))
        except BaseException as exc:
            if self._started.done():
                raise
            listener.close()
            self._started.set_exception(exc)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    database: str = ":memory:",
    token: str | None = None,
    faults: Faults = NO_FAULTS,
    seed: SeedSpec | None = None,
    announce: Callable[[str], None],
    require_key: bool = True,
) -> int:
    """Serve in the foreground until SIGTERM or SIGINT; returns the exit status, 0.

    `announce` gets the URL as soon as connections are accepted. `seed` fills a new database only:
    one that was used before keeps what it has. Raises OSError if the port cannot be had.
    """
    with Store(database) as store:
        if seed is not None and store.is_new():
            store.seed(seed)
        listener = listen(host, port)
        url = _url(host, listener.getsockname()[1])
        dice = Dice(faults)
        app = app_of(store, dice, token=token, require_key=require_key)
        server = _Server(app, dice, lambda: announce(url))
        asyncio.run(_until_signal(server, listener))
    return 0


async def _until_signal(server: _Server, listener: socket.socket) -> None:
    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.serve([listener])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError that says which address could not be had, and why."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only where it reads TCP, and
    # with it an answer in two writes waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as exc:
        listener.close()
        raise OSError(
            exc.errno, f"the demo API cannot listen on {host} port {port}: {exc.strerror or exc}"
        ) from exc
    return listener


def _log(event: str, keys: Mapping[str, Any]) -> None:
    told = " ".join(f"{name}={value}" for name, value in keys.items() if name != "exc_info")
    logging.getLogger("worker.demo").warning("%s %s", event, told, exc_info=keys.get("exc_info"))


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
