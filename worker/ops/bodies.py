"""What a request carries, read with a time limit. How large it may be, the application says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException

from worker.json_values import NotJson
from worker.json_values import read_json as exact_json

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["read", "read_form", "read_json"]

LONGEST_S = 10.0
"""How long a body may take to arrive."""
STRANGERS_S = 2.0
"""The same, of one who has shown no token yet: it is a token that he sends, and nothing else."""


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object that was sent; an empty one where nothing was.

    Raises:
        HTTPException: 400, it is no JSON object; 408, it came too slowly; 413, it is too large.
    """
    body = await read(request)
    if not body:
        return {}
    try:
        value = exact_json(body)
    except NotJson as exc:
        raise HTTPException(400, f"expected a JSON object, got what is no JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise HTTPException(400, f"expected a JSON object, got a {type(value).__name__}")
    return value


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form that a browser sent.

    Raises:
        HTTPException: 400, it is no form; 408, it came too slowly; 413, it is too large.
    """
    body = await read(request)
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=20)
    except ValueError as exc:
        raise HTTPException(400, "expected the fields of a form") from exc
    return {name: values[-1] for name, values in fields.items()}


async def read(request: Request) -> bytes:
    """What was sent.

    Raises:
        HTTPException: 408, it came too slowly; 413, it is too large.
    """
    longest_s = LONGEST_S if "caller" in request.scope else STRANGERS_S
    try:
        async with asyncio.timeout(longest_s):
            return await request.body()
    except TimeoutError as exc:
        raise HTTPException(408, f"the body did not arrive within {longest_s:g} s") from exc
