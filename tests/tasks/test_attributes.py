"""Options and hooks that a class has by a wrong name are refused when the class is created."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any, ClassVar
from unittest.mock import AsyncMock

import pytest
from pydantic import BaseModel

from worker import BaseTask, BulkTask, RetryPolicy, RunContext, TaskDefinitionError
from worker import task as typed_task
from worker.client.client import WorkerClient
from worker.errors import InvalidOptions
from worker.jobs.options import CELERY_OPTIONS, JobOptions
from worker.queues.memory import MemoryJobs
from worker.schedules.registration import task_schedule
from worker.tasks.base import OWN_OPTIONS

task: Any = typed_task


async def execute(self: BaseTask) -> None: ...


def created(*bases: type[Any], **body: Any) -> type[BaseTask]:
    made: type[BaseTask] = type("Made", (*bases, BaseTask), {"execute": execute, **body})
    return made


def refused(*bases: type[Any], **body: Any) -> str:
    with pytest.raises(TaskDefinitionError) as failure:
        created(*bases, **body)
    return str(failure.value)


SLIPS = {
    "max_retires": "max_retries",
    "max_retrys": "max_retries",
    "max_retry": "max_retries",
    "maxretries": "max_retries",
    "Max_Retries": "max_retries",
    "retry_dealy": "retry_delay",
    "retrydelay": "retry_delay",
    "time_limt": "time_limit",
    "timelimit": "time_limit",
    "soft_time_limt": "soft_time_limit",
    "queu": "queue",
    "qeue": "queue",
    "queues": "queue",
    "uniqe": "unique",
    "unqiue": "unique",
    "expire": "expires",
    "expries": "expires",
    "prioritiy": "priority",
    "verison": "version",
    "concurency": "concurrency",
    "rate_limt": "rate_limit",
    "ignore_reslt": "ignore_result",
    "retry_back_off": "retry_backoff",
    "retry_jiter": "retry_jitter",
    "dont_retry": "dont_retry_on",
    "track_start": "track_started",
    "result_tl": "result_ttl",
    "max_batchsize": "max_batch_size",
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_name_close_to_an_options_is_refused_with_that_option(name: str) -> None:
    assert f"{name}: unknown option (did you mean '{SLIPS[name]}'?)" in refused(**{name: 9})
    if SLIPS[name] in JobOptions.__dataclass_fields__:
        with pytest.raises(
            TaskDefinitionError, match=rf"{name} \(did you mean '{SLIPS[name]}'\?\)"
        ):
            task(**{name: 9})(function)


async def function() -> None: ...


@pytest.mark.parametrize("name", OWN_OPTIONS)
def test_every_option_misses_a_letter_or_swaps_two_and_is_still_known(name: str) -> None:
    if name == "retry":
        return
    for at in range(1, len(name) - 1):
        swapped = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
        for slip in (name[:at] + name[at + 1 :], swapped):
            if slip.removesuffix("_") and slip not in OWN_OPTIONS:
                assert "did you mean" in refused(**{slip: 9}), slip


@pytest.mark.parametrize("name", CELERY_OPTIONS)
def test_an_option_of_celerys_is_refused_with_ours(name: str) -> None:
    assert f"{name}: {CELERY_OPTIONS[name]}" in refused(**{name: True})
    with pytest.raises(TaskDefinitionError, match=name):
        task(**{name: True})(function)


def test_ours_is_named_for_celerys() -> None:
    assert "autoretry_for: here retry_on" in refused(autoretry_for=(OSError,))
    assert "default_retry_delay: here retry_delay" in refused(default_retry_delay=30)
    assert "after_return: here on_success and on_failure" in refused(after_return=execute)


def test_all_that_is_wrong_with_a_class_is_told_at_once() -> None:
    words = refused(max_retires=9, bind=True, on_sucess=execute)
    assert all(name in words for name in ("max_retires", "bind", "on_sucess", "Made"))


@pytest.mark.parametrize(
    "name",
    [
        *("retries_count", "retry_count", "attempts", "session", "timeout", "size_limit"),
        *("date_limit", "item_limit", "page_limit", "names", "versions", "retry_delays"),
        *("_max_retires", "MAX_RETIRES", "url", "table", "batch_size", "query", "limit"),
        *("max_entries", "max_weight", "parameters", "params", "entry", "pretty", "expected"),
        *("description", "title", "owner", "tags", "columns", "rate", "delay", "unit", "priced"),
    ],
)
def test_an_attribute_of_the_classs_own_is_left_alone(name: str) -> None:
    assert getattr(created(**{name: 9}), name) == 9


def test_what_can_be_no_option_is_left_alone() -> None:
    class Limiter:
        pass

    class Own(BaseTask):
        name = "own"
        max_retires: int
        rate_limiter = Limiter()
        serializer = Limiter()
        known: ClassVar[dict[str, int]] = {}

        class Retries(BaseModel):
            n: int

        async def execute(self) -> None: ...

        def queu(self) -> str:
            return "a method"

        @property
        def time_limt(self) -> int:
            return 1

        @functools.cached_property
        def retry_dealy(self) -> int:
            return 1

    assert Own.define().name == "own"


def test_bases_and_mixins_are_looked_at_too() -> None:
    class Mixin:
        max_retires = 9

    class Fine:
        max_retries = 9

    assert "max_retires" in refused(Mixin)
    assert created(Fine, name="mixed", queue="q").define().options == JobOptions(
        queue="q", max_retries=9
    )
    with pytest.raises(TaskDefinitionError, match="retry_dealy"):

        class Base(BaseTask):
            retry_dealy = "5s"


def test_every_option_is_no_mistake() -> None:
    class Every(BulkTask):
        name = "every"
        queue = "q"
        retry = RetryPolicy()
        max_batch_size = 10
        max_wait = 0.5
        time_limit = 10
        retry_on = (OSError,)
        concurrency = 1

        async def execute_many(self, jobs: Any) -> Any: ...

    assert Every.define().time_limit == timedelta(seconds=10)


async def sound(self: Any, outcome: Any, job: RunContext) -> None: ...


async def with_default(self: Any, outcome: Any, job: Any, more: int = 1) -> None: ...


async def starred(self: Any, *args: Any, **kwargs: Any) -> None: ...


async def static(outcome: Any, job: Any) -> None: ...


HOOKS = ("on_success", "on_retry", "on_failure", "handle_error")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "value", [sound, with_default, starred, staticmethod(static), classmethod(sound), AsyncMock()]
)
def test_a_hook_that_can_be_called_is_taken(hook: str, value: Any) -> None:
    assert created(name="takes_hooks", **{hook: value}).define().hooks == {hook}


async def too_few(self: Any, outcome: Any) -> None: ...


async def celerys(
    self: Any, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any
) -> None: ...


async def named_only(self: Any, *, error: Any, job: Any) -> None: ...


def not_async(self: Any, outcome: Any, job: Any) -> None: ...


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "value", [too_few, celerys, named_only, not_async, None, staticmethod(sound)]
)
def test_a_hook_that_cannot_be_called_is_refused_when_the_class_is_created(
    hook: str, value: Any
) -> None:
    assert f"Made: {hook}: expected" in refused(**{hook: value})

    class Mixin:
        pass

    setattr(Mixin, hook, value)
    assert f"{hook}: expected" in refused(Mixin)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("value", [execute, sound, lambda result, job: None])
def test_a_hook_of_a_function_that_cannot_be_called_is_refused(hook: str, value: Any) -> None:
    with pytest.raises(TaskDefinitionError, match=f"{hook}: expected"):
        task(**{hook: value})(function)


def takes_nothing() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("value", [lambda cls, params: {}, staticmethod(takes_nothing), {}, None])
def test_what_a_task_says_of_its_jobs_must_take_the_parameters(value: Any) -> None:
    assert "enqueue_options: expected a function" in refused(enqueue_options=value)
    fine = classmethod(lambda cls, params: {"priority": 1})
    assert created(name="asks", queue="q", enqueue_options=fine).define().asking is not None
    with pytest.raises(TaskDefinitionError, match="enqueue_options: expected a function"):
        task(enqueue_options=takes_nothing)(function)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_sucess", "on_success"),
        ("on_faliure", "on_failure"),
        ("handle_eror", "handle_error"),
        ("enqueue_option", "enqueue_options"),
        ("exceute", "execute"),
    ],
)
def test_a_method_close_to_a_hook_is_refused(name: str, meant: str) -> None:
    assert f"{name}: nothing calls it (did you mean {meant!r}?)" in refused(**{name: sound})


def test_other_doors_name_the_nearest_option_too() -> None:
    client = WorkerClient(jobs=MemoryJobs())
    with pytest.raises(InvalidOptions, match=r"dely \(did you mean 'delay'\?\)"):
        client.request("t", dely=5)  # type: ignore[call-arg]
    with pytest.raises(InvalidOptions, match=r"countdown \(here delay=…"):
        client.request("t", countdown=5)  # type: ignore[call-arg]
    with pytest.raises(TaskDefinitionError, match=r"jiter \(did you mean 'jitter'\?\)"):
        task_schedule("t", {"interval": "1h", "jiter": "5s"})
