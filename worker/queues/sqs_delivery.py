"""From a message of SQS to a lease and to its end. The records judge, the messages follow."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import structlog

from worker.errors import StoreError
from worker.jobs.declaration import with_left_open
from worker.jobs.job import Held, Job, JobId, Lease, NewJob
from worker.jobs.verdict import unspent
from worker.queues.sqs_batches import BATCH, together
from worker.queues.sqs_connection import ANSWER_TIMEOUT_S, LONGEST_POLL_S
from worker.queues.sqs_dead import Dying, was_moved
from worker.queues.sqs_messages import Arrived, Receipt, arrived, as_dead_letter, read_receipt
from worker.queues.sqs_taken import is_another, refuse_taken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from datetime import datetime, timedelta

    from worker.clock import Clock
    from worker.jobs.declaration import Terms
    from worker.jobs.job import Deferred, Settlement
    from worker.ports import JobStore
    from worker.queues.sqs_batches import Entry
    from worker.queues.sqs_connection import SqsConnection, SqsQueue
    from worker.queues.sqs_dead import DeadLetters
    from worker.queues.sqs_url import SqsAddress

__all__ = ["Deliveries", "seconds"]

Claimed = tuple[Arrived, Lease | Job | None, bool]
"""A message, what the records say of its job, and whether they did not know it before."""

MOST_LEASED = 100
LONGEST_HIDDEN_S = 12 * 60 * 60 - 60
"""A minute less than the 12 hours that SQS counts from when a message was received."""
MARGIN_S = 0.2
"""The lease of the records shall be over when SQS shows the message again."""


class Deliveries:
    """Leases what SQS delivers, as far as the records allow.

    Args:
        connection: To the service.
        address: Where it is, and how queues are named.
        records: Where jobs are recorded.
        dead: Where the messages of dead jobs go.
        clock: To tell how long a message is hidden.
    """

    def __init__(
        self,
        connection: SqsConnection,
        address: SqsAddress,
        records: JobStore,
        dead: DeadLetters,
        clock: Clock,
    ) -> None:
        self._sqs = connection
        self._address = address
        self._records = records
        self._dead = dead
        self._clock = clock
        self._records_failed = False
        self._background: set[asyncio.Task[None]] = set()

    async def lease(
        self,
        queue: SqsQueue,
        *,
        limit: int,
        ttl: timedelta,
        wait: timedelta,
        worker: str,
        deferred: Deferred,
    ) -> list[Lease]:
        """As `worker.ports.JobQueue.lease`."""
        if limit < 1:
            return []
        until = self._clock.monotonic() + wait.total_seconds()
        while True:
            if self._records_failed:
                # Whatever is received while nobody can claim it comes nearer to the dead letters.
                await self._records.get([JobId("are-you-there")])
                self._records_failed = False
            left_s = max(0.0, until - self._clock.monotonic())
            received = await self._received(queue, limit, ttl, left_s)
            leases = []
            if received:
                leases = await self._claim_all(queue, received, ttl, worker, deferred)
            if leases or (not received and self._clock.monotonic() >= until):
                return leases

    async def _claim_all(
        self,
        queue: SqsQueue,
        received: Sequence[Arrived],
        ttl: timedelta,
        worker: str,
        deferred: Deferred,
    ) -> list[Lease]:
        """Claim what was received. What nobody waits for any more is given back."""
        call = asyncio.create_task(
            self._claim(queue, received, ttl, worker, deferred), name=f"claim:{queue.queue}"
        )
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self._do_later(self._give_back(call))
            raise

    def _do_later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="after a cancelled lease")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _give_back(self, call: asyncio.Task[list[Lease]]) -> None:
        """Have those leased again that came when nobody waited for them any more."""
        with suppress(StoreError):
            await self.settle([unspent(lease) for lease in await call])

    async def close(self) -> None:
        """Wait, but not for ever, until what was cancelled is given back."""
        if self._background:
            await asyncio.wait(self._background, timeout=LONGEST_POLL_S + ANSWER_TIMEOUT_S)

    async def _received(
        self, queue: SqsQueue, limit: int, ttl: timedelta, left_s: float
    ) -> list[Arrived]:
        """Wait for messages. A call that is given up goes on: the service would hand a message to
        it all the same, one that this worker has just given back perhaps, and nobody would know."""
        call = asyncio.create_task(
            self._receive(queue, limit, ttl, left_s), name=f"receive:{queue.queue}"
        )
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            self._do_later(self._show(queue, call))
            raise

    async def _show(self, queue: SqsQueue, call: asyncio.Task[list[Arrived]]) -> None:
        """Have others receive what came when nobody waited for it any more."""
        with suppress(StoreError):
            received = await call
            if received:
                await self._hide(queue, [(one.handle, 0) for one in received])

    async def _receive(
        self, queue: SqsQueue, limit: int, ttl: timedelta, left_s: float
    ) -> list[Arrived]:
        """Wait for messages. If there are many, get them all, by several calls at once."""
        hidden_s = min(hidden_for(ttl), LONGEST_HIDDEN_S)
        messages = await self._sqs.receive(
            queue.url, most=limit, wait_s=min(LONGEST_POLL_S, ceil(left_s)), hidden_s=hidden_s
        )
        if len(messages) == BATCH:
            more = [min(BATCH, limit - n) for n in range(BATCH, min(limit, MOST_LEASED), BATCH)]
            calls = [
                self._sqs.receive(queue.url, most=most, wait_s=0, hidden_s=hidden_s)
                for most in more
            ]
            for told in await together(calls):
                messages += [] if isinstance(told, StoreError) else told
        return [arrived(message, queue.queue) for message in messages]

    async def _claim(
        self,
        queue: SqsQueue,
        received: Sequence[Arrived],
        ttl: timedelta,
        worker: str,
        deferred: Deferred,
    ) -> list[Lease]:
        """The leases of those that are ready. The other messages are hidden, or deleted."""
        now = self._clock.now()
        by_id: dict[JobId, Arrived] = {}
        later: list[tuple[str, int]] = []
        twins: list[Arrived] = []
        for one in received:
            if by_id.setdefault(one.job.id, one) is not one:
                twins.append(one)
        leases: list[Lease] = []
        taken: list[Arrived] = []
        dying: list[Dying] = []
        claimed = await self._claimed(by_id, ttl, worker, deferred)
        there = {one.job.id: known for one, known, _ in claimed}
        for one in twins:
            if is_another(one, there[one.job.id]):
                taken.append(one)
            else:
                later.append((one.handle, min(hidden_for(ttl), LONGEST_HIDDEN_S)))
        own: list[Claimed] = []
        for claim in claimed:
            one, known, _ = claim
            if not is_another(one, known):
                own.append(claim)
                continue
            taken.append(one)
            if isinstance(known, Lease):
                await self._records.settle([unspent(known)])
        for one, known, strange in await self._redriven(own, ttl, worker):
            if isinstance(known, Lease):
                leases.append(leased(known, one, strange, now))
            elif known is None or not known.state.final:
                ready_at = now if known is None else known.ready_at
                later.append((one.handle, patience(one, ready_at - now)))
            else:
                dying.append(Dying(one.handle, letter_of(one, known)))
        if taken:
            dying += await refuse_taken(self._records, self._address, taken, ttl, worker)
        await self._tidy(queue, later, dying)
        return leases

    async def _redriven(
        self, claimed: Sequence[Claimed], ttl: timedelta, worker: str
    ) -> Sequence[Claimed]:
        """The same, once the dead jobs whose messages were moved back from the dead letters are
        put back and claimed. Other messages of jobs that have ended are logged."""
        ended = [(one, job) for one, job, _ in claimed if isinstance(job, Job) and job.state.final]
        moved = [job for one, job in ended if is_redriven(one, job)]
        for one, job in ended:
            if job not in moved:
                log_late(one, job)
        if not moved:
            return claimed
        try:
            await self._records.retry([job.id for job in moved])
            found = await self._records.claim([job.id for job in moved], ttl=ttl, worker=worker)
        except StoreError:
            self._records_failed = True
            raise
        log = structlog.get_logger("worker")
        for job in moved:
            queue = self._address.queue_of(job.queue)
            log.info("job.redriven", task=job.task, run_id=job.id, queue=queue, error=job.error)
        again = dict(zip([job.id for job in moved], found, strict=True))
        return [(one, again.get(one.job.id, known), strange) for one, known, strange in claimed]

    async def _claimed(
        self, by_id: dict[JobId, Arrived], ttl: timedelta, worker: str, deferred: Deferred
    ) -> list[Claimed]:
        """What the records say of each; those that they do not know are recorded first."""
        try:
            claim = partial(self._records.claim, ttl=ttl, worker=worker, deferred=deferred)
            found = await claim(list(by_id))
            known = dict(zip(by_id, found, strict=True))
            strangers = [job for job, told in known.items() if told is None]
            if strangers:
                jobs = [with_declared(by_id[job].job) for job in strangers]
                await self._records.enqueue(
                    [job._replace(queue=self._address.recorded(job.queue)) for job in jobs]
                )
                found = await claim(strangers)
                known |= zip(strangers, found, strict=True)
        except StoreError:
            self._records_failed = True
            raise
        return [(one, known[job], job in strangers) for job, one in by_id.items()]

    async def _tidy(
        self, queue: SqsQueue, later: Sequence[tuple[str, int]], dying: Sequence[Dying]
    ) -> None:
        """Hide and delete messages. If that fails they come back, and it is done then."""
        calls: list[Coroutine[Any, Any, None]] = []
        if later:
            calls.append(self._hide(queue, later))
        if dying:
            calls.append(self._dead.bury(queue, dying))
        for told in await together(calls):
            if isinstance(told, StoreError):
                log = structlog.get_logger("worker")
                log.warning("queue.message_kept", queue=queue.queue, reason=str(told))

    async def _hide(self, queue: SqsQueue, later: Sequence[tuple[str, int]]) -> None:
        await self._sqs.hide(queue.url, later)

    async def begin(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        """As `extend`, and the work on the jobs begins."""
        return await self._hold(self._records.begin, leases, ttl)

    async def extend(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        """Extend the leases in the records, and hide their messages. One that SQS hides no longer
        is hidden by whoever receives it, since the records say that its job is leased."""
        return await self._hold(self._records.extend, leases, ttl)

    async def _hold(
        self,
        hold: Callable[[Sequence[Lease], timedelta], Awaitable[list[Held]]],
        leases: Sequence[Lease],
        ttl: timedelta,
    ) -> list[Held]:
        receipts = [read_receipt(lease.receipt) for lease in leases]
        held = await hold(
            [self._recorded(*pair) for pair in zip(leases, receipts, strict=True)], ttl
        )
        hiding: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for lease, receipt, told in zip(leases, receipts, held, strict=True):
            left_s = self._longest_hidden_s(receipt)
            if told is not Held.LOST and left_s > 0:
                hiding[lease.queue].append((receipt.handle, min(hidden_for(ttl), left_s)))
        for name, later in hiding.items():
            await self._sqs.hide((await self._sqs.queue(name)).url, later)
        return held

    def _longest_hidden_s(self, receipt: Receipt) -> int:
        return LONGEST_HIDDEN_S - (int(self._clock.now().timestamp()) - receipt.received_at)

    async def apply_terms(self, lease: Lease, terms: Terms) -> JobId | None:
        """As `worker.ports.JobDeclarations.apply_terms`."""
        recorded = self._recorded(lease, read_receipt(lease.receipt))
        return await self._records.apply_terms(recorded, terms)

    async def tell(self, lease: Lease, progress: str) -> None:
        """As `worker.ports.JobRecords.tell`."""
        await self._records.tell(self._recorded(lease, read_receipt(lease.receipt)), progress)

    def _recorded(self, lease: Lease, receipt: Receipt) -> Lease:
        """The lease as the records know it."""
        return lease._replace(queue=self._address.recorded(lease.queue), receipt=receipt.records)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Record what came of jobs, then delete, bury or show their messages. If that fails, the
        message comes back when its time is over, and the records say what to do with it."""
        receipts = [read_receipt(said.lease.receipt) for said in settlements]
        held = await self._records.settle(
            [
                said._replace(lease=self._recorded(said.lease, receipt))
                for said, receipt in zip(settlements, receipts, strict=True)
            ]
        )
        later: dict[str, list[tuple[str, int]]] = defaultdict(list)
        dying: dict[str, list[Dying]] = defaultdict(list)
        for said, receipt, kept in zip(settlements, receipts, held, strict=True):
            name, left_s = said.lease.queue, self._longest_hidden_s(receipt)
            if not kept:
                continue
            if said.state.final:
                letter = letter_of_lease(said, receipt) if said.dead else None
                dying[name].append(Dying(receipt.handle, letter))
            elif left_s > 0:
                later[name].append((receipt.handle, min(seconds(said.delay), left_s)))
        for name in later.keys() | dying.keys():
            await self._tidy(await self._sqs.queue(name), later[name], dying[name])
        return held


