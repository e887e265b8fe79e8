"""The commands ``worker schedule …``, ``worker explain`` and ``worker migrate``."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from worker.cli.casualties import tell_lost, those_up
from worker.cli.terminal import (
    ExitCode,
    as_text,
    complaints,
    duration_option,
    print_table,
    ready_settings,
    remark,
    say,
    visible,
)
from worker.cli.terminal_times import Zone, full, in_zone, iso, moment_parameter, short
from worker.durations import format_duration
from worker.errors import (
    ConfigurationError,
    NotSupported,
    StoreError,
    TaskDefinitionError,
    UnknownTaskError,
)
from worker.ledger.book import Entry, HistoryQuery, Outcome
from worker.process import run_to_end
from worker.schedules.policies import Overlap, TaskSchedule
from worker.schedules.registration import task_schedule
from worker.schedules.schedule import LATEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.admin.schedules import ScheduleAdmin
    from worker.admin.waiting import Waits
    from worker.scheduling.standing import View

__all__ = ["explain_task", "migrate", "schedule_app"]

schedule_app = typer.Typer(
    help="See, test and steer the schedules.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="As `worker schedule list` shows it.")
]


@contextmanager
def opened() -> Iterator[ScheduleAdmin]:
    """The schedules and their ledger; what goes wrong inside becomes a complaint."""
    from worker.admin.schedules import open_admin, registered

    with complaints():
        settings, _ = ready_settings()
        with open_admin(settings, run_to_end(registered(settings))) as admin:
            yield admin


@schedule_app.command("list")
def list_schedules(
    as_json: AsJson = False,
    zone: Zone = "UTC",
) -> None:
    """Show each schedule: its state, its next slots, and what became of the last one."""
    with opened() as admin:
        views = [view for view in admin.views() if not view.task.on_demand]
        lost, dropped = admin.casualties(), admin.dropped()
    tell_lost(lost)
    for gone in dropped:
        remark(visible(f"worker: {gone.what}: {gone.why(datetime.now(UTC))}"))
    for view in views:
        if view.here is not None:
            remark(
                visible(
                    f"worker: {view.name}: the schedule shown is that of the workers that are up; "
                    f"in this shell it is {view.here}. Do its settings differ "
                    "(WORKER_SCHEDULES_FILE)?"
                )
            )
    if as_json:
        say(as_text([describe_view(view) for view in views], indent=None))
        return
    print_table(
        ("task", "state", "schedule", "next slots", "last outcome", "ran", "failed", "not run"),
        [
            (
                view.name,
                state_of(view),
                str(view.task.terms.schedule or "off"),
                " ".join(short(slot, zone, view.now) for slot in view.slots) or "-",
                last_of(view, zone),
                str(view.book.counts.get("ran", 0)),
                str(view.book.counts.get("failed", 0)),
                str(not_run(view)),
            )
            for view in views
        ],
    )


def not_run(view: View) -> int:
    """How many slots of a schedule did not run, or not to an end."""
    return sum(n for what, n in view.book.counts.items() if what not in ("ran", "failed"))


def state_of(view: View) -> str:
    """What it does, and what is wrong with it: one never hides the other."""
    book, pause = view.book, view.book.pause
    said = ["running"] if book.running else []
    if pause is not None:
        said.append(f"paused by {pause.by}" + (f": {pause.note}" if pause.note else ""))
    if view.stale_since is not None:
        said.append(f"stale since {short(view.stale_since, UTC, view.now)}")
    if view.failures:
        said.append(f"failing ({view.failures} failed in a row)")
    if view.overdue is not None:
        said.append(f"overdue since {short(view.overdue, UTC, view.now)}")
    if view.missed is not None:
        said.append(f"missed the slot of {short(view.missed.slot, UTC, view.now)}")
    return ", ".join(said) or str(view.standing)


def last_of(view: View, zone: Any) -> str:
    book = view.book
    if view.missed is not None:
        return f"{view.missed.entry.outcome} {short(view.missed.slot, zone, view.now)}"
    if book.last_outcome is None or book.last_ended is None:
        return "-"
    return f"{book.last_outcome} {short(book.last_ended, zone, view.now)}"


def describe_view(view: View) -> dict[str, Any]:
    book, policies, pause = view.book, view.task.terms.policies, view.book.pause
    return {
        "task": view.name,
        "state": view.standing.value,
        "schedule": str(view.task.terms.schedule) if view.task.terms.schedule else None,
        "said_by": view.task.said_by,
        "overlap": policies.overlap.value,
        "next_slots": [slot.isoformat() for slot in view.slots],
        "due_at": iso(view.due),
        "accounted_until": iso(book.cursor),
        "paused": None
        if pause is None
        else {"at": iso(pause.at), "by": pause.by, "note": pause.note},
        "running": [describe_entry(entry) for entry in book.running],
        "waiting": len(book.waiting),
        "last_outcome": book.last_outcome,
        "last_ended": iso(book.last_ended),
        "last_error": book.last_error,
        "last_success": iso(book.last_success),
        "failures": view.failures,
        "counts": dict(book.counts),
        "max_age_s": policies.max_age.total_seconds() if policies.max_age else None,
        "stale_since": iso(view.stale_since),
        "missed": None if view.missed is None else describe_entry(view.missed.entry),
    }


@schedule_app.command("history")
def show_history(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="Of all tasks if none.")
    ] = None,
    outcome: Annotated[
        list[Outcome] | None, typer.Option(help="Only these outcomes; repeatable.")
    ] = None,
    since: Annotated[Any, moment_parameter("--from", "Slots from this moment on.")] = None,
    until: Annotated[Any, moment_parameter("--to", "Slots before this moment.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 50,
    zone: Zone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Show what became of each slot, the newest first."""
    query = HistoryQuery(
        task=task,
        outcomes=frozenset(outcome or ()),
        since=in_zone(since, zone),
        until=in_zone(until, zone),
        limit=limit,
    )
    with opened() as admin:
        entries = admin.history(query)
    if as_json:
        say(as_text([describe_entry(entry) for entry in entries], indent=None))
        return
    if not entries:
        remark("no slot of that kind is recorded")
        return
    print_table(
        ("task", "slot", "outcome", "late", "took", "replica", "note"),
        [
            (
                entry.task,
                full(entry.slot, zone),
                entry.outcome.value,
                milliseconds(entry.late_ms) if entry.trigger == "schedule" else "-",
                milliseconds(entry.duration_ms),
                entry.replica or "-",
                "; ".join(notes(entry, zone)),
            )
            for entry in entries
        ],
    )


def milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return (
        f"{value:.1f} ms"
        if value < 1000
        else format_duration(timedelta(seconds=round(value / 1000)))
    )


def notes(entry: Entry, zone: Any) -> Iterator[str]:
    if entry.last is not None:
        yield f"{entry.count} slots, to {full(entry.last, zone)}"
    if entry.trigger != "schedule":
        yield entry.trigger.value
    if entry.losses:
        yield f"lost {entry.losses} times before"
    if entry.error is not None:
        yield entry.error


def describe_entry(entry: Entry) -> dict[str, Any]:
    return {
        "task": entry.task,
        "slot": iso(entry.slot),
        "last_slot": iso(entry.last),
        "count": entry.count,
        "trigger": entry.trigger.value,
        "outcome": entry.outcome.value,
        "run_id": entry.run_id,
        "replica": entry.replica,
        "late_ms": entry.late_ms,
        "duration_ms": entry.duration_ms,
        "error": entry.error,
        "recorded_at": iso(entry.recorded_at),
    }


@schedule_app.command()
def pause(
    task: TaskName,
    note: Annotated[str, typer.Option("--note", "-m", help="Why, for the others.")] = "",
) -> None:
    """Let no slot of a schedule run until it is resumed. What runs goes on."""
    with opened() as admin:
        view = admin.pause(task, note)
    say(visible(f"{task} is {state_of(view)}"))


