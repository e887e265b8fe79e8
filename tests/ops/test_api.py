"""The API of a real worker, over every store and engine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from openapi_spec_validator import validate as validate_openapi

from tests.ops.test_facts_shared import asked
from tests.support.api_sites import READ, ApiSite, api_sites
from tests.support.job_sites import Clerk
from tests.support.jobs import dead
from tests.support.waiting import wait_until
from worker.admin.jobs import Act
from worker.ops import jobs as jobs_module
from worker.ops.models import BulkAnswer
from worker.ops.said import Bulk
from worker.queues.memory import MemoryJobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = ("sqlite", "postgres", "redis", "sqs")
LOOKS = ("overview", "schedules", "running", "queues", "jobs", "tasks")


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ApiSite]:
    yield from api_sites(request.param, tmp_path)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[ApiSite]:
    """One over SQLite, for what is the same with each engine."""
    yield from api_sites("sqlite", tmp_path)


def named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = [one for one in items if one["name"] == name]
    return found


def schedule_of(told: dict[str, Any], name: str) -> dict[str, Any]:
    return named(told["schedules"], name)


# --- looking


async def test_every_answer_is_as_the_description_says(site: ApiSite) -> None:
    """`Api.get` checks each against the schema of its call."""
    async with site.api() as api:
        validate_openapi(api.description)
        dead = (await api.post("tasks/says/enqueue", {"params": {"message": "no"}}, status=201))[
            "id"
        ]
        held = (await api.post("tasks/held/enqueue", status=201))["id"]
        await api.until(f"jobs/{dead}", lambda job: job["dead"], "the job is dead")
        await wait_until(lambda: len(site.begun()) == 1, "the job has begun")
        for look in (*LOOKS, "schedules/tick", f"jobs/{held}", f"jobs/{dead}/payload"):
            await api.get(look)
        queues = (await api.get("queues"))["queues"]
        default = named(queues, "default")
        assert (default["running"], default["dead"], default["polled_here"]) == (1, 1, True)
        assert default["workers"] == ["one"]
        running = [run for run in (await api.get("running"))["running"] if run["kind"] == "job"]
        assert [(run["id"], run["replica"]) for run in running] == [(held, "one")]
        overview = await api.get("overview")
        assert overview["worker"]["replica"] == "one"
        assert overview["status"] == "warning"
        kinds = {problem["kind"] for problem in overview["problems"]}
        assert "dead" in kinds
        site.touch("go")


async def test_the_description_names_every_route_and_no_other(local: ApiSite) -> None:
    async with local.api() as api:
        described = {
            (method.upper(), path)
            for path, operations in api.description["paths"].items()
            for method in operations
        }
        assert ("POST", "/api/v1/tasks/{name}/enqueue") in described
        assert ("GET", "/api/v1/events") in described
        for method, path in described - {("GET", "/api/v1/events")}:
            asked = path.replace("{name}", "nope").replace("{id}", "nope")
            answer = await api.http.request(method, asked, json={"dry_run": True, "x": 1})
            assert answer.status_code != 405
            assert answer.json().get("detail") != "Not Found", f"{method} {path}"


async def test_a_schedule_tells_its_slots_and_what_became_of_them(site: ApiSite) -> None:
    async with site.api() as api:
        told = await api.until(
            "schedules",
            lambda told: len(schedule_of(told, "tick")["strip"]) >= 3,
            "some slots have run",
        )
        tick, moody = schedule_of(told, "tick"), schedule_of(told, "moody")
        assert tick["schedule"] == "every 300ms"
        became = {slot["outcome"] for slot in tick["strip"]}
        slow = {"skipped_overlap", "missed"}  # what becomes of some slots of a slow machine
        assert {"ran"} <= became <= {"ran", "running", *slow}
        slots = [slot["slot"] for slot in tick["strip"]]
        assert slots == sorted(slots)
        assert len(tick["next"]) == 3
        assert tick["last"]["outcome"] == "ran"
        assert len(tick["durations_ms"]) >= 2  # the latest one may still run
        assert (moody["standing"], moody["failures"]) == ("failing", 1)
        assert moody["last"]["error"] == "TaskFailed: not today"
        assert moody["max_age_s"] == 3 * 3600
        detail = await api.get("schedules/moody")
        assert detail["history"][0]["outcome"] == "failed"
        assert "moody" in detail["explanation"]["verdict"]
        problems = (await api.get("overview"))["problems"]
        assert named(problems, "moody")["why"] == "TaskFailed: not today"


async def test_a_worker_that_keeps_all_in_memory_has_an_api(tmp_path: Path) -> None:
    site = ApiSite(tmp_path, "memory://")
    async with site.api() as api:
        job = (await api.post("tasks/ping/enqueue", status=201))["id"]
        await api.until(f"jobs/{job}", lambda told: told["state"] == "SUCCESS", "it has ended")
        for look in LOOKS:
            await api.get(look)
        assert (await api.post("schedules/tick/pause"))["standing"] == "paused"


# --- acting on schedules


async def test_a_schedule_is_paused_resumed_and_run(site: ApiSite) -> None:
    async with site.api() as api:
        paused = await api.post("schedules/moody/pause", {"note": "the far side moves"})
        assert paused["standing"] == "paused"
        assert paused["pause"]["note"] == "the far side moves"
        assert paused["pause"]["by"] == "ops:full@one"
        seen = schedule_of(await api.get("schedules"), "moody")
        assert seen["standing"] == "paused"
        info = [p for p in (await api.get("overview"))["problems"] if p["severity"] == "info"]
        assert named(info, "moody")["what"] == "moody is paused"
        assert (await api.post("schedules/moody/resume"))["pause"] is None
        site.touch("well")
        await api.post("schedules/moody/run", status=202)
        by_hand = ("manual", "ran")
        await api.until(
            "schedules/moody",
            lambda told: by_hand in [(e["trigger"], e["outcome"]) for e in told["history"]],
            "it has run by hand",
        )
        assert (await api.get("schedules/moody"))["failures"] == 0


async def test_a_run_that_would_lack_parameters_is_a_422_and_is_not_recorded(site: ApiSite) -> None:
    async with site.api() as api:
        told = await api.refused("POST", "schedules/send_invoice/run", 422)
        assert [error["loc"] for error in told["errors"]] == [["order_id"]]
        assert "worker enqueue send_invoice" in told["detail"]
        assert (await api.get("schedules/send_invoice"))["history"] == []


async def test_a_task_without_a_schedule_is_not_judged_by_a_run_by_hand(site: ApiSite) -> None:
    async with site.api() as api:
        await api.post("schedules/fails/run", status=202)
        told = await api.until(
            "schedules/fails",
            lambda told: [entry["outcome"] for entry in told["history"]] == ["failed"],
            "it has failed",
        )
        assert told["failures"] == 0
        problems = (await api.get("overview"))["problems"]
        assert "fails" not in {problem["name"] for problem in problems}
        assert "the far side is full" in " ".join(told["explanation"]["facts"])


async def test_what_is_not_there_is_a_404_that_names_what_is_meant(local: ApiSite) -> None:
    async with local.api() as api:
        for path in ("schedules/tik/run", "schedules/tik/pause", "tasks/tik/enqueue"):
            told = await api.refused("POST", path, 404)
            assert "did you mean 'tick'?" in told["detail"]
        told = await api.refused("GET", "schedules/tik", 404)
        assert "did you mean 'tick'?" in told["detail"]
        for path in ("jobs/nope", "jobs/nope/payload", "jobs/no%00pe"):
            await api.refused("GET", path, 404)
        await api.refused("POST", "jobs/nope/cancel", 404)
        answer = await api.http.get("/api/v1/schedules/tick/run")
        assert (answer.status_code, answer.json()["detail"]) == (405, "expected POST, got GET")


# --- jobs


async def test_a_job_is_enqueued_once_by_its_id_and_tells_its_life(site: ApiSite) -> None:
    async with site.api() as api:
        said = {"params": {"order_id": 7}, "id": "order/7:invoice"}
        assert await api.post("tasks/send_invoice/enqueue", said, status=201) == {
            "id": "order/7:invoice",
            "created": True,
        }
        again = await api.post("tasks/send_invoice/enqueue", said)
        assert again == {"id": "order/7:invoice", "created": False}
        said["params"] = {"order_id": 8}
        other = await api.refused("POST", "tasks/send_invoice/enqueue", 409, json=said)
        assert "exists already: its parameters differ (order_id)" in other["detail"]
        assert other["id"] == "order/7:invoice"
        path = "jobs/order%2F7:invoice"
        job = (await api.http.get(f"/api/v1/{path}")).json()
        while job["state"] != "SUCCESS":
            job = (await api.http.get(f"/api/v1/{path}")).json()
        assert [moment["what"] for moment in job["timeline"]] == ["created", "started", "finished"]
        at = [datetime.fromisoformat(moment["at"]) for moment in job["timeline"]]
        assert at == sorted(at)
        assert "params" not in job
        assert "result" not in job
        payload = (await api.http.get(f"/api/v1/{path}/payload")).json()
        assert payload["params"] == {"order_id": 7, "kind": "mail", "lines": []}
        assert payload["result"] == {"sent": 7, "by": "mail"}
        assert payload["params_bytes"] == len(json.dumps(payload["params"], separators=(",", ":")))


async def test_parameters_that_do_not_fit_are_a_422_that_says_where(local: ApiSite) -> None:
    async with local.api() as api:
        said = {"params": {"order_id": "s3cret", "lines": ["a", 5]}}
        told = await api.refused("POST", "tasks/send_invoice/enqueue", 422, json=said)
        assert [error["loc"] for error in told["errors"]] == [["order_id"], ["lines", 1]]
        assert "s3cret" not in json.dumps(told)
        unfit: list[dict[str, Any]] = [
            {"params": []},
            {"priority": 1000},
            {"delay": "soon"},
            {"id": "no spaces here"},
            {"retries": 3},
            {"max_retries": -1},
        ]
        for wrong in unfit:
            await api.refused("POST", "tasks/ping/enqueue", 422, json=wrong)
        await api.refused("POST", "tasks/ping/enqueue", 400, content=b"{no json")
        await api.refused("POST", "tasks/tick/enqueue", 422)  # which has no queue
        assert (await api.get("jobs"))["jobs"] == []


async def test_options_of_a_job_hold(local: ApiSite) -> None:
    async with local.api() as api:
        said = {"delay": "1h", "priority": 7, "max_retries": 2}
        job = (await api.post("tasks/ping/enqueue", said, status=201))["id"]
        told = await api.get(f"jobs/{job}")
        assert (told["state"], told["priority"]) == ("PENDING", 7)
        assert told["options"] == {"max_retries": 2}
        assert [moment["what"] for moment in told["timeline"]] == ["created", "ready"]
        cancelled = await api.post(f"jobs/{job}/cancel")
        assert cancelled == {"id": job, "what": "done"}
        assert await api.post(f"jobs/{job}/cancel") == {"id": job, "what": "not_now"}
        assert await api.post(f"jobs/{job}/drop") == {"id": job, "what": "done"}
        await api.refused("GET", f"jobs/{job}", 404)


async def test_a_job_that_runs_tells_how_far_it_is_and_can_be_cancelled(site: ApiSite) -> None:
    async with site.api() as api:
        job = (await api.post("tasks/works/enqueue", status=201))["id"]
        told = await api.until(
            "running",
            lambda told: any(run["progress"] for run in told["running"]),
            "it has told its progress",
        )
        (run,) = [run for run in told["running"] if run["id"] == job]
        assert run["progress"] == {"percent": 50, "note": "half of it"}
        assert (run["task"], run["attempt"], run["cancel"]) == ("works", 1, False)
        assert await api.post(f"jobs/{job}/cancel") == {"id": job, "what": "asked"}
        ended = await api.until(
            f"jobs/{job}", lambda told: told["finished_at"] is not None, "it has ended"
        )
        assert ended["state"] in ("REVOKED", "SUCCESS")


async def test_pages_of_jobs_hold_each_of_them_once(site: ApiSite) -> None:
    """Even if many were created at the same moment."""
    ids = [f"job-{number:02}" for number in range(23)]
    async with site.engine() as jobs:
        await Clerk(jobs).die(ids)
    async with site.api() as api:
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 5, "dead": True}
        while True:
            page = await api.get("jobs", **query)
            seen += [job["id"] for job in page["jobs"]]
            if page["next"] is None:
                break
            query["before"] = page["next"]
        assert sorted(seen) == ids
        assert len(seen) == len(ids)
        found = await api.get("jobs", state=["PENDING", "RETRY"], queue="default")
        assert found == {"jobs": [], "next": None}
        unfit = [{"before": "soon"}, {"limit": "1000"}, {"state": "LOST"}, {"stat": "RETRY"}]
        for wrong in unfit:
            await api.refused("GET", "jobs", 422, params=wrong)


# --- dead letters in bulk


@pytest.mark.parametrize("act", ["retry", "drop"])
async def test_just_those_dead_letters_are_changed_that_were_counted(
    site: ApiSite, act: str
) -> None:
    (site.folder / "mail.toml").write_text("[mail]\n")
    file = {"WORKER_QUEUES_FILE": "mail.toml"}
    async with site.engine() as jobs, site.api("--queues mail", **file) as api:
        clerk = Clerk(jobs)
        late = await clerk.runs("late", "fails")  # created before the count, and dead after it
        await clerk.die([f"old-{number}" for number in range(5)])
        await clerk.dies("other", "ping")
        counted = await api.post(f"dead/{act}", {"task": "fails", "dry_run": True})
        assert counted["count"] == 5
        await jobs.settle([dead(late)])
        await clerk.dies("new")
        said = {"task": "fails", "before": counted["before"]}
        done = await api.post(f"dead/{act}", said)
        assert (done["done"], done["left"], done["more"]) == (5, 0, False)
        left = {job["id"] for job in (await api.get("jobs", dead=True))["jobs"]}
        assert left == {"late", "new", "other"}
        told = await api.http.get("/api/v1/jobs/old-3")
        assert told.json().get("state") == {"retry": "PENDING", "drop": None}[act]


@pytest.mark.parametrize(("setting", "value"), [("LONGEST_S", 0.0), ("MOST_AT_ONCE", 2)])
async def test_many_dead_letters_are_changed_in_several_calls(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: float
) -> None:
    monkeypatch.setattr(jobs_module, setting, value)
    monkeypatch.setattr(jobs_module, "BATCH", 2)
    async with asked(MemoryJobs()) as (facts, _):
        jobs = await facts.worker.client.engine()
        await jobs.open()
        await Clerk(jobs).die([f"old-{number}" for number in range(5)])
        calls: list[BulkAnswer] = []
        while not calls or calls[-1].more:
            calls.append(await facts.jobs.bulk(Act.DROP, Bulk(before=datetime.now(UTC))))
        assert sum(call.done or 0 for call in calls) == 5
        assert len(calls) >= 3


async def test_dead_letters_that_nobody_counted_stay(local: ApiSite) -> None:
    async with local.engine() as jobs:
        await Clerk(jobs).die(["a", "b", "c"])
    async with local.api() as api:
        told = await api.refused("POST", "dead/drop", 422, json={})
        assert "dry_run" in told["detail"]
        counted = await api.post("dead/drop", {"ids": ["a", "b", "nope"], "dry_run": True})
        assert counted["count"] == 2
        done = await api.post("dead/drop", {"ids": ["a", "b", "nope"]})
        assert (done["done"], done["left"]) == (2, 1)
        assert [job["id"] for job in (await api.get("jobs", dead=True))["jobs"]] == ["c"]


async def test_who_may_only_look_changes_nothing(local: ApiSite) -> None:
    async with local.api() as api:
        reader = {"Authorization": f"Bearer {READ}"}
        for path in ("schedules/tick/pause", "tasks/ping/enqueue", "dead/drop"):
            await api.refused("POST", path, 403, headers=reader)
        for look in LOOKS:
            answer = await api.http.get(f"/api/v1/{look}", headers=reader)
            assert answer.status_code == 200
