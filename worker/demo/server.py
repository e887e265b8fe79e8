"""Runs the service on a real socket: in a thread beside a test, or in the foreground."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette

from worker.demo.api import app_of
from worker.demo.dice import Dice
from worker.demo.faults import NO_FAULTS, Faults
from worker.demo.seed import SeedSpec
from worker.demo.store import Store
from worker.demo.wire import WireProtocol

_LONGEST_STOP_S = 1
_LONGEST_START_S = 10.0


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
            timeout_graceful_shutdown=_LONGEST_STOP_S,
        )
        super().__init__(config)
        self._dice = dice
        self._tell_started = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._dice.stop()
        await super().shutdown(sockets)


class DemoServer:
    """The service in a thread with its own event loop; a context manager.

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
        self._started = threading.Event()
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

        Raises OSError if the port cannot be had, RuntimeError if the server does not start.
        """
        listener = listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        server = _Server(self._app, self._dice, self._started.set)
        self._server = server
        self._thread = threading.Thread(
            target=lambda: asyncio.run(server.serve([listener])), name="demo-api", daemon=True
        )
        self._thread.start()
        if not self._started.wait(_LONGEST_START_S):
            listener.close()
            raise RuntimeError(f"the demo API did not start within {_LONGEST_START_S:g} s")

    def stop(self) -> None:
        """Stop serving; returns when the thread has ended. A second call does nothing."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()

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
    try:
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        raise OSError(
            exc.errno, f"the demo API cannot listen on {host} port {port}: {exc.strerror or exc}"
        ) from exc


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
