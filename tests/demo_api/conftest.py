from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from worker.demo.faults import NO_FAULTS
from worker.demo.server import DemoServer
from worker.demo.store import Store

from .service import Service


@pytest.fixture(scope="session")
def running() -> Iterator[DemoServer]:
    """One server for all tests, for starting and stopping one takes longer than most of them."""
    with Store() as store, DemoServer(store) as server:
        yield server


@pytest.fixture
def service(running: DemoServer) -> Iterator[Service]:
    """The server, as good as new."""
    running.inject(NO_FAULTS)
    running.store.reset()
    # trust_env: a proxy in the environment is none of the tests' business.
    with httpx.Client(base_url=running.url, timeout=5, trust_env=False) as client:
        yield Service(running, running.store, client)
