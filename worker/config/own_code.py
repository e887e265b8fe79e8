"""Where in the user's own code an error came up: a few words in the place of a traceback."""

from __future__ import annotations

import os
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING

import worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from traceback import FrameSummary

__all__ = ["raised_at"]

OURS = (str(Path(worker.__file__).parent), str(Path(os.__file__).parent))
INSTALLED = frozenset({"site-packages", "dist-packages"})


def raised_at(exc: BaseException) -> str:
    """`` (deep.py:2 in helper)``: the last place outside of libraries on the way to ``exc``.

    Where the tasks are installed as a library it is the last one of any. Empty if there is none:
    a module that is not there, or one that cannot be parsed, which Python itself says where.
    """
    places = list(outside(exc))
    own = [place for place in places if not INSTALLED & set(Path(place.filename).parts)]
    if not places:
        return ""
    last = (own or places)[-1]
    path = os.path.relpath(last.filename)
    shown = last.filename if path.startswith("..") else path
    inside = "" if last.name == "<module>" else f" in {last.name}"
    return f" ({shown}:{last.lineno}{inside})"


def outside(exc: BaseException) -> Iterator[FrameSummary]:
    """The places on the way that are neither Python's nor the worker's."""
    for place in extract_tb(exc.__traceback__):
        installed = INSTALLED & set(Path(place.filename).parts)
        library = place.filename.startswith(OURS) and not installed
        if not library and not place.filename.startswith("<"):
            yield place