def with_declared(job: NewJob) -> NewJob:
    """The job of a message that a program sent which knows nothing of the task's declaration: the
    worker applies it. What SQS does not do is left out."""
    names = ("unique",) if job.expires is not None else ("expires", "unique")
    return job._replace(options=with_left_open(job.options, names))


def leased(lease: Lease, message: Arrived, strange: bool, now: datetime) -> Lease:
    """The lease of the records as a worker shall see it."""
    lease = lease._replace(
        queue=message.job.queue,
        receipt=message.receipt(lease.receipt, now, lease.deliveries).dump(),
    )
    if not strange:
        return lease
    return lease._replace(
        deliveries=message.receives,
        attempts=message.receives - 1,
        created_at=min(message.sent_at, lease.created_at),
        due_at=min(message.sent_at, lease.due_at),
    )


def is_redriven(message: Arrived, job: Job) -> bool:
    """Whether a message of a dead job was moved back from the dead letters to its queue."""
    if not job.dead:
        return False
    if message.delivery is not None:
        return message.delivery == job.deliveries  # or else it is a copy of an earlier letter
    # SQS itself moved it, and marks nothing; a copy of what it moved was sent before.
    died_at = job.finished_at
    return was_moved(job.error) and died_at is not None and message.sent_at > died_at


