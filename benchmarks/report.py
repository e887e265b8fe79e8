"""A report in plain text, made of tables whose lines can be copied into a README."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TextIO

__all__ = ["Report", "percentile", "spread"]


class Report:
    """Writes as it goes, so that one sees something while the rest is measured."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._targets: list[tuple[str, str, bool]] = []

    def text(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()

    def title(self, title: str) -> None:
        self.text(f"\n{title}\n{'=' * len(title)}")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """The first column is set left, the others right."""
        lines = [head, *rows]
        widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
        for line in (head, ["-" * width for width in widths], *rows):
            first, *others = line
            cells = [first.ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            self.text("  ".join(cells).rstrip())

    def target(self, wanted: str, got: str, *, met: bool) -> None:
        """Something that was promised; told where it was measured, and at the end."""
        self._targets.append((wanted, got, met))

    def targets_met(self) -> None:
        if not self._targets:
            return
        self.title("targets")
        rows = [(wanted, got, "met" if met else "MISSED") for wanted, got, met in self._targets]
        self.table(("wanted", "measured", ""), rows)


def spread(values: Sequence[float], form: str = ".0f") -> str:
    """``median (least-most)``."""
    middle, least, most = median(values), min(values), max(values)
    return f"{middle:{form}} ({least:{form}}-{most:{form}})"


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank: a value that was measured, none in between."""
    ordered = sorted(values)
    rank = round(percent / 100 * len(ordered) + 0.5)
    return ordered[min(max(rank, 1), len(ordered)) - 1]
