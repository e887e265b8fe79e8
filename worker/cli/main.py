"""The command ``worker``: parses, calls the rest, prints. Exit codes: `worker.cli.terminal`."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import redirect_stdout
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.enqueue import enqueue, said_params
from worker.cli.health import main as tell_health
from worker.cli.jobs import dead_app, jobs_app
from worker.cli.params_view import params_line
from worker.cli.queues import show_queues
from worker.cli.schedules import explain_task, migrate, schedule_app
from worker.cli.terminal import (
    ExitCode,
    as_text,
    complaints,
    duration_option,
    print_listing,
    print_table,
    ready_settings,
    say,
)
from worker.errors import installing
from worker.process import leave, run_to_end
from worker.schedules.policies import Overlap

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from worker.model import Run
    from worker.redaction import Redaction
    from worker.scheduling.scheduled_task import ScheduledTask
    from worker.settings import Settings

__all__ = ["ExitCode", "main"]

LAST_LINES_S = 1.0
"""How long the end of the process waits for a reader of the log who stalls."""

app = typer.Typer(
    name="worker",
    help="Runs tasks beside a Data API: periodically, or one by hand.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(schedule_app, name="schedule")
app.add_typer(jobs_app, name="jobs")
app.add_typer(dead_app, name="dead")
app.command("explain")(explain_task)
app.command("migrate")(migrate)
app.command("enqueue")(enqueue)
app.command("queues")(show_queues)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, do what they say, and exit."""
    # Python has no such stream at all where the caller closed it.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for as long as we live
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if os.getpid() == 1:  # where a signal without a handler does nothing at all
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: os._exit(128 + number))
    try:
        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="worker")
    except SystemExit as exc:
        leave(exc.code if isinstance(exc.code, int) else int(exc.code is not None))


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sidecar-worker {version('sidecar-worker')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=show_version, is_eager=True),
    ] = False,
) -> None:
    """Runs tasks beside a Data API: periodically, or one by hand.

    Everything is configured by environment variables WORKER_…, or in a file .env.
    """


