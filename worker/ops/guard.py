"""What every request has to pass before a route sees it, and what every answer carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from worker.ops.cross_site import comes_from_our_page, says_it_comes_from_elsewhere
from worker.ops.locks import Caller, Role
from worker.ops.problem import problem, tell_http_error
from worker.ops.sign_in import (
    ASK,
    ASK_LINK,
    CHALLENGE,
    DASHBOARD,
    SESSION,
    session_secret,
    sign_in_page,
)
from worker.ops.slow_down import address_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from worker.ops.locks import Locks

__all__ = ["Guard", "caller_of", "note", "still_in"]

OPEN = frozenset({"/livez", "/readyz", "/startupz"})
"""What needs no token: an answer from a probe tells nobody what he should not know."""
LINK = "/session/link"
MOST_HEADERS = 16 * 1024
"""Bytes, with the path and the query. The server stops reading there only if more is to come."""
HANG_UP = {"Connection": "close"}
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without any, forms would say that their origin is null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware: host, token or session, role, cross-site requests; and no traceback."""

    def __init__(self, app: ASGIApp, locks: Locks) -> None:
        self._app = app
        self._locks = locks
        self._log = structlog.get_logger("worker.ops")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answered = Answered(send)
        request = Request(scope)
        try:
            refusal = await self._refusal(request)
            if refusal is not None:
                await refusal(scope, receive, answered)
            else:
                await self._app(scope, receive, answered)
        except HTTPException as exc:
            await (await tell_http_error(request, exc))(scope, receive, answered)
        except ClientDisconnect:
            return
        except Exception as exc:
            self._log.error("ops.failed", method=request.method, path=scope["path"], exc_info=exc)
            if answered.status is None:
                await problem(500, "the worker's log says more")(scope, receive, answered)
        finally:
            caller = scope.get("caller")
            if caller is not None and request.method not in SAFE:
                self._tell(request, caller, answered.status)

    async def _refusal(self, request: Request) -> Response | None:
        """The answer to who may not pass; ``None`` for who may."""
        path, locks = request.scope["path"], self._locks
        if size_of(request) > MOST_HEADERS:
            return problem(431, f"expected at most {MOST_HEADERS} bytes of path and headers")
        if {"content-length", "transfer-encoding"} <= set(request.headers):
            # Where a body ends is then told in two ways, and a proxy may see another request in it
            # than we do (RFC 9112, 6.1).
            return problem(
                400, "expected Content-Length or Transfer-Encoding, got both", headers=HANG_UP
            )
        if path in OPEN:
            return None
        host = request.headers.get("host", "")
        if locks.hosts is not None and not locks.hosts.take(host, request.scope):
            return problem(
                421,
                "this name is none of the worker's: add it to WORKER_OPS_HOSTS if it shall be one",
            )
        if locks.sessions is not None:
            if path in (SESSION, DASHBOARD) and request.method == "POST":
                return cross_site() if says_it_comes_from_elsewhere(request) else None
            if path == LINK and locks.link is not None:
                return None
        caller = await self._caller(request)
        if caller is None:
            return self._unknown(request)
        request.scope["caller"] = caller
        if request.method in SAFE:
            return None
        if caller.session is not None and not comes_from_our_page(request):
            return cross_site()
        signs_out = path == SESSION and caller.session is not None
        if caller.role is not Role.FULL and not signs_out:
            return problem(403, "this token lets its owner look, and change nothing")
        return None

    async def _caller(self, request: Request) -> Caller | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            role = await self._locks.slow_down.judge(
                address_of(request), lambda: self._locks.tokens.role_of(token.strip())
            )
            return None if role is None else Caller(role)
        secret = session_secret(request)
        if self._locks.sessions is None or secret is None:
            return None
        find = self._locks.sessions.find
        request.scope["still_in"] = lambda: find(secret) is not None
        session = find(secret)
        return None if session is None else Caller(session.role, session.name)

    def _unknown(self, request: Request) -> Response:
        wants_page = "text/html" in request.headers.get("accept", "")
        if self._locks.sessions is not None and request.method == "GET" and wants_page:
            query = request.scope["query_string"].decode("latin-1")
            return sign_in_page(
                ASK if self._locks.link is None else ASK_LINK,
                request.scope["path"] + (f"?{query}" if query else ""),
                path=request.scope["path"],
            )
        detail = "expected the header Authorization: Bearer, with a token of the worker's"
        if not self._locks.tokens:
            detail = "WORKER_OPS_READ_TOKEN or WORKER_OPS_TOKEN has to be set for this"
        return problem(401, detail, headers={"WWW-Authenticate": CHALLENGE})

    def _tell(self, request: Request, caller: Caller, status: int | None) -> None:
        self._log.info(
            "ops.action",
            method=request.method,
            path=request.scope["path"],
            status=status,
            role=caller.role.value,
            session_name=caller.session,
            address=address_of(request),
            **request.scope.get("noted", {}),
        )


def size_of(request: Request) -> int:
    scope = request.scope
    fields = sum(len(name) + len(value) for name, value in scope["headers"])
    return fields + len(scope["raw_path"]) + len(scope["query_string"])


def cross_site() -> Response:
    return problem(403, "this request comes from a page that is not the worker's own")


class Answered:
    """Sends an answer with the headers that each carries, and knows its status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._instead: bytes | None = None
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            if self.status == 413 and headers.get("content-type", "").startswith("text/plain"):
                # Starlette says this in words of its own.
                told = problem(413, "the body is larger than this route takes")
                self._instead = bytes(told.body)
                headers.update(told.headers)
            for name, value in SECURITY.items():
                headers.setdefault(name, value)
        elif self._instead is not None:
            message = {**message, "body": self._instead}
        await self._send(message)


def caller_of(request: Request) -> Caller:
    """Who asks. Each route but the probes and the sign-in has one."""
    caller: Caller = request.scope["caller"]
    return caller


def still_in(request: Request) -> Callable[[], bool]:
    """Tells, as often as it is asked, whether who asks has not signed out since."""
    found: Callable[[], bool] = request.scope.get("still_in", lambda: True)
    return found


def note(request: Request, **what: object) -> None:
    """Add to the line that the log gets of this action; no parameters and no results."""
    request.scope.setdefault("noted", {}).update(what)
