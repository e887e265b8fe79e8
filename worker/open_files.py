"""How many files and connections this process may have open, and what of that each part takes."""

from __future__ import annotations

import resource

__all__ = ["open_files_limit", "within_limit"]


def open_files_limit() -> int | None:
    """The soft limit ``RLIMIT_NOFILE``; ``None`` for no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def within_limit(wanted: int, *, share: int) -> int:
    """How many connections of ``wanted`` to have: no more than one ``share``-th of the limit."""
    limit = open_files_limit()
    return wanted if limit is None else max(1, min(wanted, limit // share))
