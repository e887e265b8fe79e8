"""How a job is shown to people: as JSON, as a line of a table, as a list of facts."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from worker.cli.terminal import visible
from worker.cli.terminal_times import full, iso, short
from worker.durations import format_duration
from worker.jobs.history import attempts_of
from worker.model import State
from worker.redaction import told_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from worker.jobs.job import Job
    from worker.redaction import Redaction

__all__ = ["JobView", "job_table"]

LONGEST_NOTE = 160
WAITING = (State.PENDING, State.RETRY)
RUNNING = (State.STARTED, State.PROGRESS)


class JobView:
    """A job as it is shown.

    An error is redacted like a log line, a result of secrets only. Parameters are shown to those
    who ask for them: they may be personal.

    Args:
        now: What is "today", and what has passed.
        zone: In which times are told.
    """

    def __init__(self, job: Job, redact: Redaction, *, now: datetime, zone: Any) -> None:
        self.job = job
        self._redact = redact
        self._now = now
        self._zone = zone

    def as_json(self, *, result: bool = False, params: bool = False) -> dict[str, Any]:
        """What ``--json`` prints."""
        job = self.job
        shown: dict[str, Any] = {
            "id": job.id,
            "task": job.task,
            "queue": job.queue,
            "state": job.state.value,
            "dead": job.dead,
            "cancel_asked": job.cancel,
            "priority": job.priority,
            "created_at": iso(job.created_at),
            "ready_at": iso(job.ready_at) if job.state in WAITING else None,
            "leased_until": iso(job.ready_at) if job.state in RUNNING else None,
            "expires_at": iso(job.expires_at),
            "started_at": iso(job.started_at),
            "finished_at": iso(job.finished_at),
            "attempts": job.attempts,
            "deliveries": job.deliveries,
            "losses": job.losses,
            "refusals": job.refusals,
            "worker": job.worker,
            "options": self._told(job.options),
            "unique_key": job.unique_key,
            "concurrency_key": job.concurrency_key,
            "progress": self._told(job.progress),
            "error": self._error(),
        }
        if result:
            shown["result"] = self._told(job.result)
            shown["result_until"] = iso(job.result_until)
            shown["history"] = self._history()
        if params:
            shown["params"] = self._told(job.params)
            shown["params_version"] = job.version
            shown["headers"] = self._told(job.headers)
        return shown

    def _told(self, text: str | None) -> Any:
        return None if text is None else told_json(text, self._redact.secrets)

    def _error(self) -> dict[str, str] | None:
        if self.job.error is None:
            return None
        said = told_json(self.job.error, self._redact)
        if not isinstance(said, dict):
            said = {}
        return {name: str(said.get(name, "?")) for name in ("type", "message")}

    def _history(self) -> list[dict[str, Any]]:
        """The attempts that are kept."""
        secrets = self._redact.secrets
        return [
            {
                "attempt": one.attempt,
                "outcome": one.outcome.value,
                "started_at": iso(one.started_at),
                "finished_at": iso(one.finished_at),
                "worker": secrets(one.worker),
                "overtime_ms": one.overtime_ms,
                "error": None
                if one.type is None
                else {"type": secrets(one.type), "message": self._redact(one.message or "")},
            }
            for one in attempts_of(self.job)
        ]

    def _attempts(self) -> list[tuple[str, str]]:
        """A line for each attempt that is kept, unless there was just one, told by all the rest."""
        lines = []
        for one, told in zip(attempts_of(self.job), self._history(), strict=True):
            length = took(one.finished_at - one.started_at)
            outcome = one.outcome.value.replace("_", " ")
            words = f"{self._full(one.started_at)} on {told['worker']}: {outcome} after {length}"
            if one.overtime_ms is not None:
                words += f", {took(timedelta(milliseconds=one.overtime_ms))} late"
            if (error := told["error"]) is not None:
                words += ": " + clipped(one_line(error))
            lines.append((f"attempt {one.attempt}", words))
        late = any(one.overtime_ms is not None for one in attempts_of(self.job))
        return lines if len(lines) > 1 or late or not self.job.state.final else []

    def error(self) -> str:
        """The last failure in one line; empty if there was none."""
        told = self._error()
        return "" if told is None else one_line(told)

    def note(self) -> str:
        """What is to be known of it at a glance."""
        job, words = self.job, []
        if job.dead:
            words.append("dead")
        if job.cancel and not job.state.final:
            words.append(self._cancel_note())
        match job.state:
            case State.PENDING | State.RETRY:
                due = job.ready_at > self._now
                words.append(f"{'due' if due else 'waits since'} {self.short(job.ready_at)}")
                if job.refusals:
                    words.append(f"given back {times(job.refusals)}, unknown to its workers")
            case State.STARTED | State.PROGRESS:
                words += [self._percent(), f"on {job.worker}"]
                if job.ready_at <= self._now:
                    words.append(f"silent, its lease ran out {self.short(job.ready_at)}")
            case State.SUCCESS | State.REVOKED | State.EXPIRED:
                words.append(self._took())
        if job.attempts > 1 or (job.attempts and not job.state.final):
            words.append(f"{job.attempts} {'try' if job.attempts == 1 else 'tries'}")
        if job.losses:
            words.append(f"lost {times(job.losses)}")
        words.append(self.error())
        return clipped("; ".join(word for word in words if word))

    def _cancel_note(self) -> str:
        if self.job.state.final:
            return "requested, but its code went on to its end"
        running = ", still running" if self.job.state in RUNNING else ""
        return f"cancel requested{running}"

    def _percent(self) -> str:
        told = self._told(self.job.progress)
        percent = told.get("percent") if isinstance(told, dict) else None
        return f"{percent:g} %" if isinstance(percent, int | float) else ""

    def _took(self) -> str:
        job = self.job
        if job.finished_at is None:
            return ""
        if job.started_at is None:
            return f"at {self.short(job.finished_at)}"
        return f"in {took(job.finished_at - job.started_at)}"

    def short(self, moment: datetime) -> str:
        return short(moment, self._zone, self._now)

    def facts(self, *, params: bool = False) -> list[tuple[str, str]]:
        """All that is known of it, a line each."""
        job = self.job
        facts = [
            ("id", job.id),
            ("task", job.task),
            ("queue", job.queue),
            ("state", job.state.value + (", a dead letter" if job.dead else "")),
            ("created", self._full(job.created_at)),
        ]
        if job.state in WAITING:
            facts.append(("ready", self._full(job.ready_at)))
        if job.started_at is not None:
            facts.append(("started", f"{self._full(job.started_at)} on {job.worker}"))
        if job.state in RUNNING:
            ran_out = "" if job.ready_at > self._now else ", so its worker is silent"
            facts.append(("leased until", self._full(job.ready_at) + ran_out))
        if job.finished_at is not None:
            after = "" if job.started_at is None else f", {self._took()}"
            facts.append(("finished", self._full(job.finished_at) + after))
        if job.expires_at is not None and not job.state.final:
            facts.append(("expires", self._full(job.expires_at)))
        if job.cancel and job.state is not State.REVOKED:
            facts.append(("cancel", self._cancel_note()))
        facts.append(("attempts", f"{job.attempts}, in {deliveries(job.deliveries)}"))
        facts += self._attempts()
        if job.losses:
            facts.append(("losses", f"{job.losses}: its worker died, or was silent for too long"))
        if job.refusals:
            facts.append(("refusals", f"{job.refusals}: workers that did not know what it asks"))
        facts += self._terms()
        if job.progress is not None:
            facts.append(("progress", compact(self._told(job.progress))))
        if job.error is not None:
            facts.append(("error", self.error()))
        if job.result is not None:
            facts.append(("result", compact(self._told(job.result))))
        elif job.result_until is not None:
            facts.append(("result", f"was kept until {self._full(job.result_until)}"))
        if params:
            facts.append(("parameters", compact(self._told(job.params))))
            if job.headers != "{}":
                facts.append(("headers", compact(self._told(job.headers))))
        return [(name, visible(text)) for name, text in facts]

    def _terms(self) -> list[tuple[str, str]]:
        """What it was asked for with, beyond the usual."""
        job = self.job
        said = {
            "priority": str(job.priority) if job.priority else "",
            "options": "" if job.options == "{}" else compact(self._told(job.options)),
            "unique": job.unique_key or "",
            "concurrency": job.concurrency_key or "",
        }
        return [(name, text) for name, text in said.items() if text]

    def _full(self, moment: datetime) -> str:
        return full(moment, self._zone)


def job_table(
    views: Sequence[JobView], *, died: bool = False
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of a table of jobs. The queues are named if there are several.

    Args:
        died: They are all dead, so it is said when they died, and why.
    """
    several = len({view.job.queue for view in views}) > 1
    queue = ("queue",) if several else ()
    rows = []
    for view in views:
        job = view.job
        cells = (job.id, job.task, *((job.queue,) if several else ()))
        if died:
            cells += (view.short(job.finished_at or job.created_at), str(job.attempts))
            cells += (clipped(view.error()),)
        else:
            cells += (job.state.value, view.short(job.created_at), view.note())
        rows.append(cells)
    told = ("died", "tries", "error") if died else ("state", "created", "note")
    return ("id", "task", *queue, *told), rows


def one_line(error: Mapping[str, str]) -> str:
    return " ".join(f"{error['type']}: {error['message']}".split())


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def deliveries(count: int) -> str:
    return "1 delivery" if count == 1 else f"{count} deliveries"


def took(length: timedelta) -> str:
    milliseconds = length.total_seconds() * 1000
    if milliseconds < 10_000:
        return f"{milliseconds:.0f} ms"
    return format_duration(timedelta(seconds=round(milliseconds / 1000)))


def clipped(text: str) -> str:
    return text if len(text) <= LONGEST_NOTE else f"{text[: LONGEST_NOTE - 1]}…"
