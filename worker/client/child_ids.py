"""The ids of jobs that a run enqueues: the same in each attempt.

So an attempt that repeats what an earlier one did enqueues nothing twice.

An id is a hash of what identifies the run and of what identifies the call in it:

* the name that the caller gave; or else
* the task, the queue if the call states one, and the parameters, and how many calls of the attempt
  had the same ones before. So neither the order of different calls matters, nor what was enqueued
  between them.
"""

from __future__ import annotations

import json
from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING

from worker.errors import InvalidOptions
from worker.jobs.job import JobId

if TYPE_CHECKING:
    from worker.jobs.job import NewJob

__all__ = ["ChildIds"]

DIGEST_BYTES = 16
"""As long as the ids that are drawn at random."""


class ChildIds:
    """Derives the ids of one run's children.

    Args:
        parent: What identifies the run, the same in each of its attempts.
    """

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._calls: Counter[tuple[int, str]] = Counter()

    def named(self, name: object) -> JobId:
        """The id of the child with this name.

        Raises:
            InvalidOptions: The name is empty or no text.
        """
        if not isinstance(name, str) or not name:
            raise InvalidOptions(f"name: expected a text that is not empty, got {name!r}")
        return self._hashed("name", name)

    def next(self, new: NewJob, attempt: int, queue: str | None) -> JobId:
        """The id of the next child like ``new`` in this attempt.

        Args:
            queue: What the call states. The task's own may change between two attempts.
        """
        child = self._hashed("call", new.task, queue or "", canonical(new.params))
        number = self._calls[attempt, child]
        self._calls[attempt, child] += 1
        return self._hashed("call", child, str(number))

    def _hashed(self, *words: str) -> JobId:
        text = json.dumps([self._parent, *words])
        return JobId(blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest())


def canonical(params: str) -> str:
    """The parameters with the keys of objects in order."""
    return json.dumps(json.loads(params), sort_keys=True)
