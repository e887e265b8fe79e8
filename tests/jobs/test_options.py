"""The options of a task: said in a class, by ``@task``, or for one job; and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from worker import (
    BaseTask,
    ConcurrencyPer,
    Retry,
    RunContext,
    State,
    TaskDefinitionError,
    UniquePer,
    task,
)
from worker.client.client import WorkerClient
from worker.client.enqueue_options import EnqueueOptions
from worker.errors import InvalidOptions
from worker.jobs.job import Rate
from worker.jobs.options import PER_JOB, JobOptions, overrides
from worker.jobs.verdict import Snoozed
from worker.queues.memory import MemoryJobs

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)

SAID: dict[str, tuple[Any, Any]] = {
    "queue": ("billing", "billing"),
    "version": (3, 3),
    "max_retries": (7, 7),
    "retry_delay": ("90s", timedelta(seconds=90)),
    "retry_backoff": (3, 3.0),
    "retry_backoff_max": (MINUTE, MINUTE),
    "retry_jitter": (False, False),
    "retry_on": ((OSError, ValueError), (OSError, ValueError)),
    "dont_retry_on": (KeyError, (KeyError,)),
    "time_limit": ("2m", timedelta(minutes=2)),
    "soft_time_limit": (MINUTE, MINUTE),
    "ignore_result": (True, True),
    "track_started": (False, False),
    "result_ttl": ("1h", timedelta(hours=1)),
    "priority": (-5, -5),
    "unique": (UniquePer("n", ttl="5m"), UniquePer("n", ttl="5m")),
    "concurrency": (ConcurrencyPer("n", limit=2), ConcurrencyPer("n", limit=2)),
    "rate_limit": ("100/m", Rate(100, MINUTE)),
    "expires": ("10m", timedelta(minutes=10)),
}
"""Each option as somebody writes it, and what it means."""


class Model(BaseModel):
    n: int


async def function(n: int) -> None: ...


def of_class(**said: Any) -> JobOptions:
    async def execute(self: BaseTask, params: Any) -> None: ...

    named = {"name": "optional", "queue": "default", **said}
    body = {**named, "execute": execute, "Params": type("Params", (Model,), {})}
    options: JobOptions | None = type("T", (BaseTask,), body).define().options  # type: ignore[attr-defined]
    assert options is not None
    return options


def of_function(**said: Any) -> JobOptions:
    options = task(**said)(function).define().options
    assert options is not None
    return options


FORMS: dict[str, Callable[..., JobOptions]] = {"class": of_class, "function": of_function}


@pytest.fixture(params=FORMS)
def options_of(request: pytest.FixtureRequest) -> Callable[..., JobOptions]:
    """Both forms of declaring a task."""
    return FORMS[request.param]


def test_no_option_is_left_out_here() -> None:
    assert SAID.keys() == {field.name for field in fields(JobOptions)}


@pytest.mark.parametrize("name", SAID)
def test_each_option_can_be_said_in_both_forms(
    options_of: Callable[..., JobOptions], name: str
) -> None:
    said, meant = SAID[name]
    plain = replace(JobOptions(), **{name: meant})
    assert options_of(**{name: said}) == plain


NUMBERS = [n for n, (_, meant) in SAID.items() if isinstance(meant, timedelta)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("number", [12, 12.5])
def test_a_duration_may_be_a_number_of_seconds(
    options_of: Callable[..., JobOptions], name: str, number: float
) -> None:
    assert getattr(options_of(**{name: number}), name) == timedelta(seconds=number)
    if name in PER_JOB:
        text = overrides({name: number})
        assert getattr(JobOptions().overridden_by(text), name) == timedelta(seconds=number)


def test_numbers_of_seconds_are_taken_wherever_a_duration_is() -> None:
    assert UniquePer("n", ttl=300) == UniquePer("n", ttl="5m")
    assert Retry(3).after == timedelta(seconds=3)
    with pytest.raises(Snoozed) as snoozed:
        RunContext(task="t").snooze(1.5)
    assert snoozed.value.delay == timedelta(seconds=1.5)
    client = WorkerClient(jobs=MemoryJobs())
    assert client.request("t", delay=5).delay == timedelta(seconds=5)


@pytest.mark.parametrize("id", [UUID(int=7), str(UUID(int=7))])
async def test_an_id_may_be_a_uuid(id: UUID | str) -> None:
    text = "00000000-0000-0000-0000-000000000007"
    async with WorkerClient(jobs=MemoryJobs()) as client:
        assert client.request("t", id=id).id == text
        (job,) = await client.enqueue_many("t", [{}], ids=[id])
        assert job.id == text
        assert await client.job(id).status() is State.PENDING
        assert await client.job(id).cancel()
        with pytest.raises(InvalidOptions, match="job: expected the id of a job, got 7"):
            client.job(7)  # type: ignore[arg-type]


def test_what_is_not_said_is_the_default(options_of: Callable[..., JobOptions]) -> None:
    assert options_of() == JobOptions()


def test_a_subclass_has_the_options_of_its_base() -> None:
    class Base(BaseTask):
        queue = "billing"
        max_retries = 9

    class Derived(Base):
        name = "derived"
        max_retries = 1

        async def execute(self) -> None: ...

    options = Derived.define().options
    assert options is not None
    assert (options.queue, options.max_retries) == ("billing", 1)


WRONG = [
    ({"queue": "no spaces"}, "queue: expected 1 to 80 letters"),
    ({"queue": 3}, "queue: expected"),
    ({"version": 0}, "version: expected a whole number 1 to"),
    ({"max_retries": -1}, "max_retries: expected a whole number 0 to"),
    ({"max_retries": True}, "max_retries: expected a whole number"),
    ({"max_retries": 1.5}, "max_retries: expected a whole number"),
    ({"retry_delay": [5]}, "retry_delay: expected a timedelta, a number of seconds, or a text"),
    ({"retry_delay": True}, "retry_delay: expected a timedelta, a number of seconds, or a text"),
    ({"retry_delay": -0.5}, "retry_delay: expected 0 to"),
    ({"retry_delay": float("nan")}, "retry_delay: expected a number of seconds, got nan"),
    ({"retry_delay": float("inf")}, "retry_delay: expected a number of seconds, got inf"),
    ({"retry_delay": 10**5000}, "retry_delay: expected a number of seconds, got a int"),
    ({"retry_delay": "soon"}, "retry_delay: "),
    ({"retry_delay": timedelta(seconds=-1)}, "retry_delay: expected 0 to"),
    ({"retry_delay": "1000d"}, "retry_delay: expected 0 to 366 days"),
    ({"retry_backoff": 0.5}, "retry_backoff: expected True, False, or a factor 1 to 100"),
    ({"retry_backoff": "2"}, "retry_backoff: expected True"),
    ({"retry_jitter": 1}, "retry_jitter: expected True or False"),
    ({"retry_on": "OSError"}, "retry_on: expected a tuple of exceptions"),
    ({"retry_on": (BaseException,)}, "retry_on: expected a tuple of exceptions"),
    ({"dont_retry_on": [OSError]}, "dont_retry_on: expected a tuple of exceptions"),
    ({"time_limit": "0s"}, "time_limit: expected more than nothing"),
    ({"time_limit": 0}, "time_limit: expected more than nothing"),
    ({"time_limit": False}, "time_limit: expected a timedelta, a number of seconds, or a text"),
    ({"max_retries": 10**5000}, "max_retries: expected a whole number"),
    ({"soft_time_limit": timedelta(0)}, "soft_time_limit: expected more than nothing"),
    ({"soft_time_limit": "5m", "time_limit": "1m"}, "soft_time_limit: expected less than"),
    ({"ignore_result": "yes"}, "ignore_result: expected True or False"),
    ({"priority": 101}, "priority: expected a whole number -100 to 100"),
    ({"unique": "n"}, "unique: expected UniquePer"),
    ({"concurrency": 0}, "concurrency: limit: expected a whole number 1 to"),
    ({"concurrency": "n"}, "concurrency: expected ConcurrencyPer"),
    ({"rate_limit": "fast"}, 'rate_limit: expected starts in a time, such as "100/m"'),
    ({"rate_limit": "0/m"}, "rate_limit: expected 1 to 100000 starts a second"),
    ({"rate_limit": "1/0s"}, "rate_limit: "),
    ({"rate_limit": "1000000/s"}, "rate_limit: expected 1 to 100000 starts a second"),
    ({"rate_limit": Rate(0, SECOND)}, "rate_limit: expected 1 to 100000 starts a second"),
    ({"rate_limit": 5}, "rate_limit: expected starts in a time"),
    ({"expires": "0s"}, "expires: expected more than nothing"),
    ({"unique": UniquePer("m")}, "unique: there is no parameter 'm'"),
    ({"concurrency": ConcurrencyPer("x")}, "concurrency: there is no parameter 'x'"),
]


@pytest.mark.parametrize(("said", "words"), WRONG)
def test_a_wrong_option_is_refused_and_named(
    options_of: Callable[..., JobOptions], said: dict[str, Any], words: str
) -> None:
    with pytest.raises(TaskDefinitionError, match=re.escape(words)):
        options_of(**said)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(
        TaskDefinitionError,
        match=r"unknown option max_retrys \(did you mean 'max_retries'\?\);",
    ):
        of_function(max_retrys=3)


@pytest.mark.parametrize(
    ("said", "spacing", "burst"),
    [
        ("100/m", timedelta(seconds=0.6), 1),
        ("10/s", timedelta(seconds=0.1), 10),
        ("5/2s", timedelta(seconds=0.4), 2),
        ("1 / 1.5 h", timedelta(hours=1.5), 1),
        ("3/d", timedelta(hours=8), 1),
    ],
)
def test_a_rate_is_evenly_spaced_but_for_a_seconds_worth(
    said: str, spacing: timedelta, burst: int
) -> None:
    rate = of_function(rate_limit=said).rate_limit
    assert rate is not None
    assert (rate.spacing, rate.burst) == (spacing, burst)


# For one job


def client() -> WorkerClient:
    return WorkerClient(jobs=MemoryJobs())


def of_one_job(**said: Any) -> JobOptions:
    """What holds for a job for which this was said."""
    new = client().request(task()(function), {"n": 1}, **said)
    return JobOptions().overridden_by(new.options)


@pytest.mark.parametrize("name", sorted(PER_JOB))
def test_an_option_can_be_overridden_for_one_job(name: str) -> None:
    said, meant = SAID[name]
    assert of_one_job(**{name: said}) == replace(JobOptions(), **{name: meant})


def test_what_cannot_travel_belongs_to_the_task_alone() -> None:
    known = {field.name for field in fields(JobOptions)}
    assert known - EnqueueOptions.__annotations__.keys() == {
        "version",
        "retry_on",
        "dont_retry_on",
        "rate_limit",
    }


def test_the_queue_priority_and_expiry_are_known_to_the_engine() -> None:
    ping = task(queue="a", priority=3, expires="1h")(function)
    plain = client().request(ping, {"n": 1})
    assert (plain.queue, plain.priority, plain.expires) == ("a", 3, timedelta(hours=1))
    other = client().request(ping, {"n": 1}, queue="b", priority=0, expires="2h")
    assert (other.queue, other.priority, other.expires) == ("b", 0, timedelta(hours=2))


def test_unique_and_concurrency_can_be_said_for_one_job() -> None:
    ping = task()(function)
    new = client().request(ping, {"n": 1}, unique=True, concurrency=3)
    assert new.unique is not None
    assert (new.concurrency_key, new.concurrency_limit) == ("function", 3)
    kept = task(unique=True)(function)
    assert client().request(kept, {"n": 1}, unique=False).unique is None


def test_none_means_what_the_task_says() -> None:
    said: dict[str, Any] = dict.fromkeys(EnqueueOptions.__annotations__)
    del said["connection"]
    ping = task(priority=3)(function)
    new, plain = client().request(ping, {"n": 1}, **said), client().request(ping, {"n": 1})
    assert new._replace(id=plain.id) == plain


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"max_retries": -1}, "max_retries: expected a whole number"),
        ({"time_limit": "0s"}, "time_limit: expected more than nothing"),
        ({"soft_time_limit": "10m", "time_limit": "5m"}, "soft_time_limit: expected less than"),
        ({"queue": ""}, "queue: expected"),
        ({"id": "no spaces"}, "id: expected 1 to 200"),
        ({"id": ""}, "id: expected 1 to 200"),
        ({"id": 7}, "id: expected 1 to 200"),
        ({"priority": 1000}, "priority: expected"),
        ({"delay": -5}, "delay: expected 0 to 366 days, got -5"),
        ({"delay": True}, "delay: expected a timedelta, a number of seconds, or a text"),
        ({"delay": float("nan")}, "delay: expected a number of seconds, got nan"),
        ({"at": "tomorrow"}, "at: expected a datetime with its time zone"),
        ({"headers": {"a": "\ud800"}}, "headers: a: expected Unicode text"),
        ({"headers": "a=b"}, "headers: expected strings by name"),
        ({"id": 7}, "id: expected 1 to 200 letters"),
        ({"delay": "5m", "at": None}, None),
        ({"expires": "1m", "delay": "5m"}, "could never begin"),
        ({"headers": {"a": 1}}, "headers: expected strings by name"),
        ({"unique": UniquePer("m")}, "there is no parameter 'm'"),
        ({"dely": "5m"}, "unknown option dely (did you mean 'delay'?)"),
        ({"retry_on": (OSError,)}, "unknown option retry_on"),
    ],
)
def test_what_is_wrong_for_one_job_is_refused_when_it_is_asked_for(
    said: dict[str, Any], words: str | None
) -> None:
    if words is None:
        of_one_job(**said)
        return
    with pytest.raises(InvalidOptions, match=re.escape(words)):
        of_one_job(**said)


def test_a_soft_limit_is_taken_for_code_in_a_thread_too() -> None:
    def blocking(n: int) -> None: ...

    assert task(soft_time_limit="1m")(blocking).definition.soft_time_limit == MINUTE
    request = client().request(task()(blocking), {"n": 1}, soft_time_limit="1m")
    assert "soft_time_limit" in request.options


def test_what_a_newer_producer_says_is_left_alone() -> None:
    assert JobOptions().overridden_by('{"colour": "red", "max_retries": 1}').max_retries == 1


def test_what_is_not_for_one_job_is_named() -> None:
    with pytest.raises(InvalidOptions, match="version: not for a single job"):
        overrides({"version": 2})


# Keys


def key(params: dict[str, Any], unique: UniquePer) -> str:
    return unique.of("t", json.dumps(params)).key


def test_a_unique_key_is_made_of_the_parameters_that_count() -> None:
    some = UniquePer("a")
    assert key({"a": 1, "b": 1}, some) == key({"b": 2, "a": 1}, some)
    assert key({"a": 1}, some) != key({"a": 2}, some)
    every = UniquePer()
    assert key({"a": 1, "b": 1}, every) == key({"b": 1, "a": 1}, every)
    assert key({"a": 1, "b": 1}, every) != key({"a": 1, "b": 2}, every)


def test_a_unique_key_belongs_to_its_task() -> None:
    assert UniquePer().of("t", "{}").key != UniquePer().of("u", "{}").key


def test_a_unique_key_says_in_which_states_it_is_held() -> None:
    held = UniquePer(states=("PENDING", State.PROGRESS), ttl="5m").of("t", "{}")
    assert held.states == (State.PENDING, State.STARTED)
    assert held.ttl == timedelta(minutes=5)
    assert UniquePer().states == (State.PENDING, State.STARTED, State.RETRY)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"ttl": "soon"}, "unique: ttl"),
        ({"states": ("WAITING",)}, "unique: states"),
        ({"states": ()}, "unique: states"),
        ({"states": ("UNKNOWN",)}, "unique: states"),
        ({"on_conflict": "replace"}, "on_conflict: expected return or raise"),
    ],
)
def test_a_wrong_unique_key_is_refused(said: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptions, match=words):
        UniquePer(**said)


def test_tasks_can_share_a_concurrency_key() -> None:
    shared = ConcurrencyPer("account", name="bank")
    assert shared.of("t", '{"account": 1}') == shared.of("u", '{"account": 1}')
    assert shared.of("t", '{"account": 1}') != shared.of("t", '{"account": 2}')
    assert ConcurrencyPer(limit=2).of("t", '{"account": 1}') == "t"


# Delays


@pytest.mark.parametrize(
    ("said", "delays"),
    [
        ({"retry_delay": "5s"}, [5, 10, 20, 40, 80]),
        ({"retry_delay": "5s", "retry_backoff": False}, [5, 5, 5, 5, 5]),
        ({"retry_delay": "5s", "retry_backoff": 3.0}, [5, 15, 45, 135, 405]),
        ({"retry_delay": "5s", "retry_backoff_max": "30s"}, [5, 10, 20, 30, 30]),
        ({"retry_delay": "1h", "retry_backoff_max": "10m"}, [600] * 5),
        ({"retry_delay": "0s"}, [0] * 5),
    ],
)
def test_the_delay_grows_with_each_attempt(said: dict[str, Any], delays: list[float]) -> None:
    options = of_function(retry_jitter=False, **said)
    assert [options.delay_after(n).total_seconds() for n in range(1, 6)] == delays


@pytest.mark.parametrize("delay", ["0s", "5s"])
def test_the_delay_is_bounded_however_many_attempts_there_were(delay: str) -> None:
    options = of_function(retry_jitter=False, retry_delay=delay)
    most = timedelta(0) if delay == "0s" else timedelta(minutes=10)
    assert options.delay_after(9_999) == most


def test_jitter_draws_the_delay_from_between_half_of_it_and_all_of_it() -> None:
    options = of_function(retry_delay="8s", retry_backoff=False)
    drawn = [options.delay_after(1).total_seconds() for _ in range(300)]
    assert 4 <= min(drawn) < 5
    assert 7 < max(drawn) <= 8


# What is worth another attempt


@pytest.mark.parametrize(
    ("said", "failure", "another"),
    [
        ({}, ValueError(), True),
        ({"retry_on": (OSError,)}, ValueError(), False),
        ({"retry_on": (OSError,)}, ConnectionError(), True),
        ({"retry_on": ()}, ValueError(), False),
        ({"dont_retry_on": (ValueError,)}, ValueError(), False),
        ({"dont_retry_on": (ValueError,)}, KeyError(), True),
        ({"retry_on": (OSError,), "dont_retry_on": (ConnectionError,)}, ConnectionError(), False),
        ({"retry_on": (OSError,), "dont_retry_on": (ConnectionError,)}, OSError(), True),
    ],
)
def test_what_is_not_to_be_retried_wins(
    said: dict[str, Any], failure: Exception, another: bool
) -> None:
    assert of_function(**said).is_worth_another(failure) is another


@pytest.mark.parametrize("name", ["", "x" * 201, 7])
def test_a_name_for_shared_concurrency_has_a_length_that_every_engine_stores(name: Any) -> None:
    with pytest.raises(InvalidOptions, match="concurrency: name: expected up to 200 characters"):
        ConcurrencyPer("n", name=name)
