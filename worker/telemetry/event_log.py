"""What the log tells of the worker's events: enough for the one on call, and no flood."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from worker.events import (
    BatchEnded,
    CallEnded,
    CallRetrying,
    Event,
    HookFailed,
    JobDead,
    JobRefused,
    JobTakenOver,
    JobUnrun,
    LeaseExpired,
    LeaseWasLost,
    LoopResumed,
    LoopStalled,
    OutcomeRefused,
    QueueChanged,
    RunAbandoned,
    RunFinished,
    RunRetrying,
    RunStarted,
    RunStuck,
    ScheduleChanged,
    SchedulePaused,
    ScheduleRetired,
    SlotsElsewhere,
    SlotSkipped,
    StoreChanged,
    TaskFresh,
    TaskStale,
    UnknownJobs,
)
from worker.ledger.book import Outcome
from worker.model import CancelReason, State, Trigger
from worker.summary import describe, is_plain, summarize
from worker.telemetry.job_log import JobLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


__all__ = ["EventLog"]


HINT = (
    "its code goes on although it was cancelled; the run keeps its place and its lease until the "
    "code ends: have it call context.raise_if_cancelled(), and give blocking calls a timeout"
)
HINTS = {
    CancelReason.LEASE_LOST: "its lease was lost, so another worker may run the same meanwhile, "
    "and its outcome is not recorded; its code goes on although it was cancelled"
}


@dataclass(frozen=True, slots=True)
class Failing:
    """A task whose last runs failed: the last failure, since when, how many runs."""

    kind: str
    since: datetime
    count: int


class EventLog:
    """A listener that logs what the worker announces, and does not flood.

    A failure that repeats itself run after run is told with its traceback once, then by a line
    with the count; its end is told too. Of the repeated calls of a run the first of each kind is
    told, the number is in the run's last line.

    Args:
        redact: Takes secrets out of an error before it is cut.
    """

    def __init__(self, redact: Callable[[str], str] = str) -> None:
        self._redact = redact
        self._log = structlog.get_logger("worker")
        self._failing: dict[str, Failing] = {}
        self._told: dict[str, set[tuple[str, str]]] = {}
        self._jobs = JobLog()
        self._store_down = False

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._run_started(event)
            case CallEnded():
                pass  # by the hundred; what comes of it is told by its run
            case CallRetrying():
                self._call_retrying(event)
            case BatchEnded():
                self._told.pop(event.run_id, None)
            case RunRetrying():
                self._log.warning(
                    "run.retrying",
                    attempt=event.attempt,
                    wait_s=round(event.wait_s, 3),
                    error_type=type(event.failure).__name__,
                    error=describe(event.failure, self._redact),
                )
            case RunFinished():
                self._run_finished(event)
            case RunAbandoned():
                self._log.error(
                    "run.abandoned",
                    waited_s=event.waited_s,
                    hint="its code did not end when it was cancelled, and ends with this process",
                    stack=event.stack,
                )
            case RunStuck():
                self._log.error(
                    "run.stuck",
                    reason=event.reason.value,
                    overdue_s=round(event.overdue_s, 1),
                    stuck=event.stuck,
                    hint=HINTS.get(event.reason, HINT),
                    stack=event.stack,
                )
            case HookFailed():
                self._log.error(
                    "hook.failed", hook=event.hook, exc_info=event.failure, run_id=event.run_id
                )
            case JobRefused() | JobTakenOver() | JobDead() | JobUnrun() | LeaseWasLost():
                self._jobs(event)
            case QueueChanged(trouble=None):
                self._log.info("queue.available")
            case QueueChanged():
                self._log.error("queue.unavailable", error=event.trouble)
            case UnknownJobs():
                self._log.warning(
                    "queue.unknown_tasks",
                    queue=event.queue,
                    jobs=event.jobs,
                    hint="a worker that polls a queue should know all of its tasks: these go back "
                    "into it, and to the dead letters in the end",
                )
            case SlotSkipped():
                self._slot_skipped(event)
            case SlotsElsewhere():
                self._log.debug("slot.elsewhere", task=event.task, count=event.count)
            case OutcomeRefused():
                self._log.error(
                    "outcome.refused",
                    task=event.task,
                    run_id=event.run_id,
                    outcome=event.outcome,
                    reason=event.reason,
                )
            case ScheduleChanged():
                self._log.info(
                    "schedule.changed",
                    task=event.task,
                    schedule=event.schedule,
                    replaces=list(event.replaces),
                    since=event.since.isoformat(),
                )
            case ScheduleRetired():
                self._log.info(
                    "schedule.retired",
                    task=event.task,
                    schedule=event.schedule,
                    until=event.until.isoformat(),
                )
            case SchedulePaused():
                self._log.error(
                    "schedule.paused",
                    task=event.task,
                    note=event.note,
                    hint=f"worker schedule resume {event.task}",
                )
            case StoreChanged():
                self._store_changed(event)
            case LeaseExpired(forgotten=True):
                self._log.error(
                    "ledger.anew",
                    running=list(event.running),
                    hint="the store has forgotten what it knew, as a Redis without a file does at "
                    "its restart; jobs that waited in it are gone, too",
                )
            case LeaseExpired():
                self._log.error("lease.expired", running=list(event.running))
            case LoopStalled():
                self._loop_stalled(event)
            case LoopResumed():
                self._log.info("loop.resumed", stalled_s=round(event.stalled_s, 3))
            case TaskStale():
                self._task_stale(event)
            case TaskFresh():
                self._log.info(
                    "task.fresh",
                    task=event.task,
                    last_success=moment(event.last_success),
                    stale_since=moment(event.stale_since),
                )

    def _run_started(self, event: RunStarted) -> None:
        if event.run.trigger is Trigger.QUEUE:
            return  # by the hundred; what comes of them is told
        keys: dict[str, Any] = {}
        if event.run.slot is not None:
            keys["slot"] = event.run.slot.isoformat()
        if event.run.late_ms is not None:
            keys["late_ms"] = round(event.run.late_ms, 1)
        self._log.info("run.started", **keys)

    def _slot_skipped(self, event: SlotSkipped) -> None:
        entry = event.entry
        keys: dict[str, Any] = {"slot": entry.slot.isoformat(), "outcome": entry.outcome.value}
        if entry.last is not None:
            keys |= {"last_slot": entry.last.isoformat(), "count": entry.count}
        if event.running_since is not None:
            keys["running_since"] = event.running_since.isoformat()
        if entry.error is not None:
            keys["error"] = entry.error
        level = logging.INFO if entry.outcome is Outcome.PAUSED else logging.WARNING
        self._log.log(level, "slot.skipped", task=event.task, **keys)

    def _store_changed(self, event: StoreChanged) -> None:
        self._store_down = event.trouble is not None
        if event.trouble is None:
            self._log.info("store.available")
        else:
            self._log.error(
                "store.unavailable",
                error=event.trouble,
                waiting=list(event.waiting),
                unrecorded=list(event.unrecorded),
            )

    def _call_retrying(self, event: CallRetrying) -> None:
        told = self._told.setdefault(event.run_id, set())
        error = describe(event.failure, self._redact)
        kind = (event.call, error)
        if kind in told or len(told) >= 10:
            return
        told.add(kind)
        self._log.warning(
            "call.retrying",
            call=event.call,
            attempt=event.attempt,
            wait_s=round(event.wait_s, 3),
            error=error,
        )

    def _run_finished(self, event: RunFinished) -> None:
        run = event.run
        self._told.pop(run.run_id, None)
        if run.trigger is Trigger.QUEUE:
            self._jobs.finished(event)
            return
        keys: dict[str, Any] = {
            "outcome": run.state.value.lower(),
            "attempt": run.attempts,
            "duration_ms": run.duration_ms,
        }
        if event.calls_retried:
            keys["calls_retried"] = event.calls_retried
        if run.overtime_ms is not None:
            keys["overtime_ms"] = run.overtime_ms
        match run.state:
            case State.FAILURE:
                self._run_failed(event, keys)
            case State.REVOKED:
                self._log.warning("run.interrupted", **keys)
            case _:
                failing = self._failing.pop(run.task, None)
                if failing is not None:
                    self._log.info(
                        "run.recovered",
                        after_failures=failing.count,
                        failing_since=failing.since.isoformat(),
                    )
                level = logging.INFO if run.overtime_ms is None else logging.WARNING
                self._log.log(level, "run.finished", **keys, result=summarize(run.result))

    def _run_failed(self, event: RunFinished, keys: dict[str, Any]) -> None:
        failure, error = event.failure, event.run.error
        assert failure is not None
        assert error is not None
        kind = f"{error.type}: {error.message}"
        before = self._failing.get(event.task)
        since = before.since if before else event.run.started_at
        now = Failing(kind, since, before.count + 1 if before else 1)
        self._failing[event.task] = now
        if event.run.result is not None:
            keys["result"] = summarize(event.run.result)
        self._log.error(
            "run.failed",
            **keys,
            error_type=error.type,
            error=error.message,
            consecutive=now.count,
            failing_since=since.isoformat(),
            exc_info=None if (before and before.kind == kind) or is_plain(failure) else failure,
        )

    def _loop_stalled(self, event: LoopStalled) -> None:
        keys = {"task": event.task, "run_id": event.run_id} if event.task else {}
        self._log.error(
            "loop.stalled",
            **keys,
            stalled_s=round(event.stalled_s, 3),
            holder=event.holder,
            hint="nothing else can run: code that blocks belongs in asyncio.to_thread",
            stack=event.stack,
        )

    def _task_stale(self, event: TaskStale) -> None:
        self._log.error(
            "task.stale",
            task=event.task,
            max_age_s=event.max_age.total_seconds(),
            last_success=moment(event.last_success),
            stale_since=moment(event.stale_since),
            hint="no run of it has succeeded in time: "
            + (
                "the store cannot be used, see store.unavailable"
                if self._store_down
                else "see its run.failed and slot.skipped"
            ),
        )


def moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
