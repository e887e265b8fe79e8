"""Which clients are open in this process, and which of them a call without a client uses."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import WeakKeyDictionary

from worker.client.owning_loop import FORKED
from worker.errors import AmbiguousClient, EnqueueNotAwaited, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from worker.client.owning_loop import OwningLoop

__all__ = [
    "CLOSED",
    "Chosen",
    "choose",
    "chosen",
    "note_closed",
    "note_open",
    "refuse_unawaited",
    "refuse_unusable",
    "serving_client",
    "unusable_client",
]

CLOSED = (
    "the WorkerClient of this event loop is closed; open it for as long as jobs are enqueued, or "
    "set WORKER_QUEUE_URL to its URL"
)


class Client(Protocol):
    """What is known here of a client."""

    @property
    def owner(self) -> OwningLoop: ...

    @property
    def place(self) -> object:
        """Equal for two clients that enqueue into the same place."""
        ...

    @property
    def shown(self) -> str:
        """Its place, for a message."""
        ...

    @property
    def is_closed(self) -> bool: ...


C = TypeVar("C", bound=Client)


@dataclass(eq=False, slots=True)
class Chosen:
    """The client that a run, or a block of code, has been given.

    Attributes:
        client: ``None`` if it was given none.
        in_run: A run was given it.
        unawaited: The calls of the run that were made, and never awaited, if any.
    """

    client: Any
    in_run: bool
    unawaited: list[str] | None = None


_chosen: ContextVar[Chosen | None] = ContextVar("worker_client", default=None)
_open: list[tuple[Any, Chosen | None]] = []
"""Each open client, the last one last, and for which run it was opened."""
_closed: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()
"""The client that was closed last in each loop."""


def chosen() -> Chosen | None:
    """What the calling code was given."""
    return _chosen.get()


def choose(client: Client | None, *, in_run: bool) -> None:
    """Give the calling code, and what it begins, this client."""
    _chosen.set(Chosen(client, in_run))


@contextmanager
def chosen_in_block(client: Client) -> Iterator[None]:
    """Give the code in the block, and what it begins, this client."""
    token = _chosen.set(Chosen(client, in_run=False))
    try:
        yield
    finally:
        _chosen.reset(token)


def note_open(client: Client) -> None:
    """``client`` serves its event loop from now on."""
    for entry in list(_open):
        if entry[0] is client or entry[0].owner.loop.is_closed() or entry[0].owner.is_of_parent:
            forget(entry)
    _open.append((client, _chosen.get()))
    if client.owner.loop is not None:
        _closed.pop(client.owner.loop, None)


def note_closed(client: Client) -> None:
    for entry in list(_open):
        if entry[0] is client:
            forget(entry)
            if client.owner.loop is not None:
                _closed[client.owner.loop] = client


def forget(entry: tuple[Any, Chosen | None]) -> None:
    with suppress(ValueError):  # another thread was faster
        _open.remove(entry)


def serving_client() -> Any | None:
    """The open client that a call uses which names none; ``None`` if no client is open.

    In a run it is the worker's own. Elsewhere it is the one that is open in the running event loop,
    or if none is, the one that is open in another event loop of this process.

    Raises:
        AmbiguousClient: Several are open there, with different URLs.
    """
    given = _chosen.get()
    if given is not None and given.client is not None and not is_unusable(given.client):
        if given.in_run:
            own = [client for client, run in list(_open) if run is given]
            if own:
                only_one([given.client, *own])
        return given.client
    usable = [client for client, _ in list(_open) if client.owner.can_be_called]
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        usable = [client for client in usable if client.owner.loop is loop] or usable
    return only_one(usable) if usable else None


def only_one(clients: Sequence[C]) -> C:
    if len(clients) == 1:
        return clients[0]
    places = {client.place: client.shown for client in clients}
    if len(places) > 1:
        raise AmbiguousClient(
            f"{len(places)} WorkerClients are open here ({', '.join(places.values())}); say which "
            "one enqueues: client.enqueue(Task, …), or `with client.as_current():` around the call"
        )
    return clients[-1]


def unusable_client() -> Any | None:
    """The client that would serve the calling code if it were not closed, or its loop ended."""
    given = _chosen.get()
    if given is not None and given.client is not None:
        return given.client
    left = [client for client, _ in list(_open) if not client.owner.can_be_called]
    if left:
        return left[-1]
    with suppress(RuntimeError):
        return _closed.get(asyncio.get_running_loop())
    return None


def is_unusable(client: Client) -> bool:
    loop = client.owner.loop
    gone = loop is not None and not loop.is_running()
    return client.is_closed or client.owner.is_of_parent or gone


def refuse_unusable(client: Client, instead: Client | None = None) -> None:
    """Refuse to enqueue elsewhere than the calling code's own client would.

    Args:
        instead: Where the job would be enqueued.

    Raises:
        StoreUnavailable: That is another place.
    """
    if instead is None or client.place != instead.place:
        raise StoreUnavailable(FORKED if client.owner.is_of_parent else CLOSED)


def refuse_unawaited() -> None:
    """Called when the code of a run has returned.

    Raises:
        EnqueueNotAwaited: It called ``enqueue`` and did not await it.
    """
    given = _chosen.get()
    if given is not None and given.unawaited:
        calls = ", ".join(dict.fromkeys(given.unawaited))
        raise EnqueueNotAwaited(
            f"{calls}: called without `await`, so nothing was enqueued; write `await …`"
        )
