"""The applications of the two listeners, put together from what each part serves.

A route is an ``async`` function; it raises Starlette's ``HTTPException`` for what is the caller's
to mend. Where it needs a body: `worker.ops.bodies`. Who asks: `worker.ops.guard.caller_of`. A route
with larger bodies than `BODY_LIMIT` says so itself (``Route(…, max_body_size=…)``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from worker.ops.guard import Guard
from worker.ops.problem import tell_http_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.routing import BaseRoute

    from worker.ops.locks import Locks

__all__ = ["BODY_LIMIT", "guarded"]

BODY_LIMIT = 64 * 1024


def guarded(routes: Sequence[BaseRoute], locks: Locks) -> Starlette:
    """An application that lets nobody pass who may not."""
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Guard, locks=locks),
            Middleware(RequestBodyLimitMiddleware, max_body_size=BODY_LIMIT),
        ],
        exception_handlers={HTTPException: tell_http_error},
    )
    app.router.redirect_slashes = False  # it would send callers on to what their Host header names
    return app
