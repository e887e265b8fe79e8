"""A job that names a function and its arguments: ``{"function": "pkg.mod:func", "args": […]}``."""

from __future__ import annotations

import inspect
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from worker.context import current_run
from worker.errors import ConfigurationError, InvalidParams
from worker.tasks.function import FunctionTask, task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["calling"]


def calling(allowed: Sequence[str]) -> FunctionTask[..., Any]:
    """The task ``call_function``, which calls one of the functions that are ``allowed``.

    Raises:
        ConfigurationError: One of them does not exist.
    """
    functions = {name: found(name) for name in allowed}

    @task(name="call_function")
    async def call_function(
        function: str,
        args: list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Call a function that WORKER_CALL_FUNCTIONS allows."""
        args, kwargs = args or [], kwargs or {}
        call = chosen(functions, function)
        try:
            inspect.signature(call).bind(*args, **kwargs)
        except TypeError as exc:
            raise InvalidParams(f"{function}: {exc}") from exc
        run = current_run()
        if inspect.iscoroutinefunction(call) or run is None:
            result = call(*args, **kwargs)
        else:
            result = await run.in_thread(partial(call, *args, **kwargs))
        return await result if inspect.isawaitable(result) else result

    return call_function


def chosen(functions: Mapping[str, Callable[..., Any]], name: str) -> Callable[..., Any]:
    if name not in functions:
        raise InvalidParams(
            f"the function {name[:200]!r} may not be called; WORKER_CALL_FUNCTIONS allows "
            f"{', '.join(functions)}"
        )
    return functions[name]


def found(name: str) -> Callable[..., Any]:
    """The function that ``pkg.module:function`` names.

    Raises:
        ConfigurationError: There is none.
    """
    module, _, function = name.partition(":")
    try:
        target = getattr(import_module(module), function)
    except (Exception, SystemExit) as exc:
        raise ConfigurationError(
            [f"WORKER_CALL_FUNCTIONS: {name}: {type(exc).__name__}: {exc}"]
        ) from exc
    if not callable(target):
        raise ConfigurationError([f"WORKER_CALL_FUNCTIONS: {name}: expected a function"])
    called: Callable[..., Any] = target
    return called
