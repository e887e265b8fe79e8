"""What the class of a task may have: an option that is misspelled, or Celery's, is refused.

A class may have attributes of its own. Refused are those that hold what an option could hold, and
whose name is close to an option's or is an option of Celery's; methods whose name is close to a
hook's; and hooks that cannot be called. Names in capitals and those that begin with ``_`` are the
class's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from datetime import timedelta
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Generic

from worker.jobs.job import Rate
from worker.jobs.options import CELERY_OPTIONS, ConcurrencyPer, UniquePer
from worker.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["accepts", "asking_problem", "attribute_problems", "hook_problem"]

VALUES = (
    *(str, int, float, bool, type(None), timedelta, tuple, list, set, frozenset, dict),
    *(Rate, UniquePer, ConcurrencyPer, RetryPolicy),
)
"""The types of what an option holds, or somebody may believe that it does."""
METHODS = {
    "after_return": "here on_success and on_failure",
    "before_start": "here the beginning of execute()",
    "on_bound": "here __init__",
}
"""Celery's, which nothing calls here."""
NEARLY = 0.85
"""How similar two names are, from 0 to 1, if one may be meant for the other."""


def attribute_problems(
    cls: type[Any], root: type[Any], options: Iterable[str], hooks: Iterable[str]
) -> Iterator[str]:
    """What is wrong with the attributes that a new class brings along.

    Args:
        root: The class that all tasks have as their base.
        options: The names of options.
        hooks: The names of methods that a class may write, beside the hooks.
    """
    known_options, known_methods = set(options), {*hooks, *METHODS}
    for name, value in brought_along(cls, root):
        if name.startswith("_") or name.isupper() or hasattr(root, name):
            continue
        if is_method(value):
            if name in METHODS:
                yield f"{name}: {METHODS[name]}"
            elif name not in known_methods and (meant := meant_for(name, known_methods)):
                yield f"{name}: nothing calls it (did you mean {meant!r}?)"
        elif may_be_option(value) and name not in known_options:
            if name in CELERY_OPTIONS:
                yield f"{name}: {CELERY_OPTIONS[name]}"
            elif (meant := meant_for(name, known_options)) is not None:
                yield (
                    f"{name}: unknown option (did you mean {meant!r}?); give an attribute of your "
                    "own another name"
                )


def brought_along(cls: type[Any], root: type[Any]) -> Iterator[tuple[str, Any]]:
    """The attributes of a class and of its mixins, which were not looked at before."""
    for base in cls.__mro__:
        checked_before = base is not cls and issubclass(base, root)
        if not checked_before and base is not Generic and not issubclass(root, base):
            yield from vars(base).items()


def is_method(value: object) -> bool:
    return inspect.isroutine(value)


def may_be_option(value: object) -> bool:
    if isinstance(value, type):
        return issubclass(value, BaseException)
    return isinstance(value, VALUES)


def meant_for(name: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant; ``None`` if it is a name of its own, as a plural is."""
    lower = name.lower()
    close = []
    for one in known:
        for form in {one, one.replace("ies", "y")}:  # max_retry is no less a mistake
            ratio = SequenceMatcher(None, lower, form).ratio()
            if may_mean(lower, one) and (ratio >= NEARLY or is_swapped(lower, form)):
                close.append((ratio, one))
    return max(close)[1] if close else None


def may_mean(name: str, known: str) -> bool:
    """Whether it can be a slip: not the plural, and no other word in the place of one."""
    if name == f"{known}s" and known != "queue":
        return False
    begins_alike = name[0] == known[0] or name[:2] == known[1::-1] or name == known[1:]
    words = zip(name.split("_"), known.split("_"), strict=False)
    return begins_alike and not any(is_another_word(word, other) for word, other in words)


def is_another_word(word: str, other: str) -> bool:
    """``date`` is another word than ``rate``; ``rat`` may be a slip."""
    return len(word) == len(other) and word[0] != other[0] and word[:2] != other[1::-1]


def is_swapped(name: str, known: str) -> bool:
    """Whether two letters changed places, and nothing else is different."""
    if len(name) != len(known):
        return False
    different = [at for at, letter in enumerate(name) if letter != known[at]]
    match different:
        case [first, second] if second == first + 1:
            return name[first] == known[second] and name[second] == known[first]
        case _:
            return False


def hook_problem(hook: str, value: Any, owner: type[Any] | None = None) -> str | None:
    """Why a hook cannot be called with the outcome and the run's context; ``None`` if it can.

    Args:
        owner: The class that has it as an attribute; ``None`` for a function that stands alone.
    """
    bind = getattr(value, "__get__", None)
    called: Callable[..., Any] = value if owner is None or bind is None else bind(object(), owner)
    if not inspect.iscoroutinefunction(called):
        return f"{hook}: expected an async function; write `async def {hook}(self, …)`"
    if not accepts(called, None, None):
        subject = "result" if hook == "on_success" else "error"
        try:
            got = f", got {hook}{inspect.signature(called)}"
        except (TypeError, ValueError):
            got = ""
        return f"{hook}: expected to be called with the {subject} and the run's context{got}"
    return None


def asking_problem(value: Any, owner: type[Any] | None = None) -> str | None:
    """Why ``enqueue_options`` cannot be called with the parameters; ``None`` if it can.

    Args:
        owner: As for `hook_problem`.
    """
    bind = getattr(value, "__get__", None)
    called = value if owner is None or bind is None else bind(None, owner)
    if callable(called) and not inspect.iscoroutinefunction(called) and accepts(called, None):
        return None
    form = "" if owner is None else "; write `@classmethod` and `def enqueue_options(cls, params)`"
    return f"enqueue_options: expected a function that is called with the parameters{form}"


def accepts(target: Callable[..., object], *arguments: object, **named: object) -> bool:
    """Whether ``target`` can be called with these arguments; true where that is not known."""
    try:
        inspect.signature(target).bind(*arguments, **named)
    except TypeError:
        return False
    except ValueError:  # of some builtins the signature is unknown
        return True
    return True
