"""A Data API that costs next to nothing, in a process of its own.

The reference Data API of `worker.demo` would be the bottleneck of a machine with two cores: then
every client would look alike. This one parses no more than a request's first line and its length,
and answers after a pause. Orders leave the list when they are processed.

The controls, ``/-/reset?orders=N`` and ``/-/posts``, answer without the pause.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from urllib.parse import parse_qs

__all__ = ["LightApi", "running_api"]

HEAD_END = b"\r\n\r\n"


class Orders:
    """Which orders are pending, and how many processings were asked for."""

    def __init__(self) -> None:
        self.pending: dict[int, None] = {}
        self.posts = 0

    def reset(self, count: int) -> None:
        self.pending = dict.fromkeys(range(1, count + 1))
        self.posts = 0

    def answer(self, method: str, path: str, query: str) -> bytes:
        """The body for one request; empty if there is no such call."""
        match method, path.split("/")[1:]:
            case "POST", ["api", "v1", "orders", number, "process"]:
                self.posts += 1
                self.pending.pop(int(number), None)
                return b'{"status":"processed"}'
            case "GET", ["api", "v1", "orders"]:
                asked = parse_qs(query)
                offset, limit = int(asked["offset"][0]), int(asked["limit"][0])
                page = islice(self.pending, offset, offset + limit)
                return json.dumps({"items": [{"id": number} for number in page]}).encode()
            case "DELETE", ["api", "v1", "orders", "cleanup"]:
                return b'{"deleted_count":0}'
            case "POST", ["api", "v1", "sync"]:
                return b'{"synced":0}'
            case "GET", ["api", "v1", "bookings", "upcoming"]:
                return b'{"items":[]}'
            case "POST", ["-", "reset"]:
                self.reset(int(parse_qs(query)["orders"][0]))
                return b"{}"
            case "GET", ["-", "posts"]:
                posts = {"posts": self.posts, "pending": len(self.pending)}
                return json.dumps(posts).encode()
            case _:
                return b""


class Connection(asyncio.Protocol):
    """HTTP/1.1, as much of it as the clients of a benchmark send."""

    def __init__(self, orders: Orders, latency_s: float) -> None:
        self._orders = orders
        self._latency_s = latency_s
        self._loop = asyncio.get_running_loop()
        self._read = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(HEAD_END)) >= 0:
            head = bytes(self._read[:end])
            whole = end + len(HEAD_END) + content_length(head)
            if len(self._read) < whole:
                return
            del self._read[:whole]
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            pause_s = 0.0 if target.startswith("/-/") else self._latency_s
            self._loop.call_later(pause_s, self._answer, method, target)

    def _answer(self, method: str, target: str) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        path, _, query = target.partition("?")
        body = self._orders.answer(method, path, query)
        status = b"200 OK" if body else b"404 Not Found"
        self._transport.write(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )


def content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n")[1:]:
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


class LightApi:
    """A running API, seen from the benchmark."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def reset(self, orders: int) -> None:
        self._control("POST", f"/-/reset?orders={orders}")

    def check_processed(self, orders: int) -> None:
        """A client that does less than its work is fast, and no use.

        Raises:
            RuntimeError: Not every order was processed, or one of them twice.
        """
        seen = self._control("GET", "/-/posts")
        if seen != {"posts": orders, "pending": 0}:
            raise RuntimeError(f"expected {orders} orders processed once each, got {seen}")

    def _control(self, method: str, target: str) -> object:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, target)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def running_api(latency_s: float) -> Iterator[LightApi]:
    """Start the API in its own process, and end it afterwards."""
    with subprocess.Popen(
        [sys.executable, __file__, "--latency-s", str(latency_s)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            yield LightApi(int(process.stdout.readline()))
        finally:
            process.kill()


async def serve(latency_s: float) -> None:
    orders = Orders()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(orders, latency_s), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-s", type=float, default=0.02)
    asyncio.run(serve(parser.parse_args().latency_s))
