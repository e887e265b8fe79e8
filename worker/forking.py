"""What happens to a worker's code in a process that was forked while it ran.

A forked child has a copy of everything, the event loop and the connections included, and shares the
sockets with its parent. It may do work of its own and end. It must not go on as a second worker:
where it would come back into the worker's code, it is ended.
"""

from __future__ import annotations

import json
import os
import select
import sys
import traceback
from contextlib import contextmanager, suppress
from selectors import BaseSelector
from signal import SIG_BLOCK, SIG_SETMASK, Signals, pthread_sigmask
from signal import signal as set_handler
from threading import get_ident, local
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary, WeakSet

from worker.log_stream import write_at_once

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "child_ends_here",
    "detach_in_child",
    "guard_loop",
    "handlers_in_children",
    "isolate_in_child",
    "on_fork",
]

FAILED = 1
RETURNED = "a forked child process came back into the worker's code and was ended: end it yourself"

_guarded: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()
_isolated: WeakSet[BaseSelector] = WeakSet()
_handlers: dict[Signals, Any] = {}
_forking = local()
_kept: list[object] = []
"""What a child must not end, as it is the parent's."""
_detached: WeakKeyDictionary[asyncio.AbstractEventLoop, None] = WeakKeyDictionary()


@contextmanager
def handlers_in_children(handlers: Mapping[Signals, Any]) -> Iterator[None]:
    """Have processes that are forked inside of the block handle these signals like this.

    A child that inherits a handler of the worker would only ask the worker to stop. Python forgets
    a signal that comes before the child has begun, so they are blocked around the fork.
    """
    before = dict(_handlers)
    _handlers.update(handlers)
    try:
        yield
    finally:
        _handlers.clear()
        _handlers.update(before)


class child_ends_here:
    """End a process that was forked inside of the block when it would leave the block.

    Its exit code is that of its ``SystemExit``, 1 after another exception, and otherwise 0.
    """

    __slots__ = ("_process",)

    def __enter__(self) -> None:
        self._process = os.getpid()

    def __exit__(self, kind: object, failure: BaseException | None, place: object) -> None:
        if os.getpid() != self._process:
            end_child(failure)


def guard_loop(loop: asyncio.AbstractEventLoop) -> None:
    """End a process that is forked in this thread when it would come back to the running loop."""
    if loop not in _guarded:
        _guarded[loop] = get_ident()


def detach_in_child(loop: asyncio.AbstractEventLoop) -> None:
    """Have a forked child change nothing about what the parent's loop waits for.

    The list of sockets that a loop waits for (epoll) is one for both processes otherwise.
    """
    _detached[loop] = None


def on_fork(
    *, before: Callable[[], None], parent: Callable[[], None], child: Callable[[], None]
) -> None:
    """Call these around each fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=parent, after_in_child=child)


def isolate_in_child(selector: BaseSelector) -> None:
    """Have a forked child share none of the sockets that this selector waits for.

    Nothing that the child still does to them, at its end for example, reaches the other side.
    """
    _isolated.add(selector)


def separate_sockets(selector: BaseSelector) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for key in list((selector.get_map() or {}).values()):
        os.dup2(null, key.fd, inheritable=False)
    os.close(null)
    separate(selector)


def separate(selector: Any) -> None:
    """In a forked child, have the selector wait for nothing that the parent's waits for."""
    fileno = getattr(selector, "fileno", None)
    if fileno is None or not hasattr(select, "epoll"):
        return
    with suppress(OSError, ValueError):  # it may be closed
        fresh = select.epoll()
        os.dup2(fresh.fileno(), fileno(), inheritable=False)
        fresh.close()


def end_child(failure: BaseException | None) -> NoReturn:
    """End this process, which was forked, and report why unless it asked for its end."""
    if isinstance(failure, SystemExit):
        code = failure.code
        leave(code if isinstance(code, int) else 0 if code is None else FAILED)
    report = {"level": "warning", "event": "fork.child_ended", "hint": RETURNED, "pid": os.getpid()}
    if failure is not None:  # without its text, which may hold a secret
        report["error_type"] = type(failure).__name__
        report["exception"] = "".join(traceback.format_tb(failure.__traceback__))
    # No logger: a lock of it may have been held when the process was forked.
    write_at_once(2, json.dumps(report).encode() + b"\n")
    leave(0 if failure is None else FAILED)


def leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def came_back() -> None:
    """Called by a loop in a child, before anything else."""
    end_child(ChildCameBack(RETURNED))


class ChildCameBack(Exception):
    """The code that forked awaits something, or has ended."""


def before_fork() -> None:
    _forking.mask = pthread_sigmask(SIG_BLOCK, _handlers)


def in_parent() -> None:
    pthread_sigmask(SIG_SETMASK, _forking.mask)


def in_child() -> None:
    """Called in each child."""
    for number, handler in _handlers.items():
        set_handler(number, handler)
    pthread_sigmask(SIG_SETMASK, _forking.mask)
    _handlers.clear()
    for selector in list(_isolated):
        separate_sockets(selector)
    for loop in list(_detached):
        separate(getattr(loop, "_selector", None))
    for loop, thread in list(_guarded.items()):
        separate(getattr(loop, "_selector", None))
        if thread != get_ident() or loop.is_closed():
            continue
        # What was about to run belongs to the parent. A loop of another kind has no such list: its
        # callbacks that were scheduled before come first.
        ready = getattr(loop, "_ready", None)
        if ready is not None:
            _kept.extend(ready)
            ready.clear()
        loop.call_soon(came_back)


on_fork(before=before_fork, parent=in_parent, child=in_child)
