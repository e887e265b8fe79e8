"""The browser's way in: a token becomes a session, which a cookie remembers."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

import structlog
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from worker.ops.bodies import read_form, read_json
from worker.ops.problem import problem
from worker.ops.slow_down import address_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from worker.ops.locks import Locks, Role, Sessions, SignInLink
    from worker.ops.slow_down import SlowDown

__all__ = [
    "ASK",
    "ASK_LINK",
    "CHALLENGE",
    "DASHBOARD",
    "SESSION",
    "cookie_names",
    "session_routes",
    "session_secret",
    "sign_in_page",
]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Sign in - worker</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>worker</h1>
<form method="post" action="{action}">
<p>{said}</p>
<p><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<input name="username" type="text" autocomplete="username" value="worker" hidden>
<input name="next" type="hidden" value="{next}">
<button>Sign in</button></p>
</form>
</main>
</body>
</html>
"""
STYLE = files("worker.ops.page").joinpath("sign_in.css").read_text("utf-8")
DIGEST = b64encode(sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{DIGEST}'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""This one style and nothing else; every other page has none of its own."""
ASK = "Sign in with the token of WORKER_OPS_TOKEN, or of WORKER_OPS_READ_TOKEN to look only."
ASK_LINK = (
    "No token is set: open the link that the worker shows at its terminal. "
    "Each link opens once, then a new one is shown. Or set WORKER_OPS_TOKEN."
)
USED = "This link was used, or is of another life of the worker: its terminal shows the next one."
WRONG = "This is no token of the worker's."
CHALLENGE = 'Bearer realm="worker"'
SESSION = "/session"
DASHBOARD = "/"
FORM = "application/x-www-form-urlencoded"
SECURE = "__Host-"
"""Browsers take a cookie of such a name over TLS only, and from no other host."""


def sign_in_page(said: str = ASK, onward: str = "/", *, path: str = SESSION) -> Response:
    """The form that asks for a token, as an answer 401.

    Args:
        onward: The path and query where one wanted to go.
        path: Of the request that this answers.
    """
    # A form that names no address sends to its own: only so does what stands there after a #,
    # which is the dashboard's view, outlive the sign-in. The server never sees it.
    action = "" if path == DASHBOARD else SESSION
    page = PAGE.format(style=STYLE, said=escape(said), next=escape(onward), action=action)
    headers = {"WWW-Authenticate": CHALLENGE, "Content-Security-Policy": POLICY}
    return HTMLResponse(page, status_code=401, headers=headers)


def session_routes(locks: Locks, sessions: Sessions) -> list[Route]:
    """``/session``: GET says the role, POST opens one for a token, DELETE ends it.

    POST does the same at ``/``, for the form that keeps the view.
    """

    async def tell(request: Request) -> Response:
        return JSONResponse({"role": request.scope["caller"].role.value})

    async def open_one(request: Request) -> Response:
        is_form = request.headers.get("content-type", "").startswith(FORM)
        given = await read_form(request) if is_form else await read_json(request)
        token, onward = str(given.get("token", "")), local(str(given.get("next", "/")))
        role = await locks.slow_down.judge(address_of(request), lambda: locks.tokens.role_of(token))
        if role is None:
            path = request.scope["path"]
            return sign_in_page(WRONG, onward, path=path) if is_form else problem(401, WRONG)
        answer: Response = JSONResponse({"role": role.value})
        if is_form:
            answer = RedirectResponse(onward, status_code=303)
        return begin(request, answer, sessions, role)

    async def close(request: Request) -> Response:
        answer = Response(status_code=204)
        for name in cookie_names(request):
            sessions.close(request.cookies.get(name, ""))
            answer.delete_cookie(
                name, path="/", httponly=True, samesite="strict", secure=name.startswith(SECURE)
            )
        return answer

    routes = [
        Route(SESSION, tell, methods=["GET"]),
        Route(SESSION, open_one, methods=["POST"]),
        Route(DASHBOARD, open_one, methods=["POST"]),
        Route(SESSION, close, methods=["DELETE"]),
    ]
    if locks.link is not None:
        routes.append(link_route(locks.link, locks.slow_down, sessions))
    return routes


def link_route(link: SignInLink, slow_down: SlowDown, sessions: Sessions) -> Route:
    """``/session/link``: does what POST does, once, for the link that the terminal shows.

    A token that lives longer has no place in an address.
    """

    async def follow(request: Request) -> Response:
        if request.headers.get("sec-fetch-dest", "document") != "document":
            return problem(403, "this link is to be opened, and not to be part of a page")
        key = request.query_params.get("key", "")
        role = await slow_down.judge(address_of(request), lambda: link.use(key))
        if role is None:
            return sign_in_page(USED, "/")
        return begin(request, RedirectResponse("/", status_code=303), sessions, role)

    route = Route("/session/link", follow, methods=["GET"])
    route.methods = {"GET"}  # Starlette adds HEAD, and whoever only looks would use the link up
    return route


def begin(request: Request, answer: Response, sessions: Sessions, role: Role) -> Response:
    """Open a session, and have the browser keep it."""
    secret, session = sessions.open(role)
    structlog.get_logger("worker.ops").info(
        "ops.signed_in", role=role.value, session_name=session.name, address=address_of(request)
    )
    # The browser's own word is all that tells of a proxy that speaks TLS for us.
    is_https = request.headers.get("origin", "").startswith("https://")
    secure, plain = cookie_names(request)
    answer.set_cookie(
        secure if is_https else plain,
        secret,
        path="/",
        httponly=True,
        samesite="strict",
        secure=is_https,
    )
    return answer


def cookie_names(request: Request) -> tuple[str, str]:
    """Over TLS, and without. With the port: a browser has one jar for all workers of a machine."""
    server = request.scope.get("server")
    name = f"worker_session_{server[1] if server else 0}"
    return f"{SECURE}{name}", name


def session_secret(request: Request) -> str | None:
    """What the browser's cookie holds."""
    found = (request.cookies.get(name) for name in cookie_names(request))
    return next((secret for secret in found if secret), None)


def local(onward: str) -> str:
    """Where to go on: a path of ours, and no other server."""
    is_path = onward.startswith("/") and not onward.startswith(("//", "/\\"))
    return onward if is_path and onward.isprintable() else "/"
