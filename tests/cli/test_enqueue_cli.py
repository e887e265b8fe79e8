"""``worker enqueue`` and ``worker run`` with parameters, as their users type them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.job_sites import Clerk, JobSite
from tests.support.jobs import lease_now
from tests.support.processes import WORKER, clean_environment
from worker.model import State

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path) -> JobSite:
    return JobSite(tmp_path)


def typed(site: JobSite, line: str, said: bytes) -> subprocess.CompletedProcess[bytes]:
    """``worker LINE`` with something on its standard input."""
    return subprocess.run(
        [*WORKER, *line.split()],
        env=clean_environment(**site.environment),
        cwd=site.folder,
        input=said,
        capture_output=True,
        timeout=30,
        check=False,
    )


async def test_the_id_is_all_that_is_printed(site: JobSite) -> None:
    code, out, err = await site.types("enqueue ping")
    assert (code, err) == (0, "")
    async with site.engine() as jobs:
        job = await Clerk(jobs).get(out.strip())
        assert job is not None
        assert (job.task, job.queue, job.params, job.options) == (
            "ping",
            "default",
            '{"n":1}',
            "{}",
        )
    told = await site.json("enqueue ping --id mine")
    assert told == {"id": "mine", "created": True}


async def test_what_is_said_of_a_job_travels_with_it(site: JobSite) -> None:
    line = "enqueue send_invoice --priority -5 --queue urgent --max-retries 2 --delay 90s --id x"
    await site.told(line, '{"order_id": 7, "lines": ["a"]}')
    shown = await site.shown("x")
    assert (shown["queue"], shown["priority"], shown["options"]) == (
        *("urgent", -5),
        {"max_retries": 2},
    )
    assert shown["params"] == {"order_id": 7, "kind": "mail", "lines": ["a"]}
    rows = await site.table("jobs list")
    assert rows[0]["note"].startswith("due ")


async def test_a_header_is_added_to_those_of_the_task(site: JobSite) -> None:
    (site.folder / "traced.py").write_text(
        "from worker import task\n\n\n"
        "@task(enqueue_options=lambda said: {'headers': {'tenant': 'ours', 'team': 'mail'}})\n"
        "async def traced(n: int) -> None: ...\n"
    )
    site.environment["WORKER_TASK_MODULES"] += ",traced"
    line = 'enqueue traced {"n":1} --header team=billing --header why=test --id x'
    code, _, err = await site.types(line)
    assert code == 0, err
    headers = {"tenant": "ours", "team": "billing", "why": "test"}
    assert (await site.shown("x"))["headers"] == headers


async def test_when_it_may_begin_and_what_is_handed_on_travel_with_it(site: JobSite) -> None:
    line = "enqueue ping --at 2126-11-21T09:30:00 --expires 400000d --id x"
    code, _, err = await site.types(line)
    assert (code, "at: expected 0 to 366 days" in err) == (2, True)
    line = "enqueue ping --at +90m --expires 2h --header team=billing --header why=a=b --id x"
    assert await site.told(line) == "x\n"
    shown = await site.shown("x")
    assert shown["headers"] == {"team": "billing", "why": "a=b"}
    created, ready, expires = (
        datetime.fromisoformat(shown[what]) for what in ("created_at", "ready_at", "expires_at")
    )
    assert timedelta(minutes=80) < ready - created <= timedelta(minutes=90)
    assert expires - created == timedelta(hours=2)


async def test_the_same_id_is_one_job_and_with_other_parameters_it_is_refused(
    site: JobSite,
) -> None:
    async with site.engine() as jobs:
        await Clerk(jobs).waits("x", params="{}")  # as SQL may have it: without the default
    code, out, err = await site.types("enqueue ping --id x", '{"n": 1}')
    assert (code, out) == (0, "x\n")
    assert err == "worker: job x was there already; nothing was asked for\n"
    for words in (["ping", '{"n": 2}', "--wait"], ["fails", "{}"]):
        code, out, err = await site.types("enqueue --id x", *words)
        assert (code, out) == (2, "")
        other = "it is of the task ping" if words[0] == "fails" else "its parameters differ (n)"
        assert err == (
            f"worker: {words[0]}: job x exists already: {other}. Nothing was enqueued; expected "
            "another id, or the same request\n"
        )
    assert (await site.shown("x"))["params"] == {}


async def test_an_id_of_a_cancelled_job_is_refused(site: JobSite) -> None:
    await site.told("enqueue ping --id x")
    await site.told("jobs cancel x")
    code, out, err = await site.types("enqueue ping --id x")
    assert (code, out) == (2, "")
    assert "job x exists already: it was cancelled" in err
    assert "worker jobs retry x" in err


async def test_who_gives_up_waiting_is_told_the_last_error(site: JobSite) -> None:
    site.environment["WORKER_DATA_API_TOKEN"] = "s3cret"
    error = '{"type":"TaskFailed","message":"no s3cret today"}'
    async with site.engine() as jobs:
        delay = timedelta(hours=1)
        await Clerk(jobs).ends("x", State.RETRY, params='{"n":1}', error=error, delay=delay)
    code, out, err = await site.types("enqueue ping --id x --timeout 100ms")
    assert (code, out) == (75, "")
    assert "job x has not ended within 100ms: RETRY, after TaskFailed: no " in err
    assert "s3cret" not in err


async def test_parameters_come_from_standard_input(site: JobSite) -> None:
    done = typed(site, "enqueue send_invoice - --id x", '{"order_id": 7,\n"lines": ["é"]}'.encode())
    assert (done.returncode, done.stdout) == (0, b"x\n")
    assert (await site.shown("x"))["params"]["lines"] == ["é"]
    done = typed(site, "run ping -", b'{"n": 4}')
    assert (done.returncode, json.loads(done.stdout)["result"]) == (0, 4)
    for said in (b"", b"\xff", b"[" * 100_000):
        done = typed(site, "enqueue ping -", said)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["enqueue", "run"])
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["pong"], "unknown task 'pong' (did you mean 'ping'?)"),
        (["ping", "{n: 1}"], "the parameters are no JSON"),
        (["ping", '{"n": NaN}'], "the parameters are no JSON: n: expected a finite number"),
        (["ping", '{"n": 1e999}'], "the parameters are no JSON: n: expected a finite number"),
        (["ping", '{"n": 1, "n": 2}'], "expected each key once, got 'n' twice"),
        (["ping", '{"n": "\\ud800"}'], "n: expected Unicode text"),
        (["ping", f'{{"n": {"9" * 5000}}}'], "expected an integer of up to 4,300 digits"),
        (["ping", "[1]"], "expected the parameters as a JSON object, got a list"),
        (["ping", '{"n": "Ada"}'], "ping: n: Input should be a valid integer"),
        (["ping", '{"m": 1}'], "ping: m: Unexpected keyword argument"),
        (["send_invoice"], "send_invoice: order_id: Field required"),
        (["fails_twice", '{"n": 1}'], "fails_twice: expected no parameters, got"),
    ],
)
async def test_what_does_not_fit_exits_2_and_nothing_is_asked_for_or_run(
    site: JobSite, command: str, words: list[str], complaint: str
) -> None:
    code, out, err = await site.types(command, *words)
    assert (code, out) == (2, "")
    told = " ".join(err.replace("│", " ").split())
    assert complaint in told
    assert "Traceback" not in err
    assert "run.started" not in err
    assert "Ada" not in err, "a value may be personal"
    async with site.engine() as jobs:
        assert await lease_now(jobs) == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--delay soon", "--delay"),
        ("--delay 400d", "delay: expected 0 to 366 days"),
        ("--priority 101", "--priority"),
        ("--id /x", "id: expected 1 to 200 letters"),
        ("--queue /", "queue: expected 1 to 80 letters"),
        ("--max-retries -1", "--max-retries"),
        ("--timeout never", "--timeout"),
        ("--at soon", "--at"),
        ("--at +1h --delay 1h", "delay and at: expected one of them"),
        ("--at +2h --expires 1h", "expires: 1h are over when its delay of"),
        ("--header team", "expected a name and a text"),
    ],
)
async def test_an_option_that_is_wrong_exits_2(site: JobSite, options: str, complaint: str) -> None:
    code, out, err = await site.types(f"enqueue ping {options}")
    assert (code, out) == (2, "")
    assert complaint in err
    assert "Traceback" not in err


async def test_a_task_that_has_no_queue_cannot_be_asked_for(site: JobSite) -> None:
    code, out, err = await site.types("enqueue tick")
    assert (code, out) == (2, "")
    assert "tick has no queue" in err


async def test_a_run_that_would_lack_parameters_says_how_to_ask_for_a_job(site: JobSite) -> None:
    code, out, err = await site.types("schedule run send_invoice")
    assert (code, out) == (2, "")
    assert err.startswith("worker: send_invoice: order_id: Field required; ")
    assert err.endswith("worker enqueue send_invoice '{…}'\n")
    assert await site.json("schedule history") == []


@pytest.mark.parametrize(
    ("option", "complaint"),
    [("--delay 16m", "a delay of 16m; it takes up to 15m"), ("--priority 1", "priorities")],
)
async def test_what_the_engine_cannot_do_is_refused(
    site: JobSite, option: str, complaint: str
) -> None:
    site.environment["WORKER_QUEUE_URL"] = "sqs://127.0.0.1/1?region=x-y-1"
    code, out, err = await site.types(f"enqueue ping {option}")
    assert (code, out) == (2, "")
    assert "sqs does not do" in err
    assert complaint in err


async def test_a_job_that_has_not_ended_in_time_exits_75_and_goes_on(site: JobSite) -> None:
    code, out, err = await site.types("enqueue ping --id x --timeout 100ms")
    assert (code, out) == (75, "")
    assert err == ("worker: waiting for job x\nworker: job x has not ended within 100ms: PENDING\n")
    assert (await site.shown("x"))["state"] == "PENDING"


async def test_a_job_that_was_cancelled_is_no_success_for_who_waits(site: JobSite) -> None:
    async with site.engine() as jobs:
        await Clerk(jobs).waits("x")
    process = await asyncio.create_subprocess_exec(
        *(*WORKER, "enqueue", "ping", "--id", "x", "--wait"),
        env=clean_environment(**site.environment),
        cwd=site.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while await process.stderr.readline() != b"worker: waiting for job x\n":
            pass  # the job is there already, which is reported, too
    await site.told("jobs cancel x")
    async with asyncio.timeout(20):
        out, _ = await process.communicate()
    assert (process.returncode, json.loads(out)["state"]) == (1, "REVOKED")


async def test_ctrl_c_ends_the_waiting_and_leaves_the_job(site: JobSite) -> None:
    process = await asyncio.create_subprocess_exec(
        *(*WORKER, "enqueue", "ping", "--id", "x", "--wait"),
        env=clean_environment(**site.environment),
        cwd=site.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    assert await process.stderr.readline() == b"worker: waiting for job x\n"
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert (await site.shown("x"))["state"] == "PENDING"


async def test_any_task_is_run_by_hand_with_parameters(site: JobSite) -> None:
    code, out, _ = await site.types("run send_invoice", '{"order_id": 7, "kind": "paper"}')
    run = json.loads(out)
    assert (code, run["state"], run["result"]) == (0, "SUCCESS", {"sent": 7, "by": "paper"})
    code, out, _ = await site.types("run tick")
    assert (code, json.loads(out)["state"]) == (0, "SUCCESS")


async def test_the_list_tells_what_can_be_asked_for_and_how(site: JobSite) -> None:
    out = await site.told("list")
    first, second = out.split("\n\n")
    assert first.splitlines()[-1].split()[:3] == ["tick", "every", "300ms"]
    rows = {line.split()[0]: line for line in second.splitlines()}
    assert rows["send_invoice"].split()[1] == "billing"
    assert (
        'order_id: integer, kind: "mail" | "paper" = "mail", lines: [string] = []'
        in (rows["send_invoice"])
    )
    assert rows["fails_twice"].endswith(" none")
    told = {task["name"]: task for task in await site.json("list")}
    assert (told["send_invoice"]["queue"], told["tick"]["queue"]) == ("billing", None)
    assert told["send_invoice"]["params"]["required"] == ["order_id"]
    assert told["tick"]["params"] is None
    assert (told["ping"]["on_demand"], told["tick"]["on_demand"]) == (True, False)
    scheduled = [row["task"] for row in await site.table("schedule list")]
    assert "tick" in scheduled
    assert "ping" not in scheduled


async def test_check_looks_at_the_queues_too(site: JobSite) -> None:
    _, out, _ = await site.types("check")
    assert "11 tasks are registered, 1 of them on a schedule, 6 on demand" in out
    assert f"the queue at {site.queue_url} can be used; a worker polls billing, default" in out
