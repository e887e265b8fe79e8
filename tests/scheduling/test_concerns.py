"""What a schedule stands at, and what is said of it: never all is well when it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.clock import FakeClock
from worker.admin.schedules import ScheduleAdmin
from worker.backends.memory import MemoryStore
from worker.errors import UnknownTaskError
from worker.ledger.book import Entry, Outcome, SessionId
from worker.ledger.ledger import Answer, Attend, Claimant, Finish, PauseSchedule, Request, apply
from worker.ledger.presence import Presence
from worker.scheduling.concerns import concerns_of
from worker.scheduling.overview import explain
from worker.scheduling.scheduled_task import ScheduledTask
from worker.scheduling.standing import Standing, View
from worker.tasks.base import TaskDefinition
from worker.telemetry.exposition import ledger_figures

if TYPE_CHECKING:
    from collections.abc import Mapping

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
EVENING = datetime(2026, 11, 20, 20, tzinfo=UTC)
NIGHTLY: dict[str, Any] = {"cron": "0 3 * * *", "catchup_window": MINUTE}
HOURLY: dict[str, Any] = {"interval": HOUR, "phase": timedelta(0)}


async def work() -> None: ...


def scheduled(name: str, **options: Any) -> ScheduledTask:
    definition = TaskDefinition.of(work, name=name)
    return ScheduledTask.of(definition, options, said_by=None, override=None)  # type: ignore[arg-type]


class Desk:
    """One ledger, at which replicas work at moments that a test says."""

    def __init__(self, **tasks: Mapping[str, Any]) -> None:
        self.clock = FakeClock(EVENING)
        self.store = MemoryStore(self.clock)
        self.tasks = {name: scheduled(name, **options) for name, options in tasks.items()}
        self.session: SessionId | None = None

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def at(self, moment: datetime) -> None:
        self.clock.advance((moment - self.now).total_seconds())

    def starts(self, replica: str = "one", presence: Presence | None = None) -> None:
        self.session = self.store.open_session(replica, DAY, presence)

    def is_up_for(self, time: timedelta) -> None:
        """It renews its lease meanwhile."""
        until = self.now + time
        while self.now < until:
            self.clock.advance(min(10 * MINUTE, until - self.now).total_seconds())
            assert self.session is not None
            self.store.renew(self.session, DAY)

    def dies(self) -> None:
        assert self.session is not None
        self.store.close_session(self.session)

    def asks(self, request: Request) -> Answer:
        claimant = Claimant("one", self.session)
        (answer,) = apply(self.store, [request], claimant=claimant, now=self.now)
        assert isinstance(answer, Answer), answer
        return answer

    def attends(self, name: str) -> list[Entry]:
        return list(self.asks(Attend(terms=self.tasks[name].terms)).granted)

    def runs(self, name: str, outcome: Outcome = Outcome.RAN, error: str | None = None) -> None:
        terms = self.tasks[name].terms
        for entry in self.attends(name):
            self.asks(Finish(terms=terms, entry=entry, outcome=outcome, error=error))

    def admin(self, **tasks: ScheduledTask) -> ScheduleAdmin:
        return ScheduleAdmin(tasks or self.tasks, self.store, by="me", clock=self.clock)

    def view(self, name: str) -> View:
        (view,) = self.admin().views([name])
        return view

    def told(self, name: str) -> list[tuple[str, str, str]]:
        return [(one.severity, one.what, one.why) for one in concerns_of(self.view(name))]

    def verdict(self, name: str) -> str:
        return explain(self.tasks[name], self.store, now=self.now).verdict


def gauge(desk: Desk, name: str) -> dict[tuple[str, ...], float]:
    figures = ledger_figures(desk.admin().views(), desk.store.replicas(), desk.now, dropped=0)
    (found,) = [one for one in figures if one.family.name == name]
    return dict(found.samples)


missed_metric = partial(gauge, name="worker_last_missed_timestamp_seconds")


def the_night_nobody_was_up() -> Desk:
    """A worker from 20:00 to 02:40; the next one begins at 04:20, too late for 03:00."""
    desk = Desk(nightly=NIGHTLY)
    desk.starts()
    desk.admin().run("nightly")
    desk.runs("nightly")
    desk.is_up_for(6 * HOUR + 40 * MINUTE)
    desk.dies()
    desk.at(EVENING + 8 * HOUR + 20 * MINUTE)
    desk.starts("two")
    desk.clock.advance(1)
    desk.runs("nightly")
    return desk


def test_a_missed_slot_of_a_paused_schedule_is_no_fault() -> None:
    desk = the_night_nobody_was_up()
    desk.admin().pause("nightly", "the far side moves")
    told = {what.partition(" its ")[0]: severity for severity, what, _ in desk.told("nightly")}
    assert told == {"nightly is paused": "info", "nightly missed": "info"}


def test_a_slot_that_was_missed_is_told_until_a_run_has_ended() -> None:
    desk = the_night_nobody_was_up()
    desk.is_up_for(HOUR)
    view = desk.view("nightly")
    assert view.standing is Standing.MISSED
    ((severity, what, why),) = desk.told("nightly")
    assert severity == "warning"
    assert what == "nightly missed its slot of 2026-11-21 03:00:00Z (2h20m ago)"
    assert why == (
        "no worker that takes its slots was up, or none could reach the ledger, "
        "from 2026-11-21 02:40:00Z (2h40m ago) to 2026-11-21 04:20:00Z (1h ago)"
    )
    assert desk.verdict("nightly").startswith("nightly missed its slot of 2026-11-21 03:00:00Z")
    slot = datetime(2026, 11, 21, 3, tzinfo=UTC)
    assert missed_metric(desk) == {("nightly", "missed"): slot.timestamp()}

    desk.is_up_for(22 * HOUR - 20 * MINUTE)
    desk.runs("nightly")
    assert desk.view("nightly").standing is Standing.OK
    assert desk.told("nightly") == []
    assert missed_metric(desk) == {}


def test_a_worker_that_takes_no_slots_does_not_count_as_one_that_could_have_run_it() -> None:
    desk = Desk(nightly=NIGHTLY)
    desk.starts()
    desk.attends("nightly")
    desk.dies()
    desk.starts("jobs only", Presence(slots=False))
    desk.is_up_for(8 * HOUR)
    desk.starts("two")
    desk.runs("nightly")
    ((_, _, why),) = desk.told("nightly")
    assert why.startswith("no worker that takes its slots was up, or none could reach the ledger, ")


def test_a_slot_that_is_made_good_by_hand_is_told_no_more() -> None:
    desk = the_night_nobody_was_up()
    desk.admin().run("nightly")
    desk.runs("nightly")
    assert desk.told("nightly") == []


def test_a_slot_that_was_missed_while_a_worker_was_up_blames_no_absence() -> None:
    desk = Desk(nightly=NIGHTLY)
    desk.starts()
    desk.attends("nightly")
    desk.is_up_for(8 * HOUR)
    desk.runs("nightly")
    ((_, what, why),) = desk.told("nightly")
    assert what.startswith("nightly missed its slot of 2026-11-21 03:00:00Z")
    assert why == "no worker looked at it within its catch-up window"


def test_a_run_that_was_lost_is_told_until_a_run_has_ended() -> None:
    desk = Desk(nightly=NIGHTLY)
    desk.starts()
    desk.attends("nightly")
    desk.is_up_for(7 * HOUR)
    assert len(desk.attends("nightly")) == 1
    desk.dies()
    desk.clock.advance(60)
    desk.starts("two")
    desk.attends("nightly")
    ((severity, what, why),) = desk.told("nightly")
    assert severity == "warning"
    assert what.startswith("nightly: the run for its slot of 2026-11-21 03:00:00Z")
    assert what.endswith(" was lost")
    assert why == "replica one lost its lease while it ran"
    assert [outcome for _, outcome in missed_metric(desk)] == ["lost"]


def test_what_a_catch_up_made_good_was_not_missed() -> None:
    desk = Desk(hourly={**HOURLY, "catchup_window": DAY})
    desk.starts()
    desk.runs("hourly")
    desk.clock.advance(5 * 3600)
    desk.runs("hourly")
    assert desk.view("hourly").book.counts["missed"] == 4
    assert desk.told("hourly") == []
    assert desk.view("hourly").standing is Standing.OK


def test_a_run_that_goes_on_does_not_hide_that_the_schedule_is_stale() -> None:
    desk = Desk(pull={**HOURLY, "max_age": 90 * MINUTE})
    desk.starts()
    desk.runs("pull")
    desk.clock.advance(3600)
    assert len(desk.attends("pull")) == 1
    assert desk.view("pull").standing is Standing.RUNNING
    desk.is_up_for(HOUR)
    assert desk.view("pull").book.running
    assert desk.view("pull").standing is Standing.STALE


@pytest.mark.parametrize(
    ("by", "severity"), [("me", "warning"), ("pause_after_failures", "critical")]
)
def test_a_schedule_that_is_stale_because_it_is_paused_says_so_once(by: str, severity: str) -> None:
    desk = Desk(pull={**HOURLY, "max_age": 90 * MINUTE})
    desk.starts()
    desk.runs("pull")
    desk.asks(PauseSchedule(task="pull", by=by, note="moving house"))
    ((told, what, why),) = desk.told("pull")
    assert (told, what) == ("info", "pull is paused")
    desk.is_up_for(2 * HOUR)
    ((told, what, why),) = desk.told("pull")
    assert told == severity
    assert what == "pull is stale since 2026-11-20 21:30:00Z (30m ago)"
    assert why.startswith(
        f"it is paused by {by}, since 2026-11-20 20:00:00Z (2h ago): moving house; "
    )


def test_a_streak_of_failures_says_when_it_was_and_ends_with_its_schedule() -> None:
    desk = Desk(pull=HOURLY)
    desk.starts()
    for _ in range(3):
        desk.runs("pull", Outcome.FAILED, "it is full")
        desk.clock.advance(3600)
    failing = {("pull",): 3.0}
    ((severity, what, why),) = desk.told("pull")
    assert (severity, why) == ("critical", "it is full")
    assert what == "pull fails: its last 3 runs failed, the last at 2026-11-20 22:00:00Z (1h ago)"
    assert gauge(desk, "worker_consecutive_failures") == failing

    desk.tasks["pull"] = scheduled("pull", interval=timedelta(0))
    ((severity, what, why),) = desk.told("pull")
    assert (severity, why) == ("info", "it is full")
    assert what.startswith("pull is off; its last 3 runs failed, the last at 2026-11-20 22:00:00Z")
    assert desk.view("pull").standing is Standing.OFF
    assert gauge(desk, "worker_consecutive_failures") == {}


def test_a_slot_of_which_nobody_recorded_anything_is_overdue() -> None:
    desk = Desk(pull=HOURLY)
    desk.starts()
    desk.runs("pull")
    desk.clock.advance(3600 + 50)
    assert desk.view("pull").standing is Standing.OK
    desk.clock.advance(20)
    assert desk.view("pull").standing is Standing.OVERDUE
    ((severity, what, _),) = desk.told("pull")
    assert severity == "warning"
    assert what == "pull is overdue: its slot of 2026-11-20 21:00:00Z (1m10s ago)"
    assert "they cannot write to the ledger (is its disk full?" in desk.verdict("pull")


# --- schedules without a task


def test_a_schedule_whose_task_is_gone_is_told_until_it_is_forgotten() -> None:
    desk = Desk(old=HOURLY, new=HOURLY)
    desk.starts()
    desk.runs("old")
    desk.runs("new")
    after = desk.admin(new=desk.tasks["new"])
    (gone,) = after.dropped()
    assert gone.elsewhere == "one", "the worker that ran it is up still"
    desk.dies()
    (gone,) = after.dropped()
    assert gone.elsewhere is None
    assert gone.what == "old has a schedule in the ledger, and this application has no such task"
    why = gone.why(desk.now)
    assert why.startswith("it was every 1h; its latest slot, of 2026-11-20 20:00:00Z (0s ago), ran")
    assert why.endswith("on one; if it was taken out on purpose: `worker schedule forget old`")
    assert after.explain("old").verdict == gone.what

    with pytest.raises(ValueError, match="new is a task of this application"):
        after.forget("new")
    with pytest.raises(UnknownTaskError):
        after.forget("nope")
    after.forget("old")
    assert after.dropped() == []


def test_a_schedule_that_was_forgotten_and_comes_back_goes_on_after_what_is_accounted_for() -> None:
    desk = Desk(old=HOURLY)
    desk.starts()
    desk.runs("old")
    desk.admin(new=scheduled("new", **HOURLY)).forget("old")
    desk.runs("old")
    assert desk.view("old").book.counts == {"ran": 1}
    desk.clock.advance(3600)
    desk.runs("old")
    assert desk.view("old").book.counts == {"ran": 2}


def test_while_a_deploy_changes_a_schedule_the_other_one_is_named() -> None:
    desk = Desk(pull=HOURLY)
    desk.starts("old")
    desk.runs("pull")
    old, before = desk.session, desk.tasks["pull"]
    desk.tasks["pull"] = scheduled("pull", interval=timedelta(minutes=10))
    desk.starts("new")
    desk.runs("pull")
    facts = explain(desk.tasks["pull"], desk.store, now=desk.now).facts
    said = "is in force, too, on"
    assert any(f"the schedule every 1h {said} old" in fact for fact in facts)
    facts = explain(before, desk.store, now=desk.now).facts
    assert any(f"the schedule every 10m {said} new" in fact for fact in facts)
    assert old is not None
    desk.store.close_session(old)
    desk.clock.advance(3600)
    desk.runs("pull")
    facts = explain(desk.tasks["pull"], desk.store, now=desk.now).facts
    assert not any("is in force" in fact for fact in facts)


def test_a_process_with_another_schedule_shows_that_of_the_workers_that_are_up() -> None:
    desk = Desk(pull=HOURLY)
    desk.starts("one")
    desk.runs("pull")
    desk.tasks["pull"] = scheduled("pull", cron="0 3 * * *")
    view = desk.view("pull")
    assert (str(view.task.terms.schedule), view.here) == ("every 1h", "0 3 * * * UTC")
    desk.dies()
    view = desk.view("pull")
    assert (str(view.task.terms.schedule), view.here) == ("0 3 * * * UTC", None)
