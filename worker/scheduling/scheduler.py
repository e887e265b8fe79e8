"""Slots become runs: a timer wakes a task, the ledger says what that means, the runner runs it.

A timer says only that something is due. Which slots passed unseen, which one runs, whether this
replica runs it or another, is decided over the task's book in the ledger. So a restart, a blocked
loop, a clock that was set, and a timer that is late are all one case.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from worker.backends.memory import MemoryStore
from worker.errors import (
    LeaseLost,
    StoreError,
    StoreUnavailable,
    TaskBusy,
    TaskDefinitionError,
    WorkerError,
)
from worker.events import (
    LeaseExpired,
    OutcomeRefused,
    SchedulePaused,
    SlotsElsewhere,
    SlotSkipped,
    StoreChanged,
)
from worker.ledger.book import Book, Entry, EntryKey, Outcome, Pulse
from worker.ledger.ledger import (
    Answer,
    Attend,
    Begin,
    Claimant,
    Finish,
    Promote,
    Request,
    SettleOrphans,
)
from worker.ledger.thread import STOPPED, LedgerThread
from worker.model import CancelReason, Run, RunId, State, Trigger
from worker.schedules.policies import Overlap, TaskSchedule
from worker.schedules.registration import ScheduleOptions
from worker.schedules.schedule import next_due
from worker.scheduling.attention import Attention
from worker.scheduling.last_word import last_word
from worker.scheduling.scheduled_task import Override, ScheduledTask
from worker.scheduling.timers import Timers, first_wakes
from worker.scheduling.version_events import version_events
from worker.tasks.base import BaseTask, Defined, TaskDefinition

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from worker.clock import Clock
    from worker.events import Events
    from worker.retry import RetryPolicy
    from worker.running.runner import Runner
    from worker.shared_tasks import TaskOwner

__all__ = ["FirstRun", "Scheduler"]

SETTLE_S = 2.0
"""How long a worker that ends tries to tell a store that is down what became of its runs."""
RETRY_S = 0.5
UNWANTED = "cancelled before it began, by whoever asked for it"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRun:
    """When tasks that are overdue run after a start.

    Attributes:
        delay: From the start to the first of them.
        spread: Over how long they are spread.
    """

    delay: timedelta = timedelta(seconds=1)
    spread: timedelta = timedelta(seconds=5)


class Scheduler:
    """Runs each registered task on its schedule.

    Args:
        ledger: Where slots are claimed and recorded, started and stopped by whoever made it.
            Without one the scheduler keeps its own, in memory.
        schedules: Options that override what `register_task` is given, by task.
        schedules_said_by: Where those were said.
        only: Take slots of these tasks only; empty for all.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        clock: Clock,
        events: Events,
        ledger: LedgerThread | None = None,
        first_run: FirstRun = FirstRun(),
        schedules: Mapping[str, ScheduleOptions] | None = None,
        schedules_said_by: str = "a schedules file",
        only: Collection[str] = (),
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._events = events
        self._first_run = first_run
        self._schedules = dict(schedules or {})
        self.schedules_said_by = schedules_said_by
        self._only = frozenset(only)
        self._tasks: dict[str, ScheduledTask] = {}
        self._attention: dict[str, Attention] = {}
        self._own_ledger = ledger is None
        self._ledger = ledger or LedgerThread(
            lambda: MemoryStore(clock), replica="this", keep=timedelta(days=1), clock=clock
        )
        self._ledger.on_pulse = self._pulse
        self._timers = Timers(self.wake)
        self._runs: dict[RunId, tuple[Entry, asyncio.Task[Any]]] = {}
        self._settling: set[RunId] = set()
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._group: TaskOwner | None = None
        self._stopping = False
        self._started: float | None = None

    @property
    def tasks(self) -> Mapping[str, ScheduledTask]:
        """Every registered task, by name."""
        return self._tasks

    @property
    def behind(self) -> timedelta:
        """For how long a slot that is due was not looked at. More than seconds: it is dead."""
        return self._timers.behind()

    @property
    def unrecorded(self) -> dict[str, int]:
        """How many outcomes the store has not been told, as it is down, by task."""
        return {name: len(a.unrecorded) for name, a in self._attention.items() if a.unrecorded}

    @property
    def unused_schedules(self) -> list[str]:
        """Tasks that only the overriding options name."""
        return sorted(set(self._schedules) - set(self._tasks))

    def register_task(
        self,
        task: type[BaseTask] | Defined | Callable[..., Any],
        *,
        name: str | None = None,
        retry: RetryPolicy | None = None,
        time_limit: timedelta | str | float | None = None,
        said_by: str | None = None,
        **schedule: Unpack[ScheduleOptions],
    ) -> None:
        """Have ``task`` run on a schedule, or when somebody asks for it.

        Args:
            task: A `BaseTask` subclass, of which each run gets a new instance with the shared
                client; or an async function without arguments, or with one for the shared client.
                A ``functools.partial`` of either fixes further arguments.
            name: The task's name, if not the class's or function's own.
            retry: Overrides the class's own policy.
            time_limit: Overrides the class's own limit.
            said_by: Where the schedule comes from, for people: a setting's name.
            schedule: When it runs, and how its schedule is kept; see `ScheduleOptions`. A task that
                can be asked for needs none.

        Raises:
            TaskDefinitionError: Not a task, no or two schedules, an option out of range, or a
                name that another task has.
        """
        definition = TaskDefinition.of(task, name=name, retry=retry, time_limit=time_limit)
        other = self._tasks.get(definition.name)
        if other is not None:
            homes = (other.definition.defined_in, definition.defined_in)
            raise TaskDefinitionError.namesakes(definition.name, homes)
        if self._timers.running:
            raise TaskDefinitionError(
                f"{definition.name!r} comes too late: register tasks before the scheduler starts"
            )
        override = self._schedules.get(definition.name)
        self._tasks[definition.name] = ScheduledTask.of(
            definition,
            schedule,
            said_by=said_by,
            override=None if override is None else Override(override, self.schedules_said_by),
        )

    def start(self, group: TaskOwner | None = None) -> None:
        """Begin to take slots, in the running event loop.

        Args:
            group: Owns the runs' asyncio tasks; without one, the scheduler itself holds them.
        """
        self._group = group
        self._stopping = False
        self._ledger.on_store = self._store_changed
        if self._own_ledger:
            self._ledger.start()
        now, self._started = self._clock.now(), self._clock.monotonic()
        nexts = {
            name: due[1]
            for name, task in self._tasks.items()
            if task.terms.schedule is not None
            and (due := next_due(task.terms.schedule, name, task.terms.policies.jitter, now))
        }
        scheduled = [
            name
            for name, task in self._tasks.items()
            if task.terms.schedule is not None and self._is_ours(name)
        ]
        wakes = first_wakes(
            [nexts.get(name) for name in scheduled],
            now,
            delay=self._first_run.delay,
            spread=self._first_run.spread,
        )
        for name, wake in zip(scheduled, wakes, strict=True):
            self._timers.add(self._tasks[name].terms, wake)
        self._timers.start()

    def _is_ours(self, name: str) -> bool:
        return not self._only or name in self._only

    @property
    def _ending(self) -> bool:
        """Whether its runs are the last: it takes no slot any more, or never did (`worker run`)."""
        return self._stopping or not self._timers.running

    @property
    def _since(self) -> datetime | None:
        """When it began to take slots, by the wall clock as that is now: it may have been set."""
        if self._started is None:
            return None
        return self._clock.now() - timedelta(seconds=self._clock.monotonic() - self._started)

    def next_slot(self, name: str) -> datetime | None:
        """The next slot of a task; ``None`` when it has no schedule, or none any more."""
        schedule = self._tasks[name].terms.schedule if name in self._tasks else None
        return None if schedule is None else schedule.after(self._clock.now())

    def wake(self, name: str) -> None:
        """Look at what is due of a task."""
        attention = self._attend_to(name)
        if self._ending:
            return  # what is due is left for others, or for the next start
        if attention.asking:
            attention.again = True
            return
        terms = self._tasks[name].terms
        if self._ledger.trouble is not None and not terms.policies.needs_ledger:
            self._go_alone(name)
            return
        if attention.alone:
            attention.again = True
            return
        attention.asking = True
        sent = tuple(attention.unrecorded)
        seen = attention.book.cursor_of(terms.schedule)
        request = Attend(terms=terms, since=self._since, seen=seen, unrecorded=sent)
        self._submit(request, partial(self._attended, name, len(sent)))

    def _submit(self, request: Request, reply: Callable[[Answer | WorkerError], None]) -> None:
        """Ask the ledger, and keep count of what it was asked."""

        def answered(answer: Answer | WorkerError) -> None:
            self._unanswered -= 1
            reply(answer)
            if not self._unanswered:
                self._all_answered.set()

        self._unanswered += 1
        self._all_answered.clear()
        self._ledger.submit(request, answered)

    async def run_now(
        self, name: str, *, overlap: Overlap | None = None, params: str | None = None
    ) -> Run:
        """Run a task once, now, unless its overlap policy has something against it.

        Args:
            params: A JSON object, in the place of what its schedule says.
            overlap: Instead of the task's own policy. With ``skip`` a run that goes on anywhere
                is in the way; with ``buffer_one`` and ``buffer_all`` this one waits for its end,
                with ``cancel_other`` it asks it to end first.

        Raises:
            TaskBusy: Another run is in the way.
            StoreUnavailable: Whether one is cannot be known, or the worker ends.
        """
        terms = self._tasks[name].terms
        overlap = overlap or terms.policies.overlap
        while True:
            asking = asyncio.ensure_future(self._ledger.ask(Begin(terms=terms, overlap=overlap)))
            try:
                answer = await asyncio.shield(asking)
            except asyncio.CancelledError:
                asking.add_done_callback(partial(self._unwanted, terms))
                raise
            if self._stopping:
                self._unwanted(terms, asking)
                raise StoreUnavailable(STOPPED)
            for entry in answer.granted:
                return await self._keep(entry, params)
            self._hear(answer)
            busy = answer.busy
            assert busy is not None
            if overlap is Overlap.SKIP:
                raise TaskBusy(
                    f"{name} runs already, on {busy.replica}, since "
                    f"{busy.recorded_at.isoformat(timespec='seconds')}; wait for its end, or say "
                    "--overlap buffer_one, cancel_other or allow_all"
                )
            await self._clock.sleep(RETRY_S)

    def _unwanted(self, terms: TaskSchedule, asking: asyncio.Future[Answer]) -> None:
        """Whoever asked for a run by hand has gone: if it was granted, nobody runs it."""
        if asking.cancelled() or asking.exception() is not None:
            return
        for entry in asking.result().granted:
            request = Finish(terms=terms, entry=entry, outcome=Outcome.LOST, error=UNWANTED)
            self._submit(request, partial(self._promoted, terms.task))

    def interrupt(self, reason: CancelReason = CancelReason.SHUTDOWN) -> None:
        """End every run that goes on."""
        for run_id in self._runs:
            self._interrupt(run_id, reason)

    def _interrupt(self, run_id: RunId, reason: CancelReason) -> None:
        # Not at once: of a run that was granted just now the runner has not heard yet.
        asyncio.get_running_loop().call_soon(self._runner.interrupt, run_id, reason)

    async def stop(self, grace: timedelta) -> None:
        """Take no more slots, wait up to ``grace`` for the runs to end, then end the rest."""
        self._stopping = True
        self._timers.stop()
        if self._runs:
            await asyncio.wait(
                {task for _, task in self._runs.values()}, timeout=grace.total_seconds()
            )
        self.interrupt()
        while self._runs:  # the runner bounds this: it leaves behind what hangs
            settling = set(self._settling)
            await asyncio.wait(
                {task for _, task in self._runs.values()}, timeout=SETTLE_S + 2 * RETRY_S
            )
            for run_id in settling & self._runs.keys():  # a store that hangs does not
                self._runs[run_id][1].cancel()
        if self._unanswered:  # what is granted until then is given back
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S):
                    await self._all_answered.wait()
        if self._own_ledger:
            await self._ledger.stop(grace)

    def _attend_to(self, name: str) -> Attention:
        return self._attention.setdefault(name, Attention(Book(task=name)))

    def _attended(self, name: str, sent: int, answer: Answer | WorkerError) -> None:
        attention = self._attend_to(name)
        attention.asking = False
        if not isinstance(answer, Answer):
            attention.again = True  # at the next pulse
            down = self._ledger.trouble is not None
            if not down and not isinstance(answer, StoreUnavailable | LeaseLost):
                raise answer  # neither time nor a new lease mends that: it is logged
            if down and not self._tasks[name].terms.policies.needs_ledger and not self._stopping:
                self._go_alone(name)
            return
        attention.book, attention.lone = answer.book, None
        del attention.unrecorded[:sent]
        for event in version_events(name, answer):
            self._events.announce(event)
        if answer.elsewhere:
            self._events.announce(SlotsElsewhere(task=name, count=answer.elsewhere))
        self._hear(answer)
        if attention.again:
            attention.again = False
            self.wake(name)

    def _hear(self, answer: Answer) -> None:
        """Tell what was recorded, start what was granted, end what shall make room."""
        running = [e for e in answer.book.active if e.outcome is Outcome.RUNNING]
        for entry in answer.recorded:
            if entry.outcome in (Outcome.WAITING, Outcome.RAN, Outcome.FAILED):
                continue
            since = running[0].recorded_at if running else None
            if entry.outcome is not Outcome.SKIPPED_OVERLAP:
                since = None
            self._events.announce(SlotSkipped(task=entry.task, entry=entry, running_since=since))
        for entry in running:
            if entry.cancel and entry.run_id is not None:
                self._interrupt(RunId(entry.run_id), CancelReason.REPLACED)
        for entry in answer.granted:
            if self._stopping or self._is_in_the_way(entry):
                self._give_back(entry)
            else:
                self._spawn(entry)

    def _is_in_the_way(self, entry: Entry) -> bool:
        """Whether a run goes on that the store knew nothing of when it granted the entry."""
        allowed = self._tasks[entry.task].terms.policies.overlap is Overlap.ALLOW_ALL
        alone = bool(self._attend_to(entry.task).alone)
        return entry.session is not None and alone and not allowed

    def _pulse(self, pulse: Pulse | None) -> None:
        """The lease was renewed, or lost."""
        if pulse is None:
            leased = [entry for entry, _ in self._runs.values() if entry.session is not None]
            running, forgotten = tuple(e.task for e in leased), self._ledger.forgotten
            self._events.announce(LeaseExpired(task="", running=running, forgotten=forgotten))
            for entry in leased:
                assert entry.run_id is not None
                self._attend_to(entry.task).alone.add(RunId(entry.run_id))
                self._interrupt(RunId(entry.run_id), CancelReason.LEASE_LOST)
            return
        for key in pulse.cancelled:
            self._interrupt_entry(key)
        if self._ending:
            return
        for name in pulse.orphaned | pulse.waiting:
            task = self._tasks.get(name)
            if task is not None and not self._is_ours(name):
                continue
            request: Request
            if task is not None:
                if self._attend_to(name).alone:
                    continue  # what waits would run beside what the store knows nothing of
                request = Promote(terms=task.terms)
            elif name in pulse.orphaned:
                request = SettleOrphans(name)
            else:
                continue
            self._submit(request, partial(self._promoted, name))
        for name, attention in self._attention.items():
            # While a task has two schedules, what one of them owes may be left to this worker.
            several = len(attention.book.versions) > 1 and self._is_ours(name)
            if attention.again or attention.lone is not None or several:
                attention.again = False
                self.wake(name)

    def _promoted(self, name: str, answer: Answer | WorkerError) -> None:
        if isinstance(answer, Answer):
            self._hear(answer)
        elif name in self._tasks:
            self._attend_to(name).again = True

    def _interrupt_entry(self, key: EntryKey) -> None:
        for run_id, (entry, _) in self._runs.items():
            if entry.key == key:
                self._interrupt(run_id, CancelReason.REPLACED)

    def _store_changed(self, trouble: StoreError | None) -> None:
        scheduled = [t for t in self._tasks.values() if t.terms.schedule is not None]
        waiting = [t.definition.name for t in scheduled if t.terms.policies.needs_ledger]
        alone = [t.definition.name for t in scheduled if not t.terms.policies.needs_ledger]
        self._events.announce(
            StoreChanged(
                task="",
                trouble=None if trouble is None else str(trouble),
                waiting=tuple(waiting),
                unrecorded=tuple(alone),
            )
        )

    def _go_alone(self, name: str) -> None:
        """Take what is due without the store."""
        attention = self._attend_to(name)
        attention.go_alone(self._runs.keys() - self._settling)
        assert attention.lone is not None
        terms = self._tasks[name].terms
        seen = attention.lone.cursor_of(terms.schedule)
        self._decide_alone(name, Attend(terms=terms, since=self._since, seen=seen))

    def _decide_alone(self, name: str, request: Request) -> None:
        claimant = Claimant(self._ledger.replica)
        self._hear(self._attend_to(name).decide(request, claimant, self._clock.now()))

    def _spawn(self, entry: Entry) -> None:
        assert entry.run_id is not None
        owner = self._group or asyncio.get_running_loop()
        task = owner.create_task(self._keep(entry), name=f"slot:{entry.task}")
        self._runs[RunId(entry.run_id)] = (entry, task)

    def _give_back(self, entry: Entry) -> None:
        """Let a slot wait again, for the next pulse, another replica, or the next start."""
        if entry.session is None:
            return
        terms = self._tasks[entry.task].terms
        request = Finish(terms=terms, entry=entry, outcome=Outcome.WAITING, go_on=False)
        self._submit(request, lambda answer: None)

    async def _keep(self, entry: Entry, params: str | None = None) -> Run:
        """Run what was granted, and record what came of it."""
        task = self._tasks[entry.task]
        by_hand = entry.trigger is Trigger.MANUAL
        instead = None if by_hand else task.slots
        assert entry.run_id is not None
        run_id = RunId(entry.run_id)
        current = asyncio.current_task()
        assert current is not None
        self._runs[run_id] = (entry, current)
        try:
            run = await self._runner.run(
                instead or task.definition,
                trigger=entry.trigger,
                slot=None if by_hand else entry.slot,
                run_id=run_id,
                params="{}" if instead else params or task.params,
            )
            self._settling.add(run_id)
            await self._settle(entry, run)
        finally:
            self._settling.discard(run_id)
            del self._runs[run_id]
            attention = self._attend_to(entry.task)
            attention.alone.discard(run_id)
            if attention.again and not attention.alone:
                attention.again = False
                self.wake(entry.task)
        return run

    async def _settle(self, entry: Entry, run: Run) -> None:
        """Record the last word on a run. A store that is down is asked until it is up again."""
        if entry.session is None:
            self._decide_alone(entry.task, self._finish(entry, run))
            return
        uncertain = False
        deadline: float | None = None
        while True:
            request = self._finish(entry, run)  # whether it goes on may have changed meanwhile
            try:
                answer = await self._ledger.ask(request, at_leisure=not self._stopping)
            except LeaseLost as exc:
                reason = str(exc)
                if uncertain:
                    # The first try may have reached the store, and granted what follows.
                    self._attend_to(entry.task).again = True
                    reason = f"{reason}, unless it reached the store before that was down"
                self._refused(entry, request, reason)
                return
            except StoreError as exc:
                uncertain = True
                if self._ending and deadline is None:
                    deadline = self._clock.monotonic() + SETTLE_S
                if deadline is not None and self._clock.monotonic() >= deadline:
                    self._refused(entry, request, str(exc))
                    return
                await self._clock.sleep(RETRY_S)
            except WorkerError as exc:  # a defect, of this task's only: the worker goes on
                self._refused(entry, request, str(exc))
                return
            else:
                self._settled(entry, answer)
                return

    def _settled(self, entry: Entry, answer: Answer) -> None:
        attention = self._attend_to(entry.task)
        before = attention.book.pause
        attention.book = answer.book
        pause = answer.book.pause
        if pause is not None and before is None and pause.by == "pause_after_failures":
            self._events.announce(SchedulePaused(task=entry.task, note=pause.note))
        self._hear(answer)

    def _refused(self, entry: Entry, request: Finish, reason: str) -> None:
        self._events.announce(
            OutcomeRefused(
                task=entry.task,
                run_id=entry.run_id or "",
                outcome=request.outcome.value,
                reason=reason,
            )
        )

    def _finish(self, entry: Entry, run: Run) -> Finish:
        outcome, error = last_word(run)
        return Finish(
            terms=self._tasks[entry.task].terms,
            entry=entry,
            outcome=outcome,
            duration_ms=run.duration_ms,
            error=error,
            counts=run.state is not State.REVOKED,
            go_on=not self._ending
            and (entry.session is None or not self._attend_to(entry.task).alone),
        )
