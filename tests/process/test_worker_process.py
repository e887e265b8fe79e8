"""The worker as its users run it: a process, beside a real Data API in another process."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.jobs import passed
from tests.support.processes import demo_api, running, worker_command
from worker.supervisor import SAME_REQUEST_S

if TYPE_CHECKING:
    from pathlib import Path

AT_ONCE = {"WORKER_FIRST_RUN_DELAY": "0", "WORKER_FIRST_RUN_SPREAD": "0"}
NOTHING_SCHEDULED = {
    "WORKER_CLEANUP_INTERVAL": "off",
    "WORKER_REMINDERS_INTERVAL": "off",
    "WORKER_SYNC_INTERVAL": "off",
    "WORKER_ORDERS_INTERVAL": "off",
}
CLOSED = "http://127.0.0.1:9"


async def test_the_four_tasks_do_their_work_over_http(tmp_path: Path) -> None:
    seed = ("--orders", "150", "--poison", "2", "--old-orders", "7", "--bookings", "8")
    async with (
        demo_api(*seed) as api,
        running(
            "start", environment={"WORKER_DATA_API_URL": api.url, **AT_ONCE}, cwd=tmp_path
        ) as worker,
    ):
        ready = await worker.logged("worker.ready")
        assert ready["schedules"] == {
            "cleanup_old_orders": "every 1h",
            "send_reminders": "every 5m",
            "sync_external_data": "every 30m",
            "process_pending_orders": "every 5m",
        }
        cleaned = await worker.logged("run.finished", task="cleanup_old_orders")
        reminded = await worker.logged("run.finished", task="send_reminders")
        processed = await worker.logged("run.finished", task="process_pending_orders")
        await worker.logged("run.finished", task="sync_external_data")
        assert cleaned["result"] == 7
        assert reminded["result"] == {"sent": 6, "failed": 0, "total": 8}
        assert processed["result"] == {"processed": 148, "failed": 2, "failed_ids": "2 items"}

        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert worker.events[-1]["event"] == "worker.stopped"
        assert worker.events[-1]["succeeded"] == 4
        summary = await api.ask("/demo/summary")
        assert (summary["processed"], summary["reminders"], summary["syncs"]) == (148, 6, 1)
        assert summary["repeated_effects"] == 0


async def test_a_thousand_orders_with_poison_and_lingering_ones_are_each_done_once(
    tmp_path: Path,
) -> None:
    async with demo_api("--orders", "1000", "--poison", "10", "--lingering", "20") as api:
        code, out, _ = await worker_command(
            "run",
            "process_pending_orders",
            "--json",
            environment={"WORKER_DATA_API_URL": api.url},
            cwd=tmp_path,
        )
        run = json.loads(out)
        assert code == 0
        assert run["state"] == "SUCCESS"
        assert (run["result"]["processed"], run["result"]["failed"]) == (990, 10)
        done = [effect["subject"] for effect in await api.effects("order_processed")]
        assert len(done) == len(set(done)) == 990
        requests = (await api.ask("/demo/requests"))["items"]
        attempted = [item["subject"] for item in requests if item["method"] == "POST"]
        assert len(attempted) == len(set(attempted)) == 1000


async def test_orders_are_done_once_although_answers_are_lost(tmp_path: Path) -> None:
    losses = ("--fault", "reset_rate=0.1", "--fault", "only_path=/process", "--fault", "seed=3")
    async with demo_api("--orders", "200", *losses) as api:
        code, out, _ = await worker_command(
            "run",
            "process_pending_orders",
            environment={
                "WORKER_DATA_API_URL": api.url,
                "WORKER_RETRY_BASE": "20ms",
                "WORKER_RETRY_ATTEMPTS": "6",
            },
            cwd=tmp_path,
        )
        assert code == 0
        assert json.loads(out)["result"]["processed"] == 200
        done = [effect["subject"] for effect in await api.effects("order_processed")]
        assert len(done) == len(set(done)) == 200
        requests = (await api.ask("/demo/requests"))["items"]
        assert any(item["replayed"] for item in requests)


async def test_the_worker_outlives_its_api_and_recovers_by_itself(tmp_path: Path) -> None:
    database = ("--database", str(tmp_path / "api.db"))
    environment = {
        **NOTHING_SCHEDULED,
        **AT_ONCE,
        "WORKER_SYNC_INTERVAL": "0.2s",
        "WORKER_RETRY_BASE": "10ms",
    }
    async with demo_api(*database) as first:
        environment["WORKER_DATA_API_URL"] = first.url
        async with running("start", environment=environment, cwd=tmp_path) as worker:
            await worker.logged("run.finished", count=2)
            await first.kill()
            lines_before = len(worker.events)
            await worker.logged("run.failed", count=4)
            outage = worker.events[lines_before:]
            assert len(outage) <= 4 * 3 + 2, "an outage floods the log"
            assert not any("exception" in line for line in outage)
            assert worker.told("run.failed")[-1]["consecutive"] >= 4
            async with demo_api(*database, port=first.port):
                recovered = await worker.logged("run.recovered")
                assert recovered["after_failures"] >= 4
                await worker.logged("run.finished", count=3)
                worker.signal(signal.SIGTERM)
                assert await worker.ended() == 0


HOSTILE_TASKS = """
import asyncio
from datetime import timedelta

