"""The dead letters of SQS: the queue that a redrive policy names, kept in step with the records."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import structlog

from worker.errors import StoreError
from worker.jobs.job import Lease, Settlement
from worker.model import State
from worker.queues.sqs_messages import Arrived, arrived

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from worker.jobs.job import JobId
    from worker.ports import JobStore
    from worker.queues.sqs_batches import Entry
    from worker.queues.sqs_connection import SqsConnection, SqsQueue
    from worker.queues.sqs_url import SqsAddress

__all__ = ["DeadLetters", "Dying", "was_moved"]

MOVED = "MaxReceiveCount"
MOST_SEEN = 5000
"""How many dead letters are looked through at most."""
HIDDEN_S = 30
"""For how long a dead letter is out of the others' sight while it is looked at."""
LOOKING = timedelta(seconds=HIDDEN_S)


class Dying(NamedTuple):
    """A message that is to be deleted, after ``letter`` was sent to the dead letters, if any."""

    handle: str
    letter: Entry | None


class DeadLetters:
    """What lies in the queues for dead letters.

    SQS has no look-up: to find one message, all before it are received, and shown again.

    Args:
        connection: To the service.
        address: Where it is, and how queues are named.
        records: Where jobs are recorded.
    """

    def __init__(self, connection: SqsConnection, address: SqsAddress, records: JobStore) -> None:
        self._sqs = connection
        self._address = address
        self._records = records

    async def bury(self, queue: SqsQueue, dying: Sequence[Dying]) -> None:
        """Send the letters, if there is a queue for them, then delete the messages."""
        if queue.dead_letters is None:
            kept: set[int] = set()
        else:
            letters = {n: one.letter for n, one in enumerate(dying) if one.letter is not None}
            failures = await self._sqs.send(queue.dead_letters, list(letters.values()))
            # What could not be sent comes back, is found to be dead, and is sent then. What SQS
            # never takes would come back again and again; the records keep the job.
            kept = {
                n
                for place, n in enumerate(letters)
                if place in failures and not failures[place].by_sender
            }
            for failure in failures.values():
                structlog.get_logger("worker").warning(
                    "queue.letter_refused" if failure.by_sender else "queue.message_kept",
                    queue=queue.queue,
                    reason=f"{queue.dead_letters} did not take a dead letter: {failure}",
                )
        await self._sqs.delete(
            queue.url, [one.handle for n, one in enumerate(dying) if n not in kept]
        )

    async def forget(self, queue: SqsQueue, ids: Iterable[JobId]) -> None:
        """Delete the letters of these jobs."""
        wanted = set(ids)
        if queue.dead_letters is None or not wanted:
            return
        seen = await self._look_through(queue, queue.dead_letters, wanted)
        doomed = [one.handle for one in seen if one.job.id in wanted]
        await self._let_go(queue.dead_letters, [o for o in seen if o.job.id not in wanted])
        await self._sqs.delete(queue.dead_letters, doomed)

    async def adopt(self, queue: SqsQueue) -> None:
        """Have the records know the letters that SQS moved by itself, or that others sent."""
        if queue.dead_letters is None:
            return
        seen = await self._look_through(queue, queue.dead_letters)
        stale: list[str] = []
        try:
            # Several queues may share these letters.
            by_id = {one.job.id: one for one in seen if one.source in (None, queue.name)}
            for job in await self._records.get(list(by_id)):
                if job is not None and job.state.final:
                    one = by_id.pop(job.id)
                    if not job.dead:  # it ended, but its message was not deleted in time
                        stale.append(one.handle)
            await self._record(queue, by_id)
        finally:
            await self._let_go(queue.dead_letters, [o for o in seen if o.handle not in stale])
        await self._sqs.delete(queue.dead_letters, stale)

    async def _record(self, queue: SqsQueue, by_id: Mapping[JobId, Arrived]) -> None:
        """Record these as dead."""
        if not by_id:
            return
        jobs = [one.job for one in by_id.values()]
        await self._records.enqueue(
            [job._replace(queue=self._address.recorded(job.queue)) for job in jobs]
        )
        leases = await self._records.claim(list(by_id), ttl=LOOKING, worker="dead letters")
        await self._records.settle(
            [
                Settlement(
                    lease=lease,
                    state=State.FAILURE,
                    attempts=lease.attempts,
                    refusals=lease.refusals,
                    error=by_id[lease.id].error or moved(queue),
                    dead=True,
                )
                # One that cannot be claimed runs, or waits for another try.
                for lease in leases
                if isinstance(lease, Lease)
            ]
        )

    async def _look_through(
        self, queue: SqsQueue, url: str, wanted: set[JobId] | None = None
    ) -> list[Arrived]:
        """All letters, or enough to have seen those that are wanted. They are hidden meanwhile."""
        expected = await self._sqs.size(url)
        seen: list[Arrived] = []
        handles: set[str] = set()
        missing = None if wanted is None else set(wanted)
        while len(seen) < MOST_SEEN and (missing is None or missing):
            # A call that does not wait asks only some of the servers.
            wait_s = 1 if len(seen) < expected else 0
            told = await self._sqs.receive(url, most=10, wait_s=wait_s, hidden_s=HIDDEN_S)
            new = [
                one for one in (arrived(m, queue.queue) for m in told) if one.handle not in handles
            ]
            if not new:
                break
            seen += new
            handles |= {one.handle for one in new}
            if missing is not None:
                missing -= {one.job.id for one in new}
        return seen

    async def _let_go(self, url: str, seen: Sequence[Arrived]) -> None:
        """Show them to others again."""
        try:
            await self._sqs.hide(url, [(one.handle, 0) for one in seen])
        except StoreError:
            return  # they show up by themselves


def was_moved(error: str | None) -> bool:
    """Whether it is the error of a job that SQS itself gave up."""
    try:
        said = json.loads(error or "{}")
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("type") == MOVED


def moved(queue: SqsQueue) -> str:
    """The error of a job that SQS itself gave up."""
    often = "" if queue.receives is None else f" after {queue.receives} receives"
    return json.dumps(
        {
            "type": MOVED,
            "message": f"SQS moved it to the dead letters{often}, as the redrive policy of "
            f"{queue.name} says",
        }
    )
