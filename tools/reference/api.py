"""The API under ``/api/v1/``, from its own OpenAPI description."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tools.reference.table import as_code, table
from worker.ops.api import ROOT, Api
from worker.ops.openapi import described

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["description", "page"]

INTRODUCTION = """\
# API

JSON over HTTP, at `WORKER_OPS_PORT`. The same facts and actions as the dashboard's and the command
line's. The description for programs (OpenAPI 3.1) is served at `/api/v1/openapi.json`, and is
[kept here](openapi.json) as well.

```sh
curl -H "Authorization: Bearer $WORKER_OPS_READ_TOKEN" http://127.0.0.1:8080/api/v1/overview
```

Every call wants a token: without a valid one the answer is 401. `WORKER_OPS_READ_TOKEN` opens
what begins with `GET`; the rest, which changes something, is 403 for it and wants
`WORKER_OPS_TOKEN`. What went wrong is told as `application/problem+json` (RFC 9457), with `title`,
`status` and `detail`. Moments are ISO 8601 in UTC; names that end in `_s` are seconds, in `_ms`
milliseconds.

"""


def description() -> Mapping[str, Any]:
    """The OpenAPI document. It is made from the calls alone, so no worker has to run."""
    facts: Any = SimpleNamespace(
        jobs=None, worker=SimpleNamespace(settings=SimpleNamespace(payload_limit=0))
    )
    told: dict[str, Any] = json.loads(described(Api(facts).calls(), root=ROOT))
    return told


def page() -> str:
    told = description()
    calls = [
        (f"{method.upper()} {path}", call)
        for path, methods in told["paths"].items()
        for method, call in methods.items()
    ]
    parts = [INTRODUCTION, "## Calls\n\n", table(("call", "what it does"), overview(calls))]
    parts += [section(title, call) for title, call in calls if asks_something(call)]
    parts.append("\n## Shapes\n")
    parts += [shape(name, schema) for name, schema in sorted(told["components"]["schemas"].items())]
    return "".join(parts)


def overview(calls: list[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    for title, call in calls:
        answers = {kind for kind in map(answer_of, call["responses"].values()) if kind}
        shapes = ", ".join(sorted(answers))
        yield f"`{title}`", f"{call['summary']}" + (f" Answers with {shapes}." if shapes else "")


def asks_something(call: Mapping[str, Any]) -> bool:
    return "requestBody" in call or any(p["in"] == "query" for p in call.get("parameters", ()))


def answer_of(response: Mapping[str, Any]) -> str | None:
    schema = response.get("content", {}).get("application/json", {}).get("schema")
    return kind_of(schema) if schema else None


def section(title: str, call: Mapping[str, Any]) -> str:
    rows = [
        (f"`{one['name']}`", kind_of(one["schema"]), one.get("description", ""))
        for one in call.get("parameters", ())
        if one["in"] == "query"
    ]
    text = f"\n### {title}\n"
    if rows:
        text += "\n" + table(("in the query", "kind", "what it is"), rows)
    if "requestBody" in call:
        (body,) = call["requestBody"]["content"].values()
        text += f"\nIts body is {kind_of(body['schema'])}.\n"
    return text


def shape(name: str, schema: Mapping[str, Any]) -> str:
    text = f"\n### {name}\n"
    told, attributes = parts_of(schema.get("description", ""))
    if told:
        text += f"\n{told}\n"
    if "enum" in schema:
        text += "\nOne of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".\n"
    rows = [
        (
            f"`{field}`",
            kind_of(said) + ("" if field in schema.get("required", ()) else ", optional"),
            said.get("description", "") or attributes.get(field, ""),
        )
        for field, said in schema.get("properties", {}).items()
    ]
    return text + ("\n" + table(("field", "kind", "what it is"), rows) if rows else "")


def parts_of(docstring: str) -> tuple[str, Mapping[str, str]]:
    """What a docstring says of the whole, and of each name below its ``Attributes:``."""
    told, _, attributes = as_code(docstring).partition("Attributes:")
    by_name: dict[str, str] = {}
    for line in attributes.splitlines():
        names, colon, rest = line.strip().partition(": ")
        if colon and re.fullmatch(r"\w+(, \w+)*", names):
            current = names.split(", ")
            by_name |= dict.fromkeys(current, rest)
        elif line.strip():
            by_name |= {name: f"{by_name[name]} {line.strip()}" for name in current}
    return " ".join(told.split()), by_name


def kind_of(schema: Mapping[str, Any]) -> str:
    """A schema in a few words; one of a name as a link to its shape."""
    if ref := schema.get("$ref"):
        name = ref.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if some := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(kind_of(one) for one in some))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "anything")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"array of {kind_of(schema.get('items', {}))}"
    told = str(schema.get("format", kind))
    return "moment" if told == "date-time" else told
