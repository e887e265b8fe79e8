"""Hides values by the names they have: what is called a password is shown to nobody.

For what the worker cannot know as a secret: parameters and results of jobs, what tasks log.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

__all__ = ["HIDDEN", "is_secret_key", "without_secret_values", "without_secrets"]

HIDDEN = "***"
DEEPEST = 100
"""Nothing that is nested deeper is shown at all."""
VALUES = frozenset({"default", "examples", "example", "const", "enum"})
"""Where a JSON schema holds values."""
SECRET = re.compile(
    "password|passwd|passphrase|pwd|secret|token|authorization|cookie|credential|signature"
    "|apikey|accesskey|privatekey|encryptionkey|signingkey|sessionid|otp$|^pin$|^cvv|^cvc"
)
MARKS = re.compile(r"[\W_]+")


@lru_cache(maxsize=1024)
def is_secret_key(name: str) -> bool:
    """Whether a value of this name is a secret: ``api_key``, ``X-Auth-Token``, ``dbPassword`` …"""
    return SECRET.search(MARKS.sub("", name).lower()) is not None


def without_secrets(value: object, depth: int = 0) -> Any:
    """``value``, as JSON has it, with `HIDDEN` for each secret in it; the given one is not changed.

    Neither ``None`` nor a bool is hidden: there is nothing in it to know.
    """
    if depth > DEEPEST:
        return HIDDEN
    match value:
        case dict():
            return {
                key: HIDDEN
                if isinstance(key, str) and is_secret_key(key) and not isinstance(item, bool | None)
                else without_secrets(item, depth + 1)
                for key, item in value.items()
            }
        case list() | tuple():
            return [without_secrets(item, depth + 1) for item in value]
        case _:
            return value


def without_secret_values(schema: Any, *, secret: bool = False) -> Any:
    """A JSON schema without the values that it tells of secrets, such as a password's default.

    They are left out, since `HIDDEN` in their place would be taken for one.

    Args:
        secret: Whether what it describes is called like one.
    """
    match schema:
        case dict():
            shown = {}
            for key, item in schema.items():
                if key == "properties" and isinstance(item, dict):
                    shown[key] = {
                        name: without_secret_values(of, secret=is_secret_key(name))
                        for name, of in item.items()
                    }
                elif key in VALUES:
                    if not secret and without_secrets(item) == item:
                        shown[key] = item
                else:
                    shown[key] = without_secret_values(item, secret=secret)
            return shown
        case list():
            return [without_secret_values(item, secret=secret) for item in schema]
        case _:
            return schema
