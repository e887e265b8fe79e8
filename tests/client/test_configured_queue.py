"""Where a program enqueues that is given no URL: one rule for every process."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import clean_environment, worker_command
from worker import (
    ConfigurationError,
    State,
    SyncWorkerClient,
    WorkerClient,
    load_settings,
    task,
)
from worker.config.stores import location
from worker.environment import payload_limit, queue_location

if TYPE_CHECKING:
    from pathlib import Path


@task()
async def double(n: int) -> int:
    return 2 * n


def produce() -> None:
    """By each way that names no URL."""

    async def by_client() -> None:
        async with WorkerClient() as client:
            await client.enqueue(double, {"n": 1}, id="by-client")

    asyncio.run(by_client())
    with SyncWorkerClient() as client:
        client.enqueue(double, {"n": 1}, id="by-sync-client")
    asyncio.run(double.enqueue({"n": 1}, id="by-task"))


def produced(url: str) -> None:
    with SyncWorkerClient(url) as client:
        for name in ("by-client", "by-sync-client", "by-task"):
            assert client.job(name).status() is State.PENDING


def test_a_program_reads_the_file_as_the_worker_does(bare: Path) -> None:
    (bare / ".env").write_text("WORKER_QUEUE_URL=sqlite:///from-file.db\nDJANGO_KEY=x\n")
    produce()
    produced("sqlite:///from-file.db")
    assert not (bare / ".worker").exists()


def test_the_environment_wins_over_the_file(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / ".env").write_text("WORKER_QUEUE_URL=sqlite:///from-file.db\n")
    monkeypatch.setenv("WORKER_QUEUE_URL", "sqlite:///from-environment.db")
    produce()
    produced("sqlite:///from-environment.db")
    assert not (bare / "from-file.db").exists()


FILES = [
    "WORKER_QUEUE_URL=redis://a/0",
    "export WORKER_QUEUE_URL='redis://a/0?prefix=b'  # a comment",
    'WORKER_QUEUE_URL="redis://a/0"\nWORKER_STORE_URL=postgresql://b/c',
    "worker_queue_url=redis://a/0",
    "\ufeffWORKER_QUEUE_URL=redis://a/0",
    "HOST=a\nWORKER_QUEUE_URL=redis://${HOST}/0",
    "WORKER_QUEUE_URL=\nWORKER_STORE_URL=postgresql://b/c",
    "WORKER_STORE_URL=postgresql://b/c",
    "WORKER_STATE_DIR=elsewhere",
    "WORKER_QUEUE_URL_FILE=secret",
    "WORKER_STORE_URL_FILE=secret",
    "WORKER_QUEUE_URL=redis://a/0\nWORKER_QUEUE_URL=redis://b/0",
    "",
]


@pytest.mark.parametrize("text", FILES)
@pytest.mark.parametrize("variable", [None, "", "redis://environment/0"])
def test_a_program_and_a_worker_find_the_same_queue(
    bare: Path, monkeypatch: pytest.MonkeyPatch, text: str, variable: str | None
) -> None:
    (bare / ".env").write_text(text, encoding="utf-8")
    (bare / "secret").write_text("redis://secret/0\n")
    if variable is not None and not (variable and "QUEUE_URL_FILE" in text):
        monkeypatch.setenv("WORKER_QUEUE_URL", variable)
    monkeypatch.setenv("WORKER_DATA_API_URL", "http://orders")
    assert queue_location() == location(load_settings())


def test_the_queue_is_the_store_where_only_that_is_given(
    bare: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WORKER_STORE_URL", "sqlite:///ledger.db")
    produce()
    produced("sqlite:///ledger.db")
    assert not caplog.records
    monkeypatch.setenv("WORKER_STORE_URL", "mysql://a/b")
    with pytest.raises(ConfigurationError, match="WORKER_STORE_URL: expected"):
        WorkerClient()


def test_other_settings_may_be_missing_or_wrong(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / ".env").write_text("WORKER_DATA_API_URL=nonsense\nWORKER_CONCURRENCY=many\n")
    monkeypatch.setenv("WORKER_QUEUE_URL", "sqlite:///jobs.db")
    monkeypatch.setenv("WORKER_NO_SUCH_SETTING", "1")
    monkeypatch.setenv("WORKER_STORE_URL", "nonsense")
    produce()
    produced("sqlite:///jobs.db")


WRONG = {
    "no URL": ({"WORKER_QUEUE_URL": "nonsense"}, "WORKER_QUEUE_URL: expected"),
    "an unknown scheme": ({"WORKER_QUEUE_URL": "amqp://a"}, "WORKER_QUEUE_URL: expected"),
    "twice": (
        {"WORKER_QUEUE_URL": "redis://a", "WORKER_QUEUE_URL_FILE": "secret"},
        "are both given",
    ),
    "a file that is missing": ({"WORKER_QUEUE_URL_FILE": "nowhere"}, "cannot be read"),
    "a file that is empty": ({"WORKER_QUEUE_URL_FILE": "empty"}, "it is empty"),
    "a misspelled name": (
        {"WORKER_QUEUE_URI": "redis://a"},
        "WORKER_QUEUE_URI is not a setting .*WORKER_QUEUE_URL",
    ),
    "another misspelled name": ({"WORKER_STOER_URL": "redis://a"}, "WORKER_STORE_URL"),
    "a wrong limit": (
        {"WORKER_STORE_URL": "memory://", "WORKER_PAYLOAD_LIMIT": "big"},
        "WORKER_PAYLOAD_LIMIT: expected 1024 to",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_queue_that_is_configured_wrongly_stops_the_program(
    bare: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    (bare / "empty").write_text("\n")
    (bare / "secret").write_text("redis://a\n")
    variables, words = WRONG[case]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for make in (WorkerClient, SyncWorkerClient, lambda: asyncio.run(double.enqueue({"n": 1}))):
        with pytest.raises(ConfigurationError, match=words):
            make()
    assert not (bare / ".worker").exists()


def test_a_file_that_cannot_be_understood_stops_the_program(bare: Path) -> None:
    (bare / ".env").write_text("WORKER_QUEUE_URL='redis://a\n")
    with pytest.raises(ConfigurationError, match=r"\.env line 1: expected NAME=value"):
        WorkerClient()


def test_a_url_that_is_given_needs_no_environment(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / ".env").write_text("nonsense='\n")
    monkeypatch.setenv("WORKER_QUEUE_URL_FILE", "nowhere")
    WorkerClient("sqlite:///jobs.db")
    with pytest.raises(ConfigurationError, match="got no scheme"):
        WorkerClient("")


def test_the_default_store_is_reported_once_per_process(
    bare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    produce()
    produce()
    produced("sqlite:///.worker/worker.db")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(bare / ".worker" / "worker.db") in record.getMessage()
    assert "WORKER_QUEUE_URL" in record.getMessage()


def test_sqs_without_a_store_is_reported_too(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    WorkerClient("sqs://sqs.eu-central-1.amazonaws.com/123456789012")
    (record,) = caplog.records
    assert str(bare / ".worker" / "worker.db") in record.getMessage()
    assert "WORKER_STORE_URL" in record.getMessage()


def test_a_program_that_sets_up_no_logging_writes_it_to_standard_error(bare: Path) -> None:
    code = "from worker import SyncWorkerClient\nwith SyncWorkerClient() as c: c.enqueue('ping')\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=bare,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert done.stderr.count(str(bare / ".worker" / "worker.db")) == 1


async def test_the_command_reports_the_default_store(bare: Path) -> None:
    (bare / "own.py").write_text("from worker import task\n@task()\nasync def ping(): ...\n")
    (bare / ".env").write_text("WORKER_DATA_API_URL=http://a\nWORKER_TASK_MODULES=own\n")
    code, out, err = await worker_command("enqueue", "ping", cwd=bare)
    assert (code, len(out.strip())) == (0, 32)
    assert str(bare / ".worker" / "worker.db") in err
    assert "WORKER_QUEUE_URL" in err
    code, _, err = await worker_command(
        "enqueue", "ping", cwd=bare, environment={"WORKER_QUEUE_URL": "sqlite:///jobs.db"}
    )
    assert (code, err) == (0, "")


def test_the_payload_limit_is_the_workers(bare: Path) -> None:
    (bare / ".env").write_text("WORKER_PAYLOAD_LIMIT=2048\n")
    assert payload_limit() == 2048