@app.command()
def start(
    queues: Annotated[
        str | None, typer.Option(help="Poll these queues only, separated by commas.")
    ] = None,
    no_queues: Annotated[bool, typer.Option("--no-queues", help="Poll no queue.")] = False,
    no_schedules: Annotated[bool, typer.Option("--no-schedules", help="Take no slots.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Run this task only; repeatable, or by commas."),
    ] = None,
    max_jobs: Annotated[
        int | None, typer.Option(min=1, help="End after so many jobs, for memory's sake.")
    ] = None,
    burst: Annotated[bool, typer.Option("--burst", help="End when the queues are empty.")] = False,
) -> None:
    """Run all tasks on their schedules and off their queues, until SIGTERM or Ctrl-C."""
    from worker.app import Doors
    from worker.starting import start_worker

    if no_queues and (queues or max_jobs or burst):
        raise typer.BadParameter("--no-queues goes with neither --queues, --max-jobs nor --burst")
    with complaints():
        settings, log = ready_settings()
        doors = Doors(
            queues=None if no_queues else names_of([queues or ""]),
            schedules=not no_schedules,
            only=names_of(only or []),
            max_jobs=max_jobs,
            burst=burst,
        )
        try:
            run_to_end(start_worker(settings, doors=doors, output=log))
        finally:
            log.finish(LAST_LINES_S)
    if log.reader_gone:
        raise typer.Exit(ExitCode.BROKEN_PIPE)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="The task's name, as `worker list` shows it.")],
    params: Annotated[
        str | None,
        typer.Argument(help="Its parameters, a JSON object; - reads standard input."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result on one line.")] = False,
    overlap: Annotated[
        Overlap | None,
        typer.Option(help="What to do if a run of it goes on anywhere; by default as its policy."),
    ] = None,
) -> None:
    """Run one task once, and print what came of it as JSON."""
    from worker.app import redaction
    from worker.cli.by_hand import run_task

    said = None if params is None else said_params(params)

    async def run_and_print(settings: Settings) -> ExitCode | int:
        with redirect_stdout(sys.stderr):  # the task's own prints are no result
            done, ended_by = await run_task(settings, name, overlap=overlap, params=said)
        if done is None:
            return 128 + (ended_by or 0)
        indent = 2 if sys.stdout.isatty() and not as_json else None
        say(as_text(describe_run(done, redaction(settings)), indent=indent))
        if ended_by is not None:
            return 128 + ended_by
        if done.error is None:
            return ExitCode.OK
        return ExitCode.UNREACHABLE if done.error.unreachable else ExitCode.FAILED

    with complaints():
        code = run_to_end(run_and_print(ready_settings()[0]))
    raise typer.Exit(code)


def names_of(said: Sequence[str]) -> tuple[str, ...]:
    """Names from options that are repeated, separated by commas, or both."""
    names = (name.strip() for text in said for name in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


@app.command("list")
def list_tasks(
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON list.")] = False,
) -> None:
    """Show the tasks: when each runs, its queue and parameters, and where it is defined."""
    from worker.app import open_worker

    async def collect(settings: Settings) -> list[dict[str, Any]]:
        async with open_worker(settings, by_hand=True) as worker:
            return [describe_task(name, task) for name, task in worker.scheduler.tasks.items()]

    with complaints():
        tasks = run_to_end(collect(ready_settings()[0]))
    if as_json:
        say(as_text(tasks, indent=None))
        return
    scheduled = [task for task in tasks if not task["on_demand"]]
    print_table(
        ("task", "schedule", "said by", "defined in"),
        [
            (task["name"], task["schedule"], task["said_by"], task["defined_in"])
            for task in scheduled
        ],
    )
    queued = [task for task in tasks if task["queue"] is not None]
    if scheduled and queued:
        say("")
    print_listing(
        ("task", "queue", "defined in", "parameters"),
        [
            (t["name"], t["queue"], t["defined_in"], params_line(t["params"]) or "none")
            for t in queued
        ],
    )


def describe_task(name: str, task: ScheduledTask) -> dict[str, Any]:
    definition = task.definition
    return {
        "name": name,
        "interval_s": task.interval.total_seconds() if task.interval else None,
        "schedule": str(task.terms.schedule) if task.terms.schedule else "off",
        "said_by": task.said_by,
        "on_demand": task.on_demand,
        "queue": None if definition.options is None else definition.options.queue,
        "params": definition.params.schema(),
        "defined_in": definition.defined_in,
        "summary": definition.summary,
    }


@app.command()
def check() -> None:
    """Validate the configuration, reach the Data API, and say what was found."""
    from worker.cli.checking import check_worker

    with complaints():
        findings = run_to_end(check_worker(ready_settings()[0]))
    say("\n".join(f"{found.word:4}  {found.what}" for found in findings))
    if all(finding.ok for finding in findings):
        return
    unreachable = any(finding.unreachable for finding in findings)
    raise typer.Exit(ExitCode.UNREACHABLE if unreachable else ExitCode.FAILED)


@app.command()
def health(
    ready: Annotated[
        bool, typer.Option("--ready", help="Whether it can do its work, not only whether it lives.")
    ] = False,
) -> None:
    """Say whether the worker that runs here is well, for exec probes; exits with 0 or 1.

    It asks WORKER_PROBE_PORT or WORKER_OPS_PORT, or looks at the age of WORKER_HEARTBEAT_FILE.
    """
    raise typer.Exit(tell_health(ready=ready))


@app.command()
def demo(
    length: Annotated[
        Any,
        typer.Option(
            "--for",
            parser=duration_option,
            metavar="DURATION",
            help="End after this long, with a summary. Otherwise Ctrl-C ends it.",
        ),
    ] = None,
) -> None:
    """Start a Data API with sample orders, run the worker against it, and show what happens."""
    showcase = needs_extra("worker.demo.showcase")
    with complaints():
        code = run_to_end(showcase.show(length))
    raise typer.Exit(code)


@app.command()
def demo_api(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")
    ] = 8000,
    host: Annotated[str, typer.Option(help="On which address.")] = "127.0.0.1",
    database: Annotated[
        str, typer.Option(help="SQLite file that outlives the service; in memory if not given.")
    ] = ":memory:",
    token: Annotated[str | None, typer.Option(help="Bearer token that callers need.")] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Misbehave, e.g. latency_s=0.02; repeatable. `--fault help` lists all.",
        ),
    ] = None,
    orders: Annotated[int, typer.Option(min=0, help="Pending orders to begin with.")] = 0,
    poison: Annotated[int, typer.Option(min=0, help="How many of them can never succeed.")] = 0,
    lingering: Annotated[int, typer.Option(min=0, help="How many of them stay listed.")] = 0,
    old_orders: Annotated[int, typer.Option(min=0, help="Old orders, for the cleanup.")] = 0,
    bookings: Annotated[int, typer.Option(min=0, help="Bookings in the next hour.")] = 0,
) -> None:
    """Run the reference Data API alone."""
    server = needs_extra("worker.demo.server")
    from pydantic import ValidationError

    from worker.demo.faults import Faults, explain

    if fault == ["help"]:
        names = Faults.model_fields.items()
        say("\n".join(f"{name:16}  {field.description}" for name, field in names))
        return
    try:
        faults = Faults.parse(fault or [])
        seed = server.SeedSpec(
            orders=orders,
            poison=poison,
            lingering=lingering,
            old_orders=old_orders,
            bookings=bookings,
        )
    except ValidationError as exc:
        raise typer.BadParameter(explain(exc)) from exc
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    try:
        code = server.serve(
            host=host,
            port=port,
            database=database,
            token=token,
            faults=faults,
            seed=seed,
            announce=lambda url: say(f"Data API at {url}"),
        )
    except OSError as exc:
        typer.echo(f"worker: {exc.strerror or exc}", err=True)
        raise typer.Exit(ExitCode.FAILED) from exc
    raise typer.Exit(code)


def needs_extra(module: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        typer.echo(
            f"worker: {exc.name} is not installed; expected: {installing('demo')}",
            err=True,
        )
        raise typer.Exit(ExitCode.CONFIGURATION) from exc


def describe_run(run: Run, redact: Redaction) -> dict[str, Any]:
    """The run as it is printed: an error is redacted like a log line, a result of secrets only."""
    from worker.redaction import plain

    error = run.error
    return {
        "task": run.task,
        "run_id": run.run_id,
        "state": run.state.value,
        "result": plain(jsonable(run.result), redact.secrets),
        "attempts": run.attempts,
        "duration_ms": run.duration_ms,
        "error": {"type": error.type, "message": redact(error.message)} if error else None,
    }


def jsonable(value: object) -> Any:
    """``value`` as JSON has it: NaN as null, bytes as base64, what JSON does not know as text."""
    from pydantic_core import to_jsonable_python

    from worker.summary import summarize

    try:
        return to_jsonable_python(
            value, inf_nan_mode="null", bytes_mode="base64", serialize_unknown=True, fallback=str
        )
    except Exception:  # a cycle, a text that cannot be made: its gist has to do
        return summarize(value)
