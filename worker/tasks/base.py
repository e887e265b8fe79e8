"""`BaseTask`, the class that users subclass, and `TaskDefinition`, what the worker knows of one."""

from __future__ import annotations

import gc
import inspect
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast
from weakref import WeakValueDictionary

import structlog

from worker.context import RunContext, current_run
from worker.errors import TaskDefinitionError
from worker.retry import RetryPolicy
from worker.summary import summarize

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx

__all__ = ["BaseTask", "TaskDefinition"]

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,99}")


class BaseTask(ABC):
    """A unit of work, done once per run.

    A subclass sets ``name`` and writes ``execute``. The worker makes a new instance for each run
    and hands it the one shared HTTP client; ``MyTask(client)`` is all a unit test needs.

    Class attributes:
        name: Unique in the application. Letters, digits and ``_ . : -``, a letter first.
        retry: How transient failures are tried again; ``None`` takes the worker's setting.
        time_limit: The longest that a run may take, retries included; ``None`` takes the worker's
            setting.

    Raises:
        TaskDefinitionError: When a subclass is created with a name that does not fit or that
            another task has; when one without a name is registered.
    """

    name: ClassVar[str]
    retry: ClassVar[RetryPolicy | None] = None
    time_limit: ClassVar[timedelta | None] = None

    _by_name: ClassVar[WeakValueDictionary[str, type[BaseTask]]] = WeakValueDictionary()

    def __init__(self, http_client: httpx.AsyncClient) -> None:
        self.http_client = http_client
        self.logger: structlog.stdlib.BoundLogger = structlog.get_logger(type(self).__name__)
        self._own_context: RunContext | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            check_name(cls.__dict__["name"], of=identify(cls))
            claim_name(cls, BaseTask._by_name)

    @property
    def context(self) -> RunContext:
        """The run that this instance does; outside of the worker, one of its own."""
        current = current_run()
        if current is not None:
            return current
        if self._own_context is None:
            self._own_context = RunContext(task=self.name)
        return self._own_context

    @abstractmethod
    async def execute(self) -> object:
        """Do the work once, and return what came of it: JSON, or nothing.

        An exception is the run's failure. One that is transient (see `worker.retry`) is tried
        again as ``retry`` says.
        """

    async def run(self) -> object:
        """Execute the task on its own, without the runner's limits and retries, and log it.

        For tests and scripts: a worker calls ``execute`` through its runner, and never this.

        Raises:
            Exception: What ``execute`` raised, after it was logged with its traceback.
        """
        log = self.logger.bind(task=self.name, run_id=self.context.run_id)
        log.info("run.started", trigger=self.context.trigger.value)
        began = self.context.clock.monotonic()
        try:
            result = await self.execute()
        except BaseException:
            log.exception("run.failed", duration_ms=self._since(began))
            raise
        log.info("run.finished", duration_ms=self._since(began), result=summarize(result))
        return result

    def _since(self, began: float) -> float:
        return round((self.context.clock.monotonic() - began) * 1000, 1)


