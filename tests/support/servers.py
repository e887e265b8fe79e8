"""A tiny TCP server whose every byte a test decides, for what no well-behaved server does."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Handler = Callable[["Connection"], Awaitable[None]]


@dataclass(frozen=True)
class Received:
    """One request as it came over the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(eq=False)
class Connection:
    """One accepted connection, as its handler holds it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: RawServer

    async def request(self) -> Received | None:
        """The next request, its body read; ``None`` once the client hung up."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        received = Received(method, target, headers, body)
        self.server.requests.append(received)
        return received

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        """Close in good order (FIN)."""
        self.writer.close()

    def reset(self) -> None:
        """Close without any (RST)."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Return once the client hung up."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


@dataclass(eq=False)
class RawServer:
    """What the server saw."""

    port: int = 0
    accepted: int = 0
    requests: list[Received] = field(default_factory=list)
    open: set[Connection] = field(default_factory=set)
    most_open: int = 0
    seen: asyncio.Event = field(default_factory=asyncio.Event)
    """For a test to tell its handler that the client has come so far."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def raw_server(handler: Handler) -> AsyncIterator[RawServer]:
    """Serve on a free port; each connection is handed to ``handler`` and closed after it.

    A handler that fails otherwise than by a broken connection fails the test.
    """
    server = RawServer()
    handling: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []

    async def handle(connection: Connection) -> None:
        try:
            await handler(connection)
        except ConnectionError:
            pass
        except Exception as exc:
            failures.append(exc)
        finally:
            server.open.discard(connection)
            connection.writer.close()
            with suppress(ConnectionError):
                await connection.writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer, server)
        server.accepted += 1
        server.open.add(connection)
        server.most_open = max(server.most_open, len(server.open))
        task = asyncio.create_task(handle(connection), name="raw-server-connection")
        handling.add(task)
        task.add_done_callback(handling.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in set(handling):
            task.cancel()
        await asyncio.gather(*handling, return_exceptions=True)
        await listener.wait_closed()
    if failures:
        raise failures[0]


def answer(body: bytes = b"{}", *, status: str = "200 OK", headers: tuple[str, ...] = ()) -> bytes:
    """A whole response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def answering(*answers: bytes) -> Handler:
    """Answers each request with the next of ``answers``, and with the last one from then on."""
    left = list(answers)

    async def handler(connection: Connection) -> None:
        while await connection.request() is not None:
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    return handler


def refused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
