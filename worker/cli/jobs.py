"""The commands ``worker jobs …`` and ``worker dead …``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from worker.admin.presence import who_is_there
from worker.admin.waiting import crew_of
from worker.cli.terminal import (
    ExitCode,
    as_text,
    complaints,
    print_listing,
    ready_settings,
    remark,
    say,
    visible,
)
from worker.cli.terminal_times import Zone, in_zone, moment_parameter
from worker.errors import WorkerError, nearest
from worker.jobs.job import JobId, JobQuery, Requeued
from worker.model import State
from worker.process import run_to_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from worker.admin.jobs import Act, JobAdmin
    from worker.cli.job_view import JobView
    from worker.jobs.job import Job
    from worker.settings import Settings

__all__ = ["dead_app", "jobs_app"]

jobs_app = typer.Typer(
    help="See and steer the jobs that were asked for.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
dead_app = typer.Typer(
    help="See, retry and drop the dead letters: the jobs that failed for good.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PAST: Mapping[str, str] = {"cancel": "cancelled", "retry": "retried", "drop": "dropped"}
STATES = [state.value for state in State if state is not State.UNKNOWN]


def state_option(text: str) -> State:
    if text.upper() not in STATES:
        raise typer.BadParameter(f"expected one of {', '.join(STATES)}, got {text!r}")
    return State(text.upper())


AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
OfTask = Annotated[str | None, typer.Option("--task", metavar="NAME", help="Of this task only.")]
OfQueue = Annotated[str | None, typer.Option("--queue", metavar="NAME", help="Of this queue only.")]
Since = Annotated[Any, moment_parameter("--since", "Created at this moment or later.")]
Before = Annotated[Any, moment_parameter("--before", "Created before this moment.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")]
AnId = Annotated[str, typer.Argument(metavar="ID")]
Ids = Annotated[list[str], typer.Argument(metavar="ID")]
SomeIds = Annotated[list[str] | None, typer.Argument(metavar="ID")]
All = Annotated[bool, typer.Option("--all", help="All of them, without any other choice.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")]
WithParams = Annotated[
    bool, typer.Option("--params", help="Its parameters, too; they may be personal.")
]


def with_jobs(work: Callable[[JobAdmin, Settings], Awaitable[ExitCode | None]]) -> NoReturn:
    """Open the engine, do the work, and exit as it says; what goes wrong becomes a complaint."""
    from worker.admin.jobs import open_jobs

    async def open_and_work(settings: Settings) -> ExitCode | None:
        async with open_jobs(settings) as admin:
            return await work(admin, settings)

    with complaints():
        code = run_to_end(open_and_work(ready_settings()[0]))
    raise typer.Exit(code or ExitCode.OK)


def views_of(jobs: Sequence[Job], settings: Settings, zone: Any = UTC) -> list[JobView]:
    from worker.app import redaction
    from worker.cli.job_view import JobView

    redact, now = redaction(settings), datetime.now(UTC)
    return [JobView(job, redact, now=now, zone=zone) for job in jobs]


# --- looking


@jobs_app.command("list")
def list_jobs(
    task: OfTask = None,
    queue: OfQueue = None,
    state: Annotated[
        list[Any] | None,
        typer.Option(
            parser=state_option, metavar="STATE", help=f"{', '.join(STATES)}; repeatable."
        ),
    ] = None,
    since: Since = None,
    before: Before = None,
    limit: Limit = 50,
    zone: Zone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Show jobs, those created last first."""
    query = JobQuery(
        task=task,
        queue=queue,
        states=frozenset(state or ()),
        since=in_zone(since, zone),
        before=in_zone(before, zone),
        limit=limit,
    )
    show_found(query, "no such job is recorded", zone=zone, as_json=as_json)


