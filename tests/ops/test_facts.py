"""What is made of records: rates, timelines, problems."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.clock import FakeClock
from worker.admin.queues import QueueFacts, queue_facts
from worker.events import LoopResumed, LoopStalled
from worker.jobs.history import AttemptOutcome
from worker.jobs.job import Job, JobId, QueueCount
from worker.ledger.attendance import Pollers
from worker.ledger.presence import Presence
from worker.model import State
from worker.ops.banner import of_queue, order, status_of, unknown
from worker.ops.jobs import read_cursor
from worker.ops.models import AttemptFacts, JobError, Problem
from worker.ops.stalls import Stalls
from worker.ops.throughput import Throughput
from worker.ops.timeline import timeline
from worker.redaction import plain

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def job(state: State, **rest: Any) -> Job:
    said = {"created_at": NOON, "ready_at": NOON + timedelta(minutes=1), **rest}
    return Job(id=JobId("a"), task="ping", queue="default", state=state, params="{}", **said)


# --- rates


def test_the_rate_is_of_what_ended_lately() -> None:
    rates = Throughput()
    rates.window = timedelta(seconds=30)
    assert rates.note({"default": 10, "other": 1}) == {"default": 20.0, "other": 2.0}


def test_it_looks_back_a_minute_where_little_ends_and_less_where_much_does() -> None:
    rates = Throughput()
    for _ in range(10):
        rates.note({"default": 3})
    assert rates.window == timedelta(minutes=1)
    assert rates.note({"default": 90_000}) == {"default": 90_000.0}
    assert rates.window == timedelta(seconds=30)
    assert rates.note({"default": 2_000}) == {"default": 4_000.0}
    assert rates.window == timedelta(seconds=30)
    for _ in range(20):
        rates.note({"default": 90_000})
    assert rates.window == timedelta(seconds=1)


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
            ["created", "lost", "refused", "started", "cancel requested", "leased"],
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
    told = timeline(found, JobError(type="E", message="no"), [])
    assert [moment.what for moment in told] == expected


def test_the_last_error_is_told_where_it_belongs() -> None:
    error = JobError(type="Timeout", message="too slow")
    waiting = {m.what: m.detail for m in timeline(job(State.RETRY, attempts=1), error, [])}
    assert "Timeout: too slow" in waiting["attempts"]
    dead = job(State.FAILURE, attempts=1, started_at=NOON, finished_at=NOON + timedelta(seconds=2))
    ended = {m.what: m.detail for m in timeline(dead, error, [])}
    assert ended["finished"] == "FAILURE; after 2000 ms; Timeout: too slow"


def attempt(number: int, outcome: AttemptOutcome, error: JobError | None = None) -> AttemptFacts:
    return AttemptFacts(
        attempt=number,
        outcome=outcome,
        started_at=NOON,
        finished_at=NOON + timedelta(seconds=2),
        worker="one",
        error=error,
    )


def test_attempts_are_told_one_by_one_and_the_last_one_as_the_end() -> None:
    failed = [
        attempt(1, AttemptOutcome.LOST),
        attempt(1, AttemptOutcome.FAILED, JobError(type="Timeout", message="too slow")),
        attempt(2, AttemptOutcome.GIVEN_BACK),
    ]
    rest: dict[str, Any] = {"attempts": 2, "losses": 1, "started_at": NOON, "finished_at": NOON}
    told = timeline(
        job(State.SUCCESS, **rest), None, [*failed, attempt(2, AttemptOutcome.SUCCEEDED)]
    )
    assert [moment.what for moment in told] == [
        *("created", "lost", "failed", "given back", "started", "finished")
    ]
    assert told[2].detail == "attempt 1 on one, after 2000 ms: Timeout: too slow"
    assert told[2].at == NOON + timedelta(seconds=2)
    revoked = timeline(job(State.REVOKED, **rest), None, failed[:2])
    assert [moment.what for moment in revoked][1:3] == ["lost", "failed"]


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
    assert (other.waiting, other.oldest_age_s, other.finished_per_minute) == (7, None, 0.0)


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
        "who polls it is not known"
    ]
    assert told(31)[0].startswith("nobody seems to work on the queue images: 4 jobs wait")
    assert told(29) == []
    assert told(90, polled=["images"]) == []
    assert told(90, running=1) == []
    assert told(90, rates={"images": 12.0}) == []


def poller(name: str, *, only: tuple[str, ...] = ()) -> tuple[str, Presence]:
    return name, Presence(queues=("images",), only=only)


def waiting(age_s: float = 0.0, *tasks: str) -> list[QueueCount]:
    oldest = NOON - timedelta(seconds=age_s)
    names = tasks or ("resize",)
    return [QueueCount("images", task, State.PENDING, 4, oldest=oldest) for task in names]


def said_of(pollers: Pollers, counts: list[QueueCount], **rest: Any) -> list[str]:
    (queue,) = queue_facts(counts, now=NOON, known={}, pollers=pollers, **rest)
    return [f"{problem.what}: {problem.why}" for problem in of_queue(queue)]


def test_a_queue_that_nobody_polls_is_told_at_once() -> None:
    elsewhere = Pollers(served={"one": Presence(queues=("billing",))})
    assert said_of(elsewhere, waiting()) == [
        "nobody polls the queue images: 4 jobs wait: of the workers that are up none polls it; "
        "`worker start --queues images` does"
    ]
    later = [QueueCount("images", "resize", State.PENDING, 4)]
    assert said_of(elsewhere, later) == [], "none of them is ready"
    assert said_of(Pollers(served=dict([poller("one")])), waiting(200)) == []


def test_a_queue_polled_for_other_tasks_only_is_told_with_the_task_that_waits() -> None:
    some = Pollers(served=dict([poller("one", only=("crop",))]))
    assert said_of(some, waiting(0, "crop", "resize")) == [
        "nobody polls the queue images for resize: 4 jobs wait: "
        "those that poll it run other tasks only (--only)"
    ]
    assert said_of(some, waiting(0, "crop")) == []
    assert said_of(some, waiting(0, "")) == [], "nobody has looked into its messages yet"


@pytest.mark.parametrize(
    "doubtful",
    [
        Pollers(served={"old": None}),
        Pollers(blind="the ledger is this machine's only (sqlite), and the queues are shared"),
    ],
)
def test_that_nobody_polls_is_not_said_where_it_is_not_known(doubtful: Pollers) -> None:
    assert said_of(doubtful, waiting()) == []
    (guess,) = said_of(doubtful, waiting(90))
    assert guess.startswith("nobody seems to work on the queue images: 4 jobs wait, the oldest")
    (queue,) = queue_facts(waiting(), now=NOON, known={}, pollers=doubtful)
    assert (queue.polled_by, queue.tasks[0].polled) == (None, None)


def test_a_queue_that_a_stranger_to_the_ledger_works_on_is_not_said_to_be_polled_by_nobody() -> (
    None
):
    here = Pollers(served={"one": Presence()}, known=frozenset({"one", "dead"}))
    taken = replace(job(State.STARTED, worker="stranger"), queue="images")
    assert said_of(here, waiting(), seen=[taken]) == []
    assert said_of(here, waiting(), seen=[replace(taken, worker="dead")]) != []
    assert said_of(here, waiting(), rates={"images": 5.0}) == [], "somebody ends jobs"
    left = replace(here, lately=frozenset({"images"}))
    assert said_of(left, waiting(), rates={"images": 5.0}) != [], "who did so has left"


def backlog(age_s: float, waiting: int = 4800, **rest: Any) -> QueueFacts:
    """How a queue stands whose oldest job waits so long."""
    counts = [
        QueueCount("slow", "bake", State.PENDING, waiting, oldest=NOON - timedelta(seconds=age_s)),
        QueueCount("slow", "bake", State.STARTED, rest.pop("running", 200)),
    ]
    said: dict[str, Any] = {"polled": ["slow"], **rest}
    (queue,) = queue_facts(counts, now=NOON, known={}, **said)
    return queue


def told_of(queue: QueueFacts, full: str | None = None) -> list[str]:
    return [f"{problem.what}: {problem.why}" for problem in of_queue(queue, full=full)]


def test_a_backlog_that_takes_long_is_told_before_it_is_old() -> None:
    assert told_of(backlog(31, rates={"slow": 400.0})) == [
        "the queue slow is behind: a job waits for 30s: 4800 wait and 200 run; at 400 a minute "
        "they take 12m"
    ]
    assert told_of(backlog(29, rates={"slow": 400.0})) == []
    assert told_of(backlog(31, rates={"slow": 4000.0})) == []
    assert told_of(backlog(31)) == [], "nobody knows yet how long it takes"


def test_a_queue_whose_places_others_have_taken_says_so() -> None:
    full = "all 100 places of this worker are taken (WORKER_CONCURRENCY)"
    assert told_of(backlog(31, 1, running=0), full) == [
        f"the queue slow is behind: a job waits for 30s: 1 wait and 0 run; {full}"
    ]
    assert told_of(backlog(31, 1, running=0)) == []


def test_dead_letters_tell_what_they_died_of() -> None:
    counts = [
        QueueCount("default", "ping", State.FAILURE, 2, dead=2),
        QueueCount("default", "pong", State.FAILURE, 1, dead=1),
    ]
    dead = {("default", "ping"): "WorkerLost: 3 times its lease ran out"}
    (queue,) = queue_facts(counts, now=NOON, known={}, polled=["default"], dead=dead)
    (problem,) = of_queue(queue)
    assert problem.why == (
        "2 of ping, the last with WorkerLost: 3 times its lease ran out; 1 of pong; to be retried "
        "or dropped by hand"
    )


def test_jobs_of_tasks_that_a_worker_does_not_know_are_worth_a_warning() -> None:
    counts = [
        QueueCount("alpha", "ghost", State.PENDING, 1),
        QueueCount("alpha", "ping", State.PENDING, 9),
        QueueCount("alpha", "", State.PENDING, 3),
    ]
    (queue,) = queue_facts(counts, now=NOON, known={}, polled=["alpha"])
    (problem,) = unknown(queue, ["ping"], 10)
    assert problem.what == "1 job in the queue alpha of tasks that this worker does not know"
    assert problem.why.startswith("1 of ghost: a worker that does not know it gives it back; after")
    assert list(unknown(queue, ["ping", "ghost"], 10)) == []
    (elsewhere,) = queue_facts(counts, now=NOON, known={})
    assert list(unknown(elsewhere, ["ping"], 10)) == []


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
    assert [stall.ended for stall in stalls.lately()] == [False, True]
    stalls(LoopResumed(stalled_s=4.0))
    clock.advance(301)
    assert [stall.holder for stall in stalls.lately()] == ["Task-7"]


def test_a_stall_began_before_it_was_noticed() -> None:
    stalls = Stalls()
    stalls(LoopStalled(task="sync", stalled_s=5.0, stack=""))
    (stall,) = stalls.lately()
    assert timedelta(seconds=5) <= datetime.now(UTC) - stall.at < timedelta(seconds=60)


# --- what comes first


def test_what_all_share_comes_before_what_suffers_from_it() -> None:
    def problem(severity: Any, kind: Any, name: str) -> Problem:
        return Problem(severity=severity, what=name, why="", kind=kind, name=name)

    problems = [
        problem("info", "data_api", "data_api"),
        problem("critical", "schedule", "store"),
        problem("warning", "dead", "default"),
        problem("warning", "data_api", "data_api"),
        problem("critical", "store", "store"),
    ]
    told = [(one.severity, one.kind) for one in sorted(problems, key=order)]
    assert told == [
        ("critical", "store"),
        ("warning", "data_api"),
        ("critical", "schedule"),
        ("warning", "dead"),
        ("info", "data_api"),
    ]


# --- texts


def test_what_json_and_utf8_do_not_know_is_spelled_out() -> None:
    deep: Any = "bottom"
    for _ in range(500):
        deep = [deep]
    told = plain({"a": float("nan"), "\ud800": ["\udfff", 1, None, True], "deep": deep}, str, 100)
    assert told["a"] == "nan"
    assert told["\\ud800"] == ["\\udfff", 1, None, True]
    assert "bottom" not in str(told["deep"])
    str(told).encode()


def test_a_cursor_is_a_moment_with_or_without_an_id() -> None:
    assert read_cursor(None) == (None, None)
    assert read_cursor("2026-11-21T12:00:00Z") == (NOON, None)
    assert read_cursor("2026-11-21T12:00:00+00:00~a~b") == (NOON, "a~b")
