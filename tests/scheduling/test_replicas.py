"""Five replicas as processes over one store, killed at random: each slot has one outcome.

Set ``TEST_WORKER_REPLICAS_S=60`` for the full length; ``TEST_WORKER_REPLICAS_SEED`` repeats a run.
"""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.replicas import Findings, Siege, besiege
from tests.support.stores import SHARED_KINDS, fresh_url

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("sqlite", *SHARED_KINDS)
FULL_S = float(os.environ.get("TEST_WORKER_REPLICAS_S", "0"))
SEED = int(os.environ.get("TEST_WORKER_REPLICAS_SEED") or random.SystemRandom().randrange(1000))
SIEGE = Siege(length_s=FULL_S or 10, kill_every_s=5 if FULL_S else 2.5, seed=SEED)

pytestmark = pytest.mark.timeout(SIEGE.length_s + 150)


@pytest.fixture(scope="module")
def sieges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Findings | str]:
    """What was found over each store, or why it is missing. All at the same time, to save time."""
    folder = tmp_path_factory.mktemp("replicas")
    missing: dict[str, Findings | str] = {}
    with ExitStack() as stack:
        urls = {}
        for kind in KINDS:
            try:
                urls[kind] = stack.enter_context(fresh_url(kind, folder))
            except pytest.skip.Exception as exc:
                missing[kind] = str(exc)
            else:
                (folder / kind).mkdir()
        found = asyncio.run(all_at_once(urls, folder))
        return {**missing, **found}


async def all_at_once(urls: dict[str, str], folder: Path) -> dict[str, Findings]:
    async with asyncio.TaskGroup() as group:
        tasks = {
            kind: group.create_task(besiege(url, folder / kind, SIEGE))
            for kind, url in urls.items()
        }
    return {kind: task.result() for kind, task in tasks.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_slot_has_one_outcome_although_replicas_are_killed(
    kind: str, sieges: dict[str, Findings | str], capsys: pytest.CaptureFixture[str]
) -> None:
    findings = sieges[kind]
    if isinstance(findings, str):
        pytest.skip(findings)
    with capsys.disabled():
        told = ", ".join(f"{name} {value}" for name, value in findings.figures().items())
        os.write(2, f"\nfive replicas over {kind}: {told}\n".encode())
    assert not findings.problems
    assert findings.outcomes["ran"] > 0
    assert findings.outcomes["missed"] > 0, "all were down at once: that gap is recorded"
    assert not any(life.worker.other_lines for life in findings.lives), "a traceback, perhaps"
