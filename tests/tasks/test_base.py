"""`BaseTask`: the rules for names, and what `run` logs."""

from __future__ import annotations

import gc
from abc import abstractmethod
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from worker.errors import TaskDefinitionError
from worker.tasks.base import BaseTask, TaskDefinition

from .service import running


class Counting(BaseTask):
    """Counts.

    And more that nobody needs to know.
    """

    name = "test-base:counting"

    async def execute(self) -> dict[str, Any]:
        return {"counted": 3, "items": list(range(50))}


class Failing(BaseTask):
    name = "test-base:failing"

    async def execute(self) -> None:
        raise ValueError("no good")


async def test_run_logs_its_start_and_what_came_of_it() -> None:
    async with httpx.AsyncClient() as client:
        with capture_logs() as logs, running() as run:
            result = await Counting(client).run()
    assert result == {"counted": 3, "items": list(range(50))}
    assert logs == [
        {
            "event": "run.started",
            "log_level": "info",
            "task": "test-base:counting",
            "run_id": run.run_id,
            "trigger": "manual",
        },
        {
            "event": "run.finished",
            "log_level": "info",
            "task": "test-base:counting",
            "run_id": run.run_id,
            "duration_ms": 0.0,
            "result": {"counted": 3, "items": "50 items"},
        },
    ]


async def test_run_logs_a_failure_with_its_traceback_and_raises_it() -> None:
    async with httpx.AsyncClient() as client:
        with capture_logs() as logs, running(), pytest.raises(ValueError, match="no good"):
            await Failing(client).run()
    assert [entry["event"] for entry in logs] == ["run.started", "run.failed"]
    assert logs[1]["log_level"] == "error"
    assert logs[1]["exc_info"] is True


async def test_run_works_outside_of_any_worker() -> None:
    async with httpx.AsyncClient() as client:
        assert (await Counting(client).run()) == await Counting(client).execute()


def define(name: object, *, qualname: str = "Some") -> type[BaseTask]:
    async def execute(self: BaseTask) -> None: ...

    return type(qualname, (BaseTask,), {"name": name, "execute": execute})


@pytest.mark.parametrize("name", ["a", "send_report", "A.b:c-d_1", "x" * 100])
def test_name_that_fits_is_taken(name: str) -> None:
    assert define(name).name == name


@pytest.mark.parametrize(
    "name", ["", "1a", "_a", "-a", "a b", "a/b", "ä", "a\n", "x" * 101, "a\x00", "٣"]
)
def test_name_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(TaskDefinitionError, match="a task's name is 1 to 100 letters"):
        define(name)


@pytest.mark.parametrize("name", [None, 7, b"a"])
def test_name_that_is_no_text_is_refused(name: object) -> None:
    with pytest.raises(TaskDefinitionError, match="has no name: expected a class attribute"):
        define(name)


def test_task_without_a_name_is_refused_naming_the_class() -> None:
    class Nameless(BaseTask):
        async def execute(self) -> None: ...

    with pytest.raises(TaskDefinitionError, match="Nameless has no name"):
        TaskDefinition.of(Nameless)


def test_name_of_another_task_is_refused_naming_both() -> None:
    first = define("test-base:twice", qualname="First")
    with pytest.raises(
        TaskDefinitionError,
        match=r"two tasks are named 'test-base:twice': \S+:First and \S+:Second; rename one",
    ):
        define("test-base:twice", qualname="Second")
    assert first.name == "test-base:twice"


def test_refused_task_does_not_take_the_name() -> None:
    first = define("test-base:kept", qualname="First")
    for _ in range(2):
        with pytest.raises(TaskDefinitionError, match="First and"):
            define("test-base:kept", qualname="Second")
    assert define("test-base:kept", qualname="First") is not first


def test_same_class_may_be_made_again() -> None:
    """As a module is that is loaded anew, or a notebook's cell that runs twice."""
    first = define("test-base:again", qualname="Again")
    second = define("test-base:again", qualname="Again")
    assert first is not second


def test_name_of_a_class_that_is_gone_is_free() -> None:
    define("test-base:gone", qualname="Gone")
    assert define("test-base:gone", qualname="Heir").name == "test-base:gone"
    gc.collect()


def test_intermediate_class_needs_no_name_and_its_children_do() -> None:
    class Intermediate(BaseTask):
        @abstractmethod
        async def execute(self) -> None: ...

    class AlsoIntermediate(Intermediate):
        def helper(self) -> int:
            return 1

    class Child(AlsoIntermediate):
        async def execute(self) -> None: ...

    with pytest.raises(TaskDefinitionError, match="Child has no name"):
        TaskDefinition.of(Child)


def test_intermediate_class_may_leave_a_step_of_its_execute_to_its_children() -> None:
    class Template(BaseTask):
        async def execute(self) -> int:
            return self.step()

        @abstractmethod
        def step(self) -> int: ...

    class Concrete(Template):
        name = "test-base:concrete"

        def step(self) -> int:
            return 7

    assert TaskDefinition.of(Concrete).name == "test-base:concrete"
    with pytest.raises(TaskDefinitionError, match="Template is abstract"):
        TaskDefinition.of(Template)


def test_abstract_task_cannot_be_made_or_defined() -> None:
    class Abstract(BaseTask):
        name = "test-base:abstract"

    with pytest.raises(TypeError, match="abstract"):
        Abstract(httpx.AsyncClient())  # type: ignore[abstract]
    with pytest.raises(TaskDefinitionError, match=r"Abstract is abstract: write its execute\(\)"):
        TaskDefinition.of(Abstract)


def test_child_may_keep_the_name_of_its_parent_to_stand_in_for_it() -> None:
    class Special(Counting):
        async def execute(self) -> dict[str, Any]:
            return {}

    assert Special.name == "test-base:counting"


def test_definition_says_what_and_where_the_task_is() -> None:
    definition = TaskDefinition.of(Counting)
    assert definition.name == "test-base:counting"
    assert definition.summary == "Counts."
    assert definition.defined_in == f"{__name__}:Counting"


async def test_definition_makes_an_instance_a_run() -> None:
    async with httpx.AsyncClient() as client:
        prepare = TaskDefinition.of(partial(Counting), name="other").prepare
        assert prepare(client) is not prepare(client)
        assert await prepare(client).execute() == await Counting(client).execute()


async def test_async_function_is_a_task_too() -> None:
    async def tidy(what: str = "all") -> str:
        return what

    async with httpx.AsyncClient() as client:
        assert TaskDefinition.of(tidy).name == "tidy"
        assert await TaskDefinition.of(partial(tidy, "some")).prepare(client).execute() == "some"


@pytest.mark.parametrize("target", [lambda: None, print, "name", 7, dict, None])
def test_what_is_no_task_is_refused(target: Any) -> None:
    with pytest.raises(TaskDefinitionError, match="expected a subclass of BaseTask or an async"):
        TaskDefinition.of(target)


@pytest.mark.parametrize("said", ["90s", "1m30s", timedelta(seconds=90)])
def test_a_time_limit_is_a_duration_or_a_text(said: timedelta | str) -> None:
    async def ping() -> None: ...

    assert TaskDefinition.of(ping, time_limit=said).time_limit == timedelta(seconds=90)


@pytest.mark.parametrize("said", ["soon", "0s", timedelta(0), 0, True])
def test_a_time_limit_that_is_none_is_refused_with_what_was_expected(said: Any) -> None:
    async def ping() -> None: ...

    with pytest.raises(TaskDefinitionError, match=r"time_limit: expected"):
        TaskDefinition.of(ping, time_limit=said)
