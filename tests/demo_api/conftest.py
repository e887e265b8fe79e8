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


@pytest.fixture(scope="session")
def client(running: DemoServer) -> Iterator[httpx.Client]:
    """One client, for each reads the certificates of the whole world when it is made."""
    # trust_env: a proxy in the environment is none of the tests' business.
    with httpx.Client(base_url=running.url, timeout=5, trust_env=False) as client:
        yield client


@pytest.fixture
def service(running: DemoServer, client: httpx.Client) -> Service:
    """The server, as good as new."""
    running.inject(NO_FAULTS)
    running.store.reset()
    return Service(running, running.store, client)
