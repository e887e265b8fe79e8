"""Timers wake the scheduler, also after a pause of the process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.scheduling import HOUR, SECOND, SHORT, START
from tests.support.waiting import wait_until
from worker.schedules.policies import TaskSchedule
from worker.schedules.schedule import Interval
from worker.scheduling.timers import SlotTrigger, Timers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("log")


class Moody:
    """A schedule that fails when the test says so."""

    def __init__(self, every: timedelta) -> None:
        self.inner = Interval(every)
        self.broken = False

    def after(self, moment: datetime) -> datetime | None:
        if self.broken:
            raise ZeroDivisionError("oops")
        return self.inner.after(moment)

    def until(self, moment: datetime) -> datetime | None:
        if self.broken:
            raise ZeroDivisionError("oops")
        return self.inner.until(moment)

    def count(self, start: datetime, end: datetime) -> int:
        return self.inner.count(start, end)


class TestTimers:
    @pytest.fixture
    async def woken(self) -> AsyncIterator[tuple[Timers, list[str]]]:
        names: list[str] = []
        timers = Timers(names.append)
        yield timers, names
        timers.stop()

    def test_a_week_of_sleep_is_not_a_list_of_every_slot_in_it(self) -> None:
        trigger = SlotTrigger(TaskSchedule("sync", Interval(SECOND)))
        now = START + timedelta(days=7, seconds=0.5)
        assert trigger.get_next_fire_time(START, now) == START + timedelta(days=7, seconds=1)

    async def test_a_schedule_that_raises_stops_no_other_timer(
        self, woken: tuple[Timers, list[str]], log: list[Any]
    ) -> None:
        timers, names = woken
        moody = Moody(SHORT)
        now = datetime.now(UTC)
        timers.add(TaskSchedule("moody", moody), now)
        timers.add(TaskSchedule("steady", Interval(SHORT)), now + SHORT)
        moody.broken = True
        timers.start()
        await wait_until(lambda: names.count("steady") >= 3, "the other goes on")
        assert any(line["event"] == "timer.failed" and line.get("task") == "moody" for line in log)

    async def test_waking_that_raises_stops_no_timer(self) -> None:
        calls: list[str] = []

        def wake(name: str) -> None:
            calls.append(name)
            if name == "broken":
                raise ZeroDivisionError("oops")

        timers = Timers(wake)
        for name in ("broken", "steady"):
            timers.add(TaskSchedule(name, Interval(SHORT)), datetime.now(UTC))
        timers.start()
        await wait_until(
            lambda: min(calls.count("broken"), calls.count("steady")) >= 3, "both go on"
        )
        timers.stop()

    async def test_a_clock_that_was_set_back_is_told_and_slots_go_on_by_the_new_time(
        self,
        woken: tuple[Timers, list[str]],
        log: list[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        timers, names = woken
        offset = [timedelta(0)]

        class Moved(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) + offset[0]

        for module in (
            "worker.scheduling.timers",
            "apscheduler.schedulers.base",
            "apscheduler.schedulers.asyncio",
        ):
            monkeypatch.setattr(f"{module}.datetime", Moved, raising=False)
        timers.add(TaskSchedule("sync", Interval(SHORT)), datetime.now(UTC))
        timers.start()
        await wait_until(lambda: len(names) >= 2, "it wakes")
        offset[0] = -HOUR
        count = len(names)
        await wait_until(lambda: len(names) >= count + 3, "it wakes by the new time")
        assert [line["event"] for line in log].count("clock.set_back") == 1
