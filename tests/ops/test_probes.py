"""What Kubernetes and Docker see of a worker, while things go wrong around it and in it."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.outages import server_of_its_own
from tests.support.processes import (
    WORKER,
    LoggingProcess,
    clean_environment,
    demo_api,
    running,
    worker_command,
)
from tests.support.servers import refused_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

DEADLINE_S = 25.0
LOOK_S = 0.05
NOBODY = "http://127.0.0.1:9"
QUIET = {
    "WORKER_CLEANUP_INTERVAL": "off",
    "WORKER_REMINDERS_INTERVAL": "off",
    "WORKER_SYNC_INTERVAL": "off",
    "WORKER_ORDERS_INTERVAL": "off",
    "WORKER_FIRST_RUN_DELAY": "0",
    "WORKER_FIRST_RUN_SPREAD": "0",
}
HOLDING = """
import asyncio
import time
from datetime import timedelta
from pathlib import Path


async def blocks():
    while Path("block").exists():
        time.sleep(0.01)


async def lingers():
    while Path("linger").exists():
        await asyncio.sleep(0.01)


async def fails():
    raise ValueError("no luck")


def register(scheduler):
    for task in (blocks, lingers, fails):
        scheduler.register_task(task, interval_seconds=0.2, time_limit=timedelta(minutes=1))
