"""Every process of the worker that a file under ``deploy/`` starts can be started so."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.manifests import STARTED, Started
from tests.support.postgres import fresh_postgres_url
from tests.support.processes import demo_api, running, worker_command
from tests.support.redis_server import fresh_redis_url
from tests.support.servers import refused_port
from worker.durations import parse_duration
from worker.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

DRAINING = [started for started in STARTED if started.arguments[0] == "start"]


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WORKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def by_name(where: str) -> Started:
    return next(started for started in STARTED if started.where == where)


@pytest.mark.parametrize("started", STARTED, ids=str)
def test_settings_are_taken(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = started.settings(tmp_path)
    if started.arguments[0] == "demo-api":
        assert environment == {}
        return
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    load_settings()


@pytest.mark.parametrize("started", STARTED, ids=str)
async def test_command_exists_with_these_options(started: Started, tmp_path: Path) -> None:
    code, out, err = await worker_command(*started.arguments, "--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert f"worker {started.arguments[0]}" in out


@pytest.mark.parametrize("started", DRAINING, ids=str)
def test_drain_fits_into_the_time_before_the_kill(started: Started) -> None:
    grace = parse_duration(started.environment["WORKER_SHUTDOWN_GRACE"]).total_seconds()
    assert started.grace_s >= grace + 10, "after the grace, what still runs is cancelled and stored"


@pytest.mark.parametrize(
    "where", ["sidecar.yaml: worker", "worker.yaml: worker", "sidecar-worker.service"]
)
async def test_worker_starts_so_and_its_probes_answer(where: str, tmp_path: Path) -> None:
    """Without a Data API: a native sidecar starts before the service does."""
    started = by_name(where)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    probes, dashboard = refused_port(), refused_port()
    with fresh_postgres_url() as url:
        (secrets / "store-url").write_text(url)
        environment = {
            **started.settings(secrets),
            "WORKER_DATA_API_URL": f"http://127.0.0.1:{refused_port()}",
            "WORKER_PROBE_PORT": str(probes),
            "WORKER_OPS_PORT": str(dashboard),
            "WORKER_STATE_DIR": str(tmp_path / "state"),
            "WORKER_RETRY_ATTEMPTS": "1",
        }
        if "WORKER_STORE_URL_FILE" in environment:
            migrate = {"WORKER_STORE_URL": url, "WORKER_DATA_API_URL": "http://orders"}
            assert (await worker_command("migrate", environment=migrate, cwd=tmp_path))[0] == 0
        async with (
            running(*started.arguments, environment=environment, cwd=tmp_path) as worker,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{probes}", trust_env=False) as kubelet,
        ):
            await worker.logged("worker.ready")
            for path in {"/startupz", "/livez", "/readyz"}:
                answer = await kubelet.get(path)
                assert answer.status_code == 200, (path, answer.text)
            code, _, err = await worker_command("health", environment=environment, cwd=tmp_path)
            assert code == 0, err


async def test_the_composed_services_work_together(tmp_path: Path) -> None:
    """As in the file, but for where each service is."""
    api_arguments = by_name("compose.yaml: data-api").arguments
    given = dict(pairwise(api_arguments))
    worker = by_name("compose.yaml: worker")
    dashboard, probes = refused_port(), refused_port()
    with fresh_postgres_url() as store, fresh_redis_url(tmp_path) as queue:
        async with demo_api("--orders", given["--orders"], "--token", given["--token"]) as api:
            environment = {
                **worker.environment,
                "WORKER_DATA_API_URL": api.url,
                "WORKER_STORE_URL": store,
                "WORKER_QUEUE_URL": queue,
                "WORKER_OPS_PORT": str(dashboard),
                "WORKER_PROBE_PORT": str(probes),
                "WORKER_STATE_DIR": str(tmp_path / "state"),
            }
            migrate = by_name("compose.yaml: migrate")
            code, _, err = await worker_command(
                *migrate.arguments,
                environment={**migrate.environment, "WORKER_STORE_URL": store},
                cwd=tmp_path,
            )
            assert code == 0, err
            async with running(*worker.arguments, environment=environment, cwd=tmp_path) as process:
                await process.logged("run.finished", task="process_pending_orders")
                health = worker.spec["healthcheck"]["test"][2:]
                code, _, err = await worker_command(*health, environment=environment, cwd=tmp_path)
                assert code == 0, err
                async with httpx.AsyncClient(
                    base_url=f"http://127.0.0.1:{dashboard}", trust_env=False
                ) as person:
                    overview = "/api/v1/overview"
                    assert (await person.get(overview)).status_code == 401
                    token = environment["WORKER_OPS_TOKEN"]
                    answer = await person.get(
                        overview, headers={"Authorization": f"Bearer {token}"}
                    )
                    assert answer.status_code == 200, answer.text


async def test_the_cron_jobs_command_runs_its_task(tmp_path: Path) -> None:
    started = by_name("cronjob.yaml: worker")
    with fresh_postgres_url() as url:
        (tmp_path / "store-url").write_text(url)
        async with demo_api("--old-orders", "3") as api:
            environment = {**started.settings(tmp_path), "WORKER_DATA_API_URL": api.url}
            migrate = {"WORKER_STORE_URL": url, "WORKER_DATA_API_URL": api.url}
            await asyncio.gather(
                *(worker_command("migrate", environment=migrate, cwd=tmp_path) for _ in range(2))
            )
            code, out, err = await worker_command(
                *started.arguments, environment=environment, cwd=tmp_path
            )
    assert code == 0, err
    assert '"state": "SUCCESS"' in out or '"state":"SUCCESS"' in out
