"""The benchmarks run; what they measure is for a person to read, not for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("orders", "raw sockets, 50 at once"),
        ("dispatch", "APScheduler 3 alone"),
        ("start", "idle, after each task ran once"),
    ],
)
def test_benchmark_runs(name: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", name, "--smoke"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
