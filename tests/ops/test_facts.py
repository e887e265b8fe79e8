"""What is made of records: rates, timelines, problems."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.clock import FakeClock
from worker.admin.queues import queue_facts
from worker.events import LoopResumed, LoopStalled
from worker.jobs.job import Job, JobId, QueueCount
from worker.model import State
from worker.ops.banner import of_queue, status_of
from worker.ops.jobs import read_cursor, writable
from worker.ops.models import JobError
from worker.ops.stalls import Stalls
from worker.ops.throughput import Throughput
from worker.ops.timeline import timeline

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def job(state: State, **rest: Any) -> Job:
    said = {"created_at": NOON, "ready_at": NOON + timedelta(minutes=1), **rest}
    return Job(id=JobId("a"), task="ping", queue="default", state=state, params="{}", **said)


# --- rates


def test_the_rate_counts_what_ended_within_the_last_minute() -> None:
    rates = Throughput()
    assert rates.note({"default": 100}, 0.0) == {}
    assert rates.note({"default": 110}, 2.0) == {"default": 300.0}
    assert rates.note({"default": 110}, 60.0) == {"default": 10.0}
    assert rates.note({"default": 110}, 100.0) == {"default": 0.0}


def test_jobs_that_are_forgotten_do_not_make_a_rate_negative() -> None:
    rates = Throughput()
    rates.note({"default": 5000}, 0.0)
    assert rates.note({"default": 10}, 10.0) == {"default": 0.0}
    assert rates.note({"default": 20, "new": 3}, 20.0) == {"default": 30.0, "new": 9.0}


def test_a_rate_is_not_known_after_nobody_looked_for_long() -> None:
    rates = Throughput()
    rates.note({"default": 1}, 0.0)
    assert rates.note({"default": 500_000}, 3600.0) == {}


# --- timelines


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (job(State.PENDING), ["created", "ready"]),
        (
            job(State.RETRY, attempts=2, started_at=NOON, worker="one"),
            ["created", "attempts", "started", "retry"],
        ),
        (
            job(State.STARTED, losses=1, refusals=2, started_at=NOON, worker="one", cancel=True),
            ["created", "lost", "refused", "started", "cancelled", "leased"],
        ),
        (
            job(State.FAILURE, attempts=3, dead=True, started_at=NOON, finished_at=NOON),
            ["created", "attempts", "started", "finished", "dead"],
        ),
        (job(State.EXPIRED, finished_at=NOON), ["created", "finished"]),
        (job(State.PENDING, expires_at=NOON), ["created", "ready", "expires"]),
    ],
)
def test_a_timeline_tells_what_is_recorded(found: Job, expected: list[str]) -> None:
    told = timeline(found, JobError(type="E", message="no"))
    assert [moment.what for moment in told] == expected


def test_the_last_error_is_told_where_it_belongs() -> None:
    error = JobError(type="Timeout", message="too slow")
    waiting = {m.what: m.detail for m in timeline(job(State.RETRY, attempts=1), error)}
    assert "Timeout: too slow" in waiting["attempts"]
    dead = job(State.FAILURE, attempts=1, started_at=NOON, finished_at=NOON + timedelta(seconds=2))
    ended = {m.what: m.detail for m in timeline(dead, error)}
    assert ended["finished"] == "FAILURE; after 2000 ms; Timeout: too slow"


# --- queues


def test_queues_add_up_what_their_tasks_have() -> None:
    counts = [
        QueueCount("default", "ping", State.PENDING, 3, oldest=NOON - timedelta(seconds=9)),
        QueueCount("default", "ping", State.RETRY, 2, oldest=NOON - timedelta(seconds=20)),
        QueueCount("default", "ping", State.PROGRESS, 1, oldest=NOON - timedelta(hours=1)),
        QueueCount("default", "fails", State.FAILURE, 9, dead=4),
        QueueCount("other", "", State.PENDING, 7),
    ]
    told = queue_facts(
        counts, now=NOON, known={"quiet": "billing"}, polled=["default"], rates={"default": 6.0}
    )
    billing, default, other = told
    assert (billing.name, billing.waiting, billing.polled_here) == ("billing", 0, False)
    assert (default.waiting, default.running, default.dead) == (5, 1, 4)
    assert (default.oldest_age_s, default.finished_per_minute) == (20.0, 6.0)
    assert [task.task for task in default.tasks] == ["fails", "ping"]
    assert (other.waiting, other.oldest_age_s, other.finished_per_minute) == (7, None, None)


def test_dead_letters_and_old_jobs_are_worth_a_warning() -> None:
    long_ago = NOON - timedelta(minutes=10)
    counts = [
        QueueCount("default", "ping", State.PENDING, 3, oldest=long_ago),
        QueueCount("default", "ping", State.FAILURE, 2, dead=2),
    ]
    (queue,) = queue_facts(counts, now=NOON, known={}, polled=["default"])
    problems = list(of_queue(queue))
    assert [problem.kind for problem in problems] == ["dead", "queue"]
    assert "a job waits for 10m" in problems[1].what
    assert status_of(problems) == "warning"
    assert status_of([]) == "ok"


def test_a_queue_that_nobody_seems_to_work_on_is_worth_a_warning() -> None:
    def told(age_s: float, *, running: int = 0, **rest: Any) -> list[str]:
        oldest = NOON - timedelta(seconds=age_s)
        counts = [
            QueueCount("images", "resize", State.PENDING, 4, oldest=oldest),
            QueueCount("images", "resize", State.STARTED, running),
        ]
        (queue,) = queue_facts(counts, now=NOON, known={}, **rest)
        return [f"{problem.what}: {problem.why}" for problem in of_queue(queue)]

    assert told(90) == [
        "nobody seems to work on the queue images: 4 jobs wait, the oldest for 2m, and none runs; "
        "this worker does not poll it"
    ]
    assert told(31)[0].startswith("nobody seems to work on the queue images: 4 jobs wait")
    assert told(29) == []
    assert told(90, polled=["images"]) == []
    assert told(90, running=1) == []
    assert told(90, rates={"images": 12.0}) == []


# --- stalls


def test_what_held_the_loop_is_known_for_ten_minutes() -> None:
    clock = FakeClock()
    stalls = Stalls(monotonic=clock.monotonic)
    stalls(LoopResumed(stalled_s=9.0))
    assert stalls.lately() == [], "that it stood still was never said"
    stalls(LoopStalled(task="sync", stalled_s=1.0, stack=""))
    clock.advance(1)
    stalls(LoopStalled(task="sync", stalled_s=2.0, stack=""))
    stalls(LoopResumed(stalled_s=2.5))
    clock.advance(300)
    stalls(LoopStalled(holder="Task-7", stalled_s=4.0, stack=""))
    found = [(stall.holder, stall.lasted_s) for stall in stalls.lately()]
    assert found == [("Task-7", 4.0), ("sync", 2.5)]
    stalls(LoopResumed(stalled_s=4.0))
    clock.advance(301)
    assert [stall.holder for stall in stalls.lately()] == ["Task-7"]


# --- texts


def test_what_json_and_utf8_do_not_know_is_spelled_out() -> None:
    deep: Any = "bottom"
    for _ in range(500):
        deep = [deep]
    told = writable({"a": float("nan"), "\ud800": ["\udfff", 1, None, True], "deep": deep}, str)
    assert told["a"] == "nan"
    assert told["\\ud800"] == ["\\udfff", 1, None, True]
    assert "bottom" not in str(told["deep"])
    str(told).encode()


def test_a_cursor_is_a_moment_with_or_without_an_id() -> None:
    assert read_cursor(None) == (None, None)
    assert read_cursor("2026-11-21T12:00:00Z") == (NOON, None)
    assert read_cursor("2026-11-21T12:00:00+00:00~a~b") == (NOON, "a~b")
