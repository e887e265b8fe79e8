"""The tutorial, word for word."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.documents import marked
from tests.support.processes import DEADLINE_S, clean_environment, demo_api, running
from tests.support.servers import refused_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Path]:
    """The folder of the tutorial, and the service beside it."""
    for name in ("shop.py", "test_shop.py"):
        (tmp_path / name).write_text(marked("example", name))
    async with demo_api("--orders", "12") as api:
        text = marked("example", "tutorial.env").replace("http://127.0.0.1:8000", api.url)
        (tmp_path / ".env").write_text(text)
        yield tmp_path


async def followed(name: str, *, cwd: Path) -> str:
    """What the tutorial's commands of this name print, with the package of this project."""
    shell = (
        f'worker() {{ "{sys.executable}" -m worker "$@"; }}\n'
        f'python() {{ "{sys.executable}" "$@"; }}\nset -e\n'
    )
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", shell + marked("command", f"tutorial {name}")),
        cwd=cwd,
        env=clean_environment(PYTHONPATH=str(cwd), PYTHONWARNINGS="default", NO_COLOR="1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(2 * DEADLINE_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.timeout(180)  # a dozen commands, one after the other
async def test_the_tutorial_can_be_followed(shop: Path) -> None:
    ran = await followed("run", cwd=shop)
    assert '"state":"SUCCESS"' in ran.replace(" ", "")
    assert '"pending":12' in ran.replace(" ", "")

    async with running("start", environment={}, cwd=shop) as worker:
        await worker.logged("orders.counted", count=3)
        worker.signal(signal.SIGINT)
        assert await worker.ended() == 0

    history = await followed("history", cwd=shop)
    assert "ran" in history
    assert "count_pending" in history

    assert "03:00" in await followed("preview", cwd=shop)

    asked = await followed("enqueue", cwd=shop)
    assert "receipt of order 7, 2x" in asked
    assert re.search(r"receipt-none.*there is no such order", asked)
    assert "receipt-none is dropped" in await followed("drop", cwd=shop)

    assert "2 passed" in await followed("test", cwd=shop)

    more = marked("example", "tutorial-ops.env")
    for port in ("8080", "8081"):
        assert f"={port}\n" in more
        more = more.replace(port, str(refused_port()))
    with (shop / ".env").open("a") as file:
        file.write(more)
    async with running("start", environment={}, cwd=shop) as worker:
        await worker.logged("worker.ready")
        assert await followed("health", cwd=shop) == "alive\n"


def test_every_step_is_followed() -> None:
    text = (Path(__file__).parents[2] / "docs/tutorial.md").read_text("utf-8")
    steps = set(re.findall(r"<!-- command: tutorial (\w+) -->", text))
    assert steps == {"run", "history", "preview", "enqueue", "drop", "test", "health"}
