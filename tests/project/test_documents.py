"""The chapter on jobs keeps its word: its examples run, and its tables are complete."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING

import yaml

from tests.project.test_coming_from import script, settings, working
from tests.support.documents import DOCUMENTS, PATHS, ROOT, write_examples
from tests.support.processes import (
    clean_environment,
    demo_api,
    worker_command,
)
from worker import WorkerClient
from worker.client.enqueue_options import EnqueueOptions
from worker.consuming.queue_plan import QueuePlan
from worker.durations import format_duration, parse_duration
from worker.jobs.job import Capabilities, JobQuery
from worker.jobs.options import JobOptions
from worker.queues.memory import MemoryJobs
from worker.queues.postgres import PostgresJobs
from worker.queues.redis import RedisJobs
from worker.queues.sqlite import SqliteJobs
from worker.queues.sqs import SqsJobs

if TYPE_CHECKING:
    from pathlib import Path

JOBS = DOCUMENTS["docs/jobs.md"]


async def test_the_jobs_in_the_readme_run(tmp_path: Path) -> None:
    write_examples(tmp_path, "invoices.py", "ask.py")
    environment = settings("invoices")
    arguments = ("--queues", "images", "--no-schedules")
    async with working(*arguments, environment=environment, cwd=tmp_path):
        told = await script("ask.py", environment=environment, cwd=tmp_path)
    assert told == ["800/cat.png SUCCESS", "revoked REVOKED"]
    async with WorkerClient(f"sqlite:///{tmp_path}/.worker/worker.db") as client:
        jobs = await client.jobs.find(JobQuery(task="send_invoice", queue="billing"))
    assert sorted((job.params, job.state) for job in jobs) == [
        ('{"order_id":7}', "REVOKED"),
        ('{"order_id":8}', "PENDING"),
        ('{"order_id":9}', "PENDING"),
    ]


async def test_the_demos_api_sends_the_invoice_of_the_readme(tmp_path: Path) -> None:
    write_examples(tmp_path, "invoices.py")
    async with demo_api("--orders", "8") as api:
        environment = settings("invoices", WORKER_DATA_API_URL=api.url)
        line = ("run", "send_invoice", '{"order_id": 7}')
        code, out, err = await worker_command(*line, environment=environment, cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out)["result"] == {"invoice": "INV-7"}


async def test_the_tests_of_the_chapter_on_testing_pass(tmp_path: Path) -> None:
    write_examples(tmp_path, "invoices.py", "test_invoices.py")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto"),
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(tmp_path), PYTHONWARNINGS="default"),
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    assert b"4 passed" in told


async def test_the_other_examples_on_jobs_are_taken(tmp_path: Path) -> None:
    modules = ("options", "hooks", "totals", "invoices")
    write_examples(tmp_path, *(f"{name}.py" for name in modules), "polling.yaml")
    environment = settings(",".join(modules), WORKER_QUEUES_FILE="polling.yaml")
    code, out, err = await worker_command("list", "--json", environment=environment, cwd=tmp_path)
    assert code == 0, err
    names = {task["name"] for task in json.loads(out)}
    assert {"pay_seller", "thumbnail", "import", "add_totals", "resize"} <= names
    async with WorkerClient(f"sqlite:///{tmp_path}/.worker/worker.db") as client:
        add = [await client.enqueue("add_totals", {"amount": n}, queue="totals") for n in (4, -4)]
        small = await client.enqueue("thumbnail", {"path": "cat.png"}, queue="images")
        pay = await client.enqueue("pay_seller", {"seller": 1}, queue="payouts")
        command = ("start", "--burst", "--no-schedules")
        code, _, err = await worker_command(*command, environment=environment, cwd=tmp_path)
        assert code == 0, err
        assert await add[0].result() == 8
        assert (await add[1].info()).error == '{"type":"ValueError","message":"less than nothing"}'
        assert await small.result() == "small/cat.png"
        assert await pay.result() == "1 by main"


def rows(heading: str) -> dict[str, str]:
    """The first table after a line of a document that contains ``heading``: its first columns."""
    table = JOBS[JOBS.index(heading) :]
    found = re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", table.split("\n\n")[0], re.MULTILINE)
    return {name: default for cell, default in found for name in re.findall(r"`(\w+)`", cell)}


def test_every_option_of_a_task_is_documented_with_its_default() -> None:
    shown = rows("| option | default |")
    assert shown.keys() - {"retry"} == {field.name for field in fields(JobOptions)}
    for field in fields(JobOptions):
        said, default = shown[field.name].strip("`"), field.default
        if isinstance(default, timedelta):
            assert parse_duration(said.strip('"')) == default
        elif default is not None and field.name not in ("retry_backoff", "retry_on"):
            assert said.strip('"') == str(default)


def test_every_option_of_a_job_is_documented() -> None:
    assert rows("| for one job |").keys() == EnqueueOptions.__annotations__.keys()


def test_every_key_of_a_queue_is_documented() -> None:
    known = {field.name for field in fields(QueuePlan)} - {"name"}
    assert known <= rows("| key | default |").keys()


def test_links_between_the_documents_lead_somewhere() -> None:
    for path in PATHS:
        prose = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)]+)\)", prose):
            where, _, anchor = target.partition("#")
            if where.startswith("https://"):
                continue
            other = (path.parent / where).resolve() if where else path
            assert other.exists(), f"{path.name}: {target}"
            assert not anchor or anchor in anchors(other), f"{path.name}: {target}"


def anchors(path: Path) -> set[str]:
    """What a link into a document can name: its headings, as they are shown on the web."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_files_that_contributors_are_sent_to_exist() -> None:
    named = set(re.findall(r"`([\w./]+\.(?:py|toml|yaml|md|sql))`", DOCUMENTS["CONTRIBUTING.md"]))
    assert named
    places = (ROOT, ROOT / "worker", ROOT / "worker" / "tasks", ROOT / "tests")
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


