"""What tasks declare: read from the engine by a producer that knows them by name only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from worker.library_log import library_log

if TYPE_CHECKING:
    from worker.jobs.declaration import Declaration
    from worker.ports import JobDeclarations

__all__ = ["Declarations"]

FRESH_S = 10.0
"""For how long a declaration is not read again. A changed one holds from then on at the latest."""
UNKNOWN_S = 1.0
"""The same for a task of which nothing is published."""
MOST = 10_000
"""How many tasks are kept."""


class Known(NamedTuple):
    declaration: Declaration | None
    until: float


class Declarations:
    """The declarations of tasks, each read when it is first needed and again after a while."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._warned: set[str] = set()

    def get(self, task: str) -> Declaration | None:
        """What was read last; ``None`` if nothing was published, or nothing was read."""
        known = self._known.get(task)
        return None if known is None else known.declaration

    def is_published(self, task: str) -> bool:
        return self.get(task) is not None

    async def learn(self, task: str, jobs: JobDeclarations) -> None:
        """Read what a task declares, unless that was done a short time ago.

        Raises:
            StoreUnavailable: The engine cannot be reached.
        """
        now = asyncio.get_running_loop().time()
        known = self._known.get(task)
        if known is not None and now < known.until:
            return
        found = await jobs.declaration(task)
        if len(self._known) >= MOST:
            self._known.clear()
            self._warned.clear()
        self._known[task] = Known(found, now + (UNKNOWN_S if found is None else FRESH_S))
        if found is None and task not in self._warned:
            self._warned.add(task)
            library_log().warning(
                "task.unpublished",
                task=task,
                hint="no worker has published a task of this name yet: its jobs wait until a "
                "worker that has it serves their queue; check the name, or deploy that worker",
            )
        elif found is not None:
            self._warned.discard(task)
