"""What stands in the log, and what does not."""

from __future__ import annotations

import io
import json
import logging
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from tests.support.clock import START
from worker.context import RunContext
from worker.errors import DataApiUnreachable
from worker.events import (
    BatchEnded,
    CallRetrying,
    LeaseExpired,
    OutcomeRefused,
    RunFinished,
    RunStarted,
    SchedulePaused,
    SlotsElsewhere,
    SlotSkipped,
    StoreChanged,
)
from worker.ledger.book import Entry, Outcome
from worker.model import Run, RunError, RunId, State, Trigger
from worker.redaction import Redaction
from worker.telemetry.event_log import EventLog
from worker.telemetry.logs import LibraryLog, configure_logging

if TYPE_CHECKING:
    pass


class Log(io.StringIO):
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def log() -> Log:
    """The JSON log, at level info, with one secret."""
    stream = Log()
    configure_logging(level="info", form="json", redact=Redaction(['s3"cret']), stream=stream)
    return stream


def run(state: State = State.SUCCESS, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "run_id": RunId("r1"),
        "task": "sync",
        "trigger": Trigger.SCHEDULE,
        "state": state,
        "started_at": START,
        "duration_ms": 12.5,
        **changes,
    }
    return Run(**values)


def failed(failure: BaseException) -> RunFinished:
    error = RunError(type(failure).__name__, str(failure))
    return RunFinished(task="sync", run=run(State.FAILURE, error=error), failure=failure)


def test_a_line_is_json_with_the_time_first_and_the_libraries_log_the_same_way(log: Log) -> None:
    structlog.get_logger().info("run.started", task="sync")
    logging.getLogger("some.library").warning("it is %s", "late")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    ours, theirs, warned = log.lines()
    assert list(ours)[:4] == ["time", "level", "event", "task"]
    assert ours["time"].endswith("Z")
    assert (theirs["level"], theirs["event"]) == ("warning", "it is late")
    assert theirs["logger"] == "some.library"
    assert "DeprecationWarning" in warned["event"]


def test_a_line_of_a_run_names_it_whoever_writes_it_and_says_what_it_wants(log: Log) -> None:
    with RunContext(task="sync", run_id=RunId("r1"), trigger=Trigger.QUEUE).entered():
        structlog.get_logger().info("read", rows=3)
        logging.getLogger("some.library").warning("late")
        structlog.get_logger().info("told", task="other")
    structlog.get_logger().info("outside")
    ours, theirs, other, outside = log.lines()
    named = {"task": "sync", "run_id": "r1", "trigger": "queue"}
    assert ours.items() >= named.items()
    assert theirs.items() >= named.items()
    assert (other["task"], other["run_id"]) == ("other", "r1")
    assert not named.keys() & outside.keys()


def test_a_value_with_a_newline_stays_on_one_line(log: Log) -> None:
    structlog.get_logger().info("odd", value="one\ntwo\u2028three", exc_info=ValueError("a\nb"))
    assert len(log.getvalue().splitlines()) == 1
    assert json.loads(log.getvalue())["value"] == "one\ntwo\u2028three"


def test_on_a_terminal_control_characters_are_shown_and_not_obeyed() -> None:
    stream = io.StringIO()
    configure_logging(form="console", stream=stream)
    structlog.get_logger().info("odd", value="\x1b[2Jone\ntwo")
    assert stream.getvalue().count("\n") == 1
    structlog.get_logger().info("odd", exc_info=ValueError("\x1b[2Jthree"))
    assert "\x1b[2J" not in stream.getvalue()
    assert "ValueError: \\x1b[2Jthree" in stream.getvalue()


@pytest.mark.parametrize("key", ["exception", "stack", "exc_info"])
def test_no_line_of_a_text_passes_for_one_of_the_log(key: str) -> None:
    stream = io.StringIO()
    configure_logging(form="console", stream=stream)
    fake = "12:00:00 [info     ] worker.ready"
    text = f"{fake}\n{fake}\r\n{fake}"
    structlog.get_logger().info("odd", **{key: ValueError(text) if key == "exc_info" else text})
    first, *others = stream.getvalue().splitlines()
    assert "odd" in first
    assert len(others) >= 3
    assert all(line.startswith("    ") for line in others)


TURNS = "\u202a\u202e\u2066\u2069\u061c\u200e\u200f"


