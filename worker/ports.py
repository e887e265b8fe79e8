"""What a backend implements. No rules of its own: those stand in `worker.ledger`, `worker.jobs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from worker.jobs.job import NONE_DEFERRED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import timedelta

    from worker.jobs.declaration import Declaration, Terms
    from worker.jobs.job import (
        Capabilities,
        Deferred,
        Enqueued,
        Grant,
        Held,
        Job,
        JobId,
        JobQuery,
        Lease,
        NewJob,
        QueueCount,
        Rate,
        Requeued,
        Settlement,
    )
    from worker.ledger.book import (
        Book,
        Change,
        Entry,
        HistoryQuery,
        Pulse,
        Replica,
        SessionId,
        Written,
    )
    from worker.ledger.presence import Presence

__all__ = ["JobDeclarations", "JobQueue", "JobRecords", "JobStore", "LedgerStore"]


class LedgerStore(Protocol):
    """Where the ledger is kept.

    Blocking, and called from one thread at a time. Every method may raise `StoreUnavailable`, and
    nothing else that the store's library knows; after that it may be called again, and works again
    once the store does.

    Leases are judged by the store's clock: a session whose lease has run out stays dead, whatever
    the clock of its replica says.
    """

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever chose this store should know: what is lost with it, and when."""
        ...

    def open_session(
        self, replica: str, ttl: timedelta, presence: Presence | None = None
    ) -> SessionId:
        """Begin a session whose lease holds for ``ttl``; its id is greater than all before it.

        Args:
            presence: What it is for, kept as long as the session; ``None`` if that is not said.
        """
        ...

    def renew(self, session: SessionId, ttl: timedelta) -> Pulse:
        """Have the lease hold for ``ttl`` from now, and tell what there is to do.

        Raises:
            LeaseLost: The lease had run out, or the session was closed.
        """
        ...

    def close_session(self, session: SessionId) -> None:
        """End the lease now, if it still holds. What the session still runs is orphaned.

        `Replica.closed` from then on, which a session whose lease only runs out never is.
        """
        ...

    def read(self, tasks: Sequence[str]) -> Mapping[str, Book]:
        """The books of ``tasks``, with their active entries; version 0 where there is none."""
        ...

    def write(self, changes: Sequence[Change]) -> list[Written]:
        """Make each change that can be made, wholly or not at all; what became of each.

        A change is made if the book still has the version that was read (and no book is there for
        version 0), if the lease of its session holds at that moment, and if none of its entries
        would replace one with a last word. The book's version rises by one.
        """
        ...

    def tasks(self) -> list[str]:
        """The names of all tasks that have a book."""
        ...

    def history(self, query: HistoryQuery) -> list[Entry]:
        """The entries that ``query`` asks for, newest slots first."""
        ...

    def replicas(self, sessions: Collection[SessionId] | None = None) -> list[Replica]:
        """Every session that is not pruned yet, the latest first.

        Args:
            sessions: Only these; those that are not known are left out.
        """
        ...

    def prune(self, *, age: timedelta, limit: int = 5000) -> int:
        """Forget up to ``limit`` last words recorded longer ago than ``age``.

        Once fewer are left, dead sessions of that age without entries are forgotten, too. It
        is called between claims, so it takes milliseconds.

        Returns:
            How many last words were forgotten; fewer than ``limit`` when none is left.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files. Never raises."""
        ...


