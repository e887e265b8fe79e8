"""``@task`` makes a task of a function, async or not."""

from __future__ import annotations

import inspect
import types
from collections.abc import Awaitable, Callable
from functools import partial, update_wrapper
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    TypedDict,
    TypeVar,
    Union,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
)

from worker.client import current
from worker.client.current import awaited_by_frameworks
from worker.context import RunContext, current_run
from worker.errors import InvalidOptions, TaskDefinitionError
from worker.jobs.options import JobOptions
from worker.jobs.params import params_of_function
from worker.tasks.attributes import accepts, asking_problem, hook_problem
from worker.tasks.base import (
    HOOKS,
    Defined,
    TaskDefinition,
    check_keys,
    check_name,
    first_line,
    identify,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from datetime import timedelta
    from uuid import UUID

    import httpx

    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.job_handle import JobHandle
    from worker.jobs.job import Rate
    from worker.jobs.options import ConcurrencyPer, UniquePer
    from worker.jobs.verdict import Wish
    from worker.retry import RetryPolicy

__all__ = ["FunctionTask", "TaskOptions", "task"]

P = ParamSpec("P")
R = TypeVar("R")
Hook = Callable[[Any, RunContext], Awaitable[None]]


class TaskOptions(TypedDict, total=False):
    """What ``@task`` takes: the options of `worker.jobs.options.JobOptions`, and the task's own.

    Keys:
        name: By default the function's.
        retry: How transient failures are tried again within a run.
        on_success, on_retry, on_failure: Async functions of the result, or the error, and the
            run's context.
        handle_error: As `BaseTask.handle_error`.
        enqueue_options: What is said of a job, by a mapping of its arguments, unless whoever asks
            for it says otherwise.
    """

    name: str
    retry: RetryPolicy
    queue: str
    version: int
    max_retries: int
    retry_delay: timedelta | str | float
    retry_backoff: bool | float
    retry_backoff_max: timedelta | str | float
    retry_jitter: bool
    retry_on: tuple[type[Exception], ...]
    dont_retry_on: tuple[type[Exception], ...]
    time_limit: timedelta | str | float
    soft_time_limit: timedelta | str | float
    ignore_result: bool
    track_started: bool
    result_ttl: timedelta | str | float
    priority: int
    unique: UniquePer | bool
    concurrency: ConcurrencyPer | int
    rate_limit: Rate | str
    expires: timedelta | str | float
    on_success: Hook
    on_retry: Hook
    on_failure: Hook
    handle_error: Callable[[BaseException, RunContext], Awaitable[Wish | None]]
    enqueue_options: Callable[[Any], EnqueueOptions]


class FunctionTask(Defined, Generic[P, R]):
    """A function that can be asked for. Calling it runs it in place, as if it were no task."""

    def __init__(
        self, function: Callable[P, R], run: FunctionRun, definition: TaskDefinition
    ) -> None:
        super().__init__(definition)
        self._function = function
        self._run = run
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function in place. A parameter for the run's context may be left out."""
        for name in self._run.wants_context - kwargs.keys():
            if not accepts(self._function, *args, **kwargs):
                kwargs[name] = current_run() or RunContext(task=self.name)
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.definition.name} of {self.definition.defined_in}>"

    @property
    def name(self) -> str:
        """The task's name."""
        return self.definition.name

    @awaited_by_frameworks
    def enqueue(
        self, params: object = None, **options: Unpack[EnqueueOptions]
    ) -> Coroutine[Any, Any, JobHandle]:
        """Enqueue a job of it; see `BaseTask.enqueue`."""
        return current.enqueue(self, params, options, name=f"{self.name}.enqueue")

    @awaited_by_frameworks
    def enqueue_many(
        self,
        params: Iterable[object],
        *,
        ids: Iterable[str | UUID] | None = None,
        **options: Unpack[EnqueueOptions],
    ) -> Coroutine[Any, Any, list[JobHandle]]:
        """Enqueue many jobs, a thousand in each round trip; see `WorkerClient.enqueue_many`."""
        return current.enqueue_many(self, params, ids, options, name=f"{self.name}.enqueue_many")