@pytest.mark.parametrize("form", ["console", "json"])
def test_marks_that_turn_text_around_are_spelled_out(form: str) -> None:
    stream = io.StringIO()
    configure_logging(form=form, stream=stream)
    structlog.get_logger().info("odd", value=f"a{TURNS}é", exc_info=ValueError(f"b{TURNS}c"))
    assert not set(TURNS) & set(stream.getvalue())
    assert "a\\u202a\\u202e\\u2066\\u2069\\u061c\\u200e\\u200fé" in stream.getvalue()
    if form == "json":
        assert json.loads(stream.getvalue())["value"] == f"a{TURNS}é"


def test_redaction_holds_for_every_line_and_traceback(log: Log) -> None:
    try:
        raise ValueError('s3"cret at http://u:p@api/x?token=t')
    except ValueError:
        structlog.get_logger().exception("broke", value='s3"cret')
    logging.getLogger("lib").error('s3"cret')
    assert "s3" not in log.getvalue()
    assert "token=t" not in log.getvalue()
    assert "u:p@" not in log.getvalue()
    assert "ValueError" in log.lines()[0]["exception"]


def test_a_secret_is_taken_out_of_keys_and_before_anything_is_cut(log: Log) -> None:
    structlog.get_logger().info("odd", value={'s3"cret': {"http://u:p@h/": 1}}, **{'a s3"cret': 1})
    for length in range(3_900, 4_100, 3):
        failure = ValueError("x" * length + ' s3"cret ' + "y" * 20_000)
        structlog.get_logger().error("broke", exc_info=failure)
        EventLog(Redaction(['s3"cret']))(
            CallRetrying(
                task="orders",
                run_id=RunId(str(length)),
                call="orders.process",
                attempt=1,
                wait_s=0.1,
                failure=ValueError("x" * (length % 100 + 420) + 's3"cret'),
            )
        )
    assert "s3" not in log.getvalue()
    assert "u:p" not in log.getvalue()
    assert log.lines()[0]["value"] == {"***": {"http://***@h/": 1}}


def test_httpx_requests_are_not_logged(log: Log) -> None:
    logging.getLogger("httpx").info("HTTP Request: GET http://x?secret")
    assert log.getvalue() == ""


def test_endless_recursion_does_not_make_an_endless_line(log: Log) -> None:
    def one(n: int) -> None:
        other(n)

    def other(n: int) -> None:
        one(n + 1)

    try:
        one(0)
    except RecursionError:
        structlog.get_logger().exception("broke")
    assert len(log.getvalue()) < 20_000
    assert "left out" in log.lines()[0]["exception"]


def test_a_failure_is_told_with_its_traceback_once_and_then_counted(log: Log) -> None:
    listener = EventLog()
    for _ in range(3):
        listener(failed(ValueError("boom")))
    listener(failed(KeyError("other")))
    listener(RunFinished(task="sync", run=run()))
    first, second, third, other, recovered, finished = log.lines()
    assert "exception" in first
    assert "exception" not in second
    assert [line["consecutive"] for line in (first, second, third, other)] == [1, 2, 3, 4]
    assert "exception" in other
    assert (recovered["event"], recovered["after_failures"]) == ("run.recovered", 4)
    assert recovered["failing_since"] == other["failing_since"] == START.isoformat()
    assert finished["outcome"] == "success"


def test_an_outage_is_told_without_a_traceback(log: Log) -> None:
    EventLog()(failed(DataApiUnreachable("sync", "no connection to api:80")))
    (line,) = log.lines()
    assert line["error"] == "sync: no connection to api:80"
    assert "exception" not in line


def test_the_repeated_calls_of_a_batch_are_forgotten_at_its_end(log: Log) -> None:
    listener = EventLog()
    retrying = CallRetrying(
        task="orders",
        run_id=RunId("batch"),
        call="orders.process",
        attempt=1,
        wait_s=0.1,
        failure=ValueError("503"),
    )
    listener(retrying)
    listener(BatchEnded(task="orders", run_id=RunId("batch")))
    listener(retrying)
    assert [line["event"] for line in log.lines()] == ["call.retrying"] * 2


def test_of_the_repeated_calls_of_a_run_the_first_of_each_kind_is_told(log: Log) -> None:
    listener = EventLog()
    for attempt in range(1, 200):
        listener(
            CallRetrying(
                task="orders",
                run_id=RunId("r1"),
                call="orders.process",
                attempt=attempt,
                wait_s=0.1,
                failure=ValueError("503"),
            )
        )
    listener(RunFinished(task="orders", run=run(task="orders"), calls_retried=199))
    retrying, finished = log.lines()
    assert (retrying["event"], retrying["call"]) == ("call.retrying", "orders.process")
    assert finished["calls_retried"] == 199


