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
    "password|passwd|passphrase|passcode|pwd|secret|token|authorization|cookie|credential"
    "|signature|apikey|accesskey|privatekey|encryptionkey|signingkey|sessionid|sessionkey"
    "|connectionstring|databaseurl|dburl|(pin|otp|recovery|backup)codes?$|^cvv|^cvc"
)
"""In a name without its marks."""
SECRET_LAST = frozenset({"auth", "bearer", "dsn", "jwt", "otp", "pass", "session", "sid", "sig"})
"""Words with which a secret's name ends."""
LABELS = frozenset(
    {
        *("cache", "concurrency", "dedup", "external", "foreign", "group", "idempotency", "index"),
        *("lookup", "message", "natural", "object", "order", "parent", "partition", "primary"),
        *("public", "routing", "row", "sort", "unique"),
    }
)
"""What a key is not secret of: it tells things apart. Every other key may open something."""
MARKS = re.compile(r"[\W_]+")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
NAMED_BY = ("name", "key", "header", "field")
VALUED_BY = ("value", "values", "val")
"""How a pair of a name and a value is written as an object."""
LONGEST_KNOWN = 100
"""Of the longer names, which may be anything, none is kept in memory."""


def is_secret_key(name: str) -> bool:
    """Whether a value of this name is a secret: ``api_key``, ``X-Auth-Token``, ``dbPassword`` …"""
    return judged(name) if len(name) <= LONGEST_KNOWN else judge(name)


def judge(name: str) -> bool:
    if SECRET.search(MARKS.sub("", name).lower()) is not None:
        return True
    words = [word.lower() for word in WORD.findall(name)]
    match words:
        case [*_, last] if last in SECRET_LAST:
            return True
        case ["pin"]:
            return True
        case [*before, "key"]:
            return not (before and before[-1] in LABELS)
        case _:
            return False


judged = lru_cache(maxsize=1024)(judge)


def without_secrets(value: object, depth: int = 0) -> Any:
    """``value``, as JSON has it, with `HIDDEN` for each secret in it; the given one is not changed.

    A secret is told by its name: a key's, or the one beside it, in ``["Cookie", "…"]`` and in
    ``{"name": "password", "value": "…"}``. Neither ``None`` nor a bool is hidden: there is nothing
    in it to know.
    """
    if depth > DEEPEST:
        return HIDDEN
    match value:
        case dict():
            secret = secret_keys(value)
            return {
                key: hidden(item) if key in secret else without_secrets(item, depth + 1)
                for key, item in value.items()
            }
        case [str(name), item] if isinstance(item, str) and is_secret_key(name):
            return [name, HIDDEN]
        case list() | tuple():
            return [without_secrets(item, depth + 1) for item in value]
        case _:
            return value


def hidden(item: object) -> object:
    return item if isinstance(item, bool | None) else HIDDEN


def secret_keys(value: dict[Any, Any]) -> set[str]:
    """The keys of those values that are secrets."""
    valued = [key for key in VALUED_BY if key in value]
    names = [value[key] for key in NAMED_BY if valued and isinstance(value.get(key), str)]
    found = {key for key in value if isinstance(key, str) and is_secret_key(key)}
    if names:
        found -= set(NAMED_BY)
    if any(map(is_secret_key, names)):
        found |= set(valued)
    return found


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
