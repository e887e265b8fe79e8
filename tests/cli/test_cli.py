"""The command line, as its users type it: exit codes, what is printed where."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import (
    WORKER,
    clean_environment,
    demo_api,
    running,
    worker_command,
)

if TYPE_CHECKING:
    from pathlib import Path

CLOSED = {"WORKER_DATA_API_URL": "http://127.0.0.1:9", "WORKER_RETRY_BASE": "1ms"}

OWN_TASKS = """
from worker import BaseTask, TaskFailed


class Fails(BaseTask):
    name = "fails"

    async def execute(self):
        raise TaskFailed("tried\\nin vain with s3cret", result={"failed": 2})


class Links(BaseTask):
    name = "links"

    async def execute(self):
        return {"html": '<a href="http://x/?a=b">', "next": "http://api/x?page=2", "é": "s3cret"}


class Cannot(BaseTask):
    name = "cannot"

    async def execute(self):
        circle = {}
        circle["self"] = circle
        return circle


class Odd(BaseTask):
    '''Returns what JSON does not know.'''

    name = "odd"

    async def execute(self):
        return {"nan": float("nan"), "set": {1}, "object": object}


def register(scheduler):
    scheduler.register_task(Fails, interval_seconds=90)
    scheduler.register_task(Cannot, interval_seconds=60)
    scheduler.register_task(Links, interval_seconds=60)
    scheduler.register_task(Odd, interval_seconds=60)
