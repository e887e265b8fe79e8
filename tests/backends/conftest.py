"""A fresh, empty store of each kind. What is missing on this machine is started, or named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.stores import KINDS, fresh_url
from worker.backends.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.ports import LedgerStore


@pytest.fixture(params=KINDS)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store."""
    with fresh_url(request.param, tmp_path) as url:
        yield url


@pytest.fixture
def store(store_url: str) -> Iterator[LedgerStore]:
    store = open_store(store_url)
    yield store
    store.close()