class Execute(Protocol):
    """What the runner calls: the bound ``execute`` of an instance, or a plain async function."""

    def __call__(self) -> Awaitable[object]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """A task as the worker keeps it: its name, its limits, and how to make one run's code.

    Attributes:
        prepare: Given the shared client, returns the code of one run.
        defined_in: ``module:qualified.name`` of the class or function.
    """

    name: str
    prepare: Callable[[httpx.AsyncClient], Execute]
    defined_in: str
    summary: str = ""
    retry: RetryPolicy | None = None
    time_limit: timedelta | None = None

    @classmethod
    def of(
        cls,
        task: type[BaseTask] | Callable[..., Any],
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        time_limit: timedelta | None = None,
    ) -> TaskDefinition:
        """Define a task from a `BaseTask` subclass or an async function, or a ``partial`` of one.

        Args:
            name: Overrides the class's or the function's own.
            retry: Overrides the class's own.
            time_limit: Overrides the class's own.

        Raises:
            TaskDefinitionError: It is neither, or has no usable name.
        """
        target = task.func if isinstance(task, partial) else task
        prepare: Callable[[httpx.AsyncClient], Execute]
        if inspect.isclass(target) and issubclass(target, BaseTask):
            if inspect.isabstract(target):
                raise TaskDefinitionError(f"{identify(target)} is abstract: write its execute()")
            if not inspect.iscoroutinefunction(target.execute):
                raise TaskDefinitionError(f"{identify(target)}: write `async def execute(self)`")
            if not accepts(task, "the shared client"):
                raise TaskDefinitionError(
                    f"{identify(target)} needs more than the shared client to be made; register "
                    "functools.partial of it with the other arguments"
                )
            name = name or getattr(target, "name", None)
            retry = target.retry if retry is None else retry
            time_limit = target.time_limit if time_limit is None else time_limit

            def prepare(client: httpx.AsyncClient) -> Execute:
                instance: BaseTask = task(client)
                return instance.execute

        elif is_async_callable(target):
            name = name or getattr(target, "__name__", None)
            wants_client = not accepts(task)
            if wants_client and not accepts(task, "the shared client"):
                raise TaskDefinitionError(
                    f"{identify(target)}: expected a function without arguments or with one, the "
                    "shared client; functools.partial fixes others"
                )

            def prepare(client: httpx.AsyncClient) -> Execute:
                return cast("Execute", partial(task, client) if wants_client else task)

        else:
            raise TaskDefinitionError(
                f"expected a subclass of BaseTask or an async function, got {target!r}; "
                "write `async def`, and register the class or function itself, not a call of it"
            )
        defined_in = identify(target)
        if not isinstance(retry, RetryPolicy | None):
            raise TaskDefinitionError(f"{defined_in}: retry: expected a RetryPolicy, got {retry!r}")
        if time_limit is not None and not is_positive(time_limit):
            raise TaskDefinitionError(
                f"{defined_in}: time_limit: expected a positive timedelta, got {time_limit!r}"
            )
        return cls(
            name=check_name(name, of=defined_in),
            prepare=prepare,
            defined_in=defined_in,
            summary=(getattr(target, "__doc__", None) or "").strip().partition("\n")[0],
            retry=retry,
            time_limit=time_limit,
        )


def is_async_callable(target: object) -> bool:
    return inspect.iscoroutinefunction(target) or (
        not inspect.isclass(target)
        and inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004 - its kind matters
    )


def is_positive(duration: object) -> bool:
    return isinstance(duration, timedelta) and duration > timedelta(0)


def accepts(target: Callable[..., object], *arguments: object) -> bool:
    """Whether ``target`` can be called with ``arguments``."""
    try:
        inspect.signature(target).bind(*arguments)
    except TypeError:
        return False
    return True


def identify(target: Any) -> str:
    """``module:qualified.name`` of a class or function."""
    named = target if hasattr(target, "__qualname__") else type(target)
    return f"{named.__module__}:{named.__qualname__}"


def check_name(name: object, *, of: str) -> str:
    if not isinstance(name, str):
        raise TaskDefinitionError(
            f'{of} has no name: expected a class attribute such as name = "send_report", '
            f"got {name!r}"
        )
    if not NAME.fullmatch(name):
        raise TaskDefinitionError(
            f"{of} is named {name!r}: a task's name is 1 to 100 letters, digits and _ . : -, "
            "a letter first"
        )
    return name


def claim_name(cls: type[BaseTask], taken: WeakValueDictionary[str, type[BaseTask]]) -> None:
    """Refuse ``cls`` if another class that is still in use has its name."""
    other = taken.get(cls.name)
    if other is not None and identify(other) != identify(cls):
        del other
        gc.collect()  # a class always sits in a cycle, so one nobody uses may linger
        other = taken.get(cls.name)
        if other is not None:
            raise TaskDefinitionError(
                f"two tasks are named {cls.name!r}: {identify(other)} and {identify(cls)}; "
                "rename one of them"
            )
    taken[cls.name] = cls
