"""A hand on the TCP connection, which ASGI does not offer: to reset it, or to close it early."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from starlette.types import Scope
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

_STATE_NAME = "wire"
# SO_LINGER on, for zero seconds: closing discards what was not sent and sends RST, not FIN.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Wire:
    """The connection that a request came by."""

    def __init__(self, protocol: H11Protocol) -> None:
        self._protocol = protocol

    def reset(self) -> None:
        """Break the connection with a TCP reset; the client, if still there, sees ECONNRESET."""
        if self.closed:
            return
        transport = self._protocol.transport
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()

    def close(self) -> None:
        """Close the connection after what was written; the client sees its end."""
        self._protocol.transport.close()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone, or going."""
        return self._protocol.transport.is_closing()


class WireProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with the wire of each connection in the state of its requests."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        state = {**app_state, _STATE_NAME: Wire(self)}
        super().__init__(config, server_state, state, _loop)


def wire_of(scope: Scope) -> Wire:
    """The wire of a request. Raises RuntimeError where there is none, as in an ASGI test client."""
    wire = scope.get("state", {}).get(_STATE_NAME)
    if not isinstance(wire, Wire):
        raise RuntimeError("this fault needs a real connection: run the service by DemoServer")
    return wire
