"""Jobs become runs: a poller a queue leases them, the runner runs them, then they are settled.

A job is acknowledged when its outcome is stored, never before. So each is run at least once: its
worker may die between the one and the other. Leases are extended while the work goes on.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog

from worker.cancelling import end_task
from worker.consuming.gathering import Gathering
from worker.consuming.held_leases import HeldLeases
from worker.consuming.losses import Losses
from worker.consuming.rate_turns import RateTurns
from worker.consuming.settling import Settling
from worker.consuming.slots import Slots
from worker.consuming.terms import terms_of
from worker.consuming.unrun import REFUSED, Unrun, error_text
from worker.errors import ConfigurationError, InvalidOptions, StoreError
from worker.events import JobTakenOver, QueueChanged, UnknownJobs
from worker.jobs.history import AttemptOutcome, outcome_of, remembered
from worker.jobs.job import NOW, Deferred, Held, Settlement
from worker.jobs.verdict import unspent
from worker.model import CancelReason, RunId, State, Trigger, new_run_id
from worker.running.runner import BatchJob, JobTerms
from worker.shared_tasks import keep_going

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from worker.clock import Clock
    from worker.consuming.queue_plan import QueuePlan
    from worker.consuming.stand_in import StandIn
    from worker.events import Events
    from worker.jobs.declaration import Terms
    from worker.jobs.job import JobId, Lease
    from worker.jobs.options import JobOptions
    from worker.model import Run
    from worker.ports import JobStore
    from worker.running.runner import Runner
    from worker.shared_tasks import TaskOwner
    from worker.tasks.base import TaskDefinition

__all__ = ["Consumer", "ConsumerLimits"]

AGAIN_S = 0.5
LONGEST_AGAIN_S = 15.0
LOOK_S = 0.02
"""How often the queues are looked at that seem empty, while the last jobs of a burst run."""
SOON = timedelta(seconds=LOOK_S)
"""When a job is leased again that came before the engine's answer to its last outcome."""
LEASE_S = 1.0
"""How long a worker that ends waits for a lease that is on its way."""
FLUSH_S = 5.0
"""How long a worker that ends tries to store what came of its jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerLimits:
    """How much the consumer does, and how patient it is.

    Attributes:
        concurrency: How many jobs run at the same time, over all queues.
        max_jobs: Once so many jobs have run it has done; ``None`` for no end.
        burst: When nothing in its queues is ready it has done. What waits for its time, another
            attempt of a job say, is left for later.
        max_losses: A job whose workers died so often is dead-lettered.
        max_refusals: So is one that so many deliveries could not make sense of.
        cancel_grace: How long a job may go on that was asked to end, before it is cancelled.
        keep: How long jobs that ended are remembered.
    """

    concurrency: int = 100
    max_jobs: int | None = None
    burst: bool = False
    max_losses: int = 3
    max_refusals: int = 10
    cancel_grace: timedelta = timedelta(seconds=5)
    keep: timedelta = timedelta(days=7)


class Consumer:
    """Works off queues.

    Args:
        jobs: The engine.
        tasks: Those that it can run, by name.
        spared: The names of tasks that this worker knows and leaves to others.
        worker: The name by which the engine knows this worker.
        on_done: Called with the reason when it has done what it was to do.
        on_begin: Awaited before anything is asked of the engine, and again until it succeeds: opens
            the engine, if nobody else does.

    Attributes:
        stand_in: Holds the leases while the loop stands still; to be set before `start`.
    """

    def __init__(
        self,
        jobs: JobStore,
        runner: Runner,
        tasks: Mapping[str, TaskDefinition],
        *,
        queues: Sequence[QueuePlan],
        clock: Clock,
        events: Events,
        worker: str,
        limits: ConsumerLimits = ConsumerLimits(),
        spared: Collection[str] = (),
        on_done: Callable[[str], None] = lambda reason: None,
        on_begin: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.queues = tuple(queues)
        self.limits = limits
        self.on_done = on_done
        self.on_begin = on_begin
        self.stand_in: StandIn | None = None
        self._beginning = asyncio.Lock()
        self._has_begun = False
        self._jobs = jobs
        self._runner = runner
        self._tasks = tasks
        self._spared = spared
        self._clock = clock
        self._events = events
        self._worker = worker
        self._pollers: set[asyncio.Task[None]] = set()
        self._leasing: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._runs: set[RunId] = set()
        self._all_ended: asyncio.Future[None] | None = None
        self._slots = Slots(limits.concurrency, limits.max_jobs)
        self._deferred = Deferred(
            tasks=tuple(sorted(name for name, task in tasks.items() if waits_after_lease(task))),
            losses=1,
        )
        self._held = HeldLeases(
            jobs,
            runner,
            clock=clock,
            cancel_grace=limits.cancel_grace,
            keep=limits.keep,
            on_trouble=partial(self._noted, "leases"),
        )
        self._settling = Settling(
            jobs,
            self._held,
            self._slots,
            losses=Losses(jobs, events=events, worker=worker),
            on_trouble=partial(self._noted, "settle"),
            on_quiet=self._quiet,
            presumes=lambda lease: not self._deferred.covers(lease.task, lease.losses),
        )
        self._group: TaskOwner | None = None
        self._batches: set[asyncio.Task[None]] = set()
        self._gatherings: dict[str, Gathering] = {}
        self._unrun = Unrun(
            tasks,
            spared=spared,
            events=events,
            max_losses=limits.max_losses,
            max_refusals=limits.max_refusals,
        )
        self._turns = RateTurns(clock)
        self._taken = 0
        self._empty: set[str] = set()
        self._stopping = False
        self._troubles: dict[str, str] = {}

    @property
    def running(self) -> int:
        """How many jobs are leased and not settled yet."""
        return len(self._held)

    @property
    def trouble(self) -> str | None:
        """What is wrong with the engine; ``None`` when nothing is."""
        return next(iter(self._troubles.values()), None)

    def start(self, group: TaskOwner) -> None:
        """Begin to poll."""
        self._stopping = False
        self._group = group
        keep = keep_going(self._keep, clock=self._clock, name="leases")
        self._keeper = group.create_task(keep, name="leases")
        if self.stand_in is not None:
            self.stand_in.start(self._held)
        able = self._jobs.capabilities
        for plan in self.queues:
            most = min(plan.max_batch_size, able.most_leased)
            poll = partial(self._poll, replace(plan, max_batch_size=most))
            name = f"poller:{plan.name}"
            going = keep_going(poll, clock=self._clock, name=name)
            poller = group.create_task(going, name=name)
            self._pollers.add(poller)
            poller.add_done_callback(self._pollers.discard)

    async def begin(self) -> None:
        """Do what is to be done before anything is asked of the engine, unless it is done.

        Raises:
            StoreError, ConfigurationError: It cannot be done now, or not at all.
        """
        async with self._beginning:
            if not self._has_begun and self.on_begin is not None:
                await self.on_begin()
            self._has_begun = True

    async def _until_begun(self) -> None:
        again_s = AGAIN_S
        while not self._has_begun:
            try:
                await self.begin()
            except (StoreError, ConfigurationError) as exc:
                self._noted("begin", str(exc))
                await self._clock.sleep(again_s)
                again_s = min(again_s * 2, LONGEST_AGAIN_S)
        self._noted("begin", None)

    async def _keep(self) -> None:
        await self._until_begun()
        await self._held.keep_up()

    async def stop(self, grace: timedelta) -> None:
        """Lease no more, let runs end within ``grace``, give back the rest, unspent."""
        self._stopping = True
        loop = asyncio.get_running_loop()
        until = loop.time() + grace.total_seconds()
        await self._end_pollers()
        for gathering in self._gatherings.values():
            for plan, lease in gathering.taken():
                self._give_back(plan, lease)
        if self._batches:
            await asyncio.wait(self._batches, timeout=LEASE_S)
        for beginning in list(self._batches):
            await end_task(beginning)
        await self._runs_end(max(0.0, until - loop.time()))
        while self._runs:  # the runner bounds this: it leaves behind what hangs
            for run_id in self._runs:
                self._runner.interrupt(run_id, CancelReason.SHUTDOWN)
            # A batch may be between two of its parts, and not hear: it is told once more.
            await self._runs_end(LEASE_S)
        await self._settling.finish(FLUSH_S)
        if self._keeper is not None:
            await end_task(self._keeper)
        if self.stand_in is not None:
            await self.stand_in.stop()

    async def _end_pollers(self) -> None:
        """Cancel those that wait, but let a lease that is on its way come, to give it back."""
        for poller in self._pollers - self._leasing:
            poller.cancel()
        for _ in range(2):
            if self._pollers:
                await asyncio.wait(self._pollers, timeout=LEASE_S)
            for poller in set(self._pollers):
                poller.cancel()

    async def tell_unknown(self) -> None:
        """Say which jobs lie in its queues that it cannot run. Told at start."""
        try:
            unknown = await self.unknown_jobs()
        except StoreError:
            return
        for queue, jobs in unknown.items():
            self._events.announce(UnknownJobs(task="", queue=queue, jobs=jobs))

    async def unknown_jobs(self) -> dict[str, dict[str, int]]:
        """How many jobs of tasks that it does not know lie in its queues, by queue and task.

        Raises:
            StoreError: The engine cannot be asked.
        """
        unknown: dict[str, dict[str, int]] = {}
        polled = {plan.name for plan in self.queues}
        for count in await self._jobs.counts():
            # Without a name nobody has looked yet: SQS only tells how many there are.
            known = count.task in self._tasks or count.task in self._spared or not count.task
            queue = count.queue.rpartition("/")[2]  # an engine's records say whose they are
            if queue in polled and not count.state.final and not known:
                tasks = unknown.setdefault(queue, {})
                tasks[count.task] = tasks.get(count.task, 0) + count.jobs
        return unknown

    async def _poll(self, plan: QueuePlan) -> None:
        """Lease jobs as long as there is room, and wait for them when there are none."""
        await self._until_begun()
        found, again_s = True, AGAIN_S
        while not self._stopping:
            room = await self._slots.reserve(plan, gather=found)
            if not room:
                self._done_if_quiet()
                return
            waits = not found and plan.push and not self.limits.burst
            taken = self._taken
            try:
                leases = await self._lease(plan, room, waits=waits)
            except StoreError as exc:
                self._noted(f"queue {plan.name}", str(exc))
                await self._clock.sleep(again_s)
                again_s = min(again_s * 2, LONGEST_AGAIN_S)
                found = True  # so the next look does not wait: it shows whether all is well
                continue
            self._noted(f"queue {plan.name}", None)
            again_s = AGAIN_S
            found = len(leases) >= (1 if waits or not self._jobs.capabilities.ordered else room)
            if leases:
                continue
            if self.limits.burst:
                if self._is_burst_over(plan, taken):
                    self.on_done("the queues are empty")
                    return
                await self._clock.sleep(LOOK_S)
            elif not plan.push:
                await self._clock.sleep(plan.poll_interval.total_seconds())

    async def _lease(self, plan: QueuePlan, room: int, *, waits: bool) -> Sequence[Lease]:
        """Lease jobs and begin them.

        A poller that waits for jobs keeps no room for itself. If there is none any more when one
        comes, it goes back at once, and the poller gets in line for the next slot.
        """
        poller = asyncio.current_task()
        assert poller is not None
        if waits:
            self._slots.release(room)
            room = 0
        else:
            self._leasing.add(poller)
        try:
            leases = await self._jobs.lease(
                plan.name,
                limit=room or 1,
                ttl=plan.visibility_timeout,
                wait=plan.poll_interval if waits else NOW,
                worker=self._worker,
                deferred=self._deferred,
            )
            reserved, room = room, 0
            await self._take(plan, leases, reserved)
        finally:
            if room:
                self._slots.release(room)
            self._leasing.discard(poller)
        return leases

    def _is_burst_over(self, plan: QueuePlan, taken: int) -> bool:
        """Whether every queue was found empty since the last job ended.

        Args:
            taken: How many jobs had been taken when this queue was looked at.
        """
        if len(self._held) or taken != self._taken:
            self._empty.clear()
            return False
        self._empty.add(plan.name)
        return len(self._empty) == len(self.queues)

    def _done_if_quiet(self) -> None:
        if self._slots.exhausted and not len(self._held):
            self.on_done(f"{self.limits.max_jobs} jobs")

    def _quiet(self) -> None:
        """Nothing is leased any more."""
        if not self._stopping:
            self._done_if_quiet()

    async def _take(self, plan: QueuePlan, leases: Sequence[Lease], reserved: int) -> None:
        """Start what was leased, or say why not."""
        fresh = [lease for lease in leases if not self._held.has(lease)]
        known = [] if len(fresh) == len(leases) else [one for one in leases if one not in fresh]
        room = self._slots.lease(plan, len(fresh), reserved=reserved)
        for lease in fresh[room:]:
            self._settling.put_stray(unspent(lease))
        if leases:
            self._taken += len(leases)
            self._empty.clear()
        waiting: dict[JobId, Lease] = {}
        undeclared: list[tuple[Lease, Terms]] = []
        for lease in fresh[:room]:
            self._held.add(plan, lease)
            if self._stopping:
                self._give_back(plan, lease)
                continue
            settlement = self._unrun.judged(lease, self._tasks.get(lease.task))
            if settlement is not None:
                self._settle(plan, settlement)
            elif (terms := terms_of(lease, self._tasks[lease.task])) is not None:
                undeclared.append((lease, terms))
            elif self._waits_for_suspects(lease):
                self._give_back(plan, lease, REFUSED)
            else:
                waiting[lease.id] = lease
        try:
            if known:
                await self._adopt(plan, known)
            await self._apply_terms(plan, undeclared)
            await self._begin_all(plan, waiting)
        except asyncio.CancelledError:
            for lease in (*waiting.values(), *(lease for lease, _ in undeclared)):
                self._give_back(plan, lease)
            raise

    async def _adopt(self, plan: QueuePlan, leases: Sequence[Lease]) -> None:
        """Go on under these leases with jobs that this worker still has under earlier ones."""
        begun: list[Lease] = []
        for lease in leases:
            if self._held.is_stored(lease):  # its turn comes when that is known here, too
                self._settling.put_stray(unspent(lease, delay=SOON))
            elif not self._held.adopt(lease):
                self._settling.put_stray(unspent(lease, delay=REFUSED))
            elif self._held.has_begun(lease):
                begun.append(lease)
        if begun:
            with suppress(StoreError):  # then the loss of this lease would not be charged
                await self._jobs.begin(begun, plan.visibility_timeout)

    def _waits_for_suspects(self, lease: Lease) -> bool:
        """Whether a job must not begin now because of others that have lost leases.

        The death of one worker more would end a job with one loss left. Beside it a worker runs no
        other job that has lost a lease: one of them may be what kills workers.
        """
        beside = self._held.most_losses_beside(lease) if lease.losses else 0
        return beside > 0 and max(beside, lease.losses) >= self.limits.max_losses - 1

    async def _begin_all(self, plan: QueuePlan, waiting: dict[JobId, Lease]) -> None:
        """Begin jobs, or hand them back. Each leaves ``waiting`` when that is done.

        Whatever the engine counts as begun, but is not, is handed back before: one of these jobs
        may kill the worker.
        """
        await self._settling.jobs_returned(all_of_them=False)
        suspects: list[Lease] = []
        limited: dict[str, list[Lease]] = {}
        for lease in list(waiting.values()):
            definition = self._tasks[lease.task]
            assert definition.options is not None
            if lease.losses:
                self._events.announce(
                    JobTakenOver(task=lease.task, job_id=lease.id, losses=lease.losses)
                )
            if definition.options.rate_limit is not None:
                limited.setdefault(lease.task, []).append(lease)
            elif definition.bulk is not None:
                self._gather(plan, waiting.pop(lease.id), definition)
            elif lease.losses:
                suspects.append(lease)
            else:
                self._begin_one(plan, waiting.pop(lease.id), definition)
        if suspects:
            await self._begin_deferred(plan, suspects, waiting)
        for task, leases in limited.items():
            await self._begin_some(plan, leases, self._tasks[task], waiting)

    async def _apply_terms(self, plan: QueuePlan, jobs: list[tuple[Lease, Terms]]) -> None:
        """Give jobs what their producers left to their tasks, and hand them back unspent: they are
        leased again by their new terms. A job whose unique key another one holds ends here.

        Each leaves ``jobs`` when that is done.
        """
        while jobs:
            lease, terms = jobs[-1]
            try:
                holder = await self._jobs.apply_terms(lease, terms)
            except StoreError:
                self._give_back(plan, lease, REFUSED)
            else:
                if holder is None or holder == lease.id:
                    self._give_back(plan, lease)
                else:
                    self._settle(plan, self._unrun.duplicate(lease, holder))
            jobs.pop()

    async def _begin_some(
        self,
        plan: QueuePlan,
        leases: list[Lease],
        definition: TaskDefinition,
        waiting: dict[JobId, Lease],
    ) -> None:
        """Start as many as the rate allows, and have the others wait for their turn."""
        assert definition.options is not None
        rate = definition.options.rate_limit
        assert rate is not None
        try:
            granted, wait = await self._jobs.take(definition.name, rate, len(leases))
        except StoreError:
            granted, wait = 0, rate.spacing
        later = leases[granted:]
        delays = self._turns.next(definition.name, rate, wait, len(later))
        for lease, delay in zip(later, delays, strict=True):
            self._give_back(plan, waiting.pop(lease.id), delay)
        if definition.bulk is not None:
            for lease in leases[:granted]:
                self._gather(plan, waiting.pop(lease.id), definition)
        elif granted:
            await self._begin_deferred(plan, leases[:granted], waiting)

    async def _begin_deferred(
        self, plan: QueuePlan, leases: list[Lease], waiting: dict[JobId, Lease]
    ) -> None:
        """Begin jobs that have not begun with their lease."""
        begun = await self._recorded([(plan, lease) for lease in leases])
        for lease in leases:
            del waiting[lease.id]
        for _, lease in begun:
            self._begin_one(plan, lease, self._tasks[lease.task])

    async def _recorded(
        self, waiting: Sequence[tuple[QueuePlan, Lease]]
    ) -> list[tuple[QueuePlan, Lease]]:
        """Have the engine record that these jobs begin. Those for which it did not are let go of.

        Raises:
            asyncio.CancelledError: Nothing was done about any of them.
        """
        suspect = any(lease.losses for _, lease in waiting)
        await self._settling.jobs_returned(all_of_them=suspect)
        told: dict[JobId, Held | None] = {}
        by_ttl: dict[timedelta, list[Lease]] = {}
        for plan, lease in waiting:
            if (current := self._held.current(lease)) is not None:
                by_ttl.setdefault(plan.visibility_timeout, []).append(current)
        for ttl, leases in by_ttl.items():
            try:
                held: Sequence[Held | None] = await self._jobs.begin(leases, ttl)
            except StoreError:
                held = [None] * len(leases)
            told.update(zip([lease.id for lease in leases], held, strict=True))
        return [(plan, lease) for plan, lease in waiting if self._is_to_begin(plan, lease, told)]

    def _is_to_begin(
        self, plan: QueuePlan, lease: Lease, told: Mapping[JobId, Held | None]
    ) -> bool:
        """Whether the job is to begin; otherwise it is handed back, revoked or let go of."""
        held = told.get(lease.id, Held.LOST)
        if held is Held.LOST:
            self._settling.lose(plan, lease, "its lease ran out before it could begin", begun=False)
        elif held is Held.CANCEL or self._held.asked_to_end(lease):
            self._settle(plan, self._unrun.ended(lease, State.REVOKED))
        elif held is None or self._stopping:
            self._give_back(plan, lease)
        else:
            return True
        return False

    def _gather(self, plan: QueuePlan, lease: Lease, definition: TaskDefinition) -> None:
        """Have the job of a bulk task wait for others. One with one loss left begins alone."""
        if 0 < lease.losses >= self.limits.max_losses - 1:
            self._begin_together(definition, [(plan, lease)])
            return
        gathering = self._gatherings.get(definition.name)
        if gathering is None:
            gathering = Gathering(definition, self._begin_batch)
            self._gatherings[definition.name] = gathering
        gathering.put(plan, lease, most=self._slots.size(plan))

    def _begin_one(self, plan: QueuePlan, lease: Lease, definition: TaskDefinition) -> None:
        run_id = RunId(lease.id)

        def done(run: Run) -> None:
            self._settle_run(plan, lease, run, terms.options)
            self._has_ended(run_id)

        self._slots.begin()
        self._held.begin(lease)
        try:
            terms = self._terms(lease, definition)
            self._runner.begin(
                definition,
                trigger=Trigger.QUEUE,
                run_id=run_id,
                params=lease.params,
                job=terms,
                done=done,
            )
        except Exception as exc:
            self._surprised(plan, lease, exc)
        else:
            self._runs.add(run_id)

    def _begin_batch(self, gathering: Gathering) -> None:
        self._begin_together(gathering.definition, gathering.taken())

    def _begin_together(
        self, definition: TaskDefinition, waiting: Sequence[tuple[QueuePlan, Lease]]
    ) -> None:
        """Begin jobs as one batch, once the engine has recorded that."""
        assert self._group is not None
        batch = self._batch(definition, waiting)
        beginning = self._group.create_task(batch, name=f"batch:{definition.name}")
        self._batches.add(beginning)
        beginning.add_done_callback(self._batches.discard)

    async def _batch(
        self, definition: TaskDefinition, waiting: Sequence[tuple[QueuePlan, Lease]]
    ) -> None:
        try:
            begun = await self._recorded(waiting)
        except asyncio.CancelledError:
            for plan, lease in waiting:
                self._give_back(plan, lease)
            raise
        run_id = new_run_id()
        batch: list[tuple[QueuePlan, Lease, JobTerms]] = []
        for plan, lease in begun:
            self._slots.begin()
            self._held.begin(lease)
            try:
                batch.append((plan, lease, self._terms(lease, definition)))
            except Exception as exc:
                self._surprised(plan, lease, exc)

        def ended(place: int, run: Run) -> None:
            plan, lease, terms = batch[place]
            self._settle_run(plan, lease, run, terms.options)

        if batch:
            self._runs.add(run_id)
            self._runner.begin_many(
                definition,
                [BatchJob(RunId(lease.id), lease.params, terms) for _, lease, terms in batch],
                trigger=Trigger.QUEUE,
                run_id=run_id,
                ended=ended,
                done=partial(self._has_ended, run_id),
            )

    def _has_ended(self, run_id: RunId) -> None:
        self._runs.discard(run_id)
        if not self._runs and self._all_ended is not None and not self._all_ended.done():
            self._all_ended.set_result(None)

    async def _runs_end(self, limit_s: float) -> None:
        """Return once no run goes on, or after ``limit_s``."""
        if self._runs:
            self._all_ended = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._all_ended}, timeout=limit_s)

    def _surprised(self, plan: QueuePlan, lease: Lease, failure: Exception) -> None:
        """Bury a job that can be run by nobody, or has found a fault of the worker's own."""
        if not isinstance(failure, InvalidOptions):
            log = structlog.get_logger("worker")
            log.exception("job.crashed", task=lease.task, run_id=lease.id, trigger="queue")
        self._settle(plan, self._unrun.buried(lease, failure), begun=True)

    def _terms(self, lease: Lease, definition: TaskDefinition) -> JobTerms:
        options = definition.options
        assert options is not None
        if lease.options != "{}":
            options = options.overridden_by(lease.options)
        told = self._held.progress_of(lease)
        headers = {} if lease.headers == "{}" else headers_in(lease.headers)
        queue = lease.queue.rpartition("/")[2]  # an engine's records say whose they are
        return JobTerms(options, lease.attempts + 1, told, headers, queue, lease.due_at)

    def _settle_run(self, plan: QueuePlan, lease: Lease, run: Run, options: JobOptions) -> None:
        current = self._held.current(lease)
        if current is None:
            self._settling.lose(plan, lease, "its lease was lost, its outcome was not recorded")
            return
        # The runner has taken the secrets out of what a run says.
        history = remembered(current, run, worker=self._worker)
        if not run.state.final and run.state is not State.RETRY:
            snoozed = outcome_of(run) is AttemptOutcome.SNOOZED
            given_back = unspent(current, delay=run.delay if snoozed or run.delay else None)
            given_back = given_back._replace(history=history)
            self._settling.put(plan, given_back, begun=True)
            return
        spent = run.state is not State.REVOKED
        error = run.error if spent else None
        settlement = Settlement(
            current,
            run.state,
            attempts=lease.attempts + spent,
            refusals=lease.refusals,
            delay=run.delay,
            result=run.encoded,
            result_ttl=options.result_ttl,
            error=None if error is None else error_text(error.type, error.message),
            dead=run.dead,
            history=history,
        )
        self._settling.put(plan, settlement, begun=True)

    def _give_back(self, plan: QueuePlan, lease: Lease, delay: timedelta | None = None) -> None:
        """Put a job back into its queue as it was, at its place unless it is to wait."""
        self._settle(plan, unspent(lease, delay=delay))

    def _settle(self, plan: QueuePlan, settlement: Settlement, *, begun: bool = False) -> None:
        """Have stored what becomes of a job without a run."""
        current = self._held.current(settlement.lease)
        if current is not None and current is not settlement.lease:
            settlement = settlement._replace(lease=current)  # it was leased anew meanwhile
        self._settling.put(plan, settlement, begun=begun)

    def _noted(self, what: str, trouble: str | None) -> None:
        """Say that the engine cannot be used, or can again; once, whatever is asked of it."""
        if trouble is None:
            if what not in self._troubles:
                return
            del self._troubles[what]
            if self._troubles:
                return
        else:
            before = len(self._troubles)
            self._troubles[what] = trouble
            if before:
                return
        self._events.announce(QueueChanged(task="", trouble=trouble))


def waits_after_lease(task: TaskDefinition) -> bool:
    """Whether jobs of this task do not begin directly after they were leased."""
    rated = task.options is not None and task.options.rate_limit is not None
    return task.bulk is not None or rated


def headers_in(text: str) -> dict[str, str]:
    """What was handed on with a job.

    Raises:
        InvalidOptions: It is no JSON object of strings.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidOptions(f"headers: expected a JSON object: {exc}") from exc
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise InvalidOptions("headers: expected a JSON object of strings")
    return said
