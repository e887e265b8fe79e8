"""``worker health``, which an exec probe asks every few seconds."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

import worker.cli.health as health_cli
from tests.support.processes import clean_environment, worker_command
from tests.support.servers import Connection, answer, answering, raw_server, refused_port
from worker.cli.health import HealthUnknown, is_well

if TYPE_CHECKING:
    from pathlib import Path

OLD_S = 61.0
DEAD = b'{"status": "failing", "problems": {"scheduler": "stands \\u001b[31mstill"}, "remarks": {}}'


async def health(folder: Path, *options: str, **settings: str) -> tuple[int, str, str]:
    return await worker_command("health", *options, environment=settings, cwd=folder)


async def test_it_asks_the_worker(tmp_path: Path) -> None:
    async with raw_server(answering(answer())) as server:
        for name in ("WORKER_PROBE_PORT", "WORKER_OPS_PORT"):
            assert await health(tmp_path, **{name: str(server.port)}) == (0, "alive\n", "")
        code, out, _ = await health(tmp_path, "--ready", WORKER_PROBE_PORT=str(server.port))
        assert (code, out) == (0, "ready\n")
    assert [one.target for one in server.requests] == ["/livez", "/livez", "/readyz"]


async def test_it_says_what_speaks_against_it_on_one_plain_line(tmp_path: Path) -> None:
    sick = answer(DEAD, status="503 Service Unavailable")
    async with raw_server(answering(sick)) as server:
        code, out, err = await health(tmp_path, WORKER_PROBE_PORT=str(server.port))
    assert (code, out) == (1, "")
    assert err == "not alive: scheduler: stands \\x1b[31mstill\n"


async def test_what_is_worth_knowing_is_told_whether_it_is_well_or_not(tmp_path: Path) -> None:
    remark = b'"remarks": {"task pull": "stale since noon: it is paused"}}'
    fine = answer(b'{"status": "degraded", "problems": {}, ' + remark)
    sick = answer(b'{"problems": {"store": "gone"}, ' + remark, status="503 Service Unavailable")
    async with raw_server(answering(fine, sick)) as server:
        said = {"WORKER_PROBE_PORT": str(server.port)}
        assert await health(tmp_path, "--ready", **said) == (
            0,
            "ready; task pull: stale since noon: it is paused\n",
            "",
        )
        code, _, err = await health(tmp_path, "--ready", **said)
    assert (code, err) == (
        1,
        "not ready: store: gone; task pull: stale since noon: it is paused\n",
    )


@pytest.mark.parametrize("said", [b"HTTP/1.1 404 Not Found\r\n\r\n", b"SSH-2.0-x\r\n", b""])
async def test_another_server_is_no_worker(tmp_path: Path, said: bytes) -> None:
    async with raw_server(answering(said)) as server:
        code, _, err = await health(tmp_path, WORKER_PROBE_PORT=str(server.port))
    assert code == 1
    assert err.startswith("not alive: ")
    assert err.count("\n") == 1


async def test_nobody_there_is_unwell(tmp_path: Path) -> None:
    code, _, err = await health(tmp_path, WORKER_PROBE_PORT=str(refused_port()))
    assert code == 1
    assert "Connection refused" in err


async def test_who_accepts_and_never_answers_is_unwell(tmp_path: Path) -> None:
    async with raw_server(Connection.gone) as server:
        code, _, err = await health(tmp_path, WORKER_PROBE_PORT=str(server.port))
    assert code == 1
    assert "did not answer within 2.5 s" in err


async def test_an_answer_that_drips_does_not_hold_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health_cli, "TIMEOUT_S", 0.2)

    async def drip(connection: Connection) -> None:
        while True:
            await connection.send(b"H")
            await asyncio.sleep(0.01)

    async with raw_server(drip) as server:
        said = {"WORKER_PROBE_PORT": str(server.port)}
        well, why = await asyncio.to_thread(is_well, said)
    assert not well
    assert "did not answer" in why


async def test_without_a_port_it_looks_at_the_age_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    said = {"WORKER_HEARTBEAT_FILE": str(file)}
    assert (await health(tmp_path, **said))[0] == 1
    file.touch()
    assert await health(tmp_path, **said) == (0, "alive\n", "")
    long_ago = time.time() - OLD_S
    os.utime(file, (long_ago, long_ago))
    code, _, err = await health(tmp_path, **said)
    said_to_be = re.search(r"was touched (\d+) s ago", err)
    assert code == 1
    assert said_to_be is not None, err
    assert int(said_to_be[1]) >= OLD_S
    code, _, err = await health(tmp_path, "--ready", **said)
    assert (code, "only WORKER_PROBE_PORT or WORKER_OPS_PORT tells" in err) == (1, True)


async def test_it_says_what_is_missing(tmp_path: Path) -> None:
    code, out, err = await health(tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith("worker: nowhere to look: set WORKER_PROBE_PORT")


async def test_it_reads_env_files_as_the_worker_does(tmp_path: Path) -> None:
    port = refused_port()
    (tmp_path / ".env").write_text(f"worker_probe_port='{port}' # ours\nexport WORKER_OPS_PORT=1\n")
    assert f"127.0.0.1:{port}" in (await health(tmp_path))[2]
    other = refused_port()
    assert f"127.0.0.1:{other}" in (await health(tmp_path, WORKER_PROBE_PORT=str(other)))[2]


@pytest.mark.parametrize("port", ["http", "-1", "65536", "1.5", "\u0661"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(HealthUnknown, match="expected a port"):
        is_well({"WORKER_PROBE_PORT": port})


@pytest.mark.parametrize(("host", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
def test_a_worker_on_all_addresses_is_asked_on_loopback(host: str, asked: str) -> None:
    port = str(refused_port())
    well, why = is_well({"WORKER_PROBE_PORT": port, "WORKER_PROBE_HOST": host})
    assert not well
    assert f"{asked}:{port}" in why


def test_it_imports_nothing_of_the_application(tmp_path: Path) -> None:
    """So that it costs what a start of Python does."""
    (tmp_path / "alive").touch()
    code = (
        "import atexit, sys\n"
        "bare = set(sys.modules)\n"
        "show = lambda: print(*sorted(set(sys.modules) - bare), file=sys.stderr)\n"
        "atexit.register(show)\n"
        "sys.argv = ['worker', 'health']\n"
        "from worker.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(WORKER_HEARTBEAT_FILE=str(tmp_path / "alive")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "alive\n"
    modules = done.stderr.split()
    foreign = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    assert foreign == {"worker"}
    assert {name for name in modules if name.startswith("worker")} == {
        *("worker", "worker.__main__", "worker.cli", "worker.cli.health")
    }


async def test_the_command_is_listed_with_the_others(tmp_path: Path) -> None:
    _, out, _ = await worker_command("--help", cwd=tmp_path)
    assert " health " in out
    code, out, _ = await worker_command("health", "--help", cwd=tmp_path)
    assert code == 0
    assert "--ready" in out
