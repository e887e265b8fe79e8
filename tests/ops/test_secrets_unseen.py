"""Whoever may look at the worker gets no secret to see, wherever it stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.api_sites import READ, TOKEN, ApiSite, api_sites
from tests.support.job_sites import Clerk
from tests.support.sites import ago
from worker.ledger.book import Outcome
from worker.schedules.registration import task_schedule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

HEARTBEAT = "http://127.0.0.1:9/beat?key=heart-s3cret"
DATA_TOKEN = "data-s3cret"
FOREIGN = "https://me:pass-s3cret@host/x?sig=query-s3cret and Bearer bearer-s3cret"
MORE_TASKS = """

@task()
async def tells(api_key: str = "default-s3cret", more: dict = {"password": "inner-s3cret"}):
    current_run().progress(50, password="progress-s3cret", note="half")
    wrote("began", os.getpid())
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ApiSite]:
    """One whose every setting that may be a secret is one."""
    for site in api_sites("postgres", tmp_path):
        found = urlsplit(site.store_url)
        login = f"{found.username}:store-s3cret@{found.netloc.rpartition('@')[2]}"
        site.store_url = site.queue_url = found._replace(netloc=login).geturl()
        site.environment |= {
            "WORKER_STORE_URL": site.store_url,
            "WORKER_QUEUE_URL": site.queue_url,
            "WORKER_DATA_API_TOKEN": DATA_TOKEN,
            "WORKER_HEARTBEAT_URL": HEARTBEAT,
        }
        yield site


def secrets_of(site: ApiSite) -> list[str]:
    return [DATA_TOKEN, HEARTBEAT, TOKEN, READ, site.store_url]


def assert_nothing_in(text: str, where: str) -> None:
    found = [one for one in ("s3cret", TOKEN, READ) if one in text]
    assert not found, f"{where}: {text}"


def gets(api_description: dict[str, Any], **names: str) -> Iterator[str]:
    """Every path that can be looked at."""
    for path, operations in api_description["paths"].items():
        if "get" not in operations:
            continue
        for kind in ("schedules", "jobs"):
            for mark in ("{name}", "{id}"):
                path = path.replace(f"/{kind}/{mark}", f"/{kind}/{names[kind]}")
        assert "{" not in path, "this test knows each"
        yield path
    yield from ("/metrics", "/livez", "/readyz", "/startupz", "/session", "/")


async def look_everywhere(api: Any, **names: str) -> AsyncIterator[tuple[str, str]]:
    """What the owner of the read-only token is shown."""
    token = {"Authorization": f"Bearer {READ}"}
    async with httpx.AsyncClient(
        base_url=api.http.base_url, headers=token, trust_env=False
    ) as http:
        for path in gets(api.description, **names):
            if path.endswith("/events"):
                continue
            answer = await http.get(path)
            assert answer.status_code == 200, f"{path}: {answer.text}"
            yield path, answer.text
    async with api.events() as events:
        yield "events", json.dumps(await anext(events))


async def test_no_way_of_looking_shows_a_secret_of_an_error_or_a_note(site: ApiSite) -> None:
    """As an older worker recorded them, which took nothing out."""
    words = " ".join([*secrets_of(site), FOREIGN])
    site.terms["moody"] = task_schedule("moody", {"interval": "1h"})
    with site.claimant("older") as past:
        past.ran("moody", ago(hours=2), Outcome.FAILED, words)
    async with site.engine() as jobs:
        told = json.dumps({"type": "E", "message": words})
        await Clerk(jobs).dies("dead", "says", error=told)
    async with site.api("--no-schedules") as api:
        await api.post("schedules/moody/pause", {"note": words})
        shown = {p: t async for p, t in look_everywhere(api, schedules="moody", jobs="dead")}
        for path, text in shown.items():
            assert_nothing_in(text, path)
        whys = [one["why"] for one in json.loads(shown["/api/v1/overview"])["problems"]]
        assert sum("*** *** ***" in why for why in whys) == 3, "of failure, pause, dead letter"
        answer = await api.http.post("/api/v1/schedules/moody/pause", json={"note": words + "!"})
        assert_nothing_in(answer.text, "the answer to a pause")


async def test_secrets_are_taken_out_before_an_error_is_recorded(site: ApiSite) -> None:
    (site.folder / "words").write_text(f"{DATA_TOKEN} {FOREIGN}")
    async with site.api() as api:
        said = {"params": {"message": f"{DATA_TOKEN} {FOREIGN}"}}
        job = (await api.post("tasks/says/enqueue", said, status=201))["id"]
        await api.until(f"jobs/{job}", lambda told: told["dead"], "it is dead")
        await api.post("schedules/moody/run", status=202)
        await api.until("schedules/moody", lambda told: told["failures"] > 0, "it has failed")
    errors = [entry.error for entry in site.history("moody", Outcome.FAILED)]
    async with site.engine() as jobs:
        found = await Clerk(jobs).get(job)
    assert found is not None
    for error in (*errors, found.error):
        assert error is not None
        assert_nothing_in(error, "recorded")
        assert "*** https://***@host/x and Bearer ***" in error


async def test_progress_and_defaults_are_hidden_by_their_names(site: ApiSite) -> None:
    with (site.folder / "own_tasks.py").open("a") as file:
        file.write(MORE_TASKS)
    async with site.api() as api:
        job = (await api.post("tasks/tells/enqueue", status=201))["id"]
        told = await api.until(f"jobs/{job}", lambda told: told["progress"], "it tells how far")
        assert told["progress"] == {"percent": 50, "password": "***", "note": "half"}
        for path in ("running", "jobs", "tasks", f"jobs/{job}", f"jobs/{job}/payload"):
            assert_nothing_in(json.dumps(await api.get(path)), path)
        (task,) = [one for one in (await api.get("tasks"))["tasks"] if one["name"] == "tells"]
        assert task["params_schema"]["properties"]["api_key"]["type"] == "string"
        site.touch("go")


async def test_an_error_that_cannot_be_written_as_utf_8_is_spelled_out(tmp_path: Path) -> None:
    site = ApiSite(tmp_path, "memory://")
    (site.folder / "words").write_bytes(b"half \xff of it")  # which the task reads as a surrogate
    async with site.api() as api:
        await api.post("schedules/moody/run", status=202)
        await api.until("schedules/moody", lambda told: told["failures"] > 0, "it has failed")
        whys = [one["why"] for one in (await api.get("overview"))["problems"]]
        assert "TaskFailed: half \\udcff of it" in whys
