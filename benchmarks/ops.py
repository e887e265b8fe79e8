"""What the ops part costs while nobody looks: memory and CPU, beside a worker without it."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.light_api import running_api
from benchmarks.report import Report, spread
from benchmarks.start import TASKS, WORKER, Started, environment, started

__all__ = ["measure"]

WANTED_MB = 10.0
WANTED_CPU_MS = 5.0
"""More than without it, a minute."""
WITHOUT, PROBES, ALL = "without", "with the probes' listener", "with both listeners"
KINDS = (WITHOUT, PROBES, ALL)


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def settings(kind: str) -> dict[str, str]:
    """Both tokens are set, as a worker in production has them."""
    found = {"WORKER_OPS_TOKEN": "0123456789" * 3, "WORKER_OPS_READ_TOKEN": "abcdefghij" * 3}
    if kind in (PROBES, ALL):
        found |= {"WORKER_PROBE_PORT": free_port(), "WORKER_PROBE_HOST": "127.0.0.1"}
    if kind == ALL:
        found["WORKER_OPS_PORT"] = free_port()
    return found


def cpu_ms(worker: Started) -> float:
    """What the threads of its process have used so far; finer than the clock ticks of ``stat``."""
    threads = Path(f"/proc/{worker.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text("ascii").split()[0]) for thread in threads) / 1e6


def measure(report: Report, smoke: bool) -> None:
    rounds, seconds = (1, 0.5) if smoke else (3, 60.0)
    report.title("the ops part while nobody looks")
    if not Path("/proc/self/schedstat").exists():
        report.text("not measured: this system has no /proc/…/schedstat")
        return
    report.text(
        f"{rounds} rounds; in each the workers are idle side by side for {seconds:g} s, after each "
        "task ran once. Median (least-most)."
    )
    memory: dict[str, list[float]] = {kind: [] for kind in KINDS}
    cpu: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        measure_round(memory, cpu, seconds)
    report.table(
        ("worker", "RSS MB", "CPU ms a minute"),
        [(kind, spread(memory[kind], ".1f"), spread(cpu[kind], ".1f")) for kind in KINDS],
    )
    more_mb = median(a - b for a, b in zip(memory[ALL], memory[WITHOUT], strict=True))
    more_ms = median(a - b for a, b in zip(cpu[ALL], cpu[WITHOUT], strict=True))
    report.target(
        f"the ops part costs under {WANTED_MB:g} MB RSS",
        f"{more_mb:.1f} MB",
        met=more_mb < WANTED_MB,
    )
    report.target(
        f"and under {WANTED_CPU_MS:g} ms of CPU a minute while nobody looks",
        f"{more_ms:+.1f} ms",
        met=more_ms < WANTED_CPU_MS,
    )


def measure_round(
    memory: dict[str, list[float]], cpu: dict[str, list[float]], seconds: float
) -> None:
    with running_api(0) as api, ExitStack() as stack:
        workers = {
            kind: stack.enter_context(
                started(
                    (*WORKER, "start"),
                    environment(
                        api.url,
                        WORKER_FIRST_RUN_DELAY="200ms",
                        WORKER_FIRST_RUN_SPREAD="100ms",
                        **settings(kind),
                    ),
                )
            )
            for kind in KINDS
        }
        for worker in workers.values():
            worker.wait_for("run.finished", times=TASKS)
        before = {kind: cpu_ms(worker) for kind, worker in workers.items()}
        time.sleep(seconds)
        for kind, worker in workers.items():
            cpu[kind].append((cpu_ms(worker) - before[kind]) * 60 / seconds)
            memory[kind].append(worker.memory_mb()["Rss"])
            worker.end()
