"""A queue's URL for each engine, and an environment that names nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.jobs import KINDS, fresh_queue_url
from worker import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory, no ``WORKER_`` variable, and no warning given yet."""
    for name in list(os.environ):
        if name.upper().startswith("WORKER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, "warned", False)
    return tmp_path


@pytest.fixture(params=KINDS)
def queue_url(request: pytest.FixtureRequest, bare: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an engine without any jobs."""
    return given_url(request, request.param, bare, monkeypatch)


@pytest.fixture(params=[kind for kind in KINDS if kind != "memory"])
def shared_url(request: pytest.FixtureRequest, bare: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same of an engine that several clients can share."""
    return given_url(request, request.param, bare, monkeypatch)


def given_url(
    request: pytest.FixtureRequest, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    def made() -> Iterator[str]:
        with fresh_queue_url(kind, folder) as url:
            yield url

    urls = made()
    url = next(urls)
    request.addfinalizer(lambda: next(urls, None))
    if kind == "sqs":
        monkeypatch.setenv("WORKER_STORE_URL", f"sqlite:///{folder / 'records.db'}")
    return url
