"""Finds what is wrong with a configuration before anything is opened, to tell it all at once."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from worker.backends.opening import STORES
from worker.environment import our_variables
from worker.errors import ConfigurationError
from worker.queues.opening import QUEUES
from worker.settings import Settings, load_settings, variable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["all_or_nothing", "import_from_here", "unusable"]


def all_or_nothing() -> Settings:
    """The settings, of which all is wrong that can be told before anything is opened, or nothing.

    Raises:
        ConfigurationError: Anything at all is wrong; it names every problem.
    """
    try:
        settings = load_settings()
    except ConfigurationError as exc:
        given = our_variables([])
        names = given.get(variable("task_modules"), "").split(",")
        more = unusable(
            given.get(variable("store_url")),
            given.get(variable("queue_url")),
            [name.strip() for name in names if name.strip()],
        )
        raise ConfigurationError([*exc.problems, *more]) from exc
    return settings


def unusable(store_url: str | None, queue_url: str | None, modules: Sequence[str]) -> Iterator[str]:
    """What is wrong with these settings, as far as it shows without opening or importing."""
    for kinds, url in ((STORES, store_url), (QUEUES, queue_url)):
        if url:
            try:
                kinds.of(url)
            except ConfigurationError as exc:
                yield from exc.problems
    import_from_here()
    for name in modules:
        top = name.partition(".")[0]
        if top.isidentifier() and top not in sys.modules and find_spec(top) is None:
            setting = variable("task_modules")
            why = f"ModuleNotFoundError: No module named {top!r}"
            yield f"{setting}: {name}: cannot be imported: {why}"


def import_from_here() -> None:
    """Have modules of the working folder found, as `python -m` does: a script beside it, too."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
