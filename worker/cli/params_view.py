"""What a task takes, in a line: ``order_id: integer, note: string = ""``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["params_line"]


def params_line(schema: Mapping[str, Any] | None) -> str:
    """The parameters that a JSON schema describes; those without a default come as they are."""
    if schema is None:
        return ""
    needed = schema.get("required", ())
    parts = []
    for name, field in schema.get("properties", {}).items():
        default = "" if name in needed else f" = {default_of(field)}"
        parts.append(f"{name}: {type_of(field)}{default}")
    return ", ".join(parts)


def default_of(field: Mapping[str, Any]) -> str:
    return json.dumps(field["default"], ensure_ascii=False) if "default" in field else "…"


def type_of(field: Mapping[str, Any]) -> str:
    """A type in a word or two."""
    if "const" in field or "enum" in field:
        values = field.get("enum", [field.get("const")])
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in values)
    for several in ("anyOf", "oneOf"):
        if several in field:
            return " | ".join(dict.fromkeys(type_of(one) for one in field[several]))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    kind = field.get("type", "any")
    if kind == "array" and isinstance(field.get("items"), dict) and field["items"]:
        return f"[{type_of(field['items'])}]"
    return str(field.get("format", kind))
