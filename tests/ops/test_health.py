"""When a worker counts as dead, and when its Data API as gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from pydantic import SecretStr

from tests.support.clock import FakeClock
from tests.support.ops import NOBODY
from worker.app import Worker, open_worker
from worker.events import CallEnded, Events
from worker.model import RunId
from worker.ops.data_api_state import DataApiState
from worker.ops.health import DEAD_AFTER, Health
from worker.scheduling.freshness import Freshness
from worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECOND = timedelta(seconds=1)
NOTHING = timedelta(0)


class Clockwork:
    """What is seen of a scheduler, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.behind = NOTHING
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def pass_by(self, time: timedelta) -> None:
        self.now += time.total_seconds()


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    settings = Settings(data_api_url=NOBODY, store_url=SecretStr("memory://"), state_dir=tmp_path)
    async with open_worker(settings) as opened:
        yield opened


@pytest.fixture
def clockwork() -> Clockwork:
    return Clockwork()


@pytest.fixture
def health(worker: Worker, clockwork: Clockwork) -> Health:
    seen = replace(worker, scheduler=cast("Any", clockwork))
    return Health(seen, monotonic=clockwork.monotonic)


def test_a_scheduler_that_stands_still_is_dead(health: Health, clockwork: Clockwork) -> None:
    clockwork.behind = 10 * SECOND
    assert health.live().ok
    clockwork.pass_by(DEAD_AFTER / 2)
    assert health.live().ok
    clockwork.pass_by(DEAD_AFTER)
    assert "scheduler" in health.live().problems
    assert "scheduler" in health.ready().problems
    clockwork.behind = NOTHING
    assert health.live().ok, "it turns again"


def test_a_machine_that_slept_has_no_dead_scheduler(health: Health, clockwork: Clockwork) -> None:
    """The wall clock jumps on waking, and the timers see it up to half a minute later."""
    clockwork.behind = timedelta(hours=8)
    assert health.live().ok
    clockwork.pass_by(30 * SECOND)
    assert health.live().ok
    clockwork.behind = NOTHING
    assert health.live().ok
    clockwork.pass_by(timedelta(hours=1))
    clockwork.behind = 10 * SECOND
    assert health.live().ok, "lateness that ended counts no more"


def test_a_worker_that_stops_is_not_dead(health: Health, clockwork: Clockwork) -> None:
    clockwork.behind = timedelta(minutes=5)
    health.live()
    clockwork.pass_by(2 * DEAD_AFTER)
    assert not health.live().ok
    health.stopping = True
    assert health.live().ok


def test_a_start_and_an_end_are_not_ready(health: Health) -> None:
    assert not health.startup().ok
    assert set(health.ready().problems) == {"start"}
    health.started = True
    assert health.startup().ok
    assert health.ready().ok
    health.stopping = True
    assert set(health.ready().problems) == {"stop"}
    assert health.startup().ok


def test_a_task_that_was_stale_before_is_a_remark_until_it_was_fresh_here(worker: Worker) -> None:
    """Else the pod that brings the mend would never be ready, and its rollout would not go on."""
    clock = FakeClock()
    freshness = Freshness({"sync": 60 * SECOND}, clock=clock, events=Events())
    freshness.seed("sync", clock.now() - timedelta(hours=1), since=clock.now() - timedelta(days=1))
    health = Health(replace(worker, freshness=freshness))
    health.started = True
    clock.advance(3600)
    verdict = health.ready()
    assert (verdict.ok, verdict.status, set(verdict.remarks)) == (True, "degraded", {"task sync"})
    freshness.note_success("sync", clock.now())
    assert health.ready().status == "ok"
    clock.advance(61)
    assert set(health.ready().problems) == {"task sync"}
    assert health.ready().remarks == {}


def call(status: int | None, failure: BaseException | None = None) -> CallEnded:
    return CallEnded(
        task="sync",
        run_id=RunId("1"),
        call="other",
        attempt=1,
        status=status,
        duration_s=0.1,
        failure=failure,
    )


@pytest.mark.parametrize("gone", [call(None, OSError("refused")), call(503), call(502), call(504)])
def test_a_data_api_that_does_not_answer_is_a_remark(health: Health, gone: CallEnded) -> None:
    health.started = True
    health.data_api(gone)
    health.data_api(gone)
    verdict = health.ready()
    assert (verdict.ok, verdict.status) == (True, "degraded")
    assert verdict.remarks["data_api"].startswith("no answer to the last 2 requests, the last at ")
    health.data_api(call(200))
    assert health.ready().status == "ok"


def test_an_answer_that_says_no_is_an_answer() -> None:
    state = DataApiState()
    for status in (404, 409, 500, 500):
        state(call(status, ValueError("no")))
        assert state.trouble is None


def test_a_call_that_we_gave_up_says_nothing_about_the_data_api() -> None:
    state = DataApiState()
    state(call(None, OSError()))
    state(call(None, KeyboardInterrupt()))
    assert state.trouble is not None
    assert state.trouble.calls == 1


def test_what_the_data_api_did_long_ago_is_no_news_of_it(worker: Worker) -> None:
    clock = FakeClock()
    health = Health(worker)
    health.started = True
    health.data_api = DataApiState(now=clock.now, monotonic=clock.monotonic)
    health.data_api(call(None, OSError("refused")))
    then = f"{clock.now():%H:%M:%S}Z"
    assert health.ready().remarks == {"data_api": f"no answer to the last request, at {then}"}
    clock.advance(121)
    assert health.ready().status == "ok", "nobody knows how it is now"
    trouble = health.data_api.trouble
    assert trouble is not None
    assert trouble.what == "the Data API was in trouble when it was last called"
    told = trouble.why(clock.now())
    assert told.startswith(f"no answer to the last request, at {then}, by sync; nobody has called")
    assert told.endswith("(2m1s ago)")
    health.data_api(call(200))
    assert health.data_api.trouble is None


def test_a_token_that_is_refused_is_named_as_the_cause() -> None:
    state = DataApiState()
    for task in ("pull", "push", "pull"):
        state(replace(call(401, ValueError("no")), task=task))
    trouble = state.trouble
    assert trouble is not None
    assert trouble.what == (
        "the Data API refuses this worker (401): look at WORKER_DATA_API_TOKEN or "
        "WORKER_DATA_API_TOKEN_FILE"
    )
    assert trouble.why(trouble.last).startswith("status 401 to the last 3 requests, the last at ")
    assert trouble.why(trouble.last).endswith("Z, by pull, push")


def test_a_data_api_that_fails_at_everything_is_named_as_the_cause() -> None:
    state = DataApiState()
    for _ in range(3):
        state(call(500, ValueError("no")))
    trouble = state.trouble
    assert trouble is not None
    assert trouble.what == "the Data API answers 500 to everything"


def test_a_stale_task_that_is_paused_makes_no_worker_unready(worker: Worker) -> None:
    clock = FakeClock()
    freshness = Freshness({"sync": 60 * SECOND}, clock=clock, events=Events())
    health = Health(replace(worker, freshness=freshness))
    health.started = True
    clock.advance(61)
    assert set(health.ready().problems) == {"task sync"}
    freshness.note_pause("sync", True)
    assert health.ready().problems == {}
    assert health.ready().remarks["task sync"].endswith(": it is paused")
    freshness.note_pause("sync", False)
    assert set(health.ready().problems) == {"task sync"}