@dead_app.command("list")
def list_dead(
    task: OfTask = None,
    queue: OfQueue = None,
    since: Since = None,
    before: Before = None,
    limit: Limit = 50,
    zone: Zone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Show the dead letters, those created last first."""
    query = dead_query(task, queue, since, before, zone=zone, limit=limit)
    show_found(query, "there are no such dead letters", zone=zone, as_json=as_json)


def dead_query(
    task: str | None, queue: str | None, since: Any, before: Any, *, zone: Any, limit: int = 50
) -> JobQuery:
    return JobQuery(
        task=task,
        queue=queue,
        dead=True,
        since=in_zone(since, zone),
        before=in_zone(before, zone),
        limit=limit,
    )


def show_found(query: JobQuery, nothing: str, *, zone: Any, as_json: bool) -> None:
    async def show(admin: JobAdmin, settings: Settings) -> None:
        from worker.cli.job_view import job_table

        views = views_of(await admin.find(query), settings, zone)
        if as_json:
            say(as_text([view.as_json() for view in views], indent=None))
            return
        if not views:
            remark(nothing)
            await remark_unknown(admin, query)
        print_listing(*job_table(views, died=query.dead is True))
        if len(views) == query.limit:
            remark(f"the last {query.limit}; there may be more: --limit, --before")

    with_jobs(show)


async def remark_unknown(admin: JobAdmin, query: JobQuery) -> None:
    """Say of names that none of the recorded jobs has them: they may be mistyped."""
    counts = await admin.counts()
    for kind, name, known in (
        ("task", query.task, {count.task for count in counts}),
        ("queue", query.queue, {count.queue for count in counts}),
    ):
        if name is not None and name not in known:
            remark(f"no job of the {kind} {name!r} is recorded{nearest(name, known)}")


@jobs_app.command("show")
def show_job(
    job_id: AnId, params: WithParams = False, zone: Zone = "UTC", as_json: AsJson = False
) -> None:
    """Show all that is known of a job: its life, what came of it, its last error."""
    show_one(job_id, params=params, zone=zone, as_json=as_json)


@dead_app.command("show")
def show_dead(
    job_id: AnId, params: WithParams = False, zone: Zone = "UTC", as_json: AsJson = False
) -> None:
    """Show all that is known of a dead letter."""
    show_one(job_id, params=params, zone=zone, as_json=as_json, dead=True)


def show_one(job_id: str, *, params: bool, zone: Any, as_json: bool, dead: bool = False) -> None:
    async def show(admin: JobAdmin, settings: Settings) -> ExitCode:
        (job,) = await admin.jobs([job_id])
        if dead and not job.dead:
            remark(f"worker: {not_dead(job)}; see `worker jobs show`")
            return ExitCode.USAGE
        (view,) = views_of([job], settings, zone)
        if as_json:
            say(as_text(view.as_json(result=True, params=params), indent=None))
            return ExitCode.OK
        facts = view.facts(params=params)
        if job.state in (State.PENDING, State.RETRY):
            there, _ = await asyncio.to_thread(who_is_there, settings)
            why = await admin.why_waits(job, crew_of(settings, there))
            facts += [] if why is None else [("why", visible(why))]
        width = max(len(name) for name, _ in facts)
        say("\n".join(f"{name:{width}}  {text}" for name, text in facts))
        return ExitCode.OK

    with_jobs(show)


def not_dead(job: Job) -> str:
    return f"job {job.id} is no dead letter: it is {job.state}"


# --- doing something to jobs that are named


@jobs_app.command("cancel")
def cancel_jobs(ids: Ids, as_json: AsJson = False) -> None:
    """Revoke jobs that wait; have the workers end those that run."""
    from worker.admin.jobs import Act

    change_named(Act.CANCEL, ids, as_json=as_json)


@jobs_app.command("retry")
def retry_jobs(ids: Ids, as_json: AsJson = False) -> None:
    """Put jobs that failed, expired or were cancelled back into their queues, as if new."""
    from worker.admin.jobs import Act

    change_named(Act.RETRY, ids, as_json=as_json)


def change_named(
    act: Act, ids: Sequence[str], *, as_json: bool, dead: bool = False, dry_run: bool = False
) -> None:
    """Do something to these jobs, or to those among them that are dead letters."""

    async def change(admin: JobAdmin, settings: Settings) -> ExitCode:
        jobs = await admin.jobs(ids)
        able = [job.id for job in jobs if job.dead or not dead]
        if dry_run:
            say(count_text(len(able), act, dry_run=True, as_json=as_json))
            return ExitCode.OK
        told: dict[JobId, Requeued] = dict.fromkeys((job.id for job in jobs), Requeued.NOT_NOW)
        told |= await admin.change(act, able)
        if as_json:
            say(as_text({one: word.value for one, word in told.items()}, indent=None))
        else:
            for job in jobs:
                tell_one(act, job, told[job.id], dead=dead)
        refused = {Requeued.NOT_NOW, Requeued.UNKNOWN} & set(told.values())
        return ExitCode.FAILED if refused else ExitCode.OK

    with_jobs(change)


def tell_one(act: Act, job: Job, word: Requeued, *, dead: bool) -> None:
    match word:
        case Requeued.DONE:
            say(f"{job.id} is {'back in its queue' if act == 'retry' else PAST[act]}")
        case Requeued.ASKED:
            say(f"{job.id}: cancel requested, still running on {job.worker}")
        case Requeued.UNKNOWN:
            remark(f"worker: job {job.id} is gone meanwhile")
        case Requeued.NOT_NOW if dead and not job.dead:
            remark(f"worker: {not_dead(job)}")
        case Requeued.NOT_NOW:
            remark(f"worker: job {job.id} cannot be {PAST[act]}: it is {job.state}")


# --- doing something to many dead letters


@dead_app.command("retry")
def retry_dead(
    ids: SomeIds = None,
    task: OfTask = None,
    queue: OfQueue = None,
    since: Since = None,
    before: Before = None,
    everything: All = False,
    dry_run: DryRun = False,
    zone: Zone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Put dead letters back into their queues, as if new: those named, or all of a kind."""
    from worker.admin.jobs import Act

    query = dead_query(task, queue, since, before, zone=zone)
    change_dead(Act.RETRY, ids, query, everything=everything, dry_run=dry_run, as_json=as_json)


@dead_app.command("drop")
def drop_dead(
    ids: SomeIds = None,
    task: OfTask = None,
    queue: OfQueue = None,
    since: Since = None,
    before: Before = None,
    everything: All = False,
    dry_run: DryRun = False,
    zone: Zone = "UTC",
    as_json: AsJson = False,
) -> None:
    """Forget dead letters for ever: those named, or all of a kind."""
    from worker.admin.jobs import Act

    query = dead_query(task, queue, since, before, zone=zone)
    change_dead(Act.DROP, ids, query, everything=everything, dry_run=dry_run, as_json=as_json)


def change_dead(
    act: Act,
    ids: Sequence[str] | None,
    query: JobQuery,
    *,
    everything: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    chosen = (query.task, query.queue, query.since, query.before) != (None, None, None, None)
    if bool(ids) + chosen + everything != 1:
        raise typer.BadParameter(
            "expected ids, or --task, --queue, --since or --before, or --all: one of these ways"
        )
    if ids:
        change_named(act, ids, as_json=as_json, dead=True, dry_run=dry_run)

    async def change(admin: JobAdmin, settings: Settings) -> None:
        count = await admin.count(query)
        if not count:
            await remark_unknown(admin, query)
        if dry_run or not count:
            say(count_text(count, act, dry_run=dry_run, as_json=as_json))
            return
        remark(f"{letters(count)} to be {PAST[act]}")
        done = left = 0
        try:
            async for toll in admin.change_all(act, query):
                done, left = done + toll.done, left + toll.left
        except WorkerError:
            remark(f"{done} {PAST[act]} before it failed")
            raise
        if as_json:
            say(as_text({"found": count, "done": done, "not_possible": left}, indent=None))
        else:
            say(f"{done} {PAST[act]}, {left} not possible any more")

    with_jobs(change)


def count_text(count: int, act: Act, *, dry_run: bool, as_json: bool) -> str:
    if as_json:
        return as_text({"found": count, "done": 0, "not_possible": 0}, indent=None)
    return f"{letters(count)} {'would be' if dry_run else 'were'} {PAST[act]}"


def letters(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count} dead letters"
