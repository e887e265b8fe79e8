"""JSON for PostgreSQL, without PostgreSQL's library."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["packed", "readable"]

NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def packed(rows: Sequence[Mapping[str, Any]]) -> str:
    """As JSON that PostgreSQL takes: it knows neither NUL nor half a pair of surrogates."""
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    if r"\u0000" in text:  # to look costs a hundredth of what the expression does
        text = NUL.sub(r"\1\\ufffd", text)
    return text.encode("utf-8", "replace").decode("utf-8")


def readable(text: str) -> str:
    """A text that PostgreSQL takes."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