@schedule_app.command()
def resume(task: TaskName) -> None:
    """Let the slots of a schedule run again. Those that passed are recorded as paused."""
    with opened() as admin:
        was_paused = admin.paused(task)
        view = admin.resume(task)
    following = f"; its next slot is {full(view.slots[0], UTC)}" if view.slots else ""
    say(f"{task} {'is resumed' if was_paused else 'was not paused'}{following}")


@schedule_app.command()
def forget(task: TaskName) -> None:
    """Speak no more of a schedule whose task is gone. Its history stays."""
    with opened() as admin:
        try:
            admin.forget(task)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from exc
    say(f"{task} is forgotten; its history stays")


OverlapOption = Annotated[
    Overlap, typer.Option(help="What to do about a run of the task that goes on.")
]


@schedule_app.command("run")
def ask_run(task: TaskName, overlap: OverlapOption = Overlap.BUFFER_ALL) -> None:
    """Have a worker that is up run a task now. (`worker run` runs it here.)"""
    with opened() as admin:
        admin.run(task, overlap)
        up = those_up(admin.replicas(), task)
    say(f"{task} was asked for; {up}")


@schedule_app.command()
def backfill(
    task: TaskName,
    start: Annotated[Any, moment_parameter("--from", "The first moment of the range.")],
    end: Annotated[Any, moment_parameter("--to", "The moment before which it ends.")],
    overlap: OverlapOption = Overlap.BUFFER_ALL,
    zone: Zone = "UTC",
) -> None:
    """Have the workers run the slots of a range in the past, whatever became of them."""
    with opened() as admin:
        try:
            first, last = in_zone(start, zone), in_zone(end, zone)
            assert first is not None
            assert last is not None
            done = admin.backfill(task, first, last, overlap)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from exc
        up = those_up(admin.replicas(), task)
    if done.schedule is not None:
        remark(visible(f"worker: the slots are those of the workers' schedule, {done.schedule}"))
    known = f"{many(done.known)} asked for before" if done.known else ""
    if not done.asked:
        say(f"nothing was asked for: {known}")
        return
    known = f" ({known})" if known else ""
    say(f"{many(len(done.asked), task)} asked for{known}; {up}")


def many(slots: int, task: str = "") -> str:
    of = f" of {task}" if task else ""
    return f"1 slot{of} was" if slots == 1 else f"{slots} slots{of} were"


