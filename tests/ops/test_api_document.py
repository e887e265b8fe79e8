"""The examples of the chapter on the API do what it says, typed into a shell."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.api_sites import TOKEN
from tests.support.documents import marked, write_examples
from tests.support.processes import clean_environment, running
from tests.support.servers import refused_port
from tests.support.sites import OFF

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import LoggingProcess

EXAMPLES = ("overview", "schedule", "job", "jobs", "dead", "events")


async def typed(name: str, port: int, folder: Path) -> str:
    """What an example prints."""
    text = "\n".join(["set -e", marked("example", "api.sh"), marked("example", f"api_{name}.sh")])
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", text),
        cwd=folder,
        env=clean_environment(OPS=f"http://127.0.0.1:{port}", WORKER_OPS_TOKEN=TOKEN),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode == 0, f"{name}: {out.decode()}{err.decode()}"
    return out.decode()


async def ready(worker: LoggingProcess) -> None:
    await worker.logged("worker.ready")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing")
async def test_the_examples_of_the_chapter_on_the_api_run(tmp_path: Path) -> None:
    write_examples(tmp_path, "shop_tasks.py", "invoices.py")
    port = refused_port()
    environment = {
        **OFF,
        "WORKER_DATA_API_URL": "http://127.0.0.1:9",
        "WORKER_TASK_MODULES": "shop_tasks,invoices",
        "WORKER_OPS_PORT": str(port),
        "WORKER_OPS_TOKEN": TOKEN,
    }
    async with running("start", environment=environment, cwd=tmp_path) as worker:
        await ready(worker)
        told = {name: await typed(name, port, tmp_path) for name in EXAMPLES}
    assert '"status":' in told["overview"]
    assert '"note":"the far side moves"' in told["schedule"]
    assert '{"id":"invoice:7","created":true}' in told["job"]
    assert '{"id":"invoice:7","what":"done"}' in told["job"]
    assert '"next":null' in told["jobs"]
    assert '"count":0' in told["dead"]
    (state,) = [line for line in told["events"].splitlines() if line.startswith("data: ")][:1]
    assert json.loads(state.removeprefix("data: "))["overview"]["worker"]["queues"]
