"""The API's description, OpenAPI 3.1, made of the calls and their types."""

from __future__ import annotations

import inspect
import json
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from worker.ops.calls import Call, adapter
from worker.ops.models import StateFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["described"]

REF = "#/components/schemas/{model}"
PROBLEM = {
    "type": "object",
    "description": "Why the answer is a no (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "What does not fit, and where.",
            "items": {
                "type": "object",
                "required": ["loc", "msg", "type"],
                "properties": {
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": {"type": "string"},
                    "type": {"type": "string"},
                },
            },
        },
    },
}

EVENTS: dict[str, Any] = {
    "operationId": "events",
    "summary": "The state, whenever it changes, as server-sent events of the name `state`.",
    "description": "The data of each event is a `StateFacts` as JSON. Comments come between.",
    "responses": {
        "200": {
            "description": "A stream that goes on until one of both ends it.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
}


def described(calls: Sequence[Call], *, root: str) -> str:
    """The description as JSON."""
    answers = {call.answer for call in calls} | {StateFacts}
    refs, schemas = TypeAdapter.json_schemas(
        [(answer, "serialization", adapter(answer)) for answer in sorted(answers, key=name_of)],
        ref_template=REF,
    )
    bodies = sorted({call.body for call in calls if call.body is not None}, key=name_of)
    said, more = models_json_schema([(body, "validation") for body in bodies], ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for call in calls:
        body = None if call.body is None else said[(call.body, "validation")]
        told = operation(call, refs[(call.answer, "serialization")], body)
        paths.setdefault(call.path, {})[call.method.lower()] = told
    paths[f"{root}/events"] = {"get": EVENTS}
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "sidecar-worker",
                "version": version("sidecar-worker"),
                "description": "What a worker does, and how to act on it.",
            },
            "paths": paths,
            "components": {
                "schemas": {
                    **schemas.get("$defs", {}),
                    **more.get("$defs", {}),
                    "ProblemDetails": PROBLEM,
                },
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{"token": []}],
        }
    )


def name_of(kind: type) -> str:
    return kind.__name__


def operation(call: Call, answer: Any, body: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": call.does.__name__,
        "summary": inspect.getdoc(call.does),
        "parameters": [*path_parameters(call.path), *query_parameters(call)],
        "responses": {
            **{
                str(status): {
                    "description": "As it stands.",
                    "content": {"application/json": {"schema": answer}},
                }
                for status in call.statuses
            },
            "default": {
                "description": "Refused, or not possible now.",
                "content": {
                    "application/problem+json": {
                        "schema": {"$ref": REF.format(model="ProblemDetails")}
                    }
                },
            },
        },
    }
    if body is not None:
        told["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return told


def path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def query_parameters(call: Call) -> list[dict[str, Any]]:
    if call.query is None:
        return []
    schema = call.query.model_json_schema(ref_template=REF)
    return [
        {"name": name, "in": "query", "required": False, "schema": field}
        for name, field in schema["properties"].items()
    ]