from worker import BaseTask


class Good(BaseTask):
    name = "good"

    async def execute(self):
        return "fine"


async def raises():
    raise ValueError("no\\nluck")


async def hangs():
    await asyncio.Event().wait()


async def hangs_on():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass


async def exits():
    raise SystemExit(3)


async def interrupts():
    raise KeyboardInterrupt


async def cancels_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


async def raises_cancelled():
    raise asyncio.CancelledError


async def recurses():
    def deeper():
        deeper()

    deeper()


async def exits_in_a_child():
    await asyncio.gather(exits(), asyncio.sleep(3600))


async def exits_in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(interrupts())


async def exits_in_its_message():
    class Evil(Exception):
        def __str__(self):
            raise SystemExit(9)

    raise Evil


def register(scheduler):
    hostile = [raises, exits, interrupts, cancels_itself, raises_cancelled, recurses]
    hostile += [exits_in_a_child, exits_in_a_group, exits_in_its_message]
    for task in hostile:
        scheduler.register_task(task, interval_seconds=0.25)
    for task in (hangs, hangs_on):
        scheduler.register_task(task, interval_seconds=0.25, time_limit=timedelta(seconds=0.4))
    scheduler.register_task(Good, interval_seconds=0.25)
"""


async def test_hostile_tasks_leave_the_others_on_time_and_the_worker_alive(tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text(HOSTILE_TASKS)
    environment = {
        **NOTHING_SCHEDULED,
        **AT_ONCE,
        "WORKER_DATA_API_URL": CLOSED,
        "WORKER_TASK_MODULES": "hostile",
        "WORKER_SHUTDOWN_GRACE": "0",
    }
    async with running("start", environment=environment, cwd=tmp_path) as worker:
        await worker.logged("run.finished", task="good", count=12)
        kinds = {line["task"]: line["error_type"] for line in worker.told("run.failed")}
        assert kinds["raises"] == "ValueError"
        assert kinds["recurses"] == "RecursionError"
        assert kinds["hangs"] == "TimeLimitExceeded"
        first = worker.told("run.failed", task="hangs")[0]
        assert "await asyncio.Event().wait()" in first["exception"], "where it hung"
        assert kinds["exits_in_its_message"] == "Evil"
        crashes = ("exits", "interrupts", "exits_in_a_child", "exits_in_a_group")
        for name in (*crashes, "cancels_itself", "raises_cancelled"):
            assert kinds[name] == "TaskCrashed"
        starts = worker.told("run.started", task="good")
        assert len(starts) >= 12
        # A machine with other work may be late for a slot; that is not the hostile tasks' doing.
        assert len(worker.told("slot.skipped", task="good")) < 3
        assert worker.told("slot.skipped", task="hangs", outcome="skipped_overlap")

        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert worker.events[-1]["event"] == "worker.stopped"
        assert not worker.other_lines, "something wrote to the log past the logger"


async def test_a_run_that_ends_within_the_grace_period_is_not_interrupted(tmp_path: Path) -> None:
    environment = {**NOTHING_SCHEDULED, **AT_ONCE, "WORKER_SYNC_INTERVAL": "1h"}
    async with demo_api("--fault", "latency_s=1") as api:
        environment["WORKER_DATA_API_URL"] = api.url
        async with running("start", environment=environment, cwd=tmp_path) as worker:
            await worker.logged("run.started")
            worker.signal(signal.SIGTERM)
            assert await worker.ended() == 0
            assert worker.told("worker.stopping")[0]["running"] == ["sync_external_data"]
            assert worker.told("run.finished")
            assert worker.events[-1]["succeeded"] == 1


async def test_a_log_reader_that_leaves_during_the_drain_cuts_nothing_short(
    tmp_path: Path,
) -> None:
    environment = {**NOTHING_SCHEDULED, **AT_ONCE, "WORKER_SYNC_INTERVAL": "1h"}
    async with demo_api("--fault", "latency_s=1") as api:
        environment["WORKER_DATA_API_URL"] = api.url
        async with running("start", environment=environment, cwd=tmp_path) as worker:
            await worker.logged("run.started")
            worker.signal(signal.SIGTERM)
            await worker.logged("worker.stopping")
            worker.hang_up()
            assert await worker.ended() == 141
        effects = await api.effects("sync")
    assert len(effects) == 1


async def test_a_run_beyond_the_grace_period_is_cancelled_and_the_exit_is_clean(
    tmp_path: Path,
) -> None:
    environment = {
        **NOTHING_SCHEDULED,
        **AT_ONCE,
        "WORKER_SYNC_INTERVAL": "1h",
        "WORKER_SHUTDOWN_GRACE": "100ms",
    }
    async with demo_api("--fault", "hang=true") as api:
        environment["WORKER_DATA_API_URL"] = api.url
        async with running("start", environment=environment, cwd=tmp_path) as worker:
            await worker.logged("run.started")
            worker.signal(signal.SIGINT)
            assert await worker.ended() == 0
            assert worker.told("run.interrupted", task="sync_external_data")
            assert worker.events[-1]["interrupted"] == 1


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_two_signals_within_a_second_are_one_request_to_stop(
    tmp_path: Path, second: signal.Signals
) -> None:
    """As coreutils' ``timeout`` sends them: to the process, and to its group."""
    environment = {**NOTHING_SCHEDULED, "WORKER_DATA_API_URL": CLOSED}
    async with running("start", environment=environment, cwd=tmp_path) as worker:
        await worker.logged("worker.ready")
        worker.signal(signal.SIGTERM)
        worker.signal(second)
        assert await worker.ended() == 0
        assert worker.told("worker.stopped")
        assert not worker.told("worker.killed")


