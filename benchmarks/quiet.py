"""The worker's log as it is in production, but for where it goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from worker.telemetry.logs import configure_logging

__all__ = ["quiet_log"]


@contextmanager
def quiet_log(level: str) -> Iterator[None]:
    """JSON lines from ``level`` on, to the null device."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        with redirect_stderr(nowhere):
            configure_logging(level=level, form="json")
            yield
        configure_logging(level="warning")