class FunctionTaskCode:
    """One run of a function, with the hooks that ``@task`` was given."""

    def __init__(self, run: FunctionRun, client: httpx.AsyncClient) -> None:
        self._run = run
        self._client = client

    async def execute(self, *args: Any, **kwargs: Any) -> object:
        """Call the function, in a thread unless it is async."""
        run, context = self._run, current_run()
        for name in run.wants_client:
            kwargs[name] = self._client
        for name in run.wants_context:
            kwargs[name] = context
        if run.is_async:
            return await run.function(*args, **kwargs)
        assert context is not None
        result = await context.in_thread(partial(run.function, *args, **kwargs))
        # A decorator may hide that it is async.
        return await result if inspect.isawaitable(result) else result

    async def on_success(self, result: Any, job: RunContext) -> None:
        await self._run.hooks["on_success"](result, job)

    async def on_retry(self, error: BaseException, job: RunContext) -> None:
        await self._run.hooks["on_retry"](error, job)

    async def on_failure(self, error: BaseException, job: RunContext) -> None:
        await self._run.hooks["on_failure"](error, job)

    async def handle_error(self, error: BaseException, job: RunContext) -> Wish | None:
        wish: Wish | None = await self._run.hooks["handle_error"](error, job)
        return wish


class FunctionRun:
    """What is known of a function: how it is called, and with what besides its parameters."""

    def __init__(self, function: Callable[..., Any], hooks: dict[str, Any], of: str) -> None:
        self.function = function
        self.hooks = hooks
        self.is_async = inspect.iscoroutinefunction(function)
        hints = hints_of(function, of)
        self.wants_context = frozenset(n for n, hint in hints.items() if means(hint, RunContext))
        self.wants_client = frozenset(n for n, hint in hints.items() if is_client(hint))


def task(**options: Unpack[TaskOptions]) -> Callable[[Callable[P, R]], FunctionTask[P, R]]:
    """Make a task of a function: ``@task(name="ping", queue="shared")``.

    The signature says what it takes; a parameter of the type `RunContext` gets the run's context,
    one of the type ``httpx.AsyncClient`` the worker's shared client. A function that is not async
    runs in a thread, which cannot be interrupted: long work calls ``context.raise_if_cancelled()``
    now and then, or goes on to its end.

    Raises:
        TaskDefinitionError: An option or the signature is wrong.
    """

    def make(function: Callable[P, R]) -> FunctionTask[P, R]:
        return function_task(function, dict(options))

    return make


def function_task(function: Any, said: dict[str, Any]) -> FunctionTask[Any, Any]:
    if not inspect.isroutine(function):
        raise TaskDefinitionError(f"@task: expected a function, got {function!r}; write @task()")
    of = identify(function)
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TaskDefinitionError(f"{of}: expected a function that returns, this one yields")
    hooks = {hook: said.pop(hook) for hook in HOOKS if said.get(hook) is not None}
    for hook, call in hooks.items():
        if problem := hook_problem(hook, call):
            raise TaskDefinitionError(f"{of}: {problem}")
    name, retry = said.pop("name", None) or function.__name__, said.pop("retry", None)
    asking = said.pop("enqueue_options", None)
    if asking is not None and (problem := asking_problem(asking)):
        raise TaskDefinitionError(f"{of}: {problem}")
    try:
        options = JobOptions.of(said)
    except InvalidOptions as exc:
        raise TaskDefinitionError(f"{of}: {exc}") from exc
    run = FunctionRun(function, hooks, of)
    definition = TaskDefinition(
        name=check_name(name, of=of),
        prepare=partial(FunctionTaskCode, run),
        defined_in=of,
        summary=first_line(function),
        retry=retry,
        time_limit=options.time_limit,
        soft_time_limit=options.soft_time_limit,
        params=params_of_function(function, of, leave_out=run.wants_context | run.wants_client),
        options=options,
        hooks=frozenset(hooks),
        asking=asking,
    )
    check_keys(definition)
    return FunctionTask(function, run, definition)


def hints_of(function: Callable[..., Any], of: str) -> dict[str, Any]:
    try:
        hints = get_type_hints(function)
    except NameError as exc:
        raise TaskDefinitionError(
            f"{of}: a type of its signature is unknown: {exc}; import it where it is there at run "
            "time, too, not under TYPE_CHECKING"
        ) from exc
    hints.pop("return", None)
    return hints


def means(hint: object, kind: type) -> bool:
    """Whether the type of a parameter is ``kind``, or that or ``None``."""
    if get_origin(hint) in (Union, types.UnionType):
        return set(get_args(hint)) == {kind, type(None)}
    return hint is kind


def is_client(hint: object) -> bool:
    import httpx

    return means(hint, httpx.AsyncClient)
