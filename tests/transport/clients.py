"""Clients of slots, and a look at their slots."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from worker.transport import SlotTransport

PATIENT = httpx.Timeout(5.0)


@asynccontextmanager
async def slot_client(
    base_url: str,
    *,
    connections: int = 2,
    body_limit: int | None = None,
    timeout: httpx.Timeout = PATIENT,
) -> AsyncIterator[httpx.AsyncClient]:
    transport = SlotTransport(connections=connections, body_limit=body_limit)
    async with httpx.AsyncClient(transport=transport, base_url=base_url, timeout=timeout) as client:
        yield client


def slots(client: httpx.AsyncClient) -> SlotTransport:
    transport = client._transport
    assert isinstance(transport, SlotTransport)
    return transport
