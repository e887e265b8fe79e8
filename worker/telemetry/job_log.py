"""What the log tells of jobs. They come by the hundred, so what goes well is a line for debugging,
and of what goes wrong in the same way again and again the first ones in each minute are told."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from worker.events import JobDead, JobRefused, JobTakenOver, JobUnrun, LeaseWasLost
from worker.jobs.verdict import Snoozed
from worker.model import Run, State
from worker.summary import is_plain, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from worker.events import RunFinished

__all__ = ["JobLog", "Ration"]

MOST = 10
"""How many lines of one kind are told in a minute."""
MINUTE_S = 60.0
MOST_KINDS = 1000


@dataclass(slots=True)
class Spent:
    """What was told of one kind since a moment, and how many were not."""

    since: float
    told: int = 1
    untold: int = 0


class Ration:
    """Lets the first few of each kind through in each minute, and counts the others.

    Args:
        now: The monotonic clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kinds: dict[Hashable, Spent] = {}

    def admit(self, kind: Hashable) -> Spent | None:
        """What was told of this kind, this one included, and how many were not in the minute
        before; ``None`` if this one is not to be told either."""
        now = self._now()
        spent = self._kinds.get(kind)
        if spent is None or now - spent.since >= MINUTE_S:
            if spent is None and len(self._kinds) >= MOST_KINDS:
                self._kinds.clear()
            self._kinds[kind] = Spent(now)
            return Spent(now, untold=spent.untold if spent is not None else 0)
        if spent.told < MOST:
            spent.told += 1
            return Spent(spent.since, spent.told)
        spent.untold += 1
        return None


class JobLog:
    """Logs what becomes of jobs. The ``run_id`` of such a line is the job's id."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._log = structlog.get_logger("worker")
        self._level = logging.getLogger("worker")  # which knows the level at once
        self._ration = Ration(now)

    def __call__(
        self, event: JobRefused | JobTakenOver | JobDead | JobUnrun | LeaseWasLost
    ) -> None:
        """Tell of a job that was not run, or whose run counts for nothing."""
        keys: dict[str, Any] = {"run_id": event.job_id, "trigger": "queue"}
        match event:
            case JobRefused(reason=reason, queue=queue, refusals=refusals, wait_s=wait_s):
                keys |= {"queue": queue, "refusals": refusals, "wait_s": wait_s, "reason": reason}
                self._tell("job.refused", logging.WARNING, event.task, "", keys)
            case JobTakenOver(losses=losses):
                self._tell(
                    "job.taken_over", logging.WARNING, event.task, "", {**keys, "losses": losses}
                )
            case JobDead(kind=kind, reason=reason):
                keys |= {"error_type": kind, "error": reason}
                self._tell("job.dead", logging.ERROR, event.task, kind, keys)
            case JobUnrun(state=State.EXPIRED):
                self._tell("job.expired", logging.WARNING, event.task, "", keys)
            case JobUnrun(reason=reason) if reason:
                keys |= {"reason": reason}
                self._tell("job.duplicate", logging.WARNING, event.task, "", keys)
            case JobUnrun():
                self._tell("job.cancelled", logging.INFO, event.task, "", keys)
            case LeaseWasLost(reason=reason):
                self._tell("job.lost", logging.ERROR, event.task, "", {**keys, "reason": reason})

    def finished(self, event: RunFinished) -> None:
        """Tell of an attempt."""
        run = event.run
        keys: dict[str, Any]
        if run.state is State.SUCCESS:  # by the thousand, so it is asked first
            if run.overtime_ms is not None:
                keys = {"attempt": run.attempts, "duration_ms": run.duration_ms}
                keys["overtime_ms"] = run.overtime_ms
                self._tell("job.finished_late", logging.WARNING, run.task, "", keys)
            elif self._level.isEnabledFor(logging.DEBUG):
                self._log.debug("job.finished", attempt=run.attempts, duration_ms=run.duration_ms)
            return
        keys = {"attempt": run.attempts, "duration_ms": run.duration_ms}
        if run.overtime_ms is not None:
            keys["overtime_ms"] = run.overtime_ms
        if event.calls_retried:
            keys["calls_retried"] = event.calls_retried
        kind = "" if run.error is None else run.error.type
        match run.state:
            case State.RETRY:
                keys |= {"wait_s": round(run.delay.total_seconds(), 3), **error_keys(run)}
                self._tell("job.retrying", logging.WARNING, run.task, kind, keys, event.failure)
            case State.FAILURE:
                keys |= error_keys(run)
                if run.result is not None:
                    keys["result"] = summarize(run.result)
                name = "job.dead" if run.dead else "job.failed"
                level = logging.ERROR if run.dead else logging.WARNING
                self._tell(name, level, run.task, kind, keys, event.failure)
            case State.REVOKED:
                if run.error is not None:
                    keys["reason"] = run.error.message
                self._tell("job.cancelled", logging.INFO, run.task, kind, keys)
            case _:
                keys["wait_s"] = round(run.delay.total_seconds(), 3)
                if run.error is not None:
                    snoozed = isinstance(event.failure, Snoozed)
                    keys["reason"] = "snoozed" if snoozed else run.error.message
                self._tell("job.returned", logging.INFO, run.task, kind, keys)

    def _tell(
        self,
        name: str,
        level: int,
        task: str,
        kind: str,
        keys: dict[str, Any],
        failure: BaseException | None = None,
    ) -> None:
        """Write the line, with the traceback if it is the first of its kind in this minute."""
        spent = self._ration.admit((name, task, kind))
        if spent is None:
            self._log.debug(name, task=task, **keys)
            return
        if spent.untold:
            keys["untold"] = spent.untold
        if failure is not None and spent.told == 1 and not is_plain(failure):
            keys["exc_info"] = failure
        self._log.log(level, name, task=task, **keys)


def error_keys(run: Run) -> dict[str, Any]:
    error = run.error
    return {} if error is None else {"error_type": error.type, "error": error.message}
