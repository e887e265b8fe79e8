"""The benchmarks run; what they measure is for a person to read, not for a test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.queues import ENGINES

ROOT = Path(__file__).parents[2]


def report_of(*arguments: str) -> str:
    """What a run of tiny sizes prints."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--smoke", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("orders", "raw sockets, 50 at once"),
        ("dispatch", "APScheduler 3 alone"),
        ("start", "idle, after each task ran once"),
        ("watching", "traces, all sampled"),
        ("ops", "with both listeners"),
    ],
)
def test_benchmark_runs(name: str, expected: str) -> None:
    assert expected in report_of("--only", name)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_of_queues_is_measured_against_its_limit(engine: str) -> None:
    report = report_of("--only", "queues", "--engines", engine)
    assert f"queues: {engine}" in report
    missing = re.search("not measured: (.+)", report)
    if missing is not None:
        pytest.skip(missing[1])
    for line in ("one by one", "at once", "processed/s", "CPU us/job", "p50", "p99", "idle CPU"):
        assert re.search(rf"^.*{line}.* \d+\.\d\dx$", report, re.MULTILINE), report


def test_an_engine_that_is_none_is_refused() -> None:
    with pytest.raises(AssertionError, match="expected some of memory,sqlite,postgres,redis,sqs"):
        report_of("--only", "queues", "--engines", "rabbit")