class JobQueue(Protocol):
    """Jobs on their way to a worker. SQS's contract, the narrowest of the engines.

    At-least-once: a job that was leased and not settled is leased again once its lease has run
    out, so there is no rescuer. Every method may raise `StoreUnavailable`; after it nobody knows
    whether the call was made, it may be repeated, and it works again once the engine does. Times
    are judged by the engine's clock. Methods may be called from many asyncio tasks of one loop.
    A call that is cancelled leaves the engine usable, and loses no job: what it leased is given
    back, or leased again when the lease has run out.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever chose this engine should know: what is lost with it, and when."""
        ...

    async def open(self) -> None:
        """Connect, and see that what is there fits this worker. Called once, in the loop.

        Raises:
            StoreUnavailable: It cannot be reached.
            StoreSchemaError: Its tables are missing, older or newer than this worker.
        """
        ...

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Take in all of ``jobs``, or none; durable when it returns. In one round trip.

        An id that is known already is not taken in again, in whatever state its job is; nor is a
        job whose unique key another one holds. Among ``jobs`` the first one wins. Those of one
        queue with the same priority and delay are leased in the order in which they came.
        """
        ...

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
        """Up to ``limit`` jobs that are ready, for ``ttl``, each to one worker only.

        A job is ready when its delay has passed, or its lease has run out; then it counts one
        loss if its work had begun, and its history has one entry more
        (`worker.jobs.history.with_loss`). Greater priorities come first, then those that are ready
        longer, then those that were enqueued first. Each counts one delivery. A job whose
        concurrency key has as many leases as it may have is passed over. Those of one key, limit
        and queue keep that order whatever happens to be locked by other workers.

        Args:
            wait: How long to wait for a job if there is none. It returns as soon as there is one,
                and does not ask the engine all the time meanwhile.
            worker: The worker's name, for people.
            deferred: Which of the jobs have not begun with this lease, but with `begin`.
        """
        ...

    async def begin(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        """Record that the work on these jobs begins, and have each lease hold for ``ttl`` from now.

        Otherwise as `extend`.
        """
        ...

    async def extend(self, leases: Sequence[Lease], ttl: timedelta) -> list[Held]:
        """Have each lease hold for ``ttl`` from now.

        A lease that ran out, but whose job nobody else has leased since, is held again.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Record what came of jobs, durable when it returns, in one round trip.

        A job that goes back although it was asked to end does so without a delay: the worker that
        leases it next revokes it. Where a settlement says no error and no history, those that are
        recorded stay; but a job that succeeds has no error any more. One that goes back with its
        lease's ``due_at`` keeps its place in its queue.

        Returns:
            For each, ``False`` if its lease was lost; then nothing was changed. A lease that ran
            out, but whose job nobody else has leased since, can be settled.
        """
        ...

    async def take(self, key: str, rate: Rate, wanted: int) -> Grant:
        """How many of ``wanted`` starts ``rate`` allows now, counted over all workers by ``key``.

        The generic cell rate algorithm: one moment a key, the theoretical arrival time.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and files. Never raises."""
        ...


class JobRecords(Protocol):
    """What is known of jobs, whether they wait, run or have ended."""

    async def get(self, ids: Sequence[JobId]) -> list[Job | None]:
        """The jobs with these ids; ``None`` for one that nobody recorded, or that is pruned."""
        ...

    async def wait(self, job: JobId, timeout: timedelta) -> Job | None:
        """The job once it has a final state, or as it is after ``timeout``.

        Woken by a notification where the engine has them, and soon after the end where it has
        none. ``None``, at once, for an id that nobody recorded.
        """
        ...

    async def find(self, query: JobQuery) -> list[Job]:
        """The jobs that ``query`` asks for, without the histories of their attempts."""
        ...

    async def counts(self) -> list[QueueCount]:
        """How many jobs there are, by queue, task and state, in that order. No row for none.

        Those that succeeded are not counted: they are the many, and what is asked every second or
        two shall not cost the more the longer they are kept.
        """
        ...

    async def ended(self, within: timedelta) -> dict[str, int]:
        """How many jobs have ended in each queue since ``within`` ago, dead letters aside.

        What it costs grows with these jobs.
        """
        ...

    async def tell(self, lease: Lease, progress: str) -> None:
        """Record how far a job is, a JSON object, if the lease is not lost. Its state is
        ``PROGRESS`` from then on. A next attempt begins without any."""
        ...

    async def cancelled(self, ids: Sequence[JobId]) -> list[JobId]:
        """Those of ``ids`` that were asked to end. It only reads: it is called every second."""
        ...

    async def cancel(self, ids: Sequence[JobId]) -> list[Requeued]:
        """Revoke each job that waits; ask the worker to end it, if it runs."""
        ...

    async def retry(self, ids: Sequence[JobId]) -> list[Requeued]:
        """Put each job that failed, was revoked or expired back into its queue, ready now.

        It begins anew: no attempts, losses or refusals, no error, no dead letter, and it does not
        expire any more. Its history stays. Other states are ``NOT_NOW``.
        """
        ...

    async def drop(self, ids: Sequence[JobId]) -> list[Requeued]:
        """Forget each job that has a final state; one that waits or runs is ``NOT_NOW``."""
        ...

    async def prune(self, *, keep: timedelta, limit: int = 5000) -> int:
        """Forget up to ``limit`` jobs that ended longer ago than ``keep``, but no dead letters.

        Results whose time is over are forgotten by themselves. What only serves keys that nobody
        holds any more is forgotten, too. It takes milliseconds.

        Returns:
            How many jobs were forgotten; fewer than ``limit`` when none is left.
        """
        ...

    async def claim(
        self,
        ids: Sequence[JobId],
        *,
        ttl: timedelta,
        worker: str,
        deferred: Deferred = NONE_DEFERRED,
    ) -> list[Lease | Job | None]:
        """Lease just these jobs, each if it is ready as `JobQueue.lease` has it.

        For engines that keep no records of their own. They put each job here with `enqueue`, carry
        its id to a worker by other means, and claim it there; from then on it is leased as any
        other. The names of such queues begin with a word and a slash, such as ``sqs/``
        (`worker.jobs.job.is_carried`). Nobody calls `lease` for them, so nobody need be woken, and
        their jobs have no concurrency keys.

        Args:
            ids: Each once.
            deferred: As for `JobQueue.lease`.

        Returns:
            For each, its lease; the job as it stands, if it cannot be leased now or not any more,
            or is in a queue of this engine itself; ``None`` for an id that nobody recorded.

        Raises:
            NotSupported: This engine keeps no records itself (`Capabilities.claims`).
        """
        ...


class JobDeclarations(Protocol):
    """What tasks declare about their jobs: for producers that know them by name only."""

    async def publish(self, declarations: Sequence[Declaration]) -> None:
        """Record what each task declares, in the place of what is recorded of the same version or
        an older one. The declaration of a newer version stays."""
        ...

    async def declaration(self, task: str) -> Declaration | None:
        """What a task declares; ``None`` if no worker has published it, or none that says so."""
        ...

    async def apply_terms(self, lease: Lease, terms: Terms) -> JobId | None:
        """Give a leased job what its producer left to the task's declaration.

        The caller hands the job back afterwards, so that the next lease is judged by the new terms.

        Returns:
            The job that holds the unique key, if another one does: then nothing is changed. The
            job's own id if the terms are applied; ``None`` if the lease was lost.
        """
        ...


class JobStore(JobQueue, JobRecords, JobDeclarations, Protocol):
    """An engine that does both, as most do."""
