"""Schedules from a file, TOML or YAML, and every way in which one can be wrong."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from worker.config.schedules_file import load_schedules
from worker.errors import ConfigurationError
from worker.schedules.registration import task_schedule

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MOMENT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)

TOML = """
[tasks.cleanup]
cron = "0 3 * * *"
timezone = "Europe/Berlin"
max_age = "26h"
overlap = "buffer_all"
buffer_limit = 5
catchup = "all"
catchup_window = "1d"
catchup_limit = 3
jitter = "5m"
max_runs = 9
pause_after_failures = 3
retry_lost = 1
needs_ledger = false
start_at = 2026-11-21T09:30:00Z
end_at = "2027-11-21T10:30:00+01:00"

[tasks.reminders]
interval = 90
phase = "10s"

[tasks.report]
interval_seconds = 0.5

[tasks.once]
at = 2026-11-21T10:30:00+01:00

[tasks.off]
enabled = false

[tasks.off_too]
interval = "off"

[tasks.policies_only]
enabled = true
overlap = "allow_all"
"""
YAML = """
tasks:
  cleanup:
    cron: 0 3 * * *
    timezone: Europe/Berlin
    max_age: 26h
    overlap: buffer_all
    buffer_limit: 5
    catchup: all
    catchup_window: 1d
    catchup_limit: 3
    jitter: 5m
    max_runs: 9
    pause_after_failures: 3
    retry_lost: 1
    needs_ledger: false
    start_at: 2026-11-21T09:30:00Z
    end_at: "2027-11-21T10:30:00+01:00"
  reminders: {interval: 90, phase: 10s}
  report: {interval_seconds: 0.5}
  once: {at: 2026-11-21T10:30:00+01:00}
  "off": {enabled: no}  # YAML 1.1 reads a bare off as false
  off_too: {interval: off}
  policies_only: {enabled: yes, overlap: allow_all}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return written


@pytest.mark.parametrize(
    ("name", "text"), [("plan.toml", TOML), ("plan.yaml", YAML), ("plan.YML", YAML)]
)
def test_every_option_can_be_said_in_a_file(
    write: Callable[[str, str], Path], name: str, text: str
) -> None:
    schedules = load_schedules(write(name, text))
    assert schedules.pop("cleanup") == {
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "max_age": "26h",
        "overlap": "buffer_all",
        "buffer_limit": 5,
        "catchup": "all",
        "catchup_window": "1d",
        "catchup_limit": 3,
        "jitter": "5m",
        "max_runs": 9,
        "pause_after_failures": 3,
        "retry_lost": 1,
        "needs_ledger": False,
        "start_at": MOMENT,
        "end_at": "2027-11-21T10:30:00+01:00",
    }
    assert schedules.pop("once") == {"at": MOMENT}
    assert schedules == {
        "reminders": {"interval_seconds": 90, "phase": "10s"},
        "report": {"interval_seconds": 0.5},
        "off": {"interval": "off"},
        "off_too": {"interval": "off"},
        "policies_only": {"overlap": "allow_all"},
    }


def test_what_a_file_says_means_the_same_as_in_code(write: Callable[[str, str], Path]) -> None:
    from_toml = load_schedules(write("plan.toml", TOML))
    from_yaml = load_schedules(write("plan.yaml", YAML))
    for name in ("cleanup", "reminders", "report", "once", "off"):
        assert task_schedule(name, from_toml[name]) == task_schedule(name, from_yaml[name])
    assert task_schedule("off", from_toml["off"]).schedule is None


def test_a_task_that_is_switched_off_keeps_its_other_options(
    write: Callable[[str, str], Path],
) -> None:
    text = "[tasks.x]\nenabled = false\ncron = '@daily'\ntimezone = 'Asia/Tokyo'\nmax_age = '1h'"
    assert load_schedules(write("plan.toml", text)) == {"x": {"interval": "off", "max_age": "1h"}}


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('[tasks.x]\ninterval = "1h"\n', "utf-8-sig")
    assert load_schedules(path) == {"x": {"interval": "1h"}}


