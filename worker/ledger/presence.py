"""What a session is for, as its replica says when it begins."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Presence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What a replica serves while its lease holds.

    Attributes:
        hand: It is a person's, for one run, and serves nobody else.
        slots: It takes slots.
        queues: Those that it polls.
        only: It takes slots and jobs of these tasks only; empty for all.
    """

    hand: bool = False
    slots: bool = True
    queues: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def takes(self, task: str) -> bool:
        """Whether it takes a task's slots."""
        return self.slots and not self.hand and self._lets(task)

    def polls(self, queue: str, task: str = "") -> bool:
        """Whether it polls a queue, and runs the jobs of a task that it finds there.

        Args:
            task: Empty for jobs that nobody has looked into yet: any of those that poll may.
        """
        return queue in self.queues and (not task or self._lets(task))

    def _lets(self, task: str) -> bool:
        return not self.only or task in self.only