async def test_a_later_signal_ends_the_worker_at_once(tmp_path: Path) -> None:
    environment = {**NOTHING_SCHEDULED, **AT_ONCE, "WORKER_SYNC_INTERVAL": "1h"}
    async with demo_api("--fault", "hang=true") as api:
        environment["WORKER_DATA_API_URL"] = api.url
        async with running("start", environment=environment, cwd=tmp_path) as worker:
            await worker.logged("run.started")
            worker.signal(signal.SIGTERM)
            await worker.logged("worker.stopping")
            await passed(timedelta(seconds=SAME_REQUEST_S))
            worker.signal(signal.SIGTERM)
            assert await worker.ended() == 128 + signal.SIGTERM
            assert not worker.told("worker.stopped")
            assert worker.events[-1]["event"] == "worker.killed"


SLOW_STOP = """
import asyncio


async def lasts():
    await asyncio.sleep(1)


async def ticks(): ...


def register(scheduler):
    scheduler.register_task(lasts, interval_seconds=60)
    scheduler.register_task(ticks, interval_seconds=0.1)
"""


async def test_slots_that_come_while_the_worker_drains_are_left_for_the_next_start(
    tmp_path: Path,
) -> None:
    (tmp_path / "slow_stop.py").write_text(SLOW_STOP)
    environment = {
        **NOTHING_SCHEDULED,
        **AT_ONCE,
        "WORKER_DATA_API_URL": CLOSED,
        "WORKER_TASK_MODULES": "slow_stop",
    }
    async with running("start", environment=environment, cwd=tmp_path) as worker:
        await worker.logged("run.finished", task="ticks")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert worker.told("run.finished", task="lasts")
        last = worker.told("run.started", task="ticks")[-1]["slot"]
    async with running("start", environment=environment, cwd=tmp_path) as worker:
        missed = await worker.logged("slot.skipped", task="ticks", outcome="missed")
        assert missed["slot"] > last


