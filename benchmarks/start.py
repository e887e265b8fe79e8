"""How soon the worker is ready, and how much memory it holds when it has nothing to do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.light_api import running_api
from benchmarks.report import Report, spread

__all__ = ["TASKS", "WORKER", "Started", "environment", "measure", "started"]

WANTED_READY_S = 1.0
WANTED_RSS_MB = 60.0

WORKER = (sys.executable, "-m", "worker")
COUNT_AT_EXIT = "import atexit, sys; atexit.register(lambda: print(len(sys.modules)))"
NOTHING = (sys.executable, "-c", COUNT_AT_EXIT)
WORKER_THAT_COUNTS = (
    sys.executable,
    "-c",
    f"{COUNT_AT_EXIT}; from worker.cli.main import main; main(['start'])",
)
"""As the command ``worker start``; at its end it prints how many modules it had imported."""
TASKS = 4


class Started:
    """A worker in a process of its own, and what it says."""

    def __init__(self, process: subprocess.Popen[str], began: float) -> None:
        self._process = process
        self._began = began

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, event: str, times: int = 1) -> float:
        """Seconds from the start of the process until the log has told ``event`` so often.

        Raises:
            RuntimeError: The worker ended before.
        """
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if json.loads(line)["event"] == event:
                times -= 1
            if times == 0:
                return time.perf_counter() - self._began
        raise RuntimeError(f"the worker ended before {event}")

    def memory_mb(self) -> dict[str, float]:
        """``Rss`` and, where the system tells, ``Pss``; empty on a system without ``/proc``."""
        found: dict[str, float] = {}
        for file, name, key in (
            ("status", "VmRSS", "Rss"),
            ("smaps_rollup", "Pss", "Pss"),
        ):
            try:
                text = Path(f"/proc/{self._process.pid}/{file}").read_text("ascii")
            except OSError:
                continue
            match = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
            if match:
                found[key] = int(match[1]) / 1024
        return found

    def end(self) -> str:
        """Ask the worker to end; its standard output."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=30)
        if self._process.returncode != 0:
            raise RuntimeError(f"expected exit code 0, got {self._process.returncode}")
        return output


def environment(data_api_url: str, **settings: str) -> dict[str, str]:
    """The caller's, without what would configure a worker."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
    return {**kept, "WORKER_DATA_API_URL": data_api_url, "WORKER_LOG_FORMAT": "json", **settings}


@contextmanager
def started(command: Sequence[str], env: dict[str, str]) -> Iterator[Started]:
    with tempfile.TemporaryDirectory() as empty:  # so that no .env is found
        began = time.perf_counter()
        with subprocess.Popen(
            command,
            env=env,
            cwd=empty,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Started(process, began)
            finally:
                process.kill()


def ready_s() -> float:
    # Nothing listens on port 1; the worker says that it is ready without asking.
    with started((*WORKER, "start"), environment("http://127.0.0.1:1")) as worker:
        took = worker.wait_for("worker.ready")
        worker.end()
        return took


def takes_s(*command: str) -> float:
    with tempfile.TemporaryDirectory() as empty:
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=empty)
        return time.perf_counter() - began


def measure(report: Report, smoke: bool) -> None:
    rounds = 1 if smoke else 5
    report.title("start and memory")
    report.text(f"Times: median (least-most) of {rounds} interleaved rounds, from the fork on.")
    kinds: dict[str, Callable[[], float]] = {
        "worker start, until worker.ready": ready_s,
        "worker --help": lambda: takes_s(*WORKER, "--help"),
        "python -c 'import worker'": lambda: takes_s(sys.executable, "-c", "import worker"),
        "python -c pass": lambda: takes_s(sys.executable, "-c", "pass"),
    }
    seen: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, timed in kinds.items():
            seen[name].append(timed())
    report.table(
        ("command", "ms"),
        [(name, spread([second * 1000 for second in took])) for name, took in seen.items()],
    )
    ready = median(seen["worker start, until worker.ready"])
    report.target(
        f"ready in less than {WANTED_READY_S:g} s", f"{ready:.2f} s", met=ready < WANTED_READY_S
    )
    measure_memory(report)


def measure_memory(report: Report) -> None:
    with running_api(0) as api:
        soon = environment(api.url, WORKER_FIRST_RUN_DELAY="200ms", WORKER_FIRST_RUN_SPREAD="100ms")
        with started(WORKER_THAT_COUNTS, soon) as worker:
            worker.wait_for("worker.ready")
            at_ready = worker.memory_mb()
            worker.wait_for("run.finished", times=TASKS)
            idle = worker.memory_mb()
            modules = int(worker.end())
    bare = subprocess.run(NOTHING, check=True, capture_output=True, text=True)
    report.text("")
    report.table(
        ("worker", "RSS MB", "PSS MB"),
        [
            (when, *(f"{memory[kind]:.1f}" if kind in memory else "-" for kind in ("Rss", "Pss")))
            for when, memory in {
                "at worker.ready": at_ready,
                "idle, after each task ran once": idle,
            }.items()
        ],
    )
    report.text(f"\nmodules imported: {modules}, {int(bare.stdout)} of them by Python itself")
    if "Rss" in idle:
        report.target(
            f"idle RSS under {WANTED_RSS_MB:g} MB",
            f"{idle['Rss']:.1f} MB",
            met=idle["Rss"] < WANTED_RSS_MB,
        )
