"""The command ``worker enqueue``."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

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
from worker.process import run_to_end

if TYPE_CHECKING:
    from worker.client.enqueue_options import EnqueueOptions
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
        said = json.loads(text)
    except ValueError as exc:  # the text itself may be personal
        raise typer.BadParameter(f"the parameters are no JSON: {exc}") from exc
    except RecursionError as exc:
        raise typer.BadParameter("the parameters are nested too deeply") from exc
    if not isinstance(said, dict):
        raise typer.BadParameter(
            f"expected the parameters as a JSON object, got a {type(said).__name__}"
        )
    return text


def enqueue(
    name: Annotated[str, typer.Argument(help="The task's name, as `worker list` shows it.")],
    params: Annotated[
        str, typer.Argument(help="Its parameters, a JSON object; - reads standard input.")
    ] = "{}",
    delay: Annotated[
        Any, typer.Option(parser=duration_option, metavar="DURATION", help="Begin after so long.")
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
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end, and print what came of it.")
    ] = False,
    timeout: Annotated[
        Any,
        typer.Option(
            parser=duration_option, metavar="DURATION", help="Wait for its end, but no longer."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """Ask for one run of a task, through its queue. Prints the job's id."""
    from worker.cli.by_hand import enqueue_job

    text = said_params(params)
    options: EnqueueOptions = {}
    if delay is not None:
        options["delay"] = delay
    if priority is not None:
        options["priority"] = priority
    if job_id is not None:
        options["id"] = job_id
    if queue is not None:
        options["queue"] = queue
    if max_retries is not None:
        options["max_retries"] = max_retries
    waits = wait or timeout is not None

    async def ask(settings: Settings) -> ExitCode:
        async with enqueue_job(
            settings, name, json.loads(text), options=options, look_back=waits
        ) as job:
            if not job.created:
                remark(f"worker: job {job.id} was there already")
            if not waits:
                shown = {"id": job.id, "created": job.created}
                say(as_text(shown, indent=None) if as_json else job.id)
                return ExitCode.OK
            remark(f"worker: waiting for job {job.id}")
            ended = await job.ended(timeout)
        print_ended(ended, settings, as_json=as_json)
        return ExitCode.OK if ended.state == "SUCCESS" else ExitCode.FAILED

    with complaints():
        try:
            code = run_to_end(ask(ready_settings()[0]))
        except TimeoutError as exc:
            remark(f"worker: {exc}")
            raise typer.Exit(ExitCode.BUSY) from exc
    raise typer.Exit(code)


def print_ended(job: Job, settings: Settings, *, as_json: bool) -> None:
    from worker.app import redaction
    from worker.cli.job_view import JobView

    view = JobView(job, redaction(settings), now=datetime.now(UTC), zone=UTC)
    indent = 2 if sys.stdout.isatty() and not as_json else None
    say(as_text(view.as_json(result=True), indent=indent))