BLOCKING_TASK = """
import time


async def blocks():
    time.sleep(3600)


def register(scheduler):
    scheduler.register_task(blocks, interval_seconds=60)
"""


async def test_two_signals_end_a_worker_whose_event_loop_is_blocked(tmp_path: Path) -> None:
    (tmp_path / "blocking.py").write_text(BLOCKING_TASK)
    environment = {
        **NOTHING_SCHEDULED,
        **AT_ONCE,
        "WORKER_DATA_API_URL": CLOSED,
        "WORKER_TASK_MODULES": "blocking",
    }
    async with running("start", environment=environment, cwd=tmp_path) as worker:
        await worker.logged("run.started", task="blocks")
        while worker.process.returncode is None:  # two that come as one would count as one
            worker.signal(signal.SIGTERM)
            await asyncio.sleep(0.05)
        assert await worker.ended() == 128 + signal.SIGTERM


async def test_a_worker_whose_log_nobody_reads_any_more_ends_quietly(tmp_path: Path) -> None:
    environment = {
        **NOTHING_SCHEDULED,
        **AT_ONCE,
        "WORKER_SYNC_INTERVAL": "0.1s",
        "WORKER_DATA_API_URL": CLOSED,
    }
    async with running("start", environment=environment, cwd=tmp_path) as worker:
        await worker.logged("worker.ready")
        worker.hang_up()
        assert await worker.ended() == 141


async def test_the_heartbeat_file_is_there_while_the_worker_runs(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    environment = {
        **NOTHING_SCHEDULED,
        "WORKER_DATA_API_URL": CLOSED,
        "WORKER_HEARTBEAT_FILE": str(alive),
    }
    async with running("start", environment=environment, cwd=tmp_path) as worker:
        await worker.logged("worker.idle")  # one without anything to do must say so
        assert alive.exists()
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
    assert not alive.exists()


async def test_a_heartbeat_file_that_cannot_be_written_is_refused_at_start(tmp_path: Path) -> None:
    code, _, err = await worker_command(
        "start",
        environment={
            "WORKER_DATA_API_URL": CLOSED,
            "WORKER_HEARTBEAT_FILE": str(tmp_path / "missing" / "alive"),
        },
        cwd=tmp_path,
    )
    assert code == 78
    assert "WORKER_HEARTBEAT_FILE" in err
    assert "Traceback" not in err


async def test_a_heartbeat_file_is_no_link_to_another_and_for_nobody_else(tmp_path: Path) -> None:
    """In a folder for everybody, such as /tmp, somebody may have put one there."""
    other, alive = tmp_path / "other", tmp_path / "alive"
    alive.symlink_to(other)
    environment = {
        **NOTHING_SCHEDULED,
        "WORKER_DATA_API_URL": CLOSED,
        "WORKER_HEARTBEAT_FILE": str(alive),
    }
    code, _, err = await worker_command("start", environment=environment, cwd=tmp_path)
    assert code == 78
    assert "it is a symbolic link" in err
    assert not other.exists()
    alive.unlink()
    async with running("start", environment=environment, cwd=tmp_path) as worker:
        await worker.logged("worker.idle")
        assert alive.stat().st_mode & 0o777 == 0o600
