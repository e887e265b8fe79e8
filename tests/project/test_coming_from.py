"""What docs/coming-from.md says to those who come from another system: ours of each is run here."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support.documents import marked, write_examples
from tests.support.postgres import fresh_postgres_url
from tests.support.processes import (
    DEADLINE_S,
    LoggingProcess,
    clean_environment,
    running,
    worker_command,
)
from tests.support.redis_server import fresh_redis_url
from tests.support.sqs_server import ACCOUNT, REGION, fresh_prefix, shared_server
from tests.support.waiting import wait_until
from worker import WorkerClient
from worker.jobs.job import JobQuery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

NOBODY = "http://127.0.0.1:1"


def settings(modules: str, **others: str) -> dict[str, str]:
    return {"WORKER_DATA_API_URL": NOBODY, "WORKER_TASK_MODULES": modules, **others}


async def script(name: str, *, environment: Mapping[str, str], cwd: Path) -> list[str]:
    """The lines that a script of this folder prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, name),
        env=clean_environment(**environment),
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_S):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().splitlines()


@asynccontextmanager
async def working(
    *arguments: str, environment: Mapping[str, str], cwd: Path
) -> AsyncIterator[LoggingProcess]:
    """``worker start`` of these examples, ready for jobs."""
    async with running("start", *arguments, environment=environment, cwd=cwd) as process:
        await process.logged("worker.ready")
        yield process


def words_of(command: str) -> tuple[dict[str, str], list[str]]:
    """A command of the document as the variables that it sets, and the worker's arguments."""
    words = shlex.split(marked("command", command))
    at = words.index("worker")
    return dict(word.split("=", 1) for word in words[:at]), words[at + 1 :]


async def test_coming_from_celery(tmp_path: Path) -> None:
    write_examples(tmp_path, "reports.py", "ask_reports.py")
    environment = settings("reports")
    async with working("--no-schedules", environment=environment, cwd=tmp_path) as process:
        told = await script("ask_reports.py", environment=environment, cwd=tmp_path)
        assert told == ["42", "{'report': 7} SUCCESS"]
        async with WorkerClient(f"sqlite:///{tmp_path}/.worker/worker.db") as client:
            info = await client.job("report-7").info()
            assert info.queue == "reports"
            bad = await client.enqueue("reports.build", {"report_id": -1}, queue="reports")
            assert (await bad.ended("20s")).attempts == 1, "what is not to be retried is not"
            await process.logged("report.failed", job=bad.id)
            double = await client.enqueue("reports.double", {"n": 1}, queue="reports")
            assert await double.result("20s") is None, "its result is ignored"


async def test_coming_from_database_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_examples(tmp_path, "moderation.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "moderation", sys)  # to be forgotten afterwards
    del sys.modules["moderation"]
    with fresh_postgres_url() as url:
        async with (
            WorkerClient(url) as client,
            await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
        ):
            await connection.execute("CREATE TEMPORARY TABLE merchants (uid bigint PRIMARY KEY)")
            moderation: Any = import_module("moderation")
            await moderation.add_merchant(connection, 7)
            with pytest.raises(psycopg.errors.UniqueViolation):
                await moderation.add_merchant(connection, 7)
            async with connection.transaction(force_rollback=True):
                await moderation.add_merchant(connection, 9)
            await connection.execute(marked("example", "moderation.sql").encode())
            code, _, err = await worker_command(
                *("start", "--queues", "moderation", "--no-schedules", "--burst"),
                environment=settings("moderation", WORKER_QUEUE_URL=url),
                cwd=tmp_path,
            )
            assert code == 0, err
            jobs = await client.jobs.find(JobQuery())
    assert sorted((job.params, job.result) for job in jobs) == [
        ('{"merchant_uid": 8}', "8"),
        ('{"merchant_uid":7}', "7"),
    ]
    assert {json.loads(job.options).get("max_retries") for job in jobs} == {2, None}


async def test_coming_from_task_helpers(tmp_path: Path) -> None:
    write_examples(tmp_path, "goods.py", "ask_goods.py")
    variables, arguments = words_of("goods")
    assert arguments[-2:] == ["--max-jobs", "500"]
    arguments[-1] = "2"
    with fresh_redis_url(tmp_path) as url:
        environment = settings("goods", WORKER_QUEUE_URL=url, **variables)
        async with working(*arguments[1:], environment=environment, cwd=tmp_path) as process:
            saved, power = await script("ask_goods.py", environment=environment, cwd=tmp_path)
            assert "'name': 'tomato', 'price': '12.45', 'id': '" in saved
            assert "'status': 'active'" in saved
            assert power == "32.0"
            assert await process.ended() == 0, "it has done the jobs that it was to do"


@pytest.mark.timeout(120)  # the real aws alone takes seconds to start
async def test_coming_from_an_sqs_processor(tmp_path: Path) -> None:
    write_examples(tmp_path, "charging.py", "queues.yaml")
    with fresh_prefix(tmp_path, ("shared",)) as prefix:
        server = shared_server()
        environment = settings(
            "charging", WORKER_QUEUE_URL=server.url(prefix), WORKER_QUEUES_FILE="queues.yaml"
        )
        arguments = ("--queues", "shared", "--no-schedules")
        async with working(*arguments, environment=environment, cwd=tmp_path):
            _, words = words_of("charge")
            code, out, err = await worker_command(
                *words, "--wait", "--json", environment=environment, cwd=tmp_path
            )
            assert (code, json.loads(out)["result"]) == (0, "7 was charged in EUR"), err
            job = await sent_by_aws(
                marked("command", "charge by aws"),
                queue_url=f"{server.endpoint}/{ACCOUNT}/{prefix}shared",
                endpoint=server.endpoint,
            )
            await wait_until(lambda: not server.size(f"{prefix}shared"), "its message is gone")
            async with WorkerClient(f"sqlite:///{tmp_path}/.worker/worker.db") as records:
                assert await records.job(job).result("20s") == "8 was charged in EUR"
            nobody = ("enqueue", "charge:job", '{"account": "nobody"}', "--wait", "--json")
            code, out, err = await worker_command(*nobody, environment=environment, cwd=tmp_path)
            told = json.loads(out)
            assert (code, told["state"], told["attempts"]) == (1, "FAILURE", 1), err
            assert server.size(f"{prefix}dead") == 0, "it was dropped"
    code, out, _ = await worker_command("list", "--json", environment=environment, cwd=tmp_path)
    schedules = {task["name"]: task["schedule"] for task in json.loads(out)}
    assert schedules["charge:job"] == "0 4 * * * UTC"


async def sent_by_aws(command: str, *, queue_url: str, endpoint: str) -> str:
    """Have a shell run the command, with the real ``aws``; the message's id."""
    as_module = f'aws() {{ {sys.executable} -W ignore -m awscli --endpoint-url {endpoint} "$@"; }}'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f"{as_module}\n{command}"),
        env=clean_environment(
            QUEUE_URL=queue_url, AWS_DEFAULT_REGION=REGION, PYTHONWARNINGS="ignore"
        ),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return str(json.loads(out)["MessageId"])
