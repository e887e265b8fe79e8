"""Finds the tasks of ``WORKER_TASK_MODULES``: what they register, and what can be asked for."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from worker.config.at_once import import_from_here
from worker.config.own_code import called_at, defined_at, raised_at
from worker.errors import ConfigurationError, TaskDefinitionError, WorkerError
from worker.tasks.base import BaseTask, Defined, TaskDefinition, identify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import ModuleType

    from worker.scheduling.scheduler import Scheduler

__all__ = ["register_module", "register_modules"]

SETTING = "WORKER_TASK_MODULES"


def register_modules(scheduler: Scheduler, modules: Sequence[str]) -> None:
    """Import each module, have it register its tasks, and take in those that can be asked for.

    Raises:
        ConfigurationError: A module cannot be imported, has no tasks, or its ``register`` fails; a
            task breaks a rule, or two have the same name. All problems of all modules are named.
    """
    import_from_here()
    problems: list[str] = []
    for name in modules:
        try:
            module = imported(name)
        except ConfigurationError as exc:
            problems += exc.problems
        else:
            problems += problems_of(scheduler, f"{SETTING}: {name}", module)
    if problems:
        raise ConfigurationError(dict.fromkeys(problems))


def register_module(scheduler: Scheduler, module: ModuleType) -> None:
    """As `register_modules`, for one that is imported already.

    Raises:
        ConfigurationError: It has no tasks, or any of them breaks a rule.
    """
    if problems := problems_of(scheduler, module.__name__, module):
        raise ConfigurationError(problems)


def problems_of(scheduler: Scheduler, where: str, module: ModuleType) -> list[str]:
    """Take in the tasks of a module; what is wrong with them."""
    collector = Collector(scheduler, where)
    try:
        collector.collect(module)
    except ConfigurationError as exc:
        return [*exc.problems, *collector.problems]
    return collector.problems


class Collector:
    """Takes the tasks of one module into a scheduler, and notes what is wrong with each.

    It is handed to the module's ``register`` in the scheduler's place, so that one registration
    that is refused does not hide the next one.
    """

    def __init__(self, scheduler: Scheduler, where: str) -> None:
        self._scheduler = scheduler
        self._where = where
        self._refused: set[str] = set()
        self.problems: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def register_task(self, task: Any, *args: Any, **options: Any) -> None:
        """As `Scheduler.register_task`; an error is noted, with the place of the call."""
        try:
            self._scheduler.register_task(task, *args, **options)
        except TaskDefinitionError as exc:
            self._note(f"{exc}{called_at()}", task)

    def collect(self, module: ModuleType) -> None:
        """Have the module register its tasks, and take in those that can be asked for.

        Raises:
            ConfigurationError: It has no tasks, or its ``register`` fails.
        """
        tasks = self._defined(module)
        registered = call_register(self, module)
        found = self._take_in(tasks)
        if not registered and not found and not self.problems:
            told = nothing_in(definition for definition, _ in tasks)
            raise ConfigurationError([f"{self._where}: {told}"])

    def _defined(self, module: ModuleType) -> list[tuple[TaskDefinition, type[BaseTask] | Defined]]:
        """The tasks of the module that keep the rules."""
        found = []
        for task in tasks_in(module):
            try:
                found.append((task.define(), task))
            except TaskDefinitionError as exc:
                self._note(f"{exc}{defined_at(task)}", task)
        return found

    def _take_in(self, tasks: Iterable[tuple[TaskDefinition, type[BaseTask] | Defined]]) -> bool:
        """Register what can be asked for and is not registered yet; whether there is any."""
        found = False
        for definition, task in tasks:
            if definition.options is None:
                continue
            found = True
            other = self._scheduler.tasks.get(definition.name)
            if other is None:
                try:
                    self._scheduler.register_task(task)
                except TaskDefinitionError as exc:
                    self._note(f"{exc}{defined_at(task)}", task)
            elif other.definition.defined_in != definition.defined_in:
                homes = (other.definition.defined_in, definition.defined_in)
                told = TaskDefinitionError.namesakes(definition.name, homes)
                self._note(f"{told}{defined_at(task)}", task)
        return found

    def _note(self, problem: str, task: object) -> None:
        """Keep the first problem of each task: the others follow from it."""
        home = task.definition.defined_in if isinstance(task, Defined) else identify(task)
        if home not in self._refused:
            self._refused.add(home)
            self.problems.append(f"{self._where}: {problem}")


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


def nothing_in(definitions: Iterable[TaskDefinition]) -> str:
    """What a module without a task to be run lacks."""
    for definition in definitions:
        home = definition.defined_in.rpartition(":")[2]
        return (
            f"found the task {definition.name!r} ({home}), which nothing runs: expected "
            f"`def register(scheduler)` that calls scheduler.register_task({home}, interval=…), or "
            "a queue of the task"
        )
    return "expected a function register(scheduler) in it, or tasks"


def call_register(scheduler: Collector, module: ModuleType) -> bool:
    """Call the module's ``register``; whether it has one."""
    name = module.__name__
    register = getattr(module, "register", None)
    if register is None:
        return False
    if inspect.iscoroutinefunction(register):
        raise ConfigurationError([f"{SETTING}: {name}.register must be `def`, not `async def`"])
    try:
        register(scheduler)
    except ConfigurationError:
        raise
    except Exception as exc:
        kind = "" if isinstance(exc, WorkerError) else f"{type(exc).__name__}: "
        raise ConfigurationError(
            [f"{SETTING}: {name}.register failed: {kind}{exc}{raised_at(exc)}"]
        ) from exc
    return True


def tasks_in(module: ModuleType) -> Iterator[type[BaseTask] | Defined]:
    """The tasks that the module, or a module below it, defines."""
    for value in list(vars(module).values()):
        if isinstance(value, Defined):
            home = value.definition.defined_in.partition(":")[0]
        elif (
            inspect.isclass(value)
            and issubclass(value, BaseTask)
            and not inspect.isabstract(value)
            and hasattr(value, "name")
        ):
            home = value.__module__
        else:
            continue
        if home == module.__name__ or home.startswith(f"{module.__name__}."):
            yield value