def log_late(message: Arrived, job: Job) -> None:
    """Tell of a message whose job has ended. SQS may deliver a message twice; but one of a dead
    job, or a dead letter, may also be meant as a request, which it is not."""
    log = structlog.get_logger("worker")
    tell = log.warning if job.dead or message.delivery is not None else log.debug
    tell(
        "job.late_message",
        task=job.task,
        run_id=job.id,
        queue=message.job.queue,
        state=job.state.value,
        hint=f"it changes nothing; to run the job again: worker jobs retry {job.id}",
    )


def letter_of(message: Arrived, job: Job) -> Entry | None:
    """The dead letter of a message that was received although its job has ended, if it is dead
    and the message is no letter itself."""
    if not job.dead or message.delivery is not None:
        return None
    return as_dead_letter(
        job,
        expires_at=job.expires_at,
        error=job.error,
        body=message.body,
        others=message.others,
        delivery=job.deliveries,
    )


def letter_of_lease(said: Settlement, receipt: Receipt) -> Entry:
    return as_dead_letter(
        said.lease,
        expires_at=said.lease.expires_at,
        error=said.error,
        body=receipt.body,
        others=receipt.others,
        delivery=receipt.delivery,
    )


def seconds(delay: timedelta) -> int:
    """Whole seconds, as SQS has them, and never too few."""
    return max(0, ceil(delay.total_seconds()))


def hidden_for(ttl: timedelta) -> int:
    """For how many seconds a message is hidden whose job is leased for ``ttl``."""
    return max(1, ceil(ttl.total_seconds() + MARGIN_S))


def patience(message: Arrived, left: timedelta) -> int:
    """For how many seconds to hide a message whose job cannot be leased for another ``left``.

    The longer, the more often it was received: the clock of the records may differ.
    """
    least = min(60, 1 << min(message.receives - 1, 6))
    return min(max(least, seconds(left)), LONGEST_HIDDEN_S)
