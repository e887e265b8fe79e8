"""One call of the API: its path, what it takes and answers, and how it becomes a route."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from worker.errors import (
    ConfigurationError,
    InvalidOptions,
    InvalidParams,
    JobConflict,
    NotSupported,
    StoreError,
    TaskBusy,
    UnknownJob,
    UnknownTaskError,
    WorkerError,
)
from worker.json_values import NotJson
from worker.json_values import read_json as check_json_text
from worker.ops.bodies import read
from worker.ops.problem import problem
from worker.redaction import cut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import BaseModel
    from starlette.types import Scope

__all__ = ["Asked", "Call", "adapter", "route_of"]

STATUSES: tuple[tuple[type[WorkerError], int], ...] = (
    (UnknownTaskError, 404),
    (UnknownJob, 404),
    (TaskBusy, 409),
    (JobConflict, 409),
    (InvalidParams, 422),
    (InvalidOptions, 422),
    (NotSupported, 501),
    (StoreError, 503),
    (ConfigurationError, 503),
)
SOON = {"Retry-After": "2"}
MOST_ERRORS = 100
LONGEST_SAID = 1000
"""Of what does not fit, which may quote what came."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says, checked.

    Attributes:
        name: The part of the path that names a task or a job; empty where there is none.
        query, body: Instances of the call's own types.
    """

    name: str = ""
    query: Any = None
    body: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call. Its handler's docstring describes it.

    Attributes:
        path: With ``{name}`` for a task, ``{id}`` for a job.
        does: Returns the answer, or the answer and a status.
        answer: The type of the answer.
        query, body: What can be said; without them, nothing.
        statuses: With which an answer comes.
        most_bytes: How large a body may be; ``None`` for what holds for all calls.
    """

    method: str
    path: str
    does: Callable[[Asked], Awaitable[Any]]
    answer: type
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    statuses: tuple[int, ...] = (200,)
    most_bytes: int | None = None


@cache
def adapter(kind: type) -> TypeAdapter[Any]:
    """What writes, and describes, values of a type."""
    return TypeAdapter(kind)


def route_of(call: Call, redact: Callable[[str], str]) -> Route:
    """The call as Starlette serves it.

    Args:
        redact: Takes secrets out of what the worker or its store says.
    """

    async def serve(request: Request) -> Response:
        try:
            asked = Asked(
                name=next(iter(request.path_params.values()), ""),
                query=None if call.query is None else read_query(call.query, request),
                body=None if call.body is None else await read_body(call.body, request),
            )
        except ValidationError as exc:
            return unfit(exc, redact)
        try:
            answer = await call.does(asked)
        except WorkerError as exc:
            return refused(exc, redact)
        status = call.statuses[0]
        if isinstance(answer, tuple):
            answer, status = answer
        return Response(
            adapter(call.answer).dump_json(answer),
            status_code=status,
            media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    name = f"{call.method} {call.path}"
    return RawRoute(
        call.path, serve, methods=[call.method], name=name, max_body_size=call.most_bytes
    )


class RawRoute(Route):
    """Matches the path as it was sent: a job's id may be ``a/payload``, sent as ``a%2Fpayload``."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope.get("raw_path") is None:
            return super().matches(scope)
        match, more = super().matches({**scope, "path": scope["raw_path"].decode("latin-1")})
        if match is not Match.NONE:
            found = more["path_params"]
            more["path_params"] = {name: unquote(value) for name, value in found.items()}
        return match, more


def read_query(kind: type[BaseModel], request: Request) -> BaseModel:
    """What the query of the URL says.

    Raises:
        ValidationError: It does not fit.
    """
    said: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        several = name in kind.model_fields and isinstance(kind.model_fields[name].default, tuple)
        if several:
            said[name] = (*said.get(name, ()), value)
        else:
            said[name] = value
    return kind.model_validate(said)


async def read_body(kind: type[BaseModel], request: Request) -> BaseModel:
    """What the body says; nothing counts as an empty object.

    Raises:
        ValidationError: It does not fit, or is no JSON.
        HTTPException: It came too slowly, is too large, or holds what JSON does not have.
    """
    body = await read(request) or b"{}"
    said = kind.model_validate_json(body)
    try:
        check_json_text(body)  # pydantic reads NaN, and takes the last of two equal keys
    except NotJson as exc:
        raise HTTPException(400, f"expected JSON: {exc}") from exc
    return said


def unfit(
    exc: ValidationError, redact: Callable[[str], str], detail: str | None = None
) -> Response:
    """What does not fit, and where; without any of the values, which may be personal."""
    found = exc.errors(include_url=False, include_context=False, include_input=False)
    errors = [
        {
            "loc": [cut(redact(one)) if isinstance(one, str) else one for one in error["loc"]],
            "msg": cut(redact(error["msg"].removeprefix("Value error, ")), LONGEST_SAID),
            "type": error["type"],
        }
        for error in found[:MOST_ERRORS]
    ]
    if detail is None:
        detail = "; ".join(
            ": ".join(filter(None, (".".join(map(str, error["loc"])), str(error["msg"]))))
            for error in errors[:10]
        )
    status = 400 if any(error["type"] == "json_invalid" for error in errors) else 422
    return problem(status, detail, errors=errors)


def refused(exc: WorkerError, redact: Callable[[str], str]) -> Response:
    """The answer to what the worker, or its store, refused."""
    cause = validation_in(exc)
    if isinstance(exc, InvalidParams) and cause is not None:
        return unfit(cause, redact, redact(str(exc)))
    status = next((status for kind, status in STATUSES if isinstance(exc, kind)), 500)
    more = {"id": exc.job_id} if isinstance(exc, JobConflict) else {}
    return problem(status, redact(str(exc)), headers=SOON if status == 503 else None, **more)


def validation_in(exc: BaseException | None) -> ValidationError | None:
    """What pydantic found, if that was the reason."""
    while exc is not None and not isinstance(exc, ValidationError):
        exc = exc.__cause__
    return exc
