from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import respx

from worker.transport import ClientOptions, open_client

from .calls import TOKEN, URL


@pytest.fixture(scope="session")
def certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@pytest.fixture(autouse=True)
def read_certificates_once(monkeypatch: pytest.MonkeyPatch, certificates: ssl.SSLContext) -> None:
    """Reading them takes longer than most of these tests."""
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: certificates)


@pytest.fixture
def service() -> Iterator[respx.MockRouter]:
    """The Data API, mocked in respx's default way."""
    with respx.mock(base_url=URL, assert_all_called=False) as router:
        yield router


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with open_client(ClientOptions(base_url=URL, token=TOKEN)) as client:
        yield client
