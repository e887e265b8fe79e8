"""Jobs carried by SQS, and recorded in another engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from worker.clock import Clock, SystemClock
from worker.errors import (
    ConfigurationError,
    NotSupported,
    StoreError,
    StoreSchemaError,
    StoreUnavailable,
)
from worker.jobs.job import NONE_DEFERRED, Capabilities, Job, JobId, NewJob, QueueCount, Requeued
from worker.model import State
from worker.queues.sqs_batches import MOST_BYTES, size_of, together
from worker.queues.sqs_connection import SqsConnection, SqsQueue
from worker.queues.sqs_dead import DeadLetters
from worker.queues.sqs_delivery import MOST_LEASED, Deliveries, seconds
from worker.queues.sqs_messages import as_message, attributes_size
from worker.queues.sqs_url import read_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    from worker.jobs.declaration import Declaration, Terms
    from worker.jobs.job import Deferred, Enqueued, Grant, Held, JobQuery, Lease, Rate, Settlement
    from worker.ports import JobStore
    from worker.queues.sqs_batches import Entry

__all__ = ["SqsJobs"]

LONGEST_DELAY = timedelta(minutes=15)
MOST_BESIDE = 8 * 1024
MOST_PARAMS = MOST_BYTES - 2 * MOST_BESIDE
ENOUGH_RECEIVES = 10
NOW = timedelta(0)


class SqsJobs:
    """A `worker.ports.JobStore`: SQS carries each job to a worker, ``records`` know all about it.

    What a job is and what became of it stands in the records, which judge leases, ids and unique
    keys. A message only says whose turn it is: it may come twice, too early, or after the end, and
    the records know better. So a job is settled there first, and its message deleted after that;
    a message that could not be deleted comes back, and is deleted then.

    **The URL** is ``sqs://sqs.eu-central-1.amazonaws.com/123456789012?prefix=shop-`` for SQS,
    ``sqs+http://127.0.0.1:9324/000000000000?region=us-east-1`` (or ``sqs+https://``) for another
    server that speaks its language, and ``sqs://`` for what the AWS environment says of endpoint
    and region. The path is the account; without it, SQS is asked for each queue's URL. ``prefix``
    stands before the name of every queue; ``region`` is needed where neither the host nor
    ``AWS_REGION`` tells it. Credentials come from the AWS environment: variables, a profile, a
    role. They are permitted ``sqs:SendMessage``, ``ReceiveMessage``, ``DeleteMessage``,
    ``ChangeMessageVisibility``, ``GetQueueAttributes``, and without an account ``GetQueueUrl``.

    **Queues** are not created. A missing one is a `StoreSchemaError` that names the command. FIFO
    queues are refused.

    **Any SQS client** can send a job: the body is its parameters as JSON, the message attribute
    ``JobName`` its task (`worker.queues.sqs_messages`). Without ``JobId`` the message's own id is
    the job's. Such a job is recorded when it first comes. Whoever sends a ``JobId`` that is known
    sends no new job. A message without a name, or whose body is no JSON object, is a job that
    nobody can run.

    **Limits.** A new job can be delayed by up to 15 minutes. One that goes back can wait for any
    time: it is hidden for up to 12 hours, and if it is not due when it shows up, it is hidden
    anew. In the same way a run may take longer than the 12 hours for which SQS hides a message.
    Of the 1024 KiB of a message, 1008 are for the parameters, 8 for options and headers, and the
    rest for names, and for the error of a dead letter. A queue with a smaller
    ``MaximumMessageSize``, as those from before August 2025 have, takes less. There are no
    priorities and no concurrency keys: passing a message over costs a receive. Rates and unique
    keys are as good as the records. Jobs come about in the order in which they were sent.

    **Attempts**, losses and refusals are counted by the records. For a job that they did not know,
    since a stranger sent it or other workers have other records, each receive before this one
    counts as an attempt.

    **Dead letters** go to the queue that the redrive policy of their queue names, with all their
    attributes and ``JobError``, and lie in the records, too; without such a policy they lie in the
    records alone. SQS itself moves messages there after ``maxReceiveCount`` receives; ``find``
    with ``dead=True`` looks through those queues, and records what it finds. Every retry, snooze
    and lost lease costs a receive, so that count should be 10 or more.

    **Redrive.** A dead letter that is moved back to its queue, by SQS's own redrive or by any
    client that keeps the attributes, is a request to run its job again, as `retry` is. A letter of
    ours says in ``JobDelivery`` which delivery it died of: an older copy, which SQS delivers late,
    changes nothing. What SQS itself moved to the dead letters has no such mark: there, a message
    that was sent after the records knew that the job is dead is a request, and any other a copy.
    Both are logged.

    **What may surprise.** A job that waits longer than its queue's retention is gone from SQS,
    while the records say that it waits: ``retry`` sends it once more, and answers ``NOT_NOW``. A
    job that was cancelled while it waited, and is dropped from the records before its message
    came, is a new job to them when it comes. The redrive policy is read once.

    Args:
        url: As above.
        records: Where jobs are recorded. Every worker and producer needs the same.
        queues: Those that the worker will use: looked at when it opens. Others are looked at when
            they are first used.
        clock: To tell how long a message is hidden.

    Raises:
        ConfigurationError: The URL is none of these.
    """

    def __init__(
        self,
        url: str,
        records: JobStore,
        *,
        queues: Iterable[str] = (),
        clock: Clock | None = None,
    ) -> None:
        self._address = read_address(url)
        self._records = records
        self._expected = tuple(queues)
        self._clock = clock or SystemClock()
        self._sqs = SqsConnection(self._address)
        self._opening = asyncio.Lock()
        self._records_are_open = False
        self._dead = DeadLetters(self._sqs, self._address, records)
        self._deliveries = Deliveries(self._sqs, self._address, records, self._dead, self._clock)

    @property
    def capabilities(self) -> Capabilities:
        known = self._records.capabilities
        return Capabilities(
            backend="sqs",
            shared=True,
            longest_delay=LONGEST_DELAY,
            most_leased=MOST_LEASED,
            most_payload=MOST_PARAMS,
            lookup=known.lookup,
            ordered=False,
            atomic=False,
            priorities=False,
            unique=known.unique,
            concurrency=False,
            rates=known.rates,
            claims=False,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the records, and of every queue that was looked at so far."""
        told = list(self._records.warnings)
        if not self._records.capabilities.shared:
            told.append(
                f"{self._address.shown}: jobs are recorded in {self._records.capabilities.backend}"
                f", so other machines know nothing of their states, results, attempts and unique "
                f"keys; expected a store that all of them share"
            )
        for queue in self._sqs.queues.values():
            told += [f"{self._address.shown}: {danger}" for danger in dangers(queue)]
        return tuple(told)

    async def open(self) -> None:
        """Connect, and look at the queues. After `StoreUnavailable` it works once both engines do.

        Raises:
            ConfigurationError: Nothing says which region it is, or SQS has no such queues.
            StoreUnavailable: SQS, or the records, cannot be reached.
            StoreSchemaError: A queue is missing, or the records do not fit this worker.
        """
        try:
            await self._sqs.open()
            await self._open_records()
            if not self._expected:
                await self._sqs.reach()
            told = await together([self._sqs.queue(queue) for queue in self._expected])
            failures = [failure for failure in told if isinstance(failure, StoreError)]
            if missing := [one for one in failures if isinstance(one, StoreSchemaError)]:
                raise StoreSchemaError("\n".join(str(one) for one in missing))
            for failure in failures:
                raise failure
        except (ConfigurationError, StoreSchemaError):
            await self.close()
            raise

    async def _open_records(self) -> None:
        async with self._opening:
            if not self._records_are_open:
                await self._records.open()
                self._records_are_open = True

    async def close(self) -> None:
        await self._deliveries.close()
        await self._sqs.close()
        await self._records.close()

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Record the jobs, then send them. That is no one step, so after `StoreUnavailable` some
        may be sent and others not; those that are recorded and were never leased are sent again
        when they are enqueued again."""
        await self._open_records()
        now = self._clock.now()
        entries = {job.id: message_of(job, now) for job in reversed(jobs)}
        for job in jobs:
            refuse_too_long(job, entries[job.id], await self._sqs.queue(job.queue))
        told = await self._records.enqueue(
            [job._replace(queue=self._address.recorded(job.queue)) for job in jobs]
        )
        new = {taken.id for taken in told if taken.created}
        sending: dict[str, dict[JobId, Entry]] = defaultdict(dict)
        for job in jobs:
            if job.id in new:
                sending[job.queue][job.id] = entries[job.id]
        known = {job.id for job, taken in zip(jobs, told, strict=True) if job.id == taken.id} - new
        for waiting in await self._found(known):
            if waiting.state is State.PENDING and not waiting.deliveries:
                sending[waiting.queue][waiting.id] = self._again(waiting)
        await self._send(sending)
        return [self._with_own_queue(taken) for taken in told]

    def _with_own_queue(self, taken: Enqueued) -> Enqueued:
        """The result, with the queue as SQS has it and not as the records name it."""
        if taken.existing is None:
            return taken
        queue = self._address.queue_of(taken.existing.queue) or taken.existing.queue
        return replace(taken, existing=taken.existing._replace(queue=queue))

    async def _found(self, ids: Iterable[JobId]) -> list[Job]:
        """Those of ``ids`` that are recorded as ours."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return []
        return [job for job in await self.get(wanted) if job is not None]

    def _again(self, job: Job) -> Entry:
        """The message of a job that is recorded."""
        delay = max(NOW, min(LONGEST_DELAY, job.ready_at - self._clock.now()))
        return as_message(job, delay_s=seconds(delay), expires_at=job.expires_at)

    async def _send(self, sending: dict[str, dict[JobId, Entry]]) -> None:
        """Send the messages of each queue.

        Raises:
            StoreUnavailable: Some could not be sent now.
            NotSupported: Some never can, and are not recorded any more.
        """
        for queue, entries in sending.items():
            failures = await self._sqs.send(
                (await self._sqs.queue(queue)).url, list(entries.values())
            )
            ids = list(entries)
            refused = {ids[n]: failure for n, failure in failures.items() if failure.by_sender}
            if refused:
                await self._records.cancel(list(refused))
                await self._records.drop(list(refused))
                job, failure = next(iter(refused.items()))
                raise NotSupported(f"{self._address.shown} refused job {job}: {failure}")
            for failure in failures.values():
                raise StoreUnavailable(f"{self._address.shown} did not take a job: {failure}")

    async def lease(
        self,
        queue: str,
        *,
        limit: int,
        ttl: timedelta,
        wait: timedelta,
        worker: str,
        deferred: Deferred = NONE_DEFERRED,
    ) -> list[Lease]:
        await self._open_records()
        return await self._deliveries.lease(
            await self._sqs.queue(queue),
            limit=limit,
            ttl=ttl,
            wait=wait,
            worker=worker,
            deferred=deferred,
        )

    async def begin(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        return await self._deliveries.begin(leases, ttl)

    async def extend(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        return await self._deliveries.extend(leases, ttl)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        return await self._deliveries.settle(settlements)

    async def take(self, key: str, rate: Rate, wanted: int) -> Grant:
        return await self._records.take(key, rate, wanted)

    async def publish(self, declarations: Sequence[Declaration]) -> None:
        await self._open_records()
        await self._records.publish(declarations)

    async def declaration(self, task: str) -> Declaration | None:
        await self._open_records()
        return await self._records.declaration(task)

    async def apply_terms(self, lease: Lease, terms: Terms) -> JobId | None:
        return await self._deliveries.apply_terms(lease, terms)

    async def get(self, ids: Sequence[JobId]) -> list[Job | None]:
        return [self._ours(job) for job in await self._records.get(ids)]

    def _ours(self, job: Job | None) -> Job | None:
        queue = None if job is None else self._address.queue_of(job.queue)
        return None if job is None or queue is None else replace(job, queue=queue)

    async def wait(self, job: JobId, timeout: timedelta) -> Job | None:
        return self._ours(await self._records.wait(job, timeout))

    async def find(self, query: JobQuery) -> list[Job]:
        """Look for jobs in the records. For dead letters, look through SQS's first."""
        if query.dead:
            await self._adopt(query.queue)
        if query.queue is not None:
            query = replace(query, queue=self._address.recorded(query.queue))
        found = [self._ours(job) for job in await self._records.find(query)]
        return [job for job in found if job is not None]

    async def _adopt(self, queue: str | None) -> None:
        for name in await self._names() if queue is None else [queue]:
            found = await self._known(name)
            if found is not None:
                await self._dead.adopt(found)

    async def _names(self) -> list[str]:
        """The queues that are known, here or to the records."""
        recorded = [self._address.queue_of(count.queue) for count in await self._records.counts()]
        return sorted({*self._sqs.queues, *self._expected, *filter(None, recorded)})

    async def counts(self) -> list[QueueCount]:
        """What the records count, and as jobs of task ``""`` what SQS has beyond that: messages
        that others sent and that did not come yet, and those that it moved to the dead letters.
        SQS only estimates."""
        rows: list[QueueCount] = []
        expected: dict[str, int] = defaultdict(int)
        for row in await self._records.counts():
            name = self._address.queue_of(row.queue)
            if name is None:
                continue
            rows.append(row._replace(queue=name))
            queue = await self._known(name)
            if queue is not None and queue.dead_letters is not None:
                expected[queue.dead_letters] += row.dead
            if queue is not None and (not row.state.final or row.state is State.REVOKED):
                expected[queue.url] += row.jobs  # of a revoked one the message may be left
        seen: set[str] = set()
        for name in sorted({row.queue for row in rows} | {*self._sqs.queues, *self._expected}):
            queue = await self._known(name)
            if queue is None or not queue.readable:
                continue
            waiting = await self._sqs.size(queue.url) - expected[queue.url]
            if waiting > 0:
                rows.append(QueueCount(name, "", State.PENDING, waiting))
            if queue.dead_letters is None or queue.dead_letters in seen:
                continue
            seen.add(queue.dead_letters)  # several queues may share them
            dead = await self._sqs.size(queue.dead_letters) - expected[queue.dead_letters]
            if dead > 0:
                rows.append(QueueCount(name, "", State.FAILURE, dead, dead))
        return sorted(rows, key=lambda row: row[:3])

    async def ended(self, within: timedelta) -> dict[str, int]:
        told = await self._records.ended(within)
        names = {queue: self._address.queue_of(queue) for queue in told}
        return {name: told[queue] for queue, name in names.items() if name is not None}

    async def _known(self, name: str) -> SqsQueue | None:
        """A queue; ``None`` for one that only the records remember."""
        try:
            return await self._sqs.queue(name)
        except StoreSchemaError:
            return None

    async def tell(self, lease: Lease, progress: str) -> None:
        await self._deliveries.tell(lease, progress)

    async def cancelled(self, ids: Sequence[JobId]) -> list[JobId]:
        return await self._records.cancelled(ids)

    async def cancel(self, ids: Sequence[JobId]) -> list[Requeued]:
        """As the records do it. The message of a revoked job is deleted when it comes."""
        return await self._change(ids, await self._found(ids), self._records.cancel)

    async def _change(
        self,
        ids: Sequence[JobId],
        ours: Sequence[Job],
        change: Callable[[Sequence[JobId]], Awaitable[list[Requeued]]],
    ) -> list[Requeued]:
        known = {job.id for job in ours}
        asked = [job for job in ids if job in known]
        told = iter(await change(asked) if asked else ())
        return [next(told) if job in known else Requeued.UNKNOWN for job in ids]

    async def retry(self, ids: Sequence[JobId]) -> list[Requeued]:
        """Put jobs back in the records, send them anew, and delete their dead letters."""
        before = await self._found(ids)
        told = await self._change(ids, before, self._records.retry)
        sending: dict[str, dict[JobId, Entry]] = defaultdict(dict)
        done = {job for job, word in zip(ids, told, strict=True) if word is Requeued.DONE}
        for job in await self._found(ids):
            # One that waits but does not come may have lost its message.
            waits = job.state in (State.PENDING, State.RETRY) and job.ready_at <= self._clock.now()
            if job.id in done or waits:
                sending[job.queue][job.id] = self._again(job)
        await self._send(sending)
        await self._forget(before, ids, told)
        return told

    async def drop(self, ids: Sequence[JobId]) -> list[Requeued]:
        """Forget jobs, and delete their dead letters."""
        before = await self._found(ids)
        told = await self._change(ids, before, self._records.drop)
        await self._forget(before, ids, told)
        return told

    async def _forget(
        self, before: Sequence[Job], ids: Sequence[JobId], told: Sequence[Requeued]
    ) -> None:
        done = {job for job, word in zip(ids, told, strict=True) if word is Requeued.DONE}
        letters: dict[str, list[JobId]] = defaultdict(list)
        for job in before:
            if job.dead and job.id in done:
                letters[job.queue].append(job.id)
        for name, doomed in letters.items():
            await self._dead.forget(await self._sqs.queue(name), doomed)

    async def claim(
        self,
        ids: Sequence[JobId],
        *,
        ttl: timedelta,
        worker: str,
        deferred: Deferred = NONE_DEFERRED,
    ) -> list[Lease | Job | None]:
        raise NotSupported("sqs keeps no records; expected another engine for them")

    async def prune(self, *, keep: timedelta, limit: int = 5000) -> int:
        return await self._records.prune(keep=keep, limit=limit)


def message_of(job: NewJob, now: datetime) -> Entry:
    """The message of a new job.

    Raises:
        NotSupported: SQS would not take it.
    """
    if job.delay > LONGEST_DELAY:
        raise NotSupported(f"job {job.id}: SQS delays by up to 15 minutes, got {job.delay}")
    expires_at = None if job.expires is None else now + job.expires
    entry = as_message(job, delay_s=seconds(job.delay), expires_at=expires_at)
    size, beside = len(entry["MessageBody"].encode()), attributes_size(entry)
    if size > MOST_PARAMS or beside > MOST_BESIDE:
        raise NotSupported(
            f"job {job.id}: expected parameters of up to {MOST_PARAMS} bytes, and options and "
            f"headers of up to {MOST_BESIDE}, got {size} and {beside}"
        )
    return entry


def refuse_too_long(job: NewJob, entry: Entry, queue: SqsQueue) -> None:
    """
    Raises:
        NotSupported: The queue takes shorter messages only.
    """
    size = size_of(entry)
    if size > queue.most_bytes:
        raise NotSupported(
            f"job {job.id}: its message is {size} bytes long; the queue {queue.name} takes up to "
            f"{queue.most_bytes}, as its MaximumMessageSize says"
        )


def dangers(queue: SqsQueue) -> list[str]:
    """What about a queue endangers jobs, or keeps dead letters from where they are looked for."""
    if not queue.readable:
        return [
            f"queue {queue.name}: its attributes may not be read (sqs:GetQueueAttributes), so its "
            f"dead letters are kept in the records only"
        ]
    if queue.dead_letters is None:
        return [
            f"queue {queue.name} has no redrive policy: its dead letters are kept in the records "
            f"only"
        ]
    if queue.receives is not None and queue.receives < ENOUGH_RECEIVES:
        return [
            f"queue {queue.name}: SQS itself moves a message to the dead letters after "
            f"{queue.receives} receives, and each retry, snooze and lost lease costs one; "
            f"expected a maxReceiveCount of {ENOUGH_RECEIVES} or more"
        ]
    return []