def test_the_tests_that_show_the_guarantees_exist() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", DOCUMENTS["docs/guarantees.md"]))
    assert named
    for path, name in named:
        text = (ROOT / path).read_text("utf-8")
        assert not name or re.search(rf"^(async )?def {name}\b", text, re.MULTILINE), (path, name)


def test_every_alarm_has_its_place_in_the_runbook() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text("utf-8"))
    alarms = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    _, _, runbook = DOCUMENTS["docs/operations.md"].partition("## When it alarms\n")
    headings = re.findall(r"^### (\w+)$", runbook.partition("\n## ")[0], re.MULTILINE)
    assert sorted(headings) == sorted(alarms)


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(DOCUMENTS["README.md"].splitlines()) <= 300


def test_every_document_is_in_the_readmes_list() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", DOCUMENTS["README.md"]))
    pages = {name for name in DOCUMENTS if name.startswith("docs/")}
    assert pages - linked == set()


def test_the_table_of_engines_says_what_they_say_of_themselves() -> None:
    table = JOBS[JOBS.index("## What each engine promises") :]
    header, _, *lines = (line for line in table.splitlines() if line.startswith("|"))
    engines = [
        MemoryJobs.capabilities,
        SqliteJobs.capabilities,
        PostgresJobs.capabilities,
        RedisJobs.capabilities,
        SqsJobs("sqs://?region=eu-central-1", MemoryJobs()).capabilities,
    ]
    assert re.findall(r"`(\w+)`", header) == [engine.backend for engine in engines]
    told = set()
    for line in lines[:11]:
        what, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = re.findall(r"\(`(\w+)`\)$", what)[0]
        told.add(name)
        for engine, cell in zip(engines, cells, strict=True):
            assert cell in shown(getattr(engine, name)), (name, engine.backend)
    untold = {"backend", "claims", "most_payload"}
    assert told | untold == {field.name for field in fields(Capabilities)}


def shown(promise: object) -> tuple[str, ...]:
    match promise:
        case True:
            return ("yes", "by the store")
        case False:
            return ("no", "about")
        case None:
            return ("any",)
        case timedelta():
            return (format_duration(promise),)
    return (str(promise),)
