"""What a task reports of its progress never fails it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.support.consuming import Bench, open_bench
from worker import RunContext, State, task
from worker.progress import LONGEST_PROGRESS, progress_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


class Silent:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


PROGRESS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "more than all": (150, {}, {"percent": 100}),
    "less than nothing": (-0.5, {}, {"percent": 0}),
    "not a number": (float("nan"), {}, {"percent": 0}),
    "infinity": (float("inf"), {}, {"percent": 100}),
    "a text": ("half", {}, {"percent": 0}),
    "nothing": (None, {}, {"percent": 0}),
    "a decimal number": (Decimal("12.5"), {}, {"percent": 12.5}),
    "a huge number": (10**400, {}, {"percent": 100}),
    "a moment": (
        1,
        {"at": datetime(2026, 11, 21, 9, 30, tzinfo=UTC)},
        {"percent": 1, "at": "2026-11-21T09:30:00+00:00"},
    ),
    "an object that has no text": (1, {"what": Silent()}, {"percent": 1, "what": "a Silent"}),
    "a number that is not finite": (1, {"rate": float("nan")}, {"percent": 1, "rate": "nan"}),
    "half a surrogate pair": (1, {"note": "\ud800"}, {"percent": 1, "note": "\\ud800"}),
    "bytes": (1, {"data": [b"x"]}, {"percent": 1, "data": ["b'x'"]}),
    "keys": (1, {"counts": {1: 2}}, {"percent": 1, "counts": {"1": 2}}),
    "a long text": (1, {"note": "x" * 5000}, {"percent": 1, "note": "x" * 199 + "…"}),
    "many entries": (
        1,
        {f"n{n}": "x" * 150 for n in range(20)},
        {"percent": 1, **{f"n{n}": "x" * 150 for n in range(6)}, "…": "14 more"},
    ),
}


UNREMARKABLE = ("a decimal number", "keys", "half a surrogate pair")


@pytest.mark.parametrize("case", PROGRESS)
@pytest.mark.parametrize("blocking", [False, True], ids=["async", "sync"])
async def test_progress_that_cannot_be_recorded_as_it_is_never_fails_the_job(
    bench: Bench, case: str, blocking: bool
) -> None:
    percent, meta, recorded = PROGRESS[case]
    go_on = Event()

    def report(context: RunContext) -> None:
        context.progress(percent, **meta)
        context.progress(percent, **meta)

    @task(max_retries=0)
    async def in_the_loop(context: RunContext) -> None:
        report(context)
        await asyncio.to_thread(go_on.wait, 30)

    @task(max_retries=0)
    def in_a_thread(context: RunContext) -> None:
        report(context)
        go_on.wait(30)

    one = in_a_thread if blocking else in_the_loop
    with capture_logs() as lines:
        async with bench.working(one):
            job = await bench.client.enqueue(one)
            await bench.is_in(job, State.PROGRESS)
            assert await job.progress() == recorded
            go_on.set()
            await job.result("5s")
    warnings = [line for line in lines if line["event"] == "job.progress_changed"]
    assert len(warnings) == (0 if case in UNREMARKABLE else 1)


def test_a_recorder_that_fails_changes_nothing() -> None:
    def full(text: str) -> None:
        raise OSError("no space")

    context = RunContext(task="t", on_progress=full)
    with capture_logs() as lines:
        context.progress(50)
    assert [line["event"] for line in lines] == ["job.progress_changed"]


def test_what_is_no_number_leaves_the_percentage_as_it_was() -> None:
    told: list[str] = []
    context = RunContext(task="t", on_progress=told.append)
    context.progress(40)
    context.progress("most", done=True)  # type: ignore[arg-type]
    assert json.loads(told[-1]) == {"percent": 40, "done": True}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(anything, st.dictionaries(st.text(min_size=1), anything))
def test_any_report_becomes_a_short_json_object(percent: Any, meta: dict[str, Any]) -> None:
    meta.pop("percent", None)
    report = progress_of(percent, meta, 7)
    assert len(report.text) <= LONGEST_PROGRESS
    assert 0 <= json.loads(report.text)["percent"] <= 100
