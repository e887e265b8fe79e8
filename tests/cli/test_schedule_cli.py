"""The commands around schedules, as their users type them."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import pty
import signal
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import WORKER, clean_environment, worker_command
from tests.support.sites import HELD, HOURLY, NIGHTLY, REPLICA, Site, Tasks, ago, rows_of
from worker.ledger.book import Outcome

if TYPE_CHECKING:
    from pathlib import Path

BUILT_IN = ["cleanup_old_orders", "send_reminders", "sync_external_data", "process_pending_orders"]
ME = f"{getpass.getuser()}@{socket.gethostname()}"
OFTEN: Tasks = {"report": ("quick", {"interval": "300ms"})}


def one_sentence(text: str) -> str:
    """A complaint without the box that is drawn around it."""
    return " ".join(text.replace("│", " ").split())


# --- list, history, metrics


async def test_a_schedule_whose_task_is_gone_leaves_a_trace_until_it_is_forgotten(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, {**HOURLY, "old": ("quick", {"interval": "1h"})})
    with site.claimant() as past:
        past.ran("old", ago(hours=2.5))
    site = Site(tmp_path, HOURLY)
    code, out, err = await site.types("schedule list")
    assert code == 0
    assert "old" not in {row["task"] for row in rows_of(out)}
    assert err.startswith("worker: old has a schedule in the ledger, and this application has no ")
    assert err.rstrip().endswith("purpose: `worker schedule forget old`")
    verdict, fact = (await site.told("explain old")).splitlines()
    assert verdict == "old has a schedule in the ledger, and this application has no such task"
    assert fact.startswith("  - it was every 1h; its latest slot, of 20")
    assert "worker_schedules_dropped 1.0" in await site.told("schedule metrics")
    code, _, err = await site.types("schedule forget report")
    assert code == 2
    assert "report is a task of this application" in one_sentence(err)
    assert await site.told("schedule forget old") == "old is forgotten; its history stays\n"
    await site.told("schedule list")
    assert len(await site.json("schedule history old")) == 1


async def test_a_run_that_goes_on_hides_nothing_in_the_list(tmp_path: Path) -> None:
    site = Site(tmp_path, {"report": ("quick", {"interval": "1h", "max_age": "2h"})})
    with site.claimant() as past:
        past.ran("report", ago(hours=5))
        past.attends("report", ago())
        (row,) = [row for row in await site.table("schedule list") if row["task"] == "report"]
        assert row["state"].startswith("running, stale since ")
        assert [one["state"] for one in await site.json("schedule list")][-1] == "stale"


async def test_what_others_wrote_cannot_steer_the_terminal_nor_hold_a_secret(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, HOURLY)
    site.environment["WORKER_DATA_API_TOKEN"] = "s3cret"
    words = "\x1b]0;mine\x07\x1b[2Jgone\x9b1m \u202eright http://me:pw@host/ s3cret\nnext"
    with site.claimant("\x1b[31mred") as past:
        past.ran("report", ago(hours=3), Outcome.FAILED, words)
        said = await site.told("schedule pause report", "--note", words)
        assert len(said.splitlines()) == 1
        lines = [said]
        for line in ("schedule list", "schedule history", "explain report"):
            lines += [await site.told(line), await site.told(f"{line} --json")]
        lines.append(await site.told("schedule resume report"))
    for out in lines:
        assert "s3cret" not in out
        assert "pw@" not in out
        assert "".join(out.split("\n")).isprintable()
    table = rows_of(lines[3])
    assert "\\x1b]0;mine\\x07" in table[-1]["note"]
    assert all(line.startswith(("task ", "report ")) for line in lines[3].splitlines())
    failed = next(e for e in json.loads(lines[4]) if e["outcome"] == "failed")
    assert failed["error"].startswith("\x1b]0;mine"), "JSON tells what there is"


async def test_an_empty_ledger_shows_each_schedule_as_new_and_no_history(tmp_path: Path) -> None:
    site = Site(tmp_path, NIGHTLY)
    rows = await site.table("schedule list --tz Europe/Berlin")
    assert [row["task"] for row in rows] == [*BUILT_IN, "nightly"]
    assert {row["state"] for row in rows[:4]} == {"off"}
    assert (rows[4]["state"], rows[4]["schedule"]) == ("new", "30 2 * * * Europe/Berlin")
    slots = [slot[-8:] for slot in rows[4]["next slots"].split()]
    assert len(slots) == 3
    assert set(slots) <= {"02:30:00", "03:00:00"}, "but for the day on which the clocks jump"
    assert rows[4]["last outcome"] == "-"
    assert [rows[4][what] for what in ("ran", "failed", "not run")] == ["0", "0", "0"]

    code, out, err = await site.types("schedule history")
    assert (code, out, err) == (0, "", "no slot of that kind is recorded\n")
    assert await site.json("schedule history") == []
    metrics = await site.told("schedule metrics")
    assert "worker_replicas 0.0\n" in metrics
    assert 'worker_slots_total{task="nightly",outcome="ran"} 0.0\n' in metrics
    assert 'worker_last_success_timestamp_seconds{task="nightly"}' not in metrics


async def test_list_and_metrics_tell_state_last_outcome_and_counts(tmp_path: Path) -> None:
    tasks: Tasks = {
        "fine": ("quick", {"interval": "1h"}),
        "failing": ("fails", {"interval": "1h"}),
        "stale": ("fails", {"interval": "1h", "max_age": "2h"}),
        "over": ("quick", {"interval": "1h", "max_runs": 1}),
        "busy": ("held", {"interval": "1h"}),
    }
    site = Site(tmp_path, tasks)
    now = ago()
    with site.claimant() as past:
        for name in ("fine", "over"):
            past.ran(name, now - timedelta(hours=3))
        past.ran("fine", now)
        past.ran("stale", ago(hours=5))
        for name in ("failing", "stale"):
            past.ran(name, ago(minutes=1), Outcome.FAILED, "the far side is full")
        (running,) = past.attends("busy", ago(minutes=1))
        rows = {row["task"]: row for row in await site.table("schedule list")}
        told = {row["task"]: row for row in await site.json("schedule list")}
        metrics = (await site.told("schedule metrics")).splitlines()
    state = {name: rows[name]["state"] for name in tasks}
    assert state.pop("stale").startswith("stale since ")
    assert rows["stale"]["state"].endswith(", failing (1 failed in a row)")
    assert state == {
        "fine": "ok",
        "failing": "failing (1 failed in a row)",
        "over": "over",
        "busy": "running",
    }
    assert {name: told[name]["state"] for name in tasks} == {
        name: row["state"].split()[0] for name, row in rows.items() if name in tasks
    }
    assert rows["fine"]["last outcome"].startswith("ran ")
    assert rows["stale"]["last outcome"].startswith("failed ")
    assert (rows["stale"]["ran"], rows["stale"]["failed"]) == ("1", "1")
    assert rows["over"]["next slots"] == "-"
    assert rows["fine"]["not run"] == "2", "those that passed in between"
    assert told["fine"]["counts"] == {"ran": 2, "missed": 2}
    assert told["failing"]["last_error"] == "the far side is full"
    assert told["stale"]["max_age_s"] == 7200
    assert datetime.fromisoformat(told["stale"]["stale_since"]) < ago(hours=2.5)
    (entry,) = told["busy"]["running"]
    assert (entry["run_id"], entry["replica"]) == (running.run_id, REPLICA)
    for line in (
        'worker_slots_total{task="fine",outcome="missed"} 2.0',
        'worker_slots_total{task="failing",outcome="failed"} 1.0',
        'worker_task_fresh{task="stale"} 0.0',
        'worker_consecutive_failures{task="failing"} 1.0',
        'worker_schedule_paused{task="fine"} 0.0',
        "worker_replicas 1.0",
    ):
        assert line in metrics
    samples = [line.split("{")[0].split(" ")[0] for line in metrics if not line.startswith("#")]
    helped = [line.split()[2] for line in metrics if line.startswith("# HELP")]
    assert set(samples) <= set(helped)


async def test_history_is_filtered_by_task_outcome_and_time_and_told_in_a_zone(
    tmp_path: Path,
) -> None:
    every: Tasks = {name: ("quick", {"interval": "1h", "phase": "0s"}) for name in ("a", "b")}
    site = Site(tmp_path, every)
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    with site.claimant() as past:
        for name in every:
            past.ran(name, noon)
        past.ran("a", noon + timedelta(hours=4), Outcome.FAILED, "the far side is full")

    rows = await site.table("schedule history a --tz Europe/Berlin")
    assert [(row["slot"], row["outcome"], row["note"]) for row in rows] == [
        ("2026-06-01 18:00:00.000+02:00", "failed", "the far side is full"),
        (
            "2026-06-01 15:00:00.000+02:00",
            "missed",
            "3 slots, to 2026-06-01 17:00:00.000+02:00; "
            "no worker looked at it in time; the slot of 16:00:00Z ran instead",
        ),
        ("2026-06-01 14:00:00.000+02:00", "ran", ""),
    ]
    assert {row["replica"] for row in rows} == {REPLICA, "-"}

    async def slots(*words: str) -> list[str]:
        entries = await site.json("schedule history", *words)
        return [f"{entry['task']} {entry['slot'][11:16]} {entry['outcome']}" for entry in entries]

    assert await slots("--outcome", "failed", "--outcome", "missed") == [
        "a 16:00 failed",
        "a 13:00 missed",
    ]
    assert await slots("--outcome", "ran", "--limit", "1") in (["a 12:00 ran"], ["b 12:00 ran"])
    # A moment without a distance from UTC is one on the clocks of --tz.
    berlin = ["--tz", "Europe/Berlin"]
    assert await slots("--from", "2026-06-01T15:00", "--to", "2026-06-01T18:00", *berlin) == [
        "a 13:00 missed"
    ]
    assert await slots("--from", "2026-06-01T15:30Z", *berlin) == ["a 16:00 failed"]
    assert await slots("--from", "2026-06-02") == []


async def test_history_of_a_task_that_only_the_ledger_knows_is_shown(tmp_path: Path) -> None:
    with Site(tmp_path, HOURLY).claimant() as past:
        past.ran("report", ago(minutes=1))
    site = Site(tmp_path, NIGHTLY)
    assert [row["outcome"] for row in await site.table("schedule history report")] == ["ran"]


def test_on_a_terminal_the_tables_have_heads_and_nothing_is_lost_on_a_wide_one(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, NIGHTLY)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*WORKER, "schedule", "list"],
        env=clean_environment(**site.environment, COLUMNS="200", TERM="xterm"),
        cwd=tmp_path,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert b"next slots" in shown
    assert b"30 2 * * * Europe/Berlin" in shown


# --- names and values that are wrong


@pytest.mark.parametrize(
    "line",
    [
        "explain reprot",
        "schedule history reprot",
        "schedule pause reprot",
        "schedule resume reprot",
        "schedule run reprot",
        "schedule backfill reprot --from -3h --to now",
        "schedule preview reprot",
    ],
)
async def test_an_unknown_task_exits_2_and_names_the_nearest(tmp_path: Path, line: str) -> None:
    code, out, err = await Site(tmp_path, HOURLY).types(line)
    assert (code, out) == (2, "")
    assert err.startswith("worker: unknown task 'reprot' (did you mean 'report'?); known: ")
    assert err.count("\n") == 1


MOMENT = "expected a moment such as 2026-11-21T09:30:00Z, a date, or -3h, got "
ZONE = "such as Europe/Berlin or UTC, got "
OUTAGE = "expected an outage such as 02:00-05:00 (each day), or 2026-10-25T02:00/2026-10-25T05:00"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("schedule history --from yesterday", f"{MOMENT}'yesterday'"),
        ("schedule history --to -99999999d", f"{MOMENT}'-99999999d'"),
        ("schedule history --to 2026-13-01", f"{MOMENT}'2026-13-01'"),
        ("schedule history --outcome gone", "'gone' is not one of 'waiting', 'running', 'ran'"),
        ("schedule list --tz Mars/Olympus", f"{ZONE}'Mars/Olympus'"),
        ("schedule history --tz ../etc/passwd", f"{ZONE}'../etc/passwd'"),
        ("schedule run report --overlap never", "'never' is not one of 'skip', 'buffer_one'"),
        ("run report --overlap never", "'never' is not one of 'skip', 'buffer_one'"),
        ("schedule backfill report --from -3h", "Missing option '--to'"),
        ("schedule backfill report --from -1h --to -3h", "expected a range that ends after it"),
        ("schedule backfill report --from -1h --to +1h", "expected a range that ends in the past"),
        ("schedule backfill report --from -365d --to now", "more than 1000 slots lie in that"),
        ("schedule backfill idle --from -3h --to now", "idle has no schedule, so it has no slots"),
        ("schedule preview idle", "idle has no slots: it is off, own_tasks:quick says so"),
        ("schedule preview --cron 61_*_*_*_*", "expected a cron expression of five fields"),
        ("schedule preview --cron @daily --from never", f"{MOMENT}'never'"),
        ("schedule preview --cron @daily --tz Nowhere", f"{ZONE}'Nowhere'"),
        ("schedule preview --cron @daily --outage 2-5", f"{OUTAGE} (once), got '2-5'"),
        ("schedule preview --cron @daily --outage 05:00-05:00", OUTAGE),
        ("schedule preview --cron @daily --takes ages", "expected a duration such as 90s"),
        ("schedule preview --cron @daily --fail-on gone", "'gone' is not one of"),
        ("schedule preview --cron @daily --replicas 101", "replicas must be from 1 to 100"),
        ("schedule preview --cron @daily --from now --to -1h", "must end after it starts"),
    ],
)
async def test_what_is_typed_wrongly_exits_2_and_says_what_was_expected(
    tmp_path: Path, line: str, complaint: str
) -> None:
    tasks: Tasks = {**HOURLY, "idle": ("quick", {"interval": "off"})}
    words = [word.replace("_", " ") if "*" in word else word for word in line.split()]
    code, out, err = await Site(tmp_path, tasks).types("", *words)
    assert (code, out) == (2, "")
    assert complaint in one_sentence(err)
    assert "Traceback" not in err


async def test_a_preview_of_the_last_day_that_there_is_ends_with_it(tmp_path: Path) -> None:
    code, out, err = await worker_command(
        *("schedule", "preview", "--cron", "@daily", "--from", "9999-12-31T12:00"), cwd=tmp_path
    )
    assert (code, out, err) == (0, "", "no slot lies in that time\n")


# --- pause, resume, run, backfill


async def test_a_pause_is_kept_over_restarts_and_its_slots_are_recorded(tmp_path: Path) -> None:
    site = Site(tmp_path, OFTEN)
    async with site.worker() as worker:
        await worker.logged("run.finished", task="report")
        told = await site.told("schedule pause report -m", "moving house")
        assert told == f"report is paused by {ME}: moving house\n"
        await worker.logged("slot.skipped", task="report", outcome="paused")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    async with site.worker() as worker:
        await worker.logged("slot.skipped", task="report", outcome="paused")
        assert not worker.told("run.started")
        (row,) = [row for row in await site.table("schedule list") if row["task"] == "report"]
        assert row["state"].startswith(f"paused by {ME}: moving house")
        assert "report is resumed; its next slot is 20" in await site.told("schedule resume report")
        await worker.logged("run.finished", task="report")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    outcomes = [entry.outcome for entry in site.history("report")]
    began = outcomes.index(Outcome.PAUSED)
    again = outcomes.index(Outcome.RAN, began)
    assert set(outcomes[:began]) == {Outcome.RAN}
    assert set(outcomes[began:again]) <= {Outcome.PAUSED, Outcome.MISSED}


async def test_a_second_pause_without_a_note_changes_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, HOURLY)
    await site.told("schedule pause report -m", "moving house")
    assert "moving house" in await site.told("schedule pause report")
    assert "for longer" in await site.told("schedule pause report --note", "for longer")
    (view,) = [view for view in await site.json("schedule list") if view["task"] == "report"]
    assert view["paused"]["by"] == ME
    assert view["paused"]["note"] == "for longer"
    assert (await site.told("schedule resume report")).startswith("report is resumed; ")
    assert (await site.told("schedule resume report")).startswith("report was not paused; ")


async def test_a_run_and_a_backfill_are_picked_up_by_a_worker_and_recorded(tmp_path: Path) -> None:
    site = Site(tmp_path, NIGHTLY)
    backfill = "schedule backfill nightly --from 2025-10-25 --to 2025-10-28 --tz Europe/Berlin"
    async with site.worker() as worker:
        await worker.logged("worker.ready")
        assert await site.told("schedule run nightly") == "nightly was asked for; 1 worker is up\n"
        await worker.logged("run.finished", trigger="manual")
        assert await site.told(backfill) == "3 slots of nightly were asked for; 1 worker is up\n"
        await worker.logged("run.finished", trigger="backfill", count=3)
        assert await site.told(backfill) == (
            "nothing was asked for: 3 slots were asked for before\n"
        )
        longer = backfill.replace("10-28", "10-29")
        assert await site.told(longer) == (
            "1 slot of nightly was asked for (3 slots were asked for before); 1 worker is up\n"
        )
        await worker.logged("run.finished", trigger="backfill", count=4)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert len(worker.told("run.started", trigger="backfill")) == 4
    rows = await site.table("schedule history nightly --outcome ran --tz Europe/Berlin")
    made_good = [row["slot"] for row in rows if row["note"] == "backfill"]
    assert made_good == [
        "2025-10-28 02:30:00.000+01:00",
        "2025-10-27 02:30:00.000+01:00",
        "2025-10-26 02:30:00.000+02:00",
        "2025-10-25 02:30:00.000+02:00",
    ]
    assert [row["late"] for row in rows if row["note"] == "manual"] == ["-"]


async def test_what_is_asked_for_while_no_worker_is_up_waits_for_one(tmp_path: Path) -> None:
    site = Site(tmp_path, {"idle": ("quick", {"interval": "off"})})
    assert await site.told("schedule run idle") == (
        "idle was asked for; no worker is up, and the next one to start will see to it\n"
    )
    said = await site.told("explain idle")
    assert "1 slot waits for its turn" in said
    async with site.worker() as worker:
        await worker.logged("run.finished", task="idle", trigger="manual")


async def test_a_run_by_hand_may_be_told_what_to_do_about_another(tmp_path: Path) -> None:
    site = Site(tmp_path, HELD)
    async with site.worker() as worker:
        await worker.logged("run.started", task="report")
        code, out, err = await site.types("run report --overlap skip", WORKER_REPLICA="hand")
        assert (code, out) == (75, "")
        assert err.startswith(f"worker: report runs already, on {REPLICA}, since ")
        assert "--overlap buffer_one, cancel_other or allow_all" in err
        asked = site.types("run report --json --overlap allow_all", WORKER_REPLICA="hand")
        beside = asyncio.create_task(asked, name="by hand")
        while len(site.history("report", Outcome.RUNNING)) < 2:
            assert not beside.done()
            await asyncio.sleep(0.01)
        site.touch("go")
        code, out, _ = await beside
        assert (code, json.loads(out)["state"]) == (0, "SUCCESS")
        await worker.logged("run.finished", task="report")


# --- a shell that lacks the worker's settings


async def test_commands_of_a_shell_without_the_schedules_file_change_only_what_they_say(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, {"report": ("quick", {"interval": "3h"})})
    path = tmp_path / "schedules.toml"
    path.write_text('[tasks.report]\ncron = "* * * * *"\n')
    async with site.worker(WORKER_SCHEDULES_FILE=str(path)) as worker:
        await worker.logged("worker.ready")
        await site.has_joined("report")
        (before,) = site.book("report").versions
        code, out, err = await site.types("schedule list --json")
        (row,) = [row for row in json.loads(out) if row["task"] == "report"]
        assert (code, row["schedule"]) == (0, "* * * * * UTC")
        assert "in this shell it is every 3h" in one_sentence(err)
        await site.told("schedule pause report -m moving")
        assert "report is resumed" in await site.told("schedule resume report")
        (after,) = site.book("report").versions
        assert (after.spec, after.since, after.until) == (before.spec, before.since, None)
        start, end = ago(minutes=4).isoformat(), ago(minutes=1).isoformat()
        code, out, err = await site.types("schedule backfill report", "--from", start, "--to", end)
        assert (code, out.split()[0]) == (0, "3")
        assert "the workers' schedule, * * * * * UTC" in one_sentence(err)
        (after,) = site.book("report").versions
        assert (after.spec, after.since, after.until) == (before.spec, before.since, None)
        facts = await site.told("explain report")
        assert "its schedule is * * * * * UTC, said by" in facts
        assert "here it is every 3h" in facts
