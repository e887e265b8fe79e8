"""`worker schedule preview`, as its users type it: what it prints, and with which exit code."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from tests.support.processes import WORKER, clean_environment, worker_command
from tests.support.sites import NIGHTLY, Site, rows_of

if TYPE_CHECKING:
    from pathlib import Path


async def previewed(folder: Path, *words: str) -> list[str]:
    """The lines of a preview on Berlin's clocks, with single spaces."""
    code, out, err = await worker_command(
        "schedule", "preview", "--tz", "Europe/Berlin", *words, cwd=folder
    )
    assert (code, err) == (0, "")
    return [" ".join(line.split()) for line in out.splitlines()]


DAILY = ("--cron", "30 2 * * *")
HALF_HOURLY = ("--cron", "*/30 * * * *")
HEAD = "task slot outcome started replica note"


async def test_preview_of_a_fixed_time_in_autumn_runs_it_the_first_of_two_times(
    tmp_path: Path,
) -> None:
    assert await previewed(tmp_path, *DAILY, "--from", "2026-10-24", "--to", "2026-10-27") == [
        HEAD,
        "preview Sat 2026-10-24 02:30:00 +02:00 ran 02:30:00 +02:00 replica-1",
        "preview Sun 2026-10-25 02:30:00 +02:00 ran 02:30:00 +02:00 replica-1 "
        "02:30 comes twice in Europe/Berlin, runs the first time",
        "preview Mon 2026-10-26 02:30:00 +01:00 ran 02:30:00 +01:00 replica-1",
        "preview: 3 ran",
    ]


async def test_preview_of_a_fixed_time_in_spring_runs_it_when_the_clocks_jump(
    tmp_path: Path,
) -> None:
    assert await previewed(tmp_path, *DAILY, "--from", "2027-03-27", "--to", "2027-03-30") == [
        HEAD,
        "preview Sat 2027-03-27 02:30:00 +01:00 ran 02:30:00 +01:00 replica-1",
        "preview Sun 2027-03-28 03:00:00 +02:00 ran 03:00:00 +02:00 replica-1 "
        "clocks jumped: 02:30 does not exist in Europe/Berlin",
        "preview Mon 2027-03-29 02:30:00 +02:00 ran 02:30:00 +02:00 replica-1",
        "preview: 3 ran",
    ]


async def test_preview_of_half_hours_in_autumn_runs_those_that_come_twice_twice(
    tmp_path: Path,
) -> None:
    told = await previewed(
        tmp_path, *HALF_HOURLY, "--from", "2026-10-25T01:30", "--to", "2026-10-25T03:30"
    )
    assert told == [
        HEAD,
        "preview Sun 2026-10-25 01:30:00 +02:00 ran 01:30:00 +02:00 replica-1",
        "preview Sun 2026-10-25 02:00:00 +02:00 ran 02:00:00 +02:00 replica-1 "
        "02:00 comes twice in Europe/Berlin, this is the first time",
        "preview Sun 2026-10-25 02:30:00 +02:00 ran 02:30:00 +02:00 replica-1 "
        "02:30 comes twice in Europe/Berlin, this is the first time",
        "preview Sun 2026-10-25 02:00:00 +01:00 ran 02:00:00 +01:00 replica-1 "
        "02:00 comes twice in Europe/Berlin, this is the second time",
        "preview Sun 2026-10-25 02:30:00 +01:00 ran 02:30:00 +01:00 replica-1 "
        "02:30 comes twice in Europe/Berlin, this is the second time",
        "preview Sun 2026-10-25 03:00:00 +01:00 ran 03:00:00 +01:00 replica-1",
        "preview: 6 ran",
    ]


async def test_preview_of_half_hours_in_spring_leaves_out_those_that_do_not_exist(
    tmp_path: Path,
) -> None:
    told = await previewed(
        tmp_path, *HALF_HOURLY, "--from", "2027-03-28T01:00", "--to", "2027-03-28T04:00"
    )
    assert told == [
        HEAD,
        "preview Sun 2027-03-28 01:00:00 +01:00 ran 01:00:00 +01:00 replica-1",
        "preview Sun 2027-03-28 01:30:00 +01:00 ran 01:30:00 +01:00 replica-1",
        "preview Sun 2027-03-28 03:00:00 +02:00 ran 03:00:00 +02:00 replica-1 "
        "clocks jumped: 02:00 … 02:30 do not exist in Europe/Berlin",
        "preview Sun 2027-03-28 03:30:00 +02:00 ran 03:30:00 +02:00 replica-1",
        "preview: 4 ran",
    ]