def test_a_run_and_a_skipped_slot_say_when_they_were_due(log: Log) -> None:
    listener = EventLog()
    listener(RunStarted(task="sync", run=run(State.STARTED, slot=START)))
    entry = Entry(task="sync", slot=START, outcome=Outcome.SKIPPED_OVERLAP, recorded_at=START)
    listener(SlotSkipped(task="sync", entry=entry, running_since=START))
    started, skipped = log.lines()
    assert (started["slot"], started["late_ms"]) == (START.isoformat(), 0.0)
    assert (skipped["slot"], skipped["outcome"], skipped["running_since"]) == (
        START.isoformat(),
        "skipped_overlap",
        START.isoformat(),
    )
    assert "count" not in skipped


def test_a_row_of_slots_that_did_not_run_is_one_line(log: Log) -> None:
    last = START + timedelta(hours=3)
    row = Entry(
        task="sync", slot=START, last=last, count=4, outcome=Outcome.MISSED, recorded_at=last
    )
    EventLog()(SlotSkipped(task="sync", entry=row))
    (skipped,) = log.lines()
    assert (skipped["level"], skipped["outcome"]) == ("warning", "missed")
    assert (skipped["slot"], skipped["last_slot"], skipped["count"]) == (
        START.isoformat(),
        last.isoformat(),
        4,
    )
    assert "running_since" not in skipped


@pytest.mark.parametrize(
    ("outcome", "level"),
    [(Outcome.PAUSED, "info"), (Outcome.LOST, "warning"), (Outcome.MISSED, "warning")],
)
def test_a_slot_that_someone_wished_away_is_no_warning(
    log: Log, outcome: Outcome, level: str
) -> None:
    entry = Entry(task="sync", slot=START, outcome=outcome, recorded_at=START, error="gone")
    EventLog()(SlotSkipped(task="sync", entry=entry))
    (line,) = log.lines()
    assert (line["level"], line["event"], line["error"]) == (level, "slot.skipped", "gone")


def test_what_befalls_the_ledger_is_told(log: Log) -> None:
    listener = EventLog()
    listener(StoreChanged(task="", trouble="no connection", waiting=("a",), unrecorded=("b",)))
    listener(StoreChanged(task="", trouble=None))
    listener(LeaseExpired(task="", running=("a",)))
    listener(LeaseExpired(task="", running=("a",), forgotten=True))
    listener(OutcomeRefused(task="a", run_id="r1", outcome="ran", reason="the lease is lost"))
    listener(SchedulePaused(task="a", note="3 failures in a row"))
    listener(SlotsElsewhere(task="a", count=2))  # a debug line
    down, up, expired, anew, refused, paused = log.lines()
    assert (down["event"], down["error"]) == ("store.unavailable", "no connection")
    assert (down["waiting"], down["unrecorded"]) == (["a"], ["b"])
    assert (up["event"], up["level"]) == ("store.available", "info")
    assert (expired["event"], expired["running"]) == ("lease.expired", ["a"])
    assert (anew["event"], anew["running"]) == ("ledger.anew", ["a"])
    assert (refused["event"], refused["run_id"], refused["outcome"]) == (
        "outcome.refused",
        "r1",
        "ran",
    )
    assert (paused["event"], paused["hint"]) == ("schedule.paused", "worker schedule resume a")


def test_a_full_disk_does_not_stop_whoever_logs_and_tears_no_later_line() -> None:
    class Full(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                super().write(text[:10])
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Full()
    configure_logging(form="json", stream=stream)
    structlog.get_logger().info("unheard")
    stream.full = False
    structlog.get_logger().info("heard")
    assert json.loads(stream.getvalue().splitlines()[-1])["event"] == "heard"


class Hostile:
    def __str__(self) -> str:
        raise SystemExit(9)


def test_whatever_is_logged_the_line_is_json_and_nothing_is_raised(log: Log) -> None:
    circle: list[Any] = []
    circle.append(circle)
    logger = structlog.get_logger()
    for value in (
        {("a", "b"): 3},
        circle,
        float("nan"),
        b"\xff",
        "\ud800",
        Hostile(),
        object,
        'GET "http://api/x?page=2" failed',
        [{"deep": ['s3"cret']}],
    ):
        logger.info("odd", value=value)
    record = logging.LogRecord("lib", logging.WARNING, __file__, 7, "%d", ('s3"cret',), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LibraryLog):  # pytest's own would fail the test
            handler.handle(record)
    assert len(log.lines()) == 10
    assert "s3" not in log.getvalue()
    assert log.lines()[7]["value"] == 'GET "http://api/x" failed'
    assert log.lines()[-1]["event"] == "log.failed"
    assert "test_logs.py" in log.lines()[-1]["where"]