@schedule_app.command()
def preview(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="All that have a schedule if none.")
    ] = None,
    start: Annotated[Any, moment_parameter("--from", "The first moment; by default now.")] = None,
    end: Annotated[
        Any, moment_parameter("--to", "The moment before which it ends; by default a day later.")
    ] = None,
    zone: Zone = "UTC",
    outage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="02:00-05:00",
            help="No worker is up: each day, or once with 2026-10-25T02:00/2026-10-25T05:00. "
            "Repeatable.",
        ),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="How many workers there are.")] = 1,
    takes: Annotated[
        Any,
        typer.Option(parser=duration_option, metavar="DURATION", help="How long each run takes."),
    ] = "0",
    cron: Annotated[
        str | None, typer.Option(help="Preview this expression, read in --tz, and no task's.")
    ] = None,
    fail_on: Annotated[
        list[Outcome] | None,
        typer.Option(help="Exit with 1 if a slot has this outcome; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate what would run, be skipped, missed and made good, on a clock of its own."""
    from worker.cli.preview_view import print_preview
    from worker.schedules.outage import parse_outage
    from worker.scheduling.preview import stream
    from worker.scheduling.preview_model import Preview
    from worker.scheduling.preview_notes import uneven_notes

    with complaints():
        schedules, first_run = previewed(task, cron, zone)
    for note in uneven_notes(schedules):
        remark(f"note: {note}")
    try:
        first = in_zone(start, zone) or datetime.now(UTC)
        last = in_zone(end, zone) or first + min(timedelta(days=1), LATEST - first)
        outages = tuple(
            found
            for text in outage or ()
            for found in parse_outage(text, zone, start=first, end=last)
        )
        what = Preview(
            start=first, end=last, outages=outages, replicas=replicas, takes=takes, **first_run
        )
        lines = stream(schedules, what)
        outcomes = print_preview(lines, what, schedules, zone=zone, json=as_json)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    if not outcomes.isdisjoint(fail_on or ()):
        raise typer.Exit(ExitCode.FAILED)


def previewed(
    task: str | None, cron: str | None, zone: ZoneInfo
) -> tuple[list[TaskSchedule], dict[str, timedelta]]:
    """The schedules to preview, and what the settings say of first runs.

    Raises:
        BadParameter: The expression is wrong, or the task has no schedule.
        UnknownTaskError: No task has that name.
    """
    if cron is not None:
        try:
            terms = task_schedule(task or "preview", {"cron": cron, "timezone": zone.key})
        except TaskDefinitionError as exc:
            raise typer.BadParameter(str(exc.__cause__ or exc), param_hint="'--cron'") from exc
        return [terms], {}
    from worker.admin.schedules import registered

    settings, _ = ready_settings()
    tasks = run_to_end(registered(settings))
    first_run = {
        "first_run_delay": settings.first_run_delay,
        "first_run_spread": settings.first_run_spread,
    }
    if task is None:
        scheduled = [found.terms for found in tasks.values() if found.terms.schedule is not None]
        return scheduled, first_run
    if task not in tasks:
        raise UnknownTaskError(task, tasks)
    found = tasks[task]
    if found.terms.schedule is None:
        raise typer.BadParameter(f"{task} has no slots: it is off, {found.said_by} says so")
    return [found.terms], first_run


@schedule_app.command()
def metrics() -> None:
    """Print the ledger's figures in Prometheus' text format."""
    from worker.telemetry.exposition import exposition

    with opened() as admin:
        dropped = sum(gone.elsewhere is None for gone in admin.dropped())
        now = datetime.now(UTC)
        say(exposition(admin.views(), admin.replicas(), now, dropped=dropped))


def explain_task(task: TaskName, as_json: AsJson = False) -> None:
    """Say why a task does not run now, or when it will."""
    with opened() as admin:
        told = run_to_end(outlook(task, admin))
        waits = [one.what for one in told]
        try:
            said = admin.explain(task)
        except UnknownTaskError as exc:
            if not told:
                raise
            verdict, facts = waits[0], [*waits[1:], str(exc)]
        else:
            verdict, facts = said.verdict, [*waits, *said.facts]
            if told and told[0].stuck and admin.on_demand(task):
                verdict, facts = waits[0], [said.verdict, *waits[1:], *said.facts]
    if as_json:
        say(as_text({"verdict": verdict, "facts": facts}, indent=None))
        return
    say("\n".join(map(visible, [verdict, *(f"  - {fact}" for fact in facts)])))


async def outlook(task: str, admin: ScheduleAdmin) -> list[Waits]:
    """Where jobs of a task wait and why, as far as it can be seen from here; the stuck first."""
    from worker.admin.jobs import open_jobs
    from worker.admin.overdue import find_overdue
    from worker.admin.presence import blind_to_pollers
    from worker.admin.waiting import Waits, crew_of, task_waits
    from worker.settings import load_settings

    settings = load_settings()
    try:
        pollers = admin.pollers(blind_to_pollers(settings))
        crew = crew_of(settings, pollers)
        async with open_jobs(settings) as jobs:
            queues = await jobs.queues(pollers)
            late = await find_overdue(jobs, task, admin.definition(task), settings)
    except StoreError as exc:
        down = Waits(f"the {exc.part} cannot be used: {exc}", stuck=True)
        return [down] if admin.on_demand(task) else []
    except (ConfigurationError, NotSupported):
        return []  # only a worker itself can look into it
    found = [
        *(Waits(one.text, stuck=one.by is not None) for one in late),
        *task_waits(task, queues, crew, known=admin.tasks),
    ]
    return sorted(found, key=lambda one: not one.stuck)


def migrate() -> None:
    """Create or update the tables that the store needs. Any number may do it at once."""
    from worker.config.stores import migrate_store

    with complaints():
        settings, _ = ready_settings()
        say(migrate_store(settings, on_wait=lambda told: remark(visible(f"worker: {told}"))))
