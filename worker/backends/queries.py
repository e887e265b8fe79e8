"""SQL statements by their names, from a file beside the backend that sends them."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["load_queries"]

NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load_queries(file: Path) -> Mapping[str, str]:
    """Each statement under a line ``-- name: read_books``, without the comments that describe it.

    A line is a comment if it begins with ``--``.
    """
    _, *parts = NAME.split(file.read_text("utf-8"))
    return MappingProxyType(
        {
            name: re.sub(r"^\s*--.*\n", "", text, flags=re.MULTILINE).strip().removesuffix(";")
            for name, text in zip(parts[::2], parts[1::2], strict=True)
        }
    )