"""


@pytest.fixture
def own_tasks(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "own_tasks.py").write_text(OWN_TASKS)
    return {**CLOSED, "WORKER_TASK_MODULES": "own_tasks", "WORKER_DATA_API_TOKEN": "s3cret"}


async def test_a_run_prints_one_json_object_and_logs_to_standard_error(tmp_path: Path) -> None:
    async with demo_api("--old-orders", "3") as api:
        code, out, err = await worker_command(
            "run",
            "cleanup_old_orders",
            "--json",
            environment={"WORKER_DATA_API_URL": api.url},
            cwd=tmp_path,
        )
    run = json.loads(out)
    assert code == 0
    assert list(run) == [
        "task",
        "run_id",
        "state",
        "result",
        "attempts",
        "duration_ms",
        "error",
    ]
    assert (run["task"], run["state"], run["result"]) == ("cleanup_old_orders", "SUCCESS", 3)
    assert run["error"] is None
    logged = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in logged] == ["run.started", "run.finished"]
    assert {line["run_id"] for line in logged} == {run["run_id"]}
    assert {line["trigger"] for line in logged} == {"manual"}


async def test_a_failed_task_exits_1_and_says_why(
    tmp_path: Path, own_tasks: dict[str, str]
) -> None:
    code, out, err = await worker_command("run", "fails", environment=own_tasks, cwd=tmp_path)
    run = json.loads(out)
    assert code == 1
    assert (run["state"], run["result"]) == ("FAILURE", {"failed": 2})
    assert run["error"] == {"type": "TaskFailed", "message": "tried in vain with ***"}
    assert "s3cret" not in out + err


async def test_a_result_that_json_does_not_know_is_printed_all_the_same(
    tmp_path: Path, own_tasks: dict[str, str]
) -> None:
    code, out, _ = await worker_command("run", "odd", environment=own_tasks, cwd=tmp_path)
    assert code == 0
    assert json.loads(out)["result"] == {"nan": None, "set": [1], "object": "<class 'object'>"}


async def test_a_result_is_printed_as_it_is_but_for_secrets(
    tmp_path: Path, own_tasks: dict[str, str]
) -> None:
    code, out, _ = await worker_command("run", "links", environment=own_tasks, cwd=tmp_path)
    assert code == 0
    assert json.loads(out)["result"] == {
        "html": '<a href="http://x/?a=b">',
        "next": "http://api/x?page=2",
        "é": "***",
    }


async def test_a_result_that_cannot_be_written_down_leaves_its_gist(
    tmp_path: Path, own_tasks: dict[str, str]
) -> None:
    code, out, _ = await worker_command("run", "cannot", environment=own_tasks, cwd=tmp_path)
    assert code == 0
    assert json.loads(out)["result"] == {"self": "1 items"}


async def test_an_unreachable_api_exits_69(tmp_path: Path) -> None:
    code, out, _ = await worker_command(
        "run", "sync_external_data", "--json", environment=CLOSED, cwd=tmp_path
    )
    assert code == 69
    assert json.loads(out)["error"]["type"] == "DataApiUnreachable"


async def test_an_unknown_task_exits_2_and_names_the_nearest(tmp_path: Path) -> None:
    code, out, err = await worker_command(
        "run", "clean_old_orders", environment=CLOSED, cwd=tmp_path
    )
    assert (code, out) == (2, "")
    assert "did you mean 'cleanup_old_orders'?" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [("strat",), ("run",), ("list", "--jsn"), ("demo", "--for", "a while")]
)
async def test_wrong_usage_exits_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, out, err = await worker_command(*arguments, environment=CLOSED, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err


@pytest.mark.parametrize("arguments", [("start",), ("run", "x"), ("list",), ("check",)])
async def test_a_wrong_configuration_exits_78_with_every_problem(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    code, out, err = await worker_command(
        *arguments,
        environment={"WORKER_SYNC_INTERVAL": "x", "WORKER_SYNC_INTERVALL": "1"},
        cwd=tmp_path,
    )
    assert (code, out) == (78, "")
    assert "3 problems" in err
    assert "WORKER_DATA_API_URL is required" in err
    assert "did you mean 'WORKER_SYNC_INTERVAL'?" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (None, "cannot be imported: ModuleNotFoundError"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("raise SystemExit(0)", "cannot be imported: SystemExit"),
        ("", "expected a function register(scheduler) in it"),
        ("def register(): ...", "register failed: TypeError"),
        ("async def register(scheduler): ...", "must be `def`, not `async def`"),
        (
            "async def sync_external_data(): ...\n"
            "def register(s): s.register_task(sync_external_data, interval_seconds=1)",
            "two tasks are named 'sync_external_data'",
        ),
    ],
)
async def test_a_task_module_that_cannot_be_used_exits_78(
    tmp_path: Path, module: str | None, complaint: str
) -> None:
    if module is not None:
        (tmp_path / "mine.py").write_text(module)
    code, _, err = await worker_command(
        "list", environment={**CLOSED, "WORKER_TASK_MODULES": "mine"}, cwd=tmp_path
    )
    assert code == 78
    assert complaint in err
    assert "Traceback" not in err


async def test_list_shows_each_task_its_interval_and_where_it_is_defined(
    tmp_path: Path, own_tasks: dict[str, str]
) -> None:
    environment = {**own_tasks, "WORKER_SYNC_INTERVAL": "off"}
    code, out, _ = await worker_command("list", environment=environment, cwd=tmp_path)
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["odd"] == ["every", "1m", "own_tasks:Odd", "own_tasks:Odd"]
    assert rows["sync_external_data"][0] == "off"

    _, out, _ = await worker_command("list", "--json", environment=environment, cwd=tmp_path)
    tasks: list[dict[str, Any]] = json.loads(out)
    assert tasks[-1] == {
        "name": "odd",
        "interval_s": 60.0,
        "schedule": "every 1m",
        "said_by": "own_tasks:Odd",
        "on_demand": False,
        "queue": None,
        "params": None,
        "defined_in": "own_tasks:Odd",
        "summary": "Returns what JSON does not know.",
    }


async def test_check_says_what_it_found(tmp_path: Path) -> None:
    async with demo_api("--token", "s3cret") as api:
        environment = {"WORKER_DATA_API_URL": api.url, "WORKER_DATA_API_TOKEN": "s3cret"}
        code, out, _ = await worker_command("check", environment=environment, cwd=tmp_path)
        assert code == 0
        assert [line.split()[0] for line in out.splitlines()] == ["ok", "ok", "ok", "ok"]
        assert "answers with a token" in out
        assert "the ledger at sqlite:///.worker/worker.db can be used" in out

        environment["WORKER_DATA_API_TOKEN"] = "wrong"
        code, out, _ = await worker_command("check", environment=environment, cwd=tmp_path)
        assert code == 1
        assert f"FAIL  the Data API at {api.url}: orders.list: expected 2xx, got 401" in out
        assert "WORKER_DATA_API_TOKEN" in out

    environment = {**CLOSED, "WORKER_QUEUE_URL": "redis://:s3cret@127.0.0.1:9/0"}
    code, out, _ = await worker_command("check", environment=environment, cwd=tmp_path)
    assert code == 69
    assert "FAIL  the queue: redis://127.0.0.1:9/0" in out, "although no task has a queue"
    assert "s3cret" not in out
    assert "no connection to 127.0.0.1:9" in out


async def test_a_signal_ends_a_run_by_hand_and_its_outcome_is_still_printed(
    tmp_path: Path,
) -> None:
    async with demo_api("--fault", "hang=true") as api:
        process = await asyncio.create_subprocess_exec(
            *WORKER,
            "run",
            "sync_external_data",
            env=clean_environment(WORKER_DATA_API_URL=api.url),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        assert b"run.started" in await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            out, _ = await process.communicate()
    assert process.returncode == 130
    assert json.loads(out)["state"] == "REVOKED"


def shell(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in which ``$worker`` is the command."""
    return subprocess.run(
        ["bash", "-c", f'worker="{sys.executable} -m worker"; {script}'],
        env=clean_environment(**CLOSED, **environment),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    ["list", "--help", "demo --for 3s", "check", "run odd 2>/dev/null", "start 2>&1"],
)
def test_a_reader_that_goes_away_ends_a_command_quietly(
    tmp_path: Path, own_tasks: dict[str, str], command: str
) -> None:
    modules = {"WORKER_TASK_MODULES": own_tasks["WORKER_TASK_MODULES"]}
    done = shell(f"$worker {command} | head -n 1", tmp_path, **modules)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("command", ["list", "check", "run odd", "demo --for 3s", "start 2>&1"])
