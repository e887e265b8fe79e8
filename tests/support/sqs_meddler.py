"""A proxy before the SQS server, by which a test sees the calls and has some of them go wrong."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

from tests.support.servers import answer, raw_server
from tests.support.sqs_server import shared_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.servers import Connection, Received


@dataclass(eq=False)
class Meddler:
    """What the service was asked, and what shall become of it.

    Attributes:
        calls: The parameters of each call, by operation.
        failing: How many more entries of batches fail, by operation, through the service's fault.
            They are not handed on.
        broken: Operations whose connections break before they are handed on.
    """

    port: int = 0
    calls: defaultdict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    failing: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def url(self, prefix: str) -> str:
        server = shared_server()
        return server.url(prefix).replace(str(server.port), str(self.port))

    async def handle(self, connection: Connection) -> None:
        while (request := await connection.request()) is not None:
            operation = request.headers["x-amz-target"].partition(".")[2]
            said = json.loads(request.body)
            self.calls[operation].append(said)
            if operation in self.broken:
                return
            entries = said.get("Entries", [])
            count = min(self.failing.get(operation, 0), len(entries))
            self.failing[operation] = self.failing.get(operation, 0) - count
            failed = [
                {"Id": e["Id"], "Code": "InternalError", "Message": "", "SenderFault": False}
                for e in entries[:count]
            ]
            body = b'{"Successful": []}'
            if count < max(1, len(entries)):
                said = {**said, "Entries": entries[count:]} if entries else said
                body = await asyncio.to_thread(forward, request, said)
            if failed:
                told = json.loads(body)
                body = json.dumps({**told, "Failed": [*told.get("Failed", []), *failed]}).encode()
            await connection.send(
                answer(body, headers=("Content-Type: application/x-amz-json-1.0",))
            )


def forward(request: Received, said: dict[str, Any]) -> bytes:
    connection = HTTPConnection("127.0.0.1", shared_server().port, timeout=30)
    kept = {"authorization", "content-type", "x-amz-target", "x-amz-date"}
    headers = {name: value for name, value in request.headers.items() if name in kept}
    try:
        connection.request("POST", "/", json.dumps(said), headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    assert response.status == 200, body
    return body


@asynccontextmanager
async def meddler() -> AsyncIterator[Meddler]:
    """A proxy that hands all calls on, until a test says otherwise."""
    proxy = Meddler()
    async with raw_server(proxy.handle) as server:
        proxy.port = server.port
        yield proxy
