"""The commands around jobs, as their users type them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.job_sites import Clerk, JobSite
from tests.support.jobs import fresh_queue_url, lease_all, lease_now
from tests.support.processes import WORKER, clean_environment
from tests.support.servers import refused_port
from worker.jobs.job import JobQuery, Settlement
from worker.model import State

if TYPE_CHECKING:
    from pathlib import Path

FULL = "the far side is full"


async def ids(site: JobSite, line: str, *words: str) -> list[str]:
    return [job["id"] for job in await site.json(line, *words)]


# --- looking


async def test_an_empty_queue_has_no_jobs_and_no_dead_letters(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    assert await site.types("jobs list") == (0, "", "no such job is recorded\n")
    assert await site.types("dead list") == (0, "", "there are no such dead letters\n")
    assert await site.json("jobs list") == await site.json("dead list") == []


async def test_the_list_tells_of_each_job_what_is_to_be_known(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.ends("fine", State.SUCCESS)
        await clerk.dies("dead")
        await clerk.ends("again", State.RETRY, error='{"type":"E","message":"no"}', delay=DAY)
        lease = await clerk.runs("runs")
        await jobs.tell(lease, '{"percent": 40, "page": 7}')
        await clerk.waits("invoice:7", "send_invoice", queue="billing")
        await clerk.waits("later", delay=DAY)
        rows = {row["id"]: row for row in await site.table("jobs list")}
        told = {job["id"]: job for job in await site.json("jobs list")}
    assert list(rows) == list(told) == ["later", "invoice:7", "runs", "again", "dead", "fine"]
    assert {name: row["state"] for name, row in rows.items()} == {
        "later": "PENDING",
        "invoice:7": "PENDING",
        "runs": "PROGRESS",
        "again": "RETRY",
        "dead": "FAILURE",
        "fine": "SUCCESS",
    }
    assert rows["invoice:7"]["queue"] == "billing"
    assert rows["invoice:7"]["note"].startswith("waits since ")
    assert rows["later"]["note"].startswith("due 20")
    assert rows["runs"]["note"] == "40 %; on one"
    assert rows["again"]["note"].endswith("; 1 try; E: no")
    assert rows["dead"]["note"] == f"dead; TaskFailed: {FULL}"
    assert rows["fine"]["note"].startswith("in ")
    assert told["dead"]["error"] == {"type": "TaskFailed", "message": FULL}
    assert told["runs"]["progress"] == {"percent": 40, "page": 7}
    assert told["runs"]["leased_until"] is not None
    assert (told["later"]["ready_at"], told["runs"]["ready_at"]) != (None, None)
    assert {"params", "result"} & told["fine"].keys() == set()


async def test_the_list_is_filtered(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.ends("fine", State.SUCCESS)
        await clerk.dies("dead", "ping", queue="billing")
        await clerk.waits("waits", "fails")
    assert await ids(site, "jobs list --task ping") == ["dead", "fine"]
    assert await ids(site, "jobs list --queue billing") == ["dead"]
    assert await ids(site, "jobs list --state success --state PENDING") == ["waits", "fine"]
    assert await ids(site, "jobs list --since -1h") == ["waits", "dead", "fine"]
    assert await ids(site, "jobs list --before -1h") == []
    assert await ids(site, "dead list --queue billing --since -1h") == ["dead"]
    assert await ids(site, "dead list --task fails") == []
    code, out, err = await site.types("jobs list --limit 1")
    assert (code, len(out.splitlines())) == (0, 2)
    assert "there may be more" in err


async def test_a_moment_without_a_zone_is_meant_in_that_of_the_option(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        await Clerk(jobs).waits("one")
    before = (datetime.now(UTC) + timedelta(hours=1)).replace(tzinfo=None).isoformat()
    assert await ids(site, "jobs list --before", before) == ["one"]
    assert await ids(site, "jobs list --tz Asia/Tokyo --before", before) == []


async def test_one_job_is_shown_with_its_life_and_without_its_parameters(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    params: dict[str, Any] = {
        "params": '{"name":"Ada"}',
        "headers": '{"traceparent":"00-1"}',
        "priority": 5,
    }
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.ends("fine", State.SUCCESS, result='{"sent":7}', **params)
        await clerk.dies("dead")
    shown = facts(await site.told("jobs show fine"))
    assert list(shown) == [
        *("id", "task", "queue", "state", "created", "started", "finished", "attempts"),
        *("priority", "result"),
    ]
    assert shown["state"] == "SUCCESS"
    assert shown["started"].endswith(" on one")
    assert shown["attempts"] == "1, in 1 delivery"
    assert shown["result"] == '{"sent": 7}'
    shown = facts(await site.told("jobs show fine --params"))
    assert shown["parameters"] == '{"name": "Ada"}'
    assert shown["headers"] == '{"traceparent": "00-1"}'
    told = await site.json("jobs show fine")
    assert told["result"] == {"sent": 7}
    assert "params" not in told
    assert "Ada" not in json.dumps(told)
    assert (await site.json("jobs show fine --params"))["params"] == {"name": "Ada"}

    shown = facts(await site.told("dead show dead"))
    assert shown["state"] == "FAILURE, a dead letter"
    assert shown["error"] == f"TaskFailed: {FULL}"
    code, _, err = await site.types("dead show fine")
    assert code == 2
    assert "job fine is no dead letter: it is SUCCESS" in err


async def test_the_attempts_of_a_job_are_shown_one_by_one(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        lease = await clerk.runs("twice", "fails")
        history = json.dumps([attempt(1, "lost"), attempt(1, "failed") | ERROR])
        error = json.dumps(ERROR)
        await jobs.settle([Settlement(lease, State.RETRY, 1, error=error, history=history)])
        (lease,) = await lease_all(jobs, 1)
        history = json.dumps([*json.loads(history), attempt(2, "failed") | ERROR])
        dead = Settlement(lease, State.FAILURE, 2, error=error, dead=True, history=history)
        await jobs.settle([dead])
    for line in ("jobs show twice", "dead show twice"):
        lines = [row for row in (await site.told(line)).splitlines() if row.startswith("attempt ")]
        assert [row.split()[1] for row in lines] == ["1", "1", "2"]
        assert "on one: lost after 2000 ms" in lines[0]
        assert lines[2].endswith("failed after 2000 ms: TaskFailed: the far side is full")
        told = (await site.json(line))["history"]
        assert [one["outcome"] for one in told] == ["lost", "failed", "failed"]
        assert told[2]["error"] == ERROR
        assert told[0]["error"] is None


ERROR = {"type": "TaskFailed", "message": "the far side is full"}


def attempt(number: int, outcome: str) -> dict[str, Any]:
    times = {"started_at": 1_000_000, "finished_at": 3_000_000}
    return {"attempt": number, "outcome": outcome, "worker": "one", **times}


def facts(text: str) -> dict[str, str]:
    parts = (line.partition("  ") for line in text.splitlines())
    return {name: value.strip() for name, _, value in parts}


async def test_what_a_job_says_cannot_steer_the_terminal_nor_hold_a_secret(
    tmp_path: Path,
) -> None:
    site = JobSite(tmp_path)
    site.environment["WORKER_DATA_API_TOKEN"] = "s3cret"
    said = {"type": "E", "message": "\x1b[2Jgone, http://me:pw@host/ s3cret"}
    error, tried = json.dumps(said), attempt(1, "failed") | said | {"worker": "\x1b[2Js3cret"}
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.dies("dead", error=error, history=json.dumps([tried, tried]))
        await clerk.ends("fine", State.SUCCESS, result='{"token":"s3cret","é":["s3cret\\u009b"]}')
    for line in ("jobs list", "dead list", "jobs show dead", "jobs show fine", "jobs show fine"):
        for form in ("", " --json"):
            out = await site.told(line + form)
            assert "s3cret" not in out
            assert "pw@" not in out
            assert not {"\x1b", "\x9b"} & set(out)
    assert (await site.json("jobs show fine"))["result"] == {"token": "***", "é": ["***\x9b"]}


@pytest.mark.parametrize("columns", [80, 100])
def test_on_a_narrow_terminal_no_id_is_broken_and_no_line_is_too_long(
    tmp_path: Path, columns: int
) -> None:
    site = JobSite(tmp_path)
    for n in ("6", "7"):
        words = [*WORKER, "enqueue", "fails", json.dumps({"message": "no luck " * 12 + n})]
        environment = clean_environment(**site.environment)
        subprocess.run(words, env=environment, cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(
        [*WORKER, "start", "--burst"],
        env=clean_environment(**site.environment),
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    for line in ("jobs list", "dead list"):
        shown = on_terminal(site, line, columns)
        assert shown[0].split()[:2] == ["id", "task"]
        assert [len(row) for row in shown if len(row) > columns] == []
        found = [row for row in shown[1:] if not row.startswith(" ")]
        assert [len(row.split()[0]) for row in found] == [32, 32]
        assert sum(" no luck" in row for row in shown) >= 2


def on_terminal(site: JobSite, line: str, columns: int) -> list[str]:
    ours, theirs = pty.openpty()
    environment = clean_environment(**site.environment, COLUMNS=str(columns), TERM="dumb")
    process = subprocess.Popen(
        [*WORKER, *line.split()], env=environment, cwd=site.folder, stdout=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode().replace("\x1b[1m", "").replace("\x1b[0m", "")
    return text.replace("\r", "").splitlines()


# --- doing something to one


async def test_jobs_are_cancelled_and_retried_by_their_ids(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.runs("runs")
        await clerk.waits("waits")
        assert await site.types("jobs cancel waits runs") == (
            0,
            "waits is cancelled\nruns: cancel requested, still running on one\n",
            "",
        )
        code, out, err = await site.types("jobs cancel waits runs")
        assert (code, out) == (1, "runs: cancel requested, still running on one\n")
        assert err == "worker: job waits cannot be cancelled: it is REVOKED\n"
        assert await site.json("jobs retry waits") == {"waits": "done"}
        assert await site.types("jobs retry waits --json") == (1, '{"waits": "not_now"}\n', "")
        (lease,) = await lease_now(jobs)
        assert lease.id == "waits"


@pytest.mark.parametrize(
    "line",
    ["jobs show", "jobs cancel", "jobs retry", "dead show", "dead retry", "dead drop"],
)
async def test_an_unknown_id_exits_2_and_nothing_is_done(tmp_path: Path, line: str) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.dies("dead")
        more = [] if line.endswith("show") else ["dead"]
        code, out, err = await site.types(line, *more, "nobody")
        assert (code, out) == (2, "")
        assert err == "worker: no job nobody is recorded, or no longer\n"
        job = await clerk.get("dead")
        assert job is not None
        assert job.dead


# --- dead letters


async def test_dead_letters_are_retried_by_task_and_by_age(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.die([f"a:{n}" for n in range(3)], "fails")
        await clerk.die([f"b:{n}" for n in range(2)], "ping")
        assert await site.told("dead retry --task fails --dry-run") == (
            "3 dead letters would be retried\n"
        )
        assert await site.json("dead retry --task fails --dry-run") == {
            "found": 3,
            "done": 0,
            "not_possible": 0,
        }
        for line in ("dead retry --task fials --dry-run", "jobs list --task fials"):
            _, _, err = await site.types(line)
            assert "no job of the task 'fials' is recorded (did you mean 'fails'?)" in err
        assert await site.told("dead retry --before -1h") == "0 dead letters were retried\n"
        assert len(await jobs.find(JobQuery(dead=True))) == 5
        code, out, err = await site.types("dead retry --task fails")
        assert (code, out) == (0, "3 retried, 0 not possible any more\n")
        assert err == "3 dead letters to be retried\n"
        assert {lease.id for lease in await lease_now(jobs)} == {"a:0", "a:1", "a:2"}
        code, out, _ = await site.types("dead drop --all --json")
        assert (code, json.loads(out)) == (0, {"found": 2, "done": 2, "not_possible": 0})
        assert await jobs.find(JobQuery(dead=True)) == []


async def test_dead_letters_are_retried_and_dropped_by_their_ids(tmp_path: Path) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.die(["one", "two"])
        await clerk.ends("fine", State.SUCCESS)
        assert await site.told("dead drop one two --dry-run") == "2 dead letters would be dropped\n"
        assert await site.told("dead drop one") == "one is dropped\n"
        code, out, err = await site.types("dead drop fine two")
        assert (code, out) == (1, "two is dropped\n")
        assert err == "worker: job fine is no dead letter: it is SUCCESS\n"
        assert [job.id for job in await jobs.find(JobQuery())] == ["fine"]


@pytest.mark.parametrize(
    "line", ["dead retry", "dead drop --dry-run", "dead drop x --all", "dead retry x --task y"]
)
async def test_what_is_to_be_done_to_which_has_to_be_said(tmp_path: Path, line: str) -> None:
    code, out, err = await JobSite(tmp_path).types(line)
    assert (code, out) == (2, "")
    assert "--all" in err


# --- what they need


@pytest.mark.parametrize("line", ["jobs list", "jobs show one", "jobs cancel one", "dead list"])
async def test_the_tasks_are_not_needed(tmp_path: Path, line: str) -> None:
    site = JobSite(tmp_path)
    async with site.engine() as jobs:
        await Clerk(jobs).waits("one")
    (tmp_path / "own_tasks.py").write_text("1 / 0")
    code, _, err = await site.types(line)
    assert (code, "Traceback" in err) == (0, False)


@pytest.mark.parametrize("line", ["jobs list", "dead drop --all", "enqueue ping"])
@pytest.mark.parametrize("setting", ["WORKER_QUEUE_URL", "WORKER_STORE_URL"])
async def test_a_queue_in_memory_is_refused(tmp_path: Path, line: str, setting: str) -> None:
    site = JobSite(tmp_path)
    del site.environment["WORKER_QUEUE_URL"]
    code, out, err = await site.types(line, **{setting: "memory://"})
    assert (code, out) == (78, "")
    assert f"{setting} is memory://, which each process has for itself" in err


@pytest.mark.parametrize("line", ["jobs list", "enqueue ping"])
async def test_a_queue_that_cannot_be_reached_exits_69(tmp_path: Path, line: str) -> None:
    site = JobSite(tmp_path, f"redis://:s3cr3t-pw@127.0.0.1:{refused_port()}/0")
    code, out, err = await site.types(line)
    assert (code, out) == (69, "")
    assert "cannot be reached" in err
    assert "s3cr3t-pw" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("line", ["jobs list", "enqueue ping", "start --no-schedules"])
async def test_what_is_wrong_with_a_url_is_said_of_the_setting_that_was_given(
    tmp_path: Path, line: str
) -> None:
    site = JobSite(tmp_path, "redis://db/none")
    code, _, err = await site.types(line)
    assert (code, "WORKER_QUEUE_URL" in err, "WORKER_STORE_URL" in err) == (78, True, False)
    del site.environment["WORKER_QUEUE_URL"]
    for url in ("redis://db/none", "amqp://db", f"sqlite:///{tmp_path}/own_tasks.py/worker.db"):
        code, _, err = await site.types(line, WORKER_STORE_URL=url)
        assert (code, "WORKER_QUEUE_URL" in err, "WORKER_STORE_URL" in err) == (78, False, True)


@pytest.mark.parametrize("line", ["jobs list", "enqueue ping"])
async def test_a_queue_of_an_unknown_kind_is_refused(tmp_path: Path, line: str) -> None:
    code, out, err = await JobSite(tmp_path, "amqp://me:s3cr3t-pw@host").types(line)
    assert (code, out) == (78, "")
    assert "WORKER_QUEUE_URL: expected memory://, sqlite:///" in err
    assert "s3cr3t-pw" not in err


@pytest.mark.parametrize("kind", ["postgres", "redis", "sqs"])
async def test_the_commands_do_their_work_over_a_queue_for_several_machines(
    tmp_path: Path, kind: str
) -> None:
    with fresh_queue_url(kind, tmp_path) as url:
        site = JobSite(tmp_path, url)
        async with site.engine() as jobs:
            clerk = Clerk(jobs)
            await clerk.die(["one", "two"])
            await clerk.waits("three")
        assert await ids(site, "jobs list --state PENDING") == ["three"]
        assert set(await ids(site, "dead list")) == {"one", "two"}
        assert await site.told("dead retry one") == "one is back in its queue\n"
        assert (await site.types("dead drop --task fails"))[:2] == (
            0,
            "1 dropped, 0 not possible any more\n",
        )
        assert (await site.json("jobs show one"))["state"] == "PENDING"
        assert await site.told("jobs cancel one three") == (
            "one is cancelled\nthree is cancelled\n"
        )


DAY = timedelta(days=1)


# --- what others wrote


async def test_records_that_others_wrote_are_listed_as_far_as_they_can_be(tmp_path: Path) -> None:
    """Any program may write into the tables."""
    site = JobSite(tmp_path)
    odd = {"options": "nul", "headers": "[1", "params": "{no"}
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        await clerk.dies("odd", error="no json", **odd)
        await clerk.dies("list", error='["a list"]', **odd)
        lease = await clerk.runs("runs", **odd)
        await jobs.tell(lease, "[")
    for line in ("jobs list", "dead list"):
        code, out, err = await site.types(line)
        assert (code, err) == (0, "")
        assert "odd" in out
    assert {job["id"] for job in await site.json("jobs list")} == {"odd", "list", "runs"}
    for job_id in ("odd", "list", "runs"):
        for more in ("", "--params", "--json"):
            code, out, err = await site.types(f"jobs show {job_id} {more}")
            assert (code, err) == (0, "")
            assert "nul" in out
