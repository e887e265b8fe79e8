"""The command ``worker enqueue``."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, cast
from zoneinfo import ZoneInfo

import typer

from worker.cli.terminal import (
    ExitCode,
    as_text,
    complaints,
    duration_option,
    ready_settings,
    remark,
    say,
)
from worker.cli.terminal_times import in_zone, moment_parameter
from worker.json_values import NotJson, read_json
from worker.process import run_to_end

if TYPE_CHECKING:
    from worker.client.enqueue_options import EnqueueOptions
    from worker.client.job_handle import JobHandle
    from worker.jobs.job import Job
    from worker.settings import Settings

__all__ = ["enqueue", "said_params"]


def said_params(text: str) -> str:
    """The parameters as they were typed, or what comes from standard input for a ``-``.

    Raises:
        BadParameter: It is no JSON object.
    """
    if text == "-":
        try:
            text = "" if sys.stdin is None else sys.stdin.read()  # it may be closed
        except UnicodeDecodeError as exc:
            raise typer.BadParameter("standard input is not UTF-8 text") from exc
    try:
        said = read_json(text)
    except NotJson as exc:  # the text itself may be personal
        raise typer.BadParameter(f"the parameters are no JSON: {exc}") from exc
    if not isinstance(said, dict):
        raise typer.BadParameter(
            f"expected the parameters as a JSON object, got a {type(said).__name__}"
        )
    return text


def header_option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise typer.BadParameter("expected a name and a text, such as team=billing")
    return name, value


def duration_parameter(help: str) -> Any:
    return typer.Option(parser=duration_option, metavar="DURATION", help=help)


def enqueue(
    name: Annotated[str, typer.Argument(help="The task's name, as `worker list` shows it.")],
    params: Annotated[
        str, typer.Argument(help="Its parameters, a JSON object; - reads standard input.")
    ] = "{}",
    delay: Annotated[Any, duration_parameter("Begin after so long.")] = None,
    at: Annotated[
        Any, moment_parameter("--at", "Begin at this moment, in UTC unless it says its zone.")
    ] = None,
    expires: Annotated[
        Any, duration_parameter("Do not begin any more when so long has passed from now.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(min=-100, max=100, help="Greater ones come first.")
    ] = None,
    job_id: Annotated[
        str | None, typer.Option("--id", help="Its id; the same id twice is one job.")
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Another queue than the task's own.")] = None,
    max_retries: Annotated[
        int | None, typer.Option(min=0, help="How often it is tried again, if it fails.")
    ] = None,
    header: Annotated[
        list[Any] | None,
        typer.Option(
            parser=header_option, metavar="NAME=TEXT", help="Handed on with the job; repeatable."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end, and print what came of it.")
    ] = False,
    timeout: Annotated[Any, duration_parameter("Wait for its end, but no longer.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """Ask for one run of a task, through its queue. Prints the job's id."""
    from worker.cli.by_hand import enqueue_job
    from worker.config.stores import location

    text = said_params(params)
    said = {
        "delay": delay,
        "at": in_zone(at, ZoneInfo("UTC")),
        "expires": expires,
        "priority": priority,
        "id": job_id,
        "queue": queue,
        "max_retries": max_retries,
        "headers": dict(header) if header else None,
    }
    options = cast("EnqueueOptions", {key: one for key, one in said.items() if one is not None})
    waits = wait or timeout is not None

    async def ask(settings: Settings) -> ExitCode:
        hint = location(settings).default_hint
        if hint is not None:
            remark(f"worker: {hint}")
        asked = enqueue_job(settings, name, json.loads(text), options=options, look_back=waits)
        async with asked as job:
            if not job.created:
                remark(f"worker: job {job.id} was there already; nothing was asked for")
            if waits:
                return await wait_for(job, timeout, settings, as_json=as_json)
            shown = {"id": job.id, "created": job.created}
            say(as_text(shown, indent=None) if as_json else job.id)
            return ExitCode.OK

    with complaints():
        code = run_to_end(ask(ready_settings()[0]))
    raise typer.Exit(code)


async def wait_for(job: JobHandle, timeout: Any, settings: Settings, *, as_json: bool) -> ExitCode:
    """Wait for the job's end, and print what came of it."""
    from worker.app import redaction

    remark(f"worker: waiting for job {job.id}")
    try:
        ended = await job.ended(timeout)
    except TimeoutError as exc:
        remark(f"worker: {redaction(settings)(str(exc))}")
        return ExitCode.BUSY
    print_ended(ended, settings, as_json=as_json)
    return ExitCode.OK if ended.state == "SUCCESS" else ExitCode.FAILED


def print_ended(job: Job, settings: Settings, *, as_json: bool) -> None:
    from worker.app import redaction
    from worker.cli.job_view import JobView

    view = JobView(job, redaction(settings), now=datetime.now(UTC), zone=UTC)
    indent = 2 if sys.stdout.isatty() and not as_json else None
    say(as_text(view.as_json(result=True), indent=indent))
