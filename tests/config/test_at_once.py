"""Whoever mends a configuration is told of all that is wrong with it, not of one fault a start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from worker.app import open_worker
from worker.config.at_once import all_or_nothing
from worker.errors import ConfigurationError
from worker.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKER_DATA_API_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WORKER_STORE_URL", "mysql://x")
    monkeypatch.setenv("WORKER_TASK_MODULES", "nosuch.tasks, json")


def told(error: ConfigurationError) -> list[str]:
    """Which settings are complained of."""
    return [problem.partition(":")[0] for problem in error.problems]


def test_a_store_and_a_module_that_cannot_be_are_told_beside_what_else_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKER_DATA_API_URL", "nonsense")
    monkeypatch.setenv("WORKER_QUEUE_URL", "carrier-pigeon://x")
    with pytest.raises(ConfigurationError) as caught:
        all_or_nothing()
    assert told(caught.value) == [
        "WORKER_DATA_API_URL",
        "WORKER_STORE_URL",
        "WORKER_QUEUE_URL",
        "WORKER_TASK_MODULES",
    ]
    assert caught.value.problems[-1].endswith("ModuleNotFoundError: No module named 'nosuch'")


async def test_a_store_and_a_module_that_cannot_be_are_told_together() -> None:
    with pytest.raises(ConfigurationError) as caught:
        async with open_worker(load_settings()):
            pytest.fail("it opened")
    assert told(caught.value) == ["WORKER_STORE_URL", "WORKER_TASK_MODULES"]
