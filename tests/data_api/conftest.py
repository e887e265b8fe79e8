from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import respx

from worker.transport import ClientOptions, open_client

from .calls import TOKEN, URL


@pytest.fixture
def service() -> Iterator[respx.MockRouter]:
    """The Data API, mocked in respx's default way."""
    with respx.mock(base_url=URL, assert_all_called=False) as router:
        yield router


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with open_client(ClientOptions(base_url=URL, token=TOKEN)) as client:
        yield client
