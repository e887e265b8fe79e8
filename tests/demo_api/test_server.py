"""The server as a thread and as a process: it starts, it stops, and a file keeps its state."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import worker.demo
from worker.demo.faults import Faults
from worker.demo.seed import SeedSpec
from worker.demo.server import DemoServer, listen, serve
from worker.demo.store import Store

from .service import wait_until, with_key

PROGRAM = """
import sys
from worker.demo.seed import SeedSpec
from worker.demo.server import serve

sys.exit(
    serve(
        port=0,
        database=sys.argv[1],
        seed=SeedSpec(orders=5),
        announce=lambda url: print(url, flush=True),
    )
)
"""


@contextmanager
def process(database: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    root = Path(worker.demo.__file__).parents[2]
    program = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(database)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with program:
        try:
            assert program.stdout is not None
            url = program.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), program.communicate()[1]
            with httpx.Client(base_url=url, timeout=5, trust_env=False) as client:
                yield program, client
        finally:
            program.kill()


def test_server_is_at_its_url_until_it_stops() -> None:
    before = threading.enumerate()
    with Store() as store:
        with DemoServer(store) as server:
            assert httpx.get(f"{server.url}/demo/summary", trust_env=False).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/demo/summary", trust_env=False)
        server.stop()
    assert [thread for thread in threading.enumerate() if thread not in before] == []


def test_server_takes_the_token_and_the_faults_it_is_given() -> None:
    faults = Faults(fail_next=1, error_status=500)
    with Store() as store, DemoServer(store, token="secret", faults=faults) as server:
        headers = {"Authorization": "Bearer secret", **with_key("k")}
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            assert client.post("/api/v1/sync").status_code == 401
            assert client.post("/api/v1/sync", headers=headers).status_code == 200


def test_port_that_is_taken_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, Store() as store:
        port = taken.getsockname()[1]
        expected = f"cannot listen on 127.0.0.1 port {port}: Address already in use"
        with pytest.raises(OSError, match=expected):
            DemoServer(store, port=port).start()
        with pytest.raises(OSError, match=expected):
            serve(port=port, announce=lambda url: None)


def test_socket_says_that_it_is_tcp() -> None:
    """Or asyncio would leave Nagle's algorithm on, at 40 ms an answer."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_database_that_is_none_is_an_error_that_names_it(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("this is not a database, and long enough to be taken for one " * 20)

    with pytest.raises(OSError, match=r"cannot use .*broken\.db as an SQLite database"):
        Store(str(broken))
    with pytest.raises(OSError, match="cannot open the database"):
        Store(str(tmp_path / "nowhere" / "demo.db"))


@pytest.mark.parametrize("fault", ["hang=true", "slow_body=60", "latency_s=60"])
async def test_stop_does_not_wait_for_calls_that_take_for_ever(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Store() as store:
        server = DemoServer(store, faults=Faults.parse([fault]))
        server.start()
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            call = asyncio.create_task(client.post("/api/v1/sync", headers=with_key("k")))
            await asyncio.to_thread(wait_until, lambda: bool(store.requests()), "it arrived")
            began = time.monotonic()
            await asyncio.to_thread(server.stop)
            assert time.monotonic() - began < 5
            (outcome,) = await asyncio.gather(call, return_exceptions=True)
        if isinstance(outcome, httpx.Response):
            assert outcome.status_code == 503
            assert store.effects() == []
        else:
            assert isinstance(outcome, httpx.RemoteProtocolError)
    assert caplog.records == []


def test_restart_after_a_kill_keeps_effects_and_keys(tmp_path: Path) -> None:
    database = tmp_path / "demo.db"
    with process(database) as (program, client):
        for order_id in (1, 2):
            path = f"/api/v1/orders/{order_id}/process"
            assert client.post(path, headers=with_key(f"k{order_id}")).status_code == 200
        effects = client.get("/demo/effects").json()
        program.kill()
        program.wait()

    with process(database) as (program, client):
        assert client.get("/demo/effects").json() == effects
        answer = client.post("/api/v1/orders/1/process", headers=with_key("k1"))
        assert answer.headers["idempotency-replayed"] == "true"
        summary = client.get("/demo/summary").json()
        assert summary["orders"]["pending"] == 3, "a used database is not seeded again"
        assert summary["processed"] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_ends_well_at_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with process(tmp_path / "demo.db") as (program, client):
        assert client.get("/demo/summary").json()["orders"]["pending"] == 5
        program.send_signal(number)
        out, err = program.communicate(timeout=10)
        assert (program.returncode, out, err) == (0, "", "")


def test_store_is_read_beside_the_running_server() -> None:
    """As a test does: the main thread looks while the server's thread writes."""
    with Store() as store, DemoServer(store) as server:
        store.seed(SeedSpec(orders=100))

        def process_all() -> None:
            with httpx.Client(base_url=server.url, trust_env=False) as client:
                for order_id in range(1, 101):
                    path = f"/api/v1/orders/{order_id}/process"
                    client.post(path, headers=with_key(str(order_id))).raise_for_status()

        thread = threading.Thread(target=process_all)
        thread.start()
        wait_until(lambda: store.summary()["processed"] == 100, "all were processed")
        thread.join()
        assert store.summary()["repeated_effects"] == 0