async def test_preview_of_a_task_is_an_assertion_about_an_outage(tmp_path: Path) -> None:
    site = Site(tmp_path, NIGHTLY)
    line = "schedule preview nightly --tz Europe/Berlin --from 2026-10-24 --to 2026-10-27"
    assert (await site.told(f"{line} --fail-on missed")).endswith("nightly: 3 ran\n")
    code, out, err = await site.types(f"{line} --outage 02:00-05:00 --fail-on missed")
    assert (code, err) == (1, "")
    assert [row["outcome"] for row in rows_of(out)[:-1]] == ["missed"] * 3
    assert "worker down; 2h30m late, beyond the catch-up window of 1h" in out
    assert out.endswith("nightly: 3 missed\n")
    # It is caught up where the window is wide enough, and an outage that ends before is none.
    (tmp_path / "schedules.toml").write_text('[tasks.nightly]\ncatchup_window = "4h"\n')
    site.environment["WORKER_SCHEDULES_FILE"] = "schedules.toml"
    code, out, _ = await site.types(f"{line} --outage 02:00-05:00 --fail-on missed")
    assert code == 0
    assert "caught up 2h30m late" in out
    once = "--outage 2026-10-24T00:00/2026-10-24T02:00 --fail-on missed --fail-on lost"
    assert (await site.told(f"{line} {once}")).endswith("nightly: 3 ran\n")


async def test_preview_shares_the_slots_among_replicas_and_tells_programs_the_same(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, {"report": ("quick", {"interval": "1h"})})
    line = "schedule preview --from 2026-06-01 --to 2026-06-03 --replicas 3 --takes 5m"
    rows = (await site.table(line))[:-1]
    assert len(rows) == 48
    assert {row["replica"] for row in rows} == {"replica-1", "replica-2", "replica-3"}
    told = await site.json(line)
    assert [line["outcome"] for line in told] == ["ran"] * 48
    assert [line["replica"] for line in told] == [row["replica"] for row in rows]
    zone = ZoneInfo("UTC")
    assert all(datetime.fromisoformat(line["slot"]).tzinfo is not None for line in told)
    assert {datetime.fromisoformat(line["slot"]).astimezone(zone).day for line in told} == {1, 2}


# A long preview

YEAR = ("--from", "2026-01-01", "--to", "2027-01-01", "--tz", "Europe/Berlin")
EVERY_5_MINUTES = ("schedule", "preview", "--cron", "*/5 * * * *")


async def test_a_year_of_every_five_minutes_is_shown_and_counted(tmp_path: Path) -> None:
    words = (*EVERY_5_MINUTES, *YEAR, "--fail-on", "missed")
    code, out, err = await worker_command(*words, cwd=tmp_path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == HEAD.split()
    assert len(lines) == 1 + 105_120 + 1
    assert sum("comes twice" in line for line in lines) == 24
    assert lines[-1] == "preview: 105120 ran"
    starts = {line.index("ran ") for line in lines[1:-1]}
    assert len(starts) == 1, "columns are aligned"


async def test_a_year_is_json_and_fails_on_an_outcome_at_its_very_end(tmp_path: Path) -> None:
    outage = ("--outage", "2026-12-31T20:00/2026-12-31T23:59")
    words = (*EVERY_5_MINUTES, *YEAR, *outage, "--fail-on", "missed", "--json")
    code, out, err = await worker_command(*words, cwd=tmp_path)
    assert (code, err) == (1, "")
    told = json.loads(out)
    assert sum(line["count"] for line in told) == 105_120
    assert [line["slot"] for line in told] == sorted(line["slot"] for line in told)
    missed = [line for line in told if line["outcome"] == "missed"]
    assert sum(line["count"] for line in missed) == 47
    assert told[-1]["note"].startswith("caught up")


@pytest.mark.parametrize("where", ["output", "errors"])
def test_a_long_preview_shows_its_progress_on_a_terminal(tmp_path: Path, where: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*WORKER, *EVERY_5_MINUTES, "--from", "2026-01-01", "--to", "2026-02-01"],
        env=clean_environment(COLUMNS="200", TERM="xterm"),
        cwd=tmp_path,
        stdout=theirs if where == "output" else subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    assert b"previewing" in shown
    assert b"%" in shown
    rows = sum(b"replica-1" in line for line in shown.splitlines())
    assert rows == (31 * 288 if where == "output" else 0)


async def test_uneven_steps_are_noted_beside_the_preview(tmp_path: Path) -> None:
    words = ("--from", "2026-01-01", "--to", "2026-01-01T00:30", "--json")
    code, out, err = await worker_command(
        "schedule", "preview", "--cron", "*/7 * * * *", *words, cwd=tmp_path
    )
    assert (code, len(json.loads(out))) == (0, 5)
    assert "*/7 in the minute field begins again at 0 with each hour" in err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--cron", "@daily", "--tz", "berlin"), "did you mean 'Europe/Berlin'"),
        (("--cron", "@daily", "--tz", "right/Europe/Berlin"), "did you mean 'Europe/Berlin'"),
        (("--cron", "@every 5d"), "write interval='5d'"),
        (("--cron", "*/90 * * * *"), "write interval='90m'"),
    ],
)
async def test_what_cannot_be_previewed_is_refused_with_what_to_write(
    tmp_path: Path, words: tuple[str, ...], hint: str
) -> None:
    code, out, err = await worker_command(
        "schedule", "preview", *words, environment={"COLUMNS": "1000"}, cwd=tmp_path
    )
    assert (code, out) == (2, "")
    assert hint in " ".join(err.split())
