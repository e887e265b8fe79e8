"""Tables and words in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["as_code", "table"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The lines of a table; a ``|`` in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(
        "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in line) + " |\n"
        for line in lines
    )


def as_code(text: str) -> str:
    """Docstrings mark code by two backticks or one, Markdown by one."""
    return text.replace("``", "`")
