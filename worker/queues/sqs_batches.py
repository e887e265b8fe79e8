"""Batches of SQS: ten entries a call, several calls at once, and each entry has its own end."""

from __future__ import annotations

import asyncio
from random import uniform
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from worker.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

__all__ = ["Entry", "Failure", "SqsRefused", "in_batches", "nothing", "size_of", "together"]

T = TypeVar("T")
Entry = dict[str, Any]
"""One message, receipt handle or the like, as the service has it."""

BATCH = 10
MOST_BYTES = 1024 * 1024
"""What SQS takes as one message, and as one batch. A queue, or another server, may take less: its
``MaximumMessageSize`` says so of a message, and a batch that is refused is sent one by one."""
TRIES = 3
BACKOFF_S = 0.1


class SqsRefused(StoreError):
    """The service will not do that, however often it is asked."""


class Failure(NamedTuple):
    """Why one entry of a batch failed."""

    code: str
    message: str
    by_sender: bool

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


async def in_batches(
    call: Callable[[list[Entry]], Awaitable[Mapping[str, Any]]],
    entries: Sequence[Entry],
    size: Callable[[Entry], int],
) -> dict[int, Failure]:
    """Hand all entries to ``call``, ten at a time.

    Those that fail through the service's fault are tried again, and are among the failures only if
    it stays so.

    Returns:
        The failures, by their place in ``entries``.

    Raises:
        StoreError: A whole call failed. The others were made.
    """
    failures: dict[int, Failure] = {}
    left: Sequence[int] = range(len(entries))
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(uniform(0.5, 1.0) * BACKOFF_S * 2**attempt)
        told = await together(
            [one_batch(call, entries, part) for part in parts(entries, left, size)]
        )
        failures = {n: failure for n, failure in failures.items() if failure.by_sender}
        failures |= merged(told)
        left = [n for n, failure in failures.items() if not failure.by_sender]
        if not left:
            break
    return failures


async def one_batch(
    call: Callable[[list[Entry]], Awaitable[Mapping[str, Any]]],
    entries: Sequence[Entry],
    part: Sequence[int],
) -> dict[int, Failure]:
    try:
        answer = await call([{"Id": str(n), **entries[n]} for n in part])
    except SqsRefused as exc:
        if len(part) == 1:
            return {part[0]: Failure("Refused", str(exc), True)}
        # One of them is at fault, and the others shall not pay for it.
        return merged(await together([one_batch(call, entries, [n]) for n in part]))
    done = {str(entry["Id"]) for entry in answer.get("Successful") or ()}
    failed = {str(entry["Id"]): entry for entry in answer.get("Failed") or ()}
    return {n: failure_of(failed.get(str(n))) for n in part if str(n) not in done}


def merged(told: Sequence[dict[int, Failure] | StoreError]) -> dict[int, Failure]:
    failures: dict[int, Failure] = {}
    for answer in told:
        if isinstance(answer, StoreError):
            raise answer
        failures |= answer
    return failures


async def together(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T | StoreError]:
    """What each call answered or failed with, once all of them have ended."""

    async def told(call: Coroutine[Any, Any, T]) -> T | StoreError:
        try:
            return await call
        except StoreError as exc:
            return exc

    if len(calls) == 1:
        return [await told(calls[0])]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(told(call), name="sqs-call") for call in calls]
    return [task.result() for task in tasks]


def size_of(entry: Entry) -> int:
    """How many bytes of a message SQS counts: its body, and of each attribute name, type, value."""
    size = len(entry["MessageBody"].encode())
    for name, attribute in entry.get("MessageAttributes", {}).items():
        value = attribute.get("StringValue", "").encode() or attribute.get("BinaryValue", b"")
        size += len(name) + len(attribute["DataType"]) + len(value)
    return size


def nothing(_: Entry) -> int:
    """The size of what is not counted."""
    return 0


def parts(
    entries: Sequence[Entry], left: Sequence[int], size: Callable[[Entry], int]
) -> list[list[int]]:
    """The places ``left`` in groups that fit into one call each."""
    groups: list[list[int]] = []
    room = 0
    for n in left:
        needed = size(entries[n])
        if not groups or len(groups[-1]) == BATCH or needed > room:
            groups.append([])
            room = MOST_BYTES
        groups[-1].append(n)
        room -= needed
    return groups


def failure_of(entry: Mapping[str, Any] | None) -> Failure:
    if entry is None:
        return Failure("NoAnswer", "the service did not say what became of it", False)
    code = str(entry.get("Code", ""))
    throttled = "Throttl" in code  # which some report as the sender's fault
    return Failure(
        code, str(entry.get("Message", "")), bool(entry.get("SenderFault")) and not throttled
    )
