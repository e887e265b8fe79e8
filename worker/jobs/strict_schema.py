"""A validator that refuses unknown fields, for a model that does not say what becomes of them.

The model itself stays as it is, and so does the type of what is validated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pydantic_core import CoreSchema, SchemaValidator

__all__ = ["strict_validator"]

LEFT_ALONE = frozenset({"cls", "config", "default", "expected", "metadata", "serialization"})
"""What holds values of the user's, and no schemas to look into."""


def strict_validator(schema: CoreSchema) -> SchemaValidator:
    """A validator for ``schema`` in which models, dataclasses and typed dictionaries, nested ones
    too, refuse unknown fields unless their own configuration says otherwise."""
    from pydantic_core import SchemaValidator

    strict = cast("CoreSchema", forbidding(schema))
    try:
        # Otherwise pydantic takes the validator that a model has already, which is the lax one.
        return SchemaValidator(strict, _use_prebuilt=False)
    except TypeError:  # older versions take none
        return SchemaValidator(strict)


def forbidding(part: Any) -> Any:
    """A copy of a schema, or of a part of one."""
    if isinstance(part, list):
        return [forbidding(item) for item in part]
    if isinstance(part, tuple):
        return tuple(forbidding(item) for item in part)
    if not isinstance(part, dict):
        return part
    copied = {key: item if key in LEFT_ALONE else forbidding(item) for key, item in part.items()}
    own = part.get("config", {})
    match copied.get("type"):
        case "model" | "dataclass":
            copied["config"] = {"extra_fields_behavior": "forbid", **own}
        case "typed-dict" if "extra_fields_behavior" not in own:
            if copied.get("extra_behavior", "ignore") == "ignore":  # pydantic's default
                copied["extra_behavior"] = "forbid"
    return copied
