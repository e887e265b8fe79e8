"""The facts without which a number says nothing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

__all__ = ["describe_machine"]

LIBRARIES = ("sidecar-worker", "httpx", "httpcore", "anyio", "apscheduler", "pydantic", "structlog")


def describe_machine() -> str:
    """Interpreter, cores, load and library versions; no name of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f} before the start" if hasattr(os, "getloadavg") else ""
    return (
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {cores} cores{load}\n"
        + ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    )
