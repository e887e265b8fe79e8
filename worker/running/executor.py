"""The event loop's own pool of threads, which knows whose code it runs.

``asyncio.to_thread`` and ``run_in_executor`` return at once when they are cancelled, while their
thread goes on. So a run has to know what it has in such threads: it does not end before they do.
"""

from __future__ import annotations

import socket
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from worker.context import current_run
from worker.forking import child_ends_here

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RunExecutor"]

P = ParamSpec("P")
T = TypeVar("T")
HARMLESS = (socket.getaddrinfo, socket.getnameinfo)
"""What the event loop itself calls there, without an effect that has to be awaited."""


class RunExecutor(ThreadPoolExecutor):
    """Runs functions as its base does, and notes each with the run that submitted it.

    A process that a function forks ends with that function.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        run = current_run()

        def guarded() -> T:
            with child_ends_here():
                return fn(*args, **kwargs)

        if run is None or fn in HARMLESS:
            return super().submit(guarded)
        call = super().submit(run.inside, guarded)
        run.note_call(call)
        return call
