"""By which names the ops part is reached: a page elsewhere must not be able to name it.

A browser lets a page talk to the server that its own address names. Who owns a name can have it
point to ``127.0.0.1`` (DNS rebinding), and then reads what the worker answers; but the ``Host``
header still holds the name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.network import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

__all__ = ["Hosts", "host_of"]


HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::[0-9]{1,5})?", re.ASCII)


class Hosts:
    """The names that are taken: loopback's, those that are given, and the address itself."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = LOOPBACK | {name.lower() for name in names}

    def take(self, host: str, scope: Scope) -> bool:
        """Whether a request with this ``Host`` header is meant for us."""
        name = host_of(host)
        server = scope.get("server")
        return name in self._names or (server is not None and name == server[0])


def host_of(header: str) -> str:
    """The name without its port, an IPv6 address without its brackets; empty if it is neither."""
    found = HOST.fullmatch(header)
    return "" if found is None else (found[1] or found[2]).rstrip(".").lower()
