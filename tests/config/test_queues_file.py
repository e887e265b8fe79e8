"""How each queue is polled, from a file, and what is refused."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from worker import ConfigurationError, task
from worker.config.queue_plans import plan_problems, queue_plans, unsupported
from worker.config.queues_file import load_queues
from worker.consuming.queue_plan import QueuePlan
from worker.jobs.job import Capabilities
from worker.settings import load_settings
from worker.tasks.base import TaskDefinition
from worker.tasks.bulk import BulkTask

SECOND = timedelta(seconds=1)
PLAIN = QueuePlan(name="")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the machine gets in."""
    for name in list(os.environ):
        if name.startswith("WORKER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def written(folder: Path, text: str, name: str = "queues.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_each_queue_has_its_plan(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        billing:
          poll_interval: 10s
          visibility_timeout: 30
          max_batch_size: 10
          concurrency: 20
          push: false
        shared:
        """,
    )
    assert load_queues(path, PLAIN) == {
        "billing": QueuePlan(
            name="billing",
            poll_interval=10 * SECOND,
            push=False,
            visibility_timeout=30 * SECOND,
            max_batch_size=10,
            concurrency=20,
        ),
        "shared": QueuePlan(name="shared"),
    }


def test_the_file_may_be_toml(tmp_path: Path) -> None:
    path = written(tmp_path, '[billing]\npoll_interval = "10s"\n', "queues.toml")
    assert load_queues(path, PLAIN)["billing"].poll_interval == 10 * SECOND


def test_the_names_of_other_processors_are_taken(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "orders: {pollInterval: 5, messageVisibilityTimeout: 90, maxBatchSize: 7}\n"
        "others: {message_visibility_timeout: 1m}\n"
        "third: {visibilityTimeout: 2m}\n",
    )
    plans = load_queues(path, PLAIN)
    assert plans["orders"] == QueuePlan(
        name="orders",
        poll_interval=5 * SECOND,
        visibility_timeout=90 * SECOND,
        max_batch_size=7,
    )
    assert plans["others"].visibility_timeout == 60 * SECOND
    assert plans["third"].visibility_timeout == 120 * SECOND


def test_what_is_not_said_is_as_the_settings_have_it(tmp_path: Path) -> None:
    path = written(tmp_path, "orders: {max_batch_size: 7}\n")
    default = QueuePlan(name="", visibility_timeout=90 * SECOND)
    assert load_queues(path, default)["orders"].visibility_timeout == 90 * SECOND


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {pol_interval: 5}", "a: unknown option pol_interval (did you mean 'poll_interval'?)"),
        ("a: {poll_interval: 0}", "a: poll_interval: expected more than nothing"),
        ("a: {poll_interval: -5}", "a: poll_interval: expected 0 to"),
        ("a: {poll_interval: .nan}", "a: poll_interval: expected a number of seconds"),
        ("a: {poll_interval: 1.0e+300}", "a: poll_interval: expected a number of seconds"),
        ("a: {poll_interval: true}", "a: poll_interval: expected a timedelta"),
        ("a: {poll_interval: soon}", "a: poll_interval: "),
        ("a: {poll_interval: [5]}", "a: poll_interval: expected a timedelta"),
        ("a: {max_batch_size: 0}", "a: max_batch_size: expected a whole number 1 to 10000"),
        ("a: {max_batch_size: 2.5}", "a: max_batch_size: expected a whole number"),
        ("a: {concurrency: many}", "a: concurrency: expected a whole number"),
        ("a: {push: 1}", "a: push: expected True or False"),
        ("a: {visibility_timeout: 2s}", "a: visibility_timeout: expected 3 s or more"),
        ("a: {pollInterval: 5, poll_interval: 5}", "a: poll_interval is given twice"),
        ("a: {7: 5}", "a: unknown option 7"),
        ("a: 5", "a: expected a table for each queue"),
        ("no spaces: {}", "no spaces: name: expected 1 to 80 letters"),
        ("7: {}", "7: name: expected 1 to 80 letters"),
        ("- a", "expected a table for each queue"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError, match="WORKER_QUEUES_FILE") as refused:
        load_queues(path, PLAIN)
    assert re.search(re.escape(words), str(refused.value))


def test_every_problem_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "a: {push: 1}\nb: {concurrency: 0}\nc: {push: true}\n")
    with pytest.raises(ConfigurationError) as refused:
        load_queues(path, PLAIN)
    assert "a: push" in str(refused.value)
    assert "b: concurrency" in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml"):
        load_queues(tmp_path / "nowhere.yaml", PLAIN)


# Which queues a worker polls


def settings(**said: Any) -> Any:
    return load_settings(data_api_url="http://data-api.test", **said)


def known(*tasks: Any) -> dict[str, TaskDefinition]:
    return {(definition := TaskDefinition.of(each)).name: definition for each in tasks}


@task(queue="billing")
async def bill() -> None: ...


@task()
async def ping() -> None: ...


@task(queue="billing", name="remind")
async def remind() -> None: ...


async def periodic() -> None: ...


def names(plans: list[QueuePlan]) -> list[str]:
    return [plan.name for plan in plans]


def test_every_queue_of_a_known_task_is_polled() -> None:
    assert names(queue_plans(settings(), (), known(bill, ping, remind, periodic))) == [
        "billing",
        "default",
    ]


def test_queues_can_be_chosen_also_those_that_only_the_file_has(tmp_path: Path) -> None:
    path = written(tmp_path, "shared: {concurrency: 2}\n")
    wanted = ("shared", "billing", "shared")
    chosen = queue_plans(settings(queues_file=path), wanted, known(bill, ping))
    assert names(chosen) == ["shared", "billing"]
    with pytest.raises(ConfigurationError, match="no task has the queue shared; known"):
        queue_plans(settings(), wanted, known(bill, ping))
    with pytest.raises(ConfigurationError, match="queue: expected 1 to 80 letters"):
        queue_plans(settings(), ("no spaces",), known(bill))


def test_the_plans_are_those_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "billing: {concurrency: 2}\nelsewhere: {concurrency: 3}\n")
    plans = queue_plans(settings(queues_file=path, visibility_timeout="90s"), (), known(bill, ping))
    assert [(p.name, p.concurrency, p.visibility_timeout) for p in plans] == [
        ("billing", 2, 90 * SECOND),
        ("default", None, 90 * SECOND),
    ]


def test_a_slip_of_the_pen_in_the_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "biling: {concurrency: 2}\n")
    with pytest.raises(ConfigurationError, match=r"no task has the queue biling .*'billing'"):
        queue_plans(settings(queues_file=path), (), known(bill))


def test_a_batch_needs_as_many_slots_as_it_has_jobs() -> None:
    class Save(BulkTask):
        name = "save"
        max_batch_size = 50

        async def execute_many(self, jobs: Any) -> list[None]:
            return [None] * len(jobs)

    tasks = known(bill, ping, Save)
    plans = [QueuePlan(name="billing"), QueuePlan(name="default", concurrency=20)]
    assert list(plan_problems(settings(), plans, known(bill, ping))) == []
    (small,) = plan_problems(settings(), plans, tasks)
    assert "save: max_batch_size is 50, but only 20 jobs of the queue default" in small


def test_what_the_engine_cannot_do_is_named() -> None:
    able = Capabilities(
        backend="narrow", priorities=False, unique=False, concurrency=False, rates=False
    )
    wants = known(
        task(name="a", priority=1)(periodic),
        task(name="b", unique=True)(periodic),
        task(name="c", concurrency=1)(periodic),
        task(name="d", rate_limit="1/s")(periodic),
        task(name="e")(periodic),
        periodic,
    )
    told = list(unsupported(able, wants))
    assert [line.partition(" is not")[0] for line in told] == [
        "a: priority",
        "b: unique",
        "c: concurrency",
        "d: rate_limit",
    ]
    assert not list(unsupported(Capabilities(backend="wide"), wants))
