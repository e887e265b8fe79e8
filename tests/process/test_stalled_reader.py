"""A worker whose log nobody reads: a stopped terminal, a log shipper that hangs."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import httpx

from tests.support.servers import refused_port
from tests.support.sites import Site, Tasks
from tests.support.waiting import wait_until
from worker.ledger.book import Outcome

if TYPE_CHECKING:
    from pathlib import Path


OFTEN: Tasks = {"report": ("quick", {"interval": "20ms"})}
FILLS_THE_PIPE = 60
"""Runs whose lines are more than the pipe takes."""


async def test_runs_go_on_and_no_line_is_lost_while_the_reader_stalls(tmp_path: Path) -> None:
    site = Site(tmp_path, OFTEN)
    port = refused_port()
    async with (
        site.worker(WORKER_PROBE_PORT=str(port)) as worker,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as probes,
    ):
        await worker.logged("run.finished")
        worker.stop_reading()
        before = len(site.history("report", Outcome.RAN))
        await wait_until(
            lambda: len(site.history("report", Outcome.RAN)) >= before + FILLS_THE_PIPE,
            "runs went on",
        )
        assert (await probes.get("/livez")).status_code == 200
        worker.read_on()
        await worker.logged("run.finished", count=before + FILLS_THE_PIPE)
        assert not worker.other_lines
        assert not worker.told("log.dropped")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0


async def test_a_signal_ends_a_worker_whose_log_nobody_reads(tmp_path: Path) -> None:
    site = Site(tmp_path, OFTEN)
    async with site.worker() as worker:
        await worker.logged("run.finished")
        worker.stop_reading()
        before = len(site.history("report", Outcome.RAN))
        await wait_until(
            lambda: len(site.history("report", Outcome.RAN)) >= before + FILLS_THE_PIPE,
            "the pipe is full",
        )
        worker.signal(signal.SIGTERM)
        await wait_until(lambda: worker.process.returncode is not None, "it ended")
        assert worker.process.returncode == 0
        worker.read_on()
