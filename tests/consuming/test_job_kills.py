"""Workers are killed with SIGKILL, one every second: no job that was acknowledged is lost.

``TEST_WORKER_KILL_JOBS`` says how many jobs; ``TEST_WORKER_REPLICAS_SEED`` repeats a run.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.support.job_siege import besiege_jobs
from tests.support.stores import SHARED_KINDS, fresh_url

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("sqlite", *SHARED_KINDS)
JOBS = int(os.environ.get("TEST_WORKER_KILL_JOBS") or 5000)
SEED = int(os.environ.get("TEST_WORKER_REPLICAS_SEED") or random.SystemRandom().randrange(1000))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", KINDS)
async def test_no_acknowledged_job_is_lost_although_workers_are_killed(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fresh_url(kind, tmp_path) as url:
        spoils = await besiege_jobs(url, tmp_path, jobs=JOBS, seed=SEED)
    with capsys.disabled():
        told = ", ".join(f"{name} {value}" for name, value in spoils.figures().items())
        os.write(2, f"\nfour workers over {kind}, seed {SEED}: {told}\n".encode())
    assert not spoils.lost
    assert not spoils.never_run
    assert spoils.kills > 2
    dead = [job for job in spoils.jobs if job is not None and job.dead]
    assert len(dead) >= JOBS // 100, "one in a hundred always fails"
    assert len(dead) < JOBS // 50, "more than those went to the dead letters"
