"""TLS whose every byte a test decides, over a connection of `tests.support.servers`."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.servers import Connection

T = TypeVar("T")


class Certificate:
    """A certificate of ``localhost`` that signs itself, made in ``folder``."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl is installed, which makes the certificate")
        self.file, self.key = folder / "cert.pem", folder / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
                *("-keyout", str(self.key), "-out", str(self.file)),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            ],
            check=True,
            capture_output=True,
        )

    def of_client(self) -> ssl.SSLContext:
        """The context of a client that trusts it."""
        return ssl.create_default_context(cafile=str(self.file))

    def of_server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.key)
        return context


class Tls:
    """The server's side of one connection."""

    def __init__(self, connection: Connection, context: ssl.SSLContext) -> None:
        self.connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def handshake(self) -> None:
        """Shake hands. If that fails, the client is sent the alert."""
        await self._step(self._tls.do_handshake)

    async def request(self) -> bytes:
        """The head of the next request."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await self._step(lambda: self._tls.read(65536))
        return head

    async def send(self, data: bytes) -> None:
        """Send it encrypted."""
        await self._step(lambda: self._tls.write(data))

    async def _step(self, act: Callable[[], T]) -> T:
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self.connection.reader.read(65536)
                if not data:
                    raise ConnectionResetError("the client hung up") from None
                self._incoming.write(data)
            finally:
                await self._flush()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self.connection.send(self._outgoing.read())
