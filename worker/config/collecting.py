"""Finds the tasks of ``WORKER_TASK_MODULES``: what they register, and what can be asked for."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING

from worker.config.at_once import import_from_here
from worker.config.own_code import raised_at
from worker.errors import ConfigurationError, TaskDefinitionError, WorkerError
from worker.tasks.base import BaseTask, Defined, TaskDefinition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from worker.scheduling.scheduler import Scheduler

__all__ = ["register_modules"]

SETTING = "WORKER_TASK_MODULES"


def register_modules(scheduler: Scheduler, modules: Sequence[str]) -> None:
    """Import each module, have it register its tasks, and take in those that can be asked for.

    Raises:
        ConfigurationError: A module cannot be imported, has no tasks, or its ``register`` fails.
        TaskDefinitionError: A task breaks a rule, or two have the same name.
    """
    import_from_here()
    for name in modules:
        module = imported(name)
        registered = call_register(scheduler, module)
        found = take_in(scheduler, module)
        if not registered and not found:
            raise ConfigurationError([f"{SETTING}: {name}: {nothing_in(module)}"])


def imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except WorkerError as exc:
        raise ConfigurationError([f"{SETTING}: {name}: {exc}{raised_at(exc)}"]) from exc
    except (Exception, SystemExit) as exc:
        path = name.endswith(".py") or "/" in name
        wanted = name.removesuffix(".py").strip("./").replace("/", ".")
        hint = f"; expected a module's name: {wanted}" if path else ""
        told = f"cannot be imported: {type(exc).__name__}: {exc}{raised_at(exc)}{hint}"
        raise ConfigurationError([f"{SETTING}: {name}: {told}"]) from exc


def nothing_in(module: ModuleType) -> str:
    """What a module without a task to be run lacks."""
    for definition, _ in defined(module):
        home = definition.defined_in.rpartition(":")[2]
        return (
            f"found the task {definition.name!r} ({home}), which nothing runs: expected "
            f"`def register(scheduler)` that calls scheduler.register_task({home}, interval=…), or "
            "a queue of the task"
        )
    return "expected a function register(scheduler) in it, or tasks"


def call_register(scheduler: Scheduler, module: ModuleType) -> bool:
    """Call the module's ``register``; whether it has one."""
    name = module.__name__
    register = getattr(module, "register", None)
    if register is None:
        return False
    if inspect.iscoroutinefunction(register):
        raise ConfigurationError([f"{SETTING}: {name}.register must be `def`, not `async def`"])
    try:
        register(scheduler)
    except WorkerError:
        raise
    except Exception as exc:
        raise ConfigurationError(
            [f"{SETTING}: {name}.register failed: {type(exc).__name__}: {exc}{raised_at(exc)}"]
        ) from exc
    return True


def take_in(scheduler: Scheduler, module: ModuleType) -> bool:
    """Register what can be asked for and is not registered yet; whether there is any."""
    found = False
    for definition, task in askable(module):
        found = True
        other = scheduler.tasks.get(definition.name)
        if other is None:
            scheduler.register_task(task)
        elif other.definition.defined_in != definition.defined_in:
            homes = (other.definition.defined_in, definition.defined_in)
            raise TaskDefinitionError.namesakes(definition.name, homes)
    return found


def askable(module: ModuleType) -> Iterator[tuple[TaskDefinition, type[BaseTask] | Defined]]:
    """The tasks of the module that can be asked for."""
    return (found for found in defined(module) if found[0].options is not None)


def defined(module: ModuleType) -> Iterator[tuple[TaskDefinition, type[BaseTask] | Defined]]:
    """The tasks that the module, or a module below it, defines."""
    for value in list(vars(module).values()):
        task: type[BaseTask] | Defined
        if isinstance(value, Defined) or (
            inspect.isclass(value)
            and issubclass(value, BaseTask)
            and not inspect.isabstract(value)
            and hasattr(value, "name")
        ):
            task = value
        else:
            continue
        definition = task.define()
        home = definition.defined_in.partition(":")[0]
        at_home = home == module.__name__ or home.startswith(f"{module.__name__}.")
        if at_home:
            yield definition, task
