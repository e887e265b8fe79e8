"""What others write comes out of the API as text, and as nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.support.api_sites import TOKEN, ApiSite, api_sites
from tests.support.job_sites import Clerk
from worker.model import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXTS = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"'`};--",
    "'; DROP TABLE jobs; --",
    "../../etc/passwd",
    "{{7*7}}${7*7}<%= 7*7 %>",
    "\u202egpj.exe\u2066",
    "\x1b[31mred\x1b[0m\x07\x1b]0;title\x07",
    "line\r\nLocation: /b\r\n\r\n<html>",
    "\u2028\u2029\ufeff\u0000"[:3],
    "日本語 😀 é",
    "x" * 10_000,
)
SURROGATE = "half \ud800 of it"


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ApiSite]:
    yield from api_sites(request.param, tmp_path)


def error_text(message: str) -> str:
    return json.dumps({"type": message[:100], "message": message})


def attempt(text: str) -> dict[str, Any]:
    said = {"worker": text, "type": text[:100], "message": text}
    return {"attempt": 1, "outcome": "failed", "started_at": 1, "finished_at": 2, **said}


async def test_hostile_texts_come_out_as_they_went_in(site: ApiSite) -> None:
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        for number, text in enumerate(TEXTS):
            params = json.dumps({"message": text, text[:50]: [text]})
            history = json.dumps([attempt(text), attempt("as ever")])
            error = error_text(text)
            await clerk.dies(f"dead-{number}", "says", error=error, params=params, history=history)
    async with site.api() as api:
        found = {job["id"]: job for job in (await api.get("jobs", dead=True))["jobs"]}
        for number, text in enumerate(TEXTS):
            assert found[f"dead-{number}"]["error"]["message"] == text
            detail = await api.get(f"jobs/dead-{number}")
            assert detail["error"]["message"] == text
            first, _ = detail["history"]
            assert (first["error"]["message"], first["worker"]) == (text, text)
            assert first["error"]["type"] == text[:100]
            assert text in detail["timeline"][1]["detail"]
            payload = await api.get(f"jobs/dead-{number}/payload")
            assert payload["params"]["message"] == text
        answer = await api.http.get("/api/v1/jobs")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_hostile_notes_ids_and_filters_are_texts_or_refused(site: ApiSite) -> None:
    async with site.api() as api:
        for text in TEXTS:
            answer = await api.http.post("/api/v1/schedules/moody/pause", json={"note": text})
            if len(text) > 1000:
                assert answer.status_code == 422
            else:
                assert api.checked(answer, 200)["pause"]["note"] == text
                assert text in (await api.get("schedules/moody"))["explanation"]["verdict"]
            await api.refused("POST", "tasks/ping/enqueue", 422, json={"id": text + " "})
            name = quote(text, safe="")
            for path in (f"jobs/{name}", f"jobs/{name}/payload", f"schedules/{name}"):
                answer = await api.http.get(f"/api/v1/{path}")
                assert answer.status_code in (404, 400), answer.text  # 400: uvicorn, too long
            if len(text) <= 200:
                assert (await api.get("jobs", task=text, queue=text))["jobs"] == []
        for wrong in ({"task": "\0"}, {"queue": "a\0b"}, {"before": "\0"}):
            await api.refused("GET", "jobs", 422, params=wrong)
        await api.refused("POST", "schedules/moody/pause", 422, json={"note": "a\0b"})
        half = b'{"note": "\\ud800"}'
        await api.refused("POST", "schedules/moody/pause", 400, content=half)
        deep = b'{"params": ' + b"[" * 5000 + b"]" * 5000 + b"}"
        await api.refused("POST", "tasks/says/enqueue", 400, content=deep)
        for params in (
            '{"message": NaN}',
            '{"message": [1e999]}',
            '{"message": "a", "message": "b"}',
            f'{{"message": {"9" * 5000}}}',
            '{"message": "\\ud800"}',
        ):
            body = f'{{"params": {params}}}'.encode()
            await api.refused("POST", "tasks/says/enqueue", 400, content=body)
        assert (await api.http.get("/api/v1/overview")).status_code == 200


async def test_errors_of_tasks_are_shown_whatever_they_say(site: ApiSite) -> None:
    async with site.api() as api:
        ids = []
        for text in TEXTS:
            said = {"params": {"message": text}}
            ids.append((await api.post("tasks/says/enqueue", said, status=201))["id"])
        for job, text in zip(ids, TEXTS, strict=True):
            told = await api.until(f"jobs/{job}", lambda told: told["dead"], "it is dead")
            one_line = " ".join(text.split())  # as the worker records it
            assert told["error"]["message"].startswith(one_line[:300])
        (site.folder / "words").write_bytes(TEXTS[0].encode())
        await api.post("schedules/moody/run", status=202)
        told = await api.until(
            "schedules/moody",
            lambda told: any(TEXTS[0] in (one["error"] or "") for one in told["strip"]),
            "it has failed in these words",
        )
        why = [one["why"] for one in (await api.get("overview"))["problems"]]
        assert f"TaskFailed: {TEXTS[0]}" in why


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (json.dumps({"type": "E", "message": SURROGATE}), "half \\ud800 of it"),
        ("no json <b>", "?"),
        ('["a list"]', "?"),
        ('{"type": "E", "message": {"a": NaN}}', "{'a': 'nan'}"),
        ("[" * 3000 + "]" * 3000, "?"),
    ],
)
async def test_records_that_others_wrote_are_shown_as_far_as_they_can_be(
    tmp_path: Path, error: str, message: str
) -> None:
    """Any program may write into the tables."""
    (site,) = api_sites("sqlite", tmp_path)
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        params = error if error.startswith("{") else json.dumps({"message": SURROGATE})
        await clerk.ends("odd", State.FAILURE, "says", dead=True, error=error, params=params)
    async with site.api() as api:
        job = await api.get("jobs/odd")
        assert job["error"]["message"] == message
        payload: dict[str, Any] = await api.get("jobs/odd/payload")
        json.dumps(payload, allow_nan=False).encode()
        assert (await api.get("jobs"))["jobs"][0]["id"] == "odd"


@pytest.mark.parametrize(
    ("history", "shown"),
    [
        ("no json <b>", []),
        ("7", []),
        ("{}", []),
        ("[" * 3000 + "]" * 3000, []),
        ('[null, 7, [], {}, {"attempt": 1, "outcome": "<b>"}]', []),
        (json.dumps([attempt("no") | {"started_at": 10**30}]), []),
        (json.dumps([attempt("no") | {"attempt": float("nan")}]), []),
        (json.dumps([attempt("no") | {"attempt": float("inf")}]), []),
        (json.dumps([attempt(SURROGATE)]), ["half \\ud800 of it"]),
        (json.dumps([attempt("no") | {"message": {"a": [1]}}]), ["{'a': [1]}"]),
        (json.dumps([attempt("no") | {"worker": None, "type": None}]), [None]),
    ],
)
async def test_histories_that_others_wrote_are_shown_as_far_as_they_can_be(
    tmp_path: Path, history: str, shown: list[str | None]
) -> None:
    (site,) = api_sites("sqlite", tmp_path)
    async with site.engine() as jobs:
        await Clerk(jobs).dies("odd", "says", history=history)
    async with site.api() as api:
        told = (await api.get("jobs/odd"))["history"]
        assert [one["error"] and one["error"]["message"] for one in told] == shown
    assert "TaskFailed" in await site.told("dead show odd")
    assert len((await site.json("jobs show odd"))["history"]) == len(shown)


MOMENTS = ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59")
"""Which no year of four digits has in UTC."""


async def test_moments_beyond_all_years_are_refused(tmp_path: Path) -> None:
    (site,) = api_sites("sqlite", tmp_path)
    async with site.api() as api:
        for moment in MOMENTS:
            for query in ({"since": moment}, {"before": moment}, {"before": f"{moment}~x"}):
                await api.refused("GET", "jobs", 422, params=query)
            for path in ("dead/retry", "dead/drop"):
                said = {"before": moment, "dry_run": True}
                await api.refused("POST", path, 422, json=said)
        last = "9999-12-31T23:59:59.999999Z"
        await api.refused("GET", "jobs", 422, params={"before": f"{last}~x"})
        assert (await api.get("jobs", before=last, since="0001-01-01T00:00:00Z"))["jobs"] == []


async def test_an_id_that_ends_like_a_route_is_an_id(tmp_path: Path) -> None:
    (site,) = api_sites("sqlite", tmp_path)
    ids = ("a", "a/payload", "a/cancel", "a%2Fpayload", "a/../b", "?", "é/%")
    async with site.engine() as jobs:
        for job_id in ids:
            await Clerk(jobs).dies(job_id, "says", params=json.dumps({"message": job_id}))
    async with site.api() as api:
        for job_id in ids:
            path = f"/api/v1/jobs/{quote(job_id, safe='')}"
            assert (await api.http.get(path)).json()["id"] == job_id
            payload = (await api.http.get(f"{path}/payload")).json()
            assert payload["params"] == {"message": job_id}
        path = f"/api/v1/jobs/{quote('a/cancel', safe='')}"
        done = await api.http.post(f"{path}/drop", json={})
        assert done.json() == {"id": "a/cancel", "what": "done"}
        assert (await api.http.get(path)).status_code == 404
        assert (await api.http.get("/api/v1/jobs/a")).status_code == 200
        assert (await api.http.get("/api/v1/jobs/a/b/payload")).status_code == 404


async def test_secrets_are_left_out_of_payloads_by_their_names(tmp_path: Path) -> None:
    (site,) = api_sites("sqlite", tmp_path)
    async with site.engine() as jobs:
        params = {"message": "hello", "password": "hunter2", "nested": [{"api_key": "k3y"}]}
        await Clerk(jobs).dies("secret", "says", params=json.dumps(params))
    async with site.api() as api:
        payload = await api.get("jobs/secret/payload")
        assert payload["params"]["message"] == "hello"
        assert "hunter2" not in json.dumps(payload)
        assert "k3y" not in json.dumps(payload)
        assert payload["params_bytes"] == len(json.dumps(params))


LETTERS = "a" * 15_000


async def test_names_of_any_length_are_quoted_in_part_and_take_no_time(tmp_path: Path) -> None:
    (site,) = api_sites("sqlite", tmp_path)
    async with site.api() as api:
        refused = []
        for kind in ("jobs", "schedules"):
            answer = await api.http.get(f"/api/v1/{kind}/{LETTERS}%20:%2F%2F")
            assert answer.status_code == 404
            refused.append(answer.json())
        for body in (
            {"params": {"message": "", LETTERS * 3 + " ://": 1}},
            {LETTERS * 3 + " ://": 1},
        ):
            refused.append(await api.refused("POST", "tasks/says/enqueue", 422, json=body))
        refused.append(await api.refused("GET", "jobs", 422, params={LETTERS: "1"}))
        for told in refused:
            assert len(json.dumps(told)) < 3000
            assert "a" * 100 in told["detail"]


async def test_nothing_that_came_is_quoted_with_a_secret_in_it(tmp_path: Path) -> None:
    (site,) = api_sites("sqlite", tmp_path)
    async with site.api() as api:
        told = await api.refused(
            "POST", "tasks/says/enqueue", 422, json={"params": {f"a {TOKEN} b": 1}}
        )
        assert TOKEN not in json.dumps(told)
        assert "a *** b" in told["detail"]


async def test_what_somebody_else_recorded_is_redacted_before_it_is_cut(tmp_path: Path) -> None:
    (site,) = api_sites("sqlite", tmp_path)
    async with site.engine() as jobs:
        clerk = Clerk(jobs)
        for number in range(9_960, 10_000, 3):
            broken = "x" * number + TOKEN
            error = error_text("y" * number + TOKEN)
            await clerk.dies(f"dead-{number}", "says", error=error, params=broken)
        params = {
            "db": "postgresql://u:hunter2@host/db",
            "js": json.dumps({"password": "hunter2"}),
            "headers": [["Authorization", "Bearer hunter2"]],
            "pairs": [{"name": "password", "value": "hunter2"}],
            "postgresql://u:hunter2@host": 1,
            **dict.fromkeys(("auth", "key", "dsn", "pin_code", "database_url"), "hunter2"),
        }
        said = json.dumps(params)
        await clerk.ends("told", State.SUCCESS, "says", params=said, result=said)
    async with site.api() as api:
        for job in (await api.get("jobs"))["jobs"]:
            for path in (f"jobs/{job['id']}", f"jobs/{job['id']}/payload"):
                text = json.dumps(await api.get(path))
                assert TOKEN[:8] not in text
                assert "hunter2" not in text