"""


@dataclass(frozen=True)
class Probed:
    """A worker process, and its probes."""

    process: LoggingProcess
    port: int
    folder: Path

    async def ask(self, path: str, *, within_s: float = 20.0) -> tuple[int, dict[str, Any]] | None:
        """Status and detail; ``None`` if no answer comes."""
        url = f"http://127.0.0.1:{self.port}{path}"
        async with httpx.AsyncClient(trust_env=False, timeout=within_s) as client:
            try:
                answer = await client.get(url)
            except httpx.TransportError:
                return None
        return answer.status_code, answer.json()

    async def until(
        self, path: str, holds: Callable[[tuple[int, dict[str, Any]] | None], bool], why: str
    ) -> None:
        """Ask again and again until the answer is as it is wanted."""
        answer = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                answer = await self.ask(path)
                while not holds(answer):
                    await asyncio.sleep(LOOK_S)
                    answer = await self.ask(path)
        except TimeoutError:
            raise AssertionError(f"{why}: {answer}\n{self.process.report()}") from None

    async def health(self, *options: str) -> tuple[int, str]:
        code, out, err = await worker_command(
            "health",
            *options,
            environment={"WORKER_PROBE_PORT": str(self.port)},
            cwd=self.folder,
        )
        return code, out + err


@asynccontextmanager
async def probed(folder: Path, **settings: str) -> AsyncIterator[Probed]:
    port = refused_port()
    environment = {
        "WORKER_DATA_API_URL": NOBODY,
        "WORKER_PROBE_PORT": str(port),
        "WORKER_PROBE_HOST": "127.0.0.1",
        **QUIET,
        **settings,
    }
    async with running("start", environment=environment, cwd=folder) as process:
        await process.logged("worker.ready")
        yield Probed(process, port, folder)


def is_ok(answer: tuple[int, dict[str, Any]] | None) -> bool:
    return answer is not None and answer[0] == 200


def names(part: str) -> Callable[[tuple[int, dict[str, Any]] | None], bool]:
    return lambda answer: answer is not None and answer[0] == 503 and part in answer[1]["problems"]


async def test_a_data_api_that_is_down_is_told_and_makes_nothing_red(tmp_path: Path) -> None:
    """A native sidecar starts before the service beside it: a red start would be a deadlock."""
    port = str(refused_port())
    settings = {"WORKER_DATA_API_URL": f"http://127.0.0.1:{port}", "WORKER_SYNC_INTERVAL": "0.2s"}
    async with probed(tmp_path, **settings, WORKER_RETRY_BASE="10ms") as worker:
        assert await worker.ask("/startupz") == (
            200,
            {"status": "ok", "problems": {}, "remarks": {}},
        )
        await worker.until(
            "/readyz",
            lambda a: is_ok(a) and a is not None and "data_api" in a[1]["remarks"],
            "readiness does not tell that the Data API is down",
        )
        ready = await worker.ask("/readyz")
        assert ready is not None
        assert ready[1]["status"] == "degraded"
        assert is_ok(await worker.ask("/livez"))
        async with demo_api(port=port):
            await worker.until(
                "/readyz",
                lambda a: a == (200, {"status": "ok", "problems": {}, "remarks": {}}),
                "readiness does not tell that the Data API is back",
            )


async def test_a_blocked_loop_gives_no_answer_until_it_turns_again(tmp_path: Path) -> None:
    (tmp_path / "holding.py").write_text(HOLDING)
    async with probed(tmp_path, WORKER_TASK_MODULES="holding") as worker:
        await worker.process.logged("run.finished", task="blocks")
        assert await worker.health() == (0, "alive\n")
        (tmp_path / "block").touch()
        async with asyncio.timeout(DEADLINE_S):
            while hangs := await worker.ask("/livez", within_s=1.0):
                assert hangs[0] == 200
        code, told = await worker.health()
        assert (code, told.startswith("not alive: ")) == (1, True)
        (tmp_path / "block").unlink()
        await worker.until("/livez", is_ok, "it does not answer again")
        assert await worker.health() == (0, "alive\n")


async def test_tasks_that_fail_leave_the_worker_alive_and_ready(tmp_path: Path) -> None:
    (tmp_path / "holding.py").write_text(HOLDING)
    async with probed(tmp_path, WORKER_TASK_MODULES="holding") as worker:
        await worker.process.logged("run.failed", task="fails", consecutive=3)
        assert is_ok(await worker.ask("/livez"))
        assert is_ok(await worker.ask("/readyz"))


@pytest.mark.parametrize("kind", ["postgres", "redis"])
async def test_readiness_goes_with_the_store_and_returns_with_it(tmp_path: Path, kind: str) -> None:
    with server_of_its_own(kind, tmp_path) as store:
        settings = {"WORKER_STORE_URL": store.url, "WORKER_LEASE": "1s"}
        async with probed(tmp_path, **settings) as worker:
            await worker.until("/readyz", is_ok, "it is not ready")
            store.kill()
            await worker.until("/readyz", names("store"), "readiness does not see it")
            assert is_ok(await worker.ask("/livez"))
            code, told = await worker.health("--ready")
            assert (code, "store: " in told) == (1, True)
            assert store.url not in told
            store.start()
            await worker.until("/readyz", is_ok, "it is not ready again")


async def test_a_worker_whose_queues_are_gone_is_not_ready(tmp_path: Path) -> None:
    (tmp_path / "asked.py").write_text(
        "from worker import task\n\n\n@task(queue='images')\ndef resize(path: str) -> None: ...\n"
    )
    with server_of_its_own("redis", tmp_path) as queue:
        settings = {"WORKER_QUEUE_URL": queue.url, "WORKER_TASK_MODULES": "asked"}
        async with probed(tmp_path, **settings) as worker:
            await worker.until("/readyz", is_ok, "it is not ready")
            queue.kill()
            await worker.until("/readyz", names("queue"), "readiness does not see it")
            queue.start()
            await worker.until("/readyz", is_ok, "it is not ready again")


async def test_a_store_that_is_down_at_the_start_is_told(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{refused_port()}/0"
    async with probed(tmp_path, WORKER_STORE_URL=url) as worker:
        await worker.until("/readyz", names("store"), "readiness does not see it")
        assert is_ok(await worker.ask("/livez"))
        assert is_ok(await worker.ask("/startupz"))


async def test_a_stale_task_makes_the_worker_unready_and_not_dead(tmp_path: Path) -> None:
    (tmp_path / "stale.py").write_text(
        "async def export():\n    raise ValueError\n\n\n"
        "def register(scheduler):\n"
        "    scheduler.register_task(export, interval='1h', max_age='100ms')\n"
    )
    async with probed(tmp_path, WORKER_TASK_MODULES="stale") as worker:
        await worker.until("/readyz", names("task export"), "it is not stale")
        assert is_ok(await worker.ask("/livez"))


async def test_the_worker_that_brings_the_mend_of_a_stale_task_is_ready(tmp_path: Path) -> None:
    (tmp_path / "stale.py").write_text(
        "from pathlib import Path\n\n\n"
        "async def export():\n"
        "    if not Path('mended').exists():\n        raise ValueError\n\n\n"
        "def register(scheduler):\n"
        "    scheduler.register_task(export, interval='200ms', max_age='2s')\n"
    )
    settings = {
        "WORKER_TASK_MODULES": "stale",
        "WORKER_STORE_URL": f"sqlite:///{tmp_path}/w.db",
        "WORKER_LEASE": "1s",
    }
    async with probed(tmp_path, **settings) as before:
        await before.until("/readyz", names("task export"), "it is not stale")
    async with probed(tmp_path, **settings) as after:
        await after.process.logged("task.stale", task="export")
        ready = await after.ask("/readyz")
        assert ready is not None
        assert (ready[0], ready[1]["status"]) == (200, "degraded")
        assert "before this worker began" in ready[1]["remarks"]["task export"]
        (tmp_path / "mended").touch()
        await after.until(
            "/readyz", lambda a: a is not None and a[1]["status"] == "ok", "it is not fresh"
        )
        (tmp_path / "mended").unlink()
        await after.until("/readyz", names("task export"), "it is not stale here")


async def test_a_worker_that_drains_is_alive_and_takes_no_more(tmp_path: Path) -> None:
    (tmp_path / "holding.py").write_text(HOLDING)
    (tmp_path / "linger").touch()
    async with probed(tmp_path, WORKER_TASK_MODULES="holding") as worker:
        await worker.process.logged("run.started", task="lingers")
        worker.process.signal(signal.SIGTERM)
        await worker.until("/readyz", names("stop"), "it is ready though it stops")
        assert is_ok(await worker.ask("/livez"))
        (tmp_path / "linger").unlink()
        assert await worker.process.ended() == 0


# --- the listeners


async def test_a_port_that_is_taken_is_refused_at_the_start(tmp_path: Path) -> None:
    async with probed(tmp_path) as worker:
        for name, host in (("WORKER_PROBE_PORT", "0.0.0.0"), ("WORKER_OPS_PORT", "127.0.0.1")):
            code, _, err = await worker_command(
                "start",
                environment={"WORKER_DATA_API_URL": NOBODY, name: str(worker.port)},
                cwd=tmp_path,
            )
            assert code == 78
            assert f"{name}: cannot listen on {host} port {worker.port}" in err
            assert f"{name}=0 has this one run beside it" in err


async def test_without_ports_nothing_of_it_is_imported(tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        "parts = ('worker.ops', 'starlette', 'uvicorn', 'prometheus_client', 'h11')\n"
        "loaded = lambda: [m for m in sys.modules if m.startswith(parts)]\n"
        "atexit.register(lambda: print(loaded(), flush=True))\n"
        "from worker.cli.main import main\n"
        "main(['start'])\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        env=clean_environment(WORKER_DATA_API_URL=NOBODY, **QUIET),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    worker = LoggingProcess(process)
    await worker.logged("worker.ready")
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0
    assert process.stdout is not None
    # httpx speaks HTTP with h11, too.
    loaded = set(names_in((await process.stdout.read()).decode()))
    assert {name for name in loaded if not name.startswith("h11")} == set()


def names_in(text: str) -> list[str]:
    return re.findall(r"'([^']+)'", text)


async def test_an_address_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    environment = {
        "WORKER_DATA_API_URL": NOBODY,
        "WORKER_OPS_PORT": str(refused_port()),
        "WORKER_OPS_HOST": "0.0.0.0",
    }
    code, _, err = await worker_command("start", environment=environment, cwd=tmp_path)
    assert code == 78
    assert "set WORKER_OPS_TOKEN" in err


async def test_a_log_that_no_person_reads_holds_no_way_in(tmp_path: Path) -> None:
    async with probed(tmp_path, WORKER_OPS_PORT=str(refused_port())) as worker:
        told = await worker.process.logged("ops.no_token")
        assert "WORKER_OPS_TOKEN" in told["hint"]
        assert "key=" not in worker.process.report()


async def test_at_a_terminal_the_way_in_is_shown(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    port = str(refused_port())
    worker = await asyncio.create_subprocess_exec(
        *WORKER,
        env=clean_environment(WORKER_DATA_API_URL=NOBODY, WORKER_OPS_PORT=port, **QUIET),
        cwd=tmp_path,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        shown = ""
        async with asyncio.timeout(DEADLINE_S):
            while "worker.ready" not in shown:
                shown += (await asyncio.to_thread(os.read, ours, 65536)).decode()
        found = re.search(rf"http://127\.0\.0\.1:{port}/session/link\?key=\S+", shown)
        assert found is not None
        async with httpx.AsyncClient(trust_env=False) as browser:
            assert (await browser.get(found[0])).status_code == 303
            answer = await browser.get(f"http://127.0.0.1:{port}/session")
        assert answer.json() == {"role": "full"}
    finally:
        worker.kill()
        await worker.wait()
        os.close(ours)
