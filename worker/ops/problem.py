"""How the ops part says no: ``application/problem+json`` (RFC 9457), and never a traceback."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

__all__ = ["problem", "tell_http_error"]


def problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    """An answer that says what was expected, what came, and what to do.

    Args:
        more: Further members of the JSON object.
    """
    told = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    return Response(
        json.dumps({**told, "detail": detail, **more}),
        status_code=status,
        headers=headers,
        media_type="application/problem+json",
    )


async def tell_http_error(request: Request, exc: Exception) -> Response:
    """The answer to Starlette's ``HTTPException``, which the routes may raise."""
    status: int = getattr(exc, "status_code", 500)
    detail: str = getattr(exc, "detail", "")
    headers: Mapping[str, str] = getattr(exc, "headers", None) or {}
    if status == HTTPStatus.METHOD_NOT_ALLOWED and "Allow" in headers:
        detail = f"expected {headers['Allow']}, got {request.method}"
    return problem(status, detail, headers=headers)