@pytest.mark.parametrize(
    ("name", "text", "complaints"),
    [
        (
            "plan.toml",
            "",
            [
                "expected tables [tasks.NAME] with options of its schedule, such as "
                "interval or cron; got no tasks"
            ],
        ),
        ("plan.toml", "tasks = 5", ["got no tasks"]),
        ("plan.toml", "[x]\na = 1", ["got no tasks"]),
        (
            "plan.toml",
            "[tasks.x]\ninterval='1h'\n[settings]\n[more]",
            ["got more, settings beside it"],
        ),
        ("plan.toml", "[tasks]\nx = '1h'", ["tasks.x: expected tables [tasks.NAME]", "got '1h'"]),
        ("plan.toml", "[tasks.x", ["it is no TOML: "]),
        ("plan.toml", "[tasks.x]\ncolour = 1", ["'x': unknown option colour; known: at,"]),
        ("plan.toml", "[tasks.x]\ninterval='1h'\ncron='@daily'", ["'x' needs to know once when"]),
        (
            "plan.toml",
            "[tasks.x]\nenabled = 'no'",
            ["'x': enabled: expected true or false, got 'no'"],
        ),
        (
            "plan.toml",
            "[tasks.x]\ninterval = true",
            ["interval: expected a timedelta, a number of seconds, or a text"],
        ),
        ("plan.toml", "[tasks.x]\ninterval = -5", ["an interval cannot be negative"]),
        (
            "plan.toml",
            "[tasks.x]\nat = 2026-11-21T09:30:00",
            ["at: expected a moment with its time"],
        ),
        ("plan.toml", "[tasks.x]\nat = 2026-11-21", ["at: expected a moment with its time zone"]),
        (
            "plan.toml",
            "[tasks.x]\ninterval = 'often'\n[tasks.y]\nmax_runs = 0\n[tasks.z]\ninterval = 5",
            ["'x': interval: expected a duration", "'y': max_runs: expected a whole number"],
        ),
        ("plan.yaml", "", ["expected tables [tasks.NAME]"]),
        ("plan.yaml", "- tasks", ["expected tables [tasks.NAME]"]),
        ("plan.yaml", "tasks: {x: [", ["it is no YAML: "]),
        ("plan.yaml", "tasks: !!python/object:os.system {}", ["it is no YAML: "]),
        ("plan.yaml", "tasks: {x: {at: 2026-13-45T00:00:00Z}}", ["it is no YAML: month must be"]),
        ("plan.yaml", "tasks: {5: {interval: 1h}}", ["tasks.5: expected a task's name, got 5"]),
        ("plan.yaml", "tasks: {off: {interval: 1h}}", ["tasks.False: expected a task's name"]),
        ("plan.yaml", "tasks: {x: {5: 1h}}", ["'x': unknown option 5; known"]),
        ("plan.yaml", "tasks: {x: {interval: 1h}}\n5: 6", ["got 5 beside it"]),
        ("plan.yaml", "tasks: {x: {max_runs: off}}", ["max_runs: expected a whole number from 1"]),
        ("plan.yaml", "tasks: {x: {cron: 0 3 * * *, timezone: }}", ["'x': timezone: expected a"]),
        ("plan.toml", "[tasks.x]\nenabled = false\nmax_runs = 0", ["'x': max_runs: expected a"]),
        ("plan.toml", "[tasks.x]\ncron = '0 3 * * *'\ntimezone = ''", ["time zone's IANA name"]),
        ("plan.json", "{}", ["expected a name that ends in .toml, .yaml or .yml, got 'plan.json'"]),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(
    write: Callable[[str, str], Path], name: str, text: str, complaints: list[str]
) -> None:
    path = write(name, text)
    with pytest.raises(ConfigurationError) as refused:
        load_schedules(path)
    told = refused.value.problems
    assert all(problem.startswith(f"WORKER_SCHEDULES_FILE {path}: ") for problem in told)
    assert [c for c in complaints if c not in "\n".join(told)] == []


def test_every_problem_of_a_file_is_named_at_once(write: Callable[[str, str], Path]) -> None:
    path = write("plan.toml", "[tasks.x]\ninterval='often'\n[tasks.y]\nmax_runs=0\n[tasks.z]\n")
    with pytest.raises(ConfigurationError) as refused:
        load_schedules(path)
    assert len(refused.value.problems) == 2


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file or directory"):
        load_schedules(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_schedules(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes("# größer\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match="it is not UTF-8 text"):
        load_schedules(latin)


def test_without_pyyaml_a_yaml_file_is_refused_with_the_remedy(
    write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'sidecar-worker\[yaml\]'"):
        load_schedules(write("plan.yaml", YAML))


def test_a_toml_file_needs_no_pyyaml(
    write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    schedules: dict[str, Any] = {**load_schedules(write("plan.toml", TOML))}
    assert len(schedules) == 7