def test_a_reader_that_went_away_is_exit_code_141(
    tmp_path: Path, own_tasks: dict[str, str], command: str
) -> None:
    modules = {"WORKER_TASK_MODULES": own_tasks["WORKER_TASK_MODULES"]}
    done = shell(f"$worker {command} | true; exit ${{PIPESTATUS[0]}}", tmp_path, **modules)
    assert done.returncode == 141


def test_a_result_that_cannot_be_written_is_told_without_a_traceback(tmp_path: Path) -> None:
    done = shell("$worker list > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "worker: the result cannot be written: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_no_harm(tmp_path: Path, closed: str) -> None:
    assert shell(f"$worker list {closed}", tmp_path).returncode == 0
    assert shell(f"timeout -s TERM 2 $worker start {closed}", tmp_path).returncode == 124


async def test_what_a_task_prints_is_no_part_of_the_result(tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text(
        "async def prints():\n    print('hello')\n"
        "def register(scheduler):\n    scheduler.register_task(prints, interval_seconds=60)\n"
    )
    _, out, err = await worker_command(
        "run", "prints", environment={**CLOSED, "WORKER_TASK_MODULES": "prints"}, cwd=tmp_path
    )
    assert json.loads(out)["state"] == "SUCCESS"
    assert "hello" in err


async def test_a_task_of_ones_own_that_reaches_nothing_exits_69_and_says_what(
    tmp_path: Path,
) -> None:
    (tmp_path / "calls.py").write_text(
        "async def calls(http_client):\n    await http_client.get('/x?key=hidden')\n"
        "def register(scheduler):\n    scheduler.register_task(calls, interval_seconds=60)\n"
    )
    code, out, err = await worker_command(
        "run", "calls", environment={**CLOSED, "WORKER_TASK_MODULES": "calls"}, cwd=tmp_path
    )
    assert code == 69
    assert json.loads(out)["error"] == {
        "type": "ConnectError",
        "message": "no connection to 127.0.0.1:9 (Connection refused)",
    }
    assert "Traceback" not in err
    assert "hidden" not in out + err


async def test_check_shows_each_schedule_with_the_origin_of_its_fields(tmp_path: Path) -> None:
    (tmp_path / "own_tasks.py").write_text(
        "async def report(): ...\n"
        "def register(scheduler):\n"
        "    scheduler.register_task(report, cron='0 2 * * *', timezone='Europe/Berlin')\n"
    )
    (tmp_path / "plan.toml").write_text('[tasks.report]\ncron = "0 3 * * *"\n')
    environment = {**CLOSED, "WORKER_TASK_MODULES": "own_tasks"}
    code, out, _ = await worker_command("check", environment=environment, cwd=tmp_path)
    assert code == 69
    assert (
        "ok    report: 0 2 * * * Europe/Berlin; cron='0 2 * * *' (own_tasks:report), "
        "timezone=Europe/Berlin (own_tasks:report)"
    ) in out.splitlines()
    environment["WORKER_SCHEDULES_FILE"] = "plan.toml"
    _, out, _ = await worker_command("check", environment=environment, cwd=tmp_path)
    assert (
        "ok    report: 0 3 * * * Europe/Berlin; cron='0 3 * * *' (plan.toml), "
        "timezone=Europe/Berlin (own_tasks:report)"
    ) in out.splitlines()
    assert "(WORKER_SYNC_INTERVAL), phase=from the task's name (default)" in out


async def test_check_refuses_what_start_would_refuse(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    environment = {**CLOSED, "WORKER_HEARTBEAT_FILE": str(alive)}
    code, _, _ = await worker_command("check", environment=environment, cwd=tmp_path)
    assert code == 69
    assert not alive.exists()
    environment["WORKER_HEARTBEAT_FILE"] = str(tmp_path / "missing" / "alive")
    code, _, err = await worker_command("check", environment=environment, cwd=tmp_path)
    assert code == 78
    assert "WORKER_HEARTBEAT_FILE" in err


async def test_the_demo_api_lists_its_faults(tmp_path: Path) -> None:
    code, out, _ = await worker_command("demo-api", "--fault", "help", cwd=tmp_path)
    assert code == 0
    assert "retry_after" in out
    assert "The Retry-After header of failing calls" in out


async def test_the_demo_ends_by_itself_with_a_summary(tmp_path: Path) -> None:
    code, out, err = await worker_command("demo", "--for", "4s", cwd=tmp_path)
    assert (code, err) == (0, "")
    for task in ("cleanup_old_orders", "send_reminders", "sync_external_data"):
        assert f"{task}: SUCCESS" in out
    assert "process_pending_orders: SUCCESS" in out
    assert out.rstrip().endswith("nothing was done twice.")


async def test_the_demo_takes_nothing_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WORKER_TASK_MODULES=would_do_real_things\n")
    environment = {"WORKER_DATA_API_URL": "http://127.0.0.1:9", "WORKER_DATA_API_TOKEN": "real"}
    code, out, err = await worker_command(
        "demo", "--for", "1s", environment=environment, cwd=tmp_path
    )
    assert (code, err) == (0, "")
    assert "127.0.0.1:9 " not in out


@pytest.mark.parametrize(
    "command",
    [
        *("", "start", "run", "list", "check", "demo", "demo-api"),
        *("enqueue", "jobs", "jobs list", "jobs show", "jobs cancel", "dead retry"),
    ],
    ids=str,
)
async def test_help_is_everywhere(tmp_path: Path, command: str) -> None:
    code, out, _ = await worker_command(*command.split(), "--help", cwd=tmp_path)
    assert code == 0
    assert "Usage:" in out


async def test_the_module_without_arguments_starts_the_worker(tmp_path: Path) -> None:
    async with running(environment=CLOSED, cwd=tmp_path) as worker:
        await worker.logged("worker.ready")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0


async def test_a_thread_that_does_not_end_does_not_change_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "threads.py").write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "def register(scheduler): ...\n"
    )
    code, _, _ = await worker_command(
        "check", environment={**CLOSED, "WORKER_TASK_MODULES": "threads"}, cwd=tmp_path
    )
    assert code == 69


async def test_a_thread_that_does_not_end_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    (tmp_path / "threads.py").write_text(
        "import asyncio, threading\n"
        "async def leaves_a_thread():\n"
        "    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)\n"
        "def register(scheduler):\n"
        "    scheduler.register_task(leaves_a_thread, interval_seconds=60)\n"
    )
    code, out, _ = await worker_command(
        "run",
        "leaves_a_thread",
        environment={**CLOSED, "WORKER_TASK_MODULES": "threads"},
        cwd=tmp_path,
    )
    assert code == 0
    assert json.loads(out)["state"] == "SUCCESS"
