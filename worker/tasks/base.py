"""`BaseTask`, the class that users subclass, and `TaskDefinition`, what the worker knows of one."""

from __future__ import annotations

import gc
import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Unpack
from weakref import WeakValueDictionary

import structlog

from worker.client import current
from worker.client.current import awaited_by_frameworks
from worker.context import RunContext, current_run
from worker.errors import InvalidOptions, TaskDefinitionError, nearest
from worker.jobs.job import TASK
from worker.jobs.options import ConcurrencyPer, JobOptions, UniquePer, as_limit
from worker.jobs.params import NO_PARAMS, Params, params_of_type
from worker.retry import RetryPolicy
from worker.summary import summarize
from worker.tasks.attributes import accepts, asking_problem, attribute_problems, hook_problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable
    from uuid import UUID

    import httpx

    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.job_handle import JobHandle
    from worker.jobs.job import Rate
    from worker.jobs.verdict import Wish

__all__ = ["BaseTask", "Bulk", "Defined", "FunctionCode", "TaskCode", "TaskDefinition"]


class BaseTask(ABC):
    """A unit of work, done once per run.

    A subclass sets ``name`` and writes ``execute``. The worker makes a new instance for each run
    and hands it the one shared HTTP client; ``MyTask(client)`` is all a unit test needs.

    One that says ``queue``, or has ``Params``, can be asked for: ``await MyTask.enqueue({…})``. Of
    the options of such a job, see `worker.jobs.options.JobOptions`, each is a class attribute, too.

    Class attributes:
        name: Unique in the application. Letters, digits and ``_ . : -``, a letter first.
        retry: How transient failures are tried again within a run; ``None`` takes the worker's
            setting. A job that may be tried again later makes each call once only, unless this
            says otherwise.
        time_limit: The longest that a run may take, retries included; ``None`` takes the worker's
            setting.
        soft_time_limit: After it `SoftTimeLimitExceeded` is raised inside of ``execute``.
        queue: Where its jobs wait; by default ``default``, if it has ``Params``.
        Params: A pydantic model or a dataclass; then it is ``execute(self, params)``.

    Raises:
        TaskDefinitionError: When a subclass is created with a name that does not fit or that
            another task has; when one without a name is registered.
    """

    name: ClassVar[str]
    retry: ClassVar[RetryPolicy | None] = None
    time_limit: ClassVar[timedelta | str | float | None] = None
    soft_time_limit: ClassVar[timedelta | str | float | None] = None

    queue: ClassVar[str | None] = None
    Params: ClassVar[type[Any] | None] = None
    version: ClassVar[int | None] = None
    max_retries: ClassVar[int | None] = None
    retry_delay: ClassVar[timedelta | str | float | None] = None
    retry_backoff: ClassVar[bool | float | None] = None
    retry_backoff_max: ClassVar[timedelta | str | float | None] = None
    retry_jitter: ClassVar[bool | None] = None
    retry_on: ClassVar[tuple[type[Exception], ...] | None] = None
    dont_retry_on: ClassVar[tuple[type[Exception], ...] | None] = None
    ignore_result: ClassVar[bool | None] = None
    track_started: ClassVar[bool | None] = None
    result_ttl: ClassVar[timedelta | str | float | None] = None
    priority: ClassVar[int | None] = None
    unique: ClassVar[UniquePer | bool | None] = None
    concurrency: ClassVar[ConcurrencyPer | int | None] = None
    rate_limit: ClassVar[Rate | str | None] = None
    expires: ClassVar[timedelta | str | float | None] = None

    _definition: ClassVar[TaskDefinition]
    _by_name: ClassVar[WeakValueDictionary[str, type[BaseTask]]] = WeakValueDictionary()

    def __init__(self, http_client: httpx.AsyncClient) -> None:
        self.http_client = http_client
        self.logger: structlog.stdlib.BoundLogger = structlog.get_logger(type(self).__name__)
        self._own_context: RunContext | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_attributes(cls)
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
    async def execute(self, *args: Any, **kwargs: Any) -> object:
        """Do the work once, and return what came of it: JSON, or nothing.

        It is called without arguments, or with an instance of ``Params``. An exception is the
        run's failure. One that is transient (see `worker.retry`) is tried again as ``retry`` says;
        a job that failed is tried again as its options say.
        """

    async def on_success(self, result: Any, job: RunContext) -> None:  # noqa: B027 - may do nothing
        """Called after a run that succeeded. What a hook raises is logged, and changes nothing."""

    async def on_retry(self, error: BaseException, job: RunContext) -> None:  # noqa: B027 - may do nothing
        """Called after an attempt of a job that failed and will be followed by another."""

    async def on_failure(self, error: BaseException, job: RunContext) -> None:  # noqa: B027 - may do nothing
        """Called after a run that failed for good."""

    async def handle_error(self, error: BaseException, job: RunContext) -> Wish | None:
        """What is to become of a job whose attempt failed.

        Returns:
            `Retry` (after a delay of its own, while attempts are left), `DeadLetter`, `Drop`, or
            ``None`` for what the options say: retried until the attempts are used up, then
            dead-lettered.
        """
        return None

    @classmethod
    def enqueue_options(cls, params: Any) -> EnqueueOptions:
        """What is said of a job with these parameters, unless whoever asks for it says otherwise.

        An id that follows from them, say, or headers. It is called where the job is asked for.

        Args:
            params: An instance of ``Params``.
        """
        return {}

    @classmethod
    def define(cls) -> TaskDefinition:
        """What is known of the task by whoever asks for it, who need not be able to make one.

        Raises:
            TaskDefinitionError: It breaks a rule.
        """
        definition = cls.__dict__.get("_definition")
        if definition is None:
            definition = cls._definition = of_class(cls, cls, None)
        return definition

    @classmethod
    @awaited_by_frameworks
    def enqueue(
        cls, params: object = None, **options: Unpack[EnqueueOptions]
    ) -> Coroutine[Any, Any, JobHandle]:
        """Enqueue a job of this task: ``await Task.enqueue({…})``.

        In the thread of a task that is not async, it is enqueued when this returns.

        Args:
            params: A mapping, or an instance of ``Params``.
            options: See `worker.client.enqueue_options.EnqueueOptions`.

        Raises:
            InvalidParams: The parameters do not fit.
            InvalidOptions: An option does not.
            NotSupported: The queue's engine cannot do what an option asks for.
            DuplicateJob: Another job holds the unique key, and ``unique`` says ``raise``.
            AmbiguousClient: Several clients are open.
            StoreUnavailable: The queue cannot be reached.
        """
        return current.enqueue(cls, params, options, name=f"{cls.__name__}.enqueue")

    @classmethod
    @awaited_by_frameworks
    def enqueue_many(
        cls,
        params: Iterable[object],
        *,
        ids: Iterable[str | UUID] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> Coroutine[Any, Any, list[JobHandle]]:
        """Enqueue many jobs, a thousand in each round trip; see `WorkerClient.enqueue_many`."""
        return current.enqueue_many(cls, params, ids, options, name=f"{cls.__name__}.enqueue_many")

    async def run(self, *args: Any, **kwargs: Any) -> object:
        """Execute the task on its own, without the runner's limits and retries, and log it.

        For tests and scripts: a worker calls ``execute`` through its runner, and never this.

        Args:
            args, kwargs: What ``execute`` takes.

        Raises:
            Exception: What ``execute`` raised, after it was logged with its traceback.
        """
        log = self.logger.bind(task=self.name, run_id=self.context.run_id)
        log.info("run.started", trigger=self.context.trigger.value)
        began = self.context.clock.monotonic()
        try:
            result = await self.execute(*args, **kwargs)
        except BaseException:
            log.exception("run.failed", duration_ms=self._since(began))
            raise
        log.info("run.finished", duration_ms=self._since(began), result=summarize(result))
        return result

    def _since(self, began: float) -> float:
        return round((self.context.clock.monotonic() - began) * 1000, 1)


class TaskCode(Protocol):
    """What the runner calls, made anew for each run: an instance of a `BaseTask`, or the like."""

    @property
    def execute(self) -> Callable[..., Awaitable[object]]: ...

    async def on_success(self, result: Any, job: RunContext) -> None: ...

    async def on_retry(self, error: BaseException, job: RunContext) -> None: ...

    async def on_failure(self, error: BaseException, job: RunContext) -> None: ...

    async def handle_error(self, error: BaseException, job: RunContext) -> Wish | None: ...


HOOKS = ("on_success", "on_retry", "on_failure", "handle_error")
METHODS = (*HOOKS, "execute", "execute_many", "enqueue_options")
JOB_OPTIONS = tuple(field.name for field in fields(JobOptions))
OWN_OPTIONS = (*JOB_OPTIONS, "retry", "max_batch_size", "max_wait")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """A task as the worker keeps it: its name, its limits, and how to make one run's code.

    Attributes:
        prepare: Given the shared client, returns the code of one run.
        defined_in: ``module:qualified.name`` of the class or function.
        params: What it takes.
        options: As a job; ``None`` if nobody can ask for it through a queue.
        hooks: Those that do something.
        asking: What is said of a job, by its parameters, unless whoever asks for it says otherwise.
        bulk: For a task that takes many jobs at once, how many and how long it waits for them.
    """

    name: str
    prepare: Callable[[httpx.AsyncClient], TaskCode]
    defined_in: str
    summary: str = ""
    retry: RetryPolicy | None = None
    time_limit: timedelta | None = None
    soft_time_limit: timedelta | None = None
    params: Params = NO_PARAMS
    options: JobOptions | None = None
    hooks: frozenset[str] = frozenset()
    asking: Callable[[Any], EnqueueOptions] | None = None
    bulk: Bulk | None = None

    @classmethod
    def of(
        cls,
        task: type[BaseTask] | Defined | Callable[..., Any],
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        time_limit: timedelta | str | float | None = None,
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
        if isinstance(task, Defined):
            definition = task.definition
        elif inspect.isclass(target) and issubclass(target, BaseTask):
            definition = of_class(task, target, name)
            if not accepts(task, "the shared client"):
                raise TaskDefinitionError(
                    f"{definition.defined_in} needs more than the shared client to be made; "
                    "register functools.partial of it with the other arguments"
                )
        elif is_async_callable(target):
            definition = of_function(task, target, name)
        else:
            raise TaskDefinitionError(
                f"expected a subclass of BaseTask or an async function, got {target!r}; "
                "write `async def`, and register the class or function itself, not a call of it"
            )
        defined_in = definition.defined_in
        retry = definition.retry if retry is None else retry
        if not isinstance(retry, RetryPolicy | None):
            raise TaskDefinitionError(f"{defined_in}: retry: expected a RetryPolicy, got {retry!r}")
        limit = None if time_limit is None else limit_of(time_limit, defined_in)
        options = definition.options
        if limit is not None and options is not None:
            options = replace(options, time_limit=limit)
        return replace(
            definition,
            name=check_name(name or definition.name, of=defined_in),
            retry=retry,
            time_limit=definition.time_limit if limit is None else limit,
            options=options,
        )


class Defined:
    """Something that knows its own definition: what ``@task`` makes of a function."""

    def __init__(self, definition: TaskDefinition) -> None:
        self.definition = definition

    def define(self) -> TaskDefinition:
        """What the worker knows of the task."""
        return self.definition


@dataclass(frozen=True, slots=True)
class Bulk:
    """How many jobs are taken at once, and how long the first of them waits for others."""

    max_batch_size: int
    max_wait: timedelta


def of_class(task: Callable[..., Any], target: type[BaseTask], name: str | None) -> TaskDefinition:
    """The definition of a `BaseTask` subclass, or of a ``partial`` of one."""
    defined_in = identify(target)
    if inspect.isabstract(target):
        raise TaskDefinitionError(f"{defined_in} is abstract: write its execute()")
    if not inspect.iscoroutinefunction(target.execute):
        raise TaskDefinitionError(f"{defined_in}: write `async def execute(self)`")
    params = NO_PARAMS if target.Params is None else params_of_type(target.Params, defined_in)
    given = ("self",) if target.Params is None else ("self", "params")
    if not accepts(target.execute, *given):
        raise TaskDefinitionError(
            f"{defined_in}: expected `async def execute({', '.join(given)})`, got "
            f"execute{inspect.signature(target.execute)}"
            + ("; say what it takes in a class Params" if target.Params is None else "")
        )
    options = options_of(target, defined_in)
    bulk = getattr(target, "bulk", None)
    asked_for = (target.queue, target.Params, bulk) != (None, None, None)
    definition = TaskDefinition(
        name=check_name(name or getattr(target, "name", None), of=defined_in),
        prepare=task,
        defined_in=defined_in,
        summary=first_line(target),
        retry=target.retry,
        time_limit=options.time_limit,
        soft_time_limit=options.soft_time_limit,
        params=params,
        options=options if asked_for else None,
        hooks=frozenset(
            hook for hook in HOOKS if getattr(target, hook) is not getattr(BaseTask, hook)
        ),
        asking=target.enqueue_options if says_more(target) else None,
        bulk=bulk,
    )
    check_keys(definition)
    return definition


def check_attributes(cls: type[BaseTask]) -> None:
    """Refuse options and hooks that a class has by another name than the worker knows.

    Raises:
        TaskDefinitionError: It has such attributes; all of them are named.
    """
    problems = [*attribute_problems(cls, BaseTask, OWN_OPTIONS, METHODS)]
    for hook in HOOKS:
        value = inspect.getattr_static(cls, hook)
        if value is not BaseTask.__dict__[hook] and (problem := hook_problem(hook, value, cls)):
            problems.append(problem)
    asking = inspect.getattr_static(cls, "enqueue_options")
    if asking is not BaseTask.__dict__["enqueue_options"] and (
        problem := asking_problem(asking, cls)
    ):
        problems.append(problem)
    if problems:
        raise TaskDefinitionError(f"{identify(cls)}: {'; '.join(problems)}")


def check_keys(definition: TaskDefinition) -> None:
    """Refuse keys made of parameters that the task does not have: they would be all the same.

    Raises:
        TaskDefinitionError: There is such a key.
    """
    options, known = definition.options, definition.params.fields
    if options is None:
        return
    for option, key in (("unique", options.unique), ("concurrency", options.concurrency)):
        for name in key.by if key is not None else ():
            if name not in known:
                raise TaskDefinitionError(
                    f"{definition.defined_in}: {option}: there is no parameter {name!r}"
                    f"{nearest(name, known)}; known: {', '.join(sorted(known)) or 'none'}"
                )


def says_more(target: type[BaseTask]) -> bool:
    """Whether it has ``enqueue_options`` of its own."""
    own, plain = (getattr(task.enqueue_options, "__func__", None) for task in (target, BaseTask))
    return own is not plain


def options_of(target: type[BaseTask], defined_in: str) -> JobOptions:
    """The options that a class says as its attributes."""
    try:
        return JobOptions.of({name: getattr(target, name) for name in JOB_OPTIONS})
    except InvalidOptions as exc:
        raise TaskDefinitionError(f"{defined_in}: {exc}") from exc


class FunctionCode:
    """One run of a plain function, which has no hooks of its own."""

    def __init__(self, execute: Callable[..., Awaitable[object]]) -> None:
        self.execute = execute

    async def on_success(self, result: Any, job: RunContext) -> None: ...

    async def on_retry(self, error: BaseException, job: RunContext) -> None: ...

    async def on_failure(self, error: BaseException, job: RunContext) -> None: ...

    async def handle_error(self, error: BaseException, job: RunContext) -> Wish | None: ...


def of_function(task: Callable[..., Any], target: Any, name: str | None) -> TaskDefinition:
    """The definition of a plain async function: without arguments, or with one, the client."""
    wants_client = not accepts(task)
    if wants_client and not accepts(task, "the shared client"):
        raise TaskDefinitionError(
            f"{identify(target)}: expected a function without arguments or with one, the "
            "shared client; functools.partial fixes others, and @task takes any"
        )
    defined_in = identify(target)
    return TaskDefinition(
        name=check_name(name or getattr(target, "__name__", None), of=defined_in),
        prepare=lambda client: FunctionCode(partial(task, client) if wants_client else task),
        defined_in=defined_in,
        summary=first_line(target),
    )


def first_line(target: object) -> str:
    return (getattr(target, "__doc__", None) or "").strip().partition("\n")[0]


def is_async_callable(target: object) -> bool:
    return inspect.iscoroutinefunction(target) or (
        not inspect.isclass(target)
        and inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004 - its kind matters
    )


def limit_of(said: object, defined_in: str) -> timedelta:
    """How long a run may take.

    Raises:
        TaskDefinitionError: It is no duration, or zero.
    """
    try:
        return as_limit("time_limit", said)
    except InvalidOptions as exc:
        raise TaskDefinitionError(f"{defined_in}: {exc}") from exc


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
    if not TASK.fullmatch(name):
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
