"""The service as an ASGI application: the contract, its description, and the control side."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from worker.demo.answer import JSON_TYPE
from worker.demo.contract import CONTRACT
from worker.demo.control import Control
from worker.demo.dice import Dice
from worker.demo.endpoint import Endpoint
from worker.demo.faults import NO_FAULTS, Faults
from worker.demo.journal import Received
from worker.demo.openapi import description
from worker.demo.store import Store


def create_app(
    store: Store,
    *,
    token: str | None = None,
    faults: Faults = NO_FAULTS,
    require_key: bool = True,
) -> Starlette:
    """Build the service on a store, which stays the caller's to close.

    `token` None lets everybody in. `require_key` False also serves unsafe calls that come without
    an idempotency key, as laxer services do.
    """
    return app_of(store, Dice(faults), token=token, require_key=require_key)


def app_of(store: Store, dice: Dice, *, token: str | None, require_key: bool) -> Starlette:
    """Build the service with dice that the caller keeps a hand on."""

    async def not_served(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = error.detail if isinstance(error, HTTPException) else "Internal Server Error"
        path = request.scope["path"]
        if path.startswith("/api/"):
            number = store.journal.received(Received(request.method, path, None, None))
            store.journal.answered(number, status=status, fault=None, replayed=False)
        return JSONResponse({"detail": detail}, status)

    contract = [
        Route(
            operation.path,
            Endpoint(operation, store, dice, token=token, require_key=require_key),
            methods=[operation.method],
        )
        for operation in CONTRACT
    ]
    app = Starlette(
        routes=[
            *contract,
            *Control(store, dice).routes(),
            Route("/openapi.json", _description),
            Route("/", _index),
        ],
        middleware=[Middleware(_RawPath)],
        exception_handlers={HTTPException: not_served},
    )
    # A path that is not quite right is an error to be seen, not to be mended on the way.
    app.router.redirect_slashes = False
    return app


async def _description(request: Request) -> Response:
    return Response(description(), media_type=JSON_TYPE)


async def _index(request: Request) -> Response:
    return JSONResponse(
        {
            "service": "the reference Data API of sidecar-worker",
            "contract": "/openapi.json",
            "look": ["/demo/summary", "/demo/effects", "/demo/requests", "/demo/faults"],
        }
    )


class _RawPath:
    """Routes on the path as it was sent: decoded, an id with a slash would be two segments."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = scope["raw_path"].decode("ascii")
        await self._app(scope, receive, send)
