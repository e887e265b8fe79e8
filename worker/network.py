"""What HTTP can carry, and the network's failures in words."""

from __future__ import annotations

import os
import re
import socket
import ssl

import httpx

__all__ = ["LOOPBACK", "explain", "is_loopback", "is_token"]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
"""How OpenSSL's versions call an answer that is no TLS."""
PORTS = {"http": 80, "https": 443}


def is_token(text: str) -> bool:
    """Whether ``text`` can be sent as a bearer token: printable ASCII, no spaces, not nothing."""
    return re.fullmatch(r"[\x21-\x7e]+", text) is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on ``host``."""
    return host.lower() in LOOPBACK or host.startswith("127.")


def explain(exc: httpx.TransportError) -> str:
    """What happened to which host, for the one on call."""
    try:
        url, timeouts = exc.request.url, exc.request.extensions.get("timeout", {})
    except RuntimeError:  # httpx: no request is known
        return f"{type(exc).__name__}: {root_cause(exc)}"
    where = f"{url.host}:{url.port or PORTS.get(url.scheme, '?')}"
    match exc:
        case httpx.ConnectTimeout():
            return f"no connection to {where} within {timeouts.get('connect')} s"
        case httpx.ReadTimeout():
            return f"{where} sent nothing for {timeouts.get('read')} s"
        case httpx.WriteTimeout():
            return f"{where} took nothing for {timeouts.get('write')} s"
        case httpx.PoolTimeout():
            return f"no free connection to {where} within {timeouts.get('pool')} s"
        case httpx.ConnectError():
            return f"no connection to {where} ({root_cause(exc)})"
        case httpx.LocalProtocolError():  # its message quotes the header, which may be the token
            return f"the request to {where} is not valid HTTP; is there a line break in a header?"
        case _:
            return f"the connection to {where} broke ({root_cause(exc) or type(exc).__name__})"


def root_cause(exc: BaseException) -> str:
    """What the operating system said: "Connection refused" rather than "All attempts failed"."""
    reason = str(exc)
    cause: BaseException | None = exc
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:  # respx makes a ring of the causes
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.strerror:
            # TLS and the looking up of names have numbers of their own.
            own = isinstance(cause, ssl.SSLError | socket.gaierror)
            if isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS:
                return "no TLS answered; is it http:// there, and not https://?"
            reason = cause.strerror if own or not cause.errno else os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return reason
