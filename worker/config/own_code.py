"""Where in the user's own code an error came up: a few words in the place of a traceback."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from traceback import extract_stack, extract_tb
from typing import TYPE_CHECKING, Any

import worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from traceback import FrameSummary

__all__ = ["called_at", "defined_at", "raised_at"]

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
    return shown_place(last.filename, last.lineno, last.name)


def shown_place(file: str, line: int | None, function: str) -> str:
    path = os.path.relpath(file)
    shown = file if path.startswith("..") else path
    inside = "" if function == "<module>" else f" in {function}"
    return f" ({shown}:{line}{inside})"


def called_at() -> str:
    """`` (shop.py:12 in register)``: the place outside of libraries that the caller was called
    from. Empty if there is none."""
    for place in reversed(extract_stack()):
        if not is_library(place):
            return shown_place(place.filename, place.lineno, place.name)
    return ""


def defined_at(task: object) -> str:
    """`` (shop.py:12)``: where the class or function of a task begins. Empty if unknown."""
    target: Any = inspect.unwrap(task) if callable(task) else task
    try:
        return shown_place(inspect.getfile(target), inspect.getsourcelines(target)[1], "<module>")
    except (OSError, TypeError):
        return ""


def outside(exc: BaseException) -> Iterator[FrameSummary]:
    """The places on the way that are neither Python's nor the worker's."""
    for place in extract_tb(exc.__traceback__):
        if not is_library(place):
            yield place


def is_library(place: FrameSummary) -> bool:
    """Whether it is Python's or the worker's. Tasks may be installed as a library, too."""
    installed = INSTALLED & set(Path(place.filename).parts)
    return (place.filename.startswith(OURS) and not installed) or place.filename.startswith("<")
