"""Each action of the page, on a worker that is a process of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

if TYPE_CHECKING:
    from tests.dashboard.looking import Look, Looking
    from tests.dashboard.real import RealWorker

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_run_now_runs_a_task_that_is_not_due(looking: Looking, worker: RealWorker) -> None:
    async with looking(worker.url, "schedules", token=worker.full) as look:
        runs = await outcomes(worker, "at_hand")
        await look.button("Run now: at_hand").click()
        await expect(look.page.locator(".toast")).to_contain_text("at_hand will run")
        await expect(look.row("at_hand").locator(".last-cell")).to_contain_text("ran")
        await look.page.get_by_role("link", name="at_hand", exact=True).click()
        history = look.page.get_by_role("table", name="History").locator("tbody tr")
        await expect(history.first).to_contain_text("manual")
        assert len(await outcomes(worker, "at_hand")) == len(runs) + 1


async def outcomes(worker: RealWorker, name: str) -> list[str]:
    told = await worker.ask("GET", f"/api/v1/schedules/{name}")
    return [entry["outcome"] for entry in told["history"]]


async def test_a_pause_keeps_its_note_and_ends_with_resume(
    looking: Looking, worker: RealWorker
) -> None:
    note = "<script>alert(1)</script> until noon"
    async with looking(worker.url, "schedules", token=worker.full) as look:
        row = look.row("holdable")
        await look.button("Pause holdable").click()
        await look.page.get_by_label("Why?").fill(note)
        await look.confirm("Pause")
        await expect(row.locator(".badge").first).to_have_text("paused")
        await expect(row).to_contain_text(note)
        await expect(row.locator(".next-cell")).to_contain_text("paused")
        # The button that opened the dialog has the focus again, and is its own opposite now.
        resume = look.button("Resume holdable")
        await expect(resume).to_be_focused()
        await look.go("schedules/holdable")
        await expect(look.page.locator("main")).to_contain_text(note)
        await expect(look.page.locator(".verdict")).to_contain_text("is paused since")
        await look.button("Resume holdable").click()
        await expect(look.page.locator(".title .badge")).not_to_have_text("paused")


async def test_what_was_done_is_shown_at_once_even_if_the_view_is_paused(
    looking: Looking, worker: RealWorker
) -> None:
    async with looking(worker.url, "schedules", token=worker.full) as look:
        await look.page.locator("#live").click()
        await look.button("Pause holdable").click()
        await look.confirm("Pause")
        await expect(look.row("holdable").locator(".badge").first).to_have_text("paused")
        await look.button("Resume holdable").click()
        await expect(look.button("Pause holdable")).to_be_visible()
        await expect(look.row("holdable").locator(".badge").first).not_to_have_text("paused")


async def test_a_job_that_runs_shows_how_far_it_is_and_can_be_cancelled(
    looking: Looking, worker: RealWorker
) -> None:
    job = await worker.enqueue("slow")
    async with looking(worker.url, "running", token=worker.full) as look:
        row = look.row(job)
        await expect(row.locator("progress")).to_have_attribute("value", "40")
        await look.button(f"Cancel slow {job}").click()
        await look.confirm("Not now")
        await look.button(f"Cancel slow {job}").click()
        await look.confirm("Cancel the job")
        await expect(row).to_have_count(0)
        await look.go(f"jobs/{job}")
        await expect(look.page.locator(".title .badge")).to_have_text("revoked")


async def test_what_the_worker_refuses_is_shown_and_what_it_takes_can_be_opened(
    looking: Looking, worker: RealWorker
) -> None:
    async with looking(worker.url, "enqueue/add", token=worker.full) as look:
        params = look.page.get_by_label("Parameters")
        await expect(params).to_have_value(re.compile('"a": 0'))
        await params.fill('{"a": "one"}')
        await look.button("Enqueue").click()
        error = look.page.locator("#view [role=alert]")
        await expect(error).to_contain_text("a")
        await expect(params).to_have_attribute("aria-invalid", "true")
        await params.fill('{"a": 1')
        await look.button("Enqueue").click()
        await expect(error).to_contain_text("no JSON")
        await params.fill('{"a": 40, "b": 2}')
        await look.button("Enqueue").click()
        await look.page.get_by_role("link", name="Open it").click()
        await expect(look.page.locator(".title .badge")).to_have_text("success")
        assert "/#/jobs/" in look.page.url
        # The refusal is an answer like any other; the browser tells of it nonetheless.
        look.complaints = [one for one in look.complaints if "422" not in one]


async def test_the_field_that_does_not_fit_is_the_one_that_is_marked(
    looking: Looking, worker: RealWorker
) -> None:
    async with looking(worker.url, "enqueue/add", token=worker.full) as look:
        params = look.page.get_by_label("Parameters")
        await expect(params).to_have_value(re.compile('"a": 0'))
        for label, wrong in {"Delay": "soon", "Priority": "1.5", "Id": "no spaces"}.items():
            field = look.page.get_by_label(label)
            await field.fill(wrong)
            await look.button("Enqueue").click()
            await expect(field).to_have_attribute("aria-invalid", "true")
            await expect(field).to_be_focused()
            await expect(look.page.locator("[aria-invalid=true]")).to_have_count(1)
            await expect(look.page.locator("#fault")).to_contain_text(label.lower())
            await field.fill("")
        look.complaints = [one for one in look.complaints if "422" not in one]


async def test_one_job_says_nothing_of_the_next_and_one_that_is_there_stays_as_it_is(
    looking: Looking, worker: RealWorker
) -> None:
    async with looking(worker.url, "enqueue/add", token=worker.full) as look:
        fields = {"Id": "once", "Delay": "1h", "Priority": "7"}
        for label, said in fields.items():
            await look.page.get_by_label(label).fill(said)
        await look.button("Enqueue").click()
        await expect(look.page.locator(".toast")).to_contain_text("add is enqueued")
        for label in fields:
            await expect(look.page.get_by_label(label)).to_have_value("")
        await look.page.get_by_label("Id").fill("once")
        await look.button("Enqueue").click()
        fault = look.page.locator("#fault")
        await expect(fault).to_contain_text("what stands here was not taken")
        await expect(look.page.get_by_label("Id")).to_have_attribute("aria-invalid", "true")
        await fault.get_by_role("link", name="Open it").click()
        await expect(look.page.locator(".timeline [data-ahead]")).to_contain_text("in 60 min")
        await look.button("Show them").click()
        await expect(look.page.locator(".payload")).to_contain_text("none yet")
    await worker.ask("POST", "/api/v1/jobs/once/cancel", {})


async def test_parameters_are_hidden_until_they_are_asked_for(
    looking: Looking, worker: RealWorker
) -> None:
    job = await worker.enqueue("add", a=40321, b=2)
    async with looking(worker.url, f"jobs/{job}", token=worker.full) as look:
        await expect(look.page.locator(".title .badge")).to_have_text("success")
        await expect(look.page.locator(".timeline")).to_contain_text("finished")
        assert "40321" not in await look.page.content()
        await look.button("Show them").click()
        await expect(look.page.locator(".payload")).to_contain_text('"a": 40321')
        await expect(look.page.locator(".payload")).to_contain_text("40323")
        await look.button("Hide them").click()
        await expect(look.page.locator(".payload")).to_be_hidden()


async def test_dead_letters_are_dropped_in_bulk_only_after_their_count_was_shown(
    looking: Looking, worker: RealWorker
) -> None:
    jobs = [await worker.enqueue("doomed", n=n) for n in range(3)]
    async with looking(worker.url, "dead?task=doomed", token=worker.full) as look:
        await expect(look.page.locator("tbody tr")).to_have_count(3)
        await expect(look.row(jobs[0])).to_contain_text("ValueError")
        await look.button(f"Drop {jobs[0]}").click()
        await look.confirm("Drop")
        await expect(look.page.locator("tbody tr")).to_have_count(2)
        await look.page.get_by_label(f"Choose {jobs[1]}").check()
        await expect(look.button("Drop 1")).to_be_visible()
        await look.page.get_by_label(f"Choose {jobs[1]}").uncheck()
        await look.button("Drop all …").click()
        await expect(look.page.locator("dialog h2")).to_have_text("Drop 2 dead letters?")
        await look.confirm("Not now")
        await expect(look.page.locator("tbody tr")).to_have_count(2)
        await look.button("Drop all …").click()
        await look.confirm("Drop 2 dead letters")
        await expect(look.page.locator(".toast").last).to_contain_text("Dropped 2 dead letters")
        await expect(look.page.locator("tbody tr")).to_have_count(0)


async def test_dead_letters_are_retried_one_by_one_and_in_bulk(
    looking: Looking, worker: RealWorker
) -> None:
    jobs = [await worker.enqueue("curable", n=n) for n in range(3)]
    async with looking(worker.url, "dead?task=curable", token=worker.full) as look:
        await expect(look.page.locator("tbody tr")).to_have_count(3)
        (worker.folder / "cured").touch()
        await look.button(f"Retry {jobs[0]}").click()
        await expect(look.page.locator("tbody tr")).to_have_count(2)
        await look.page.get_by_label("Choose all shown").check()
        await look.button("Retry 2").click()
        await look.confirm("Retry 2 dead letters")
        await expect(look.page.locator("tbody tr")).to_have_count(0)
        await look.go("jobs?task=curable&state=SUCCESS")
        await expect(look.page.locator("tbody tr")).to_have_count(3)


async def test_filters_stand_in_the_address(looking: Looking, worker: RealWorker) -> None:
    job = await worker.enqueue("add", a=1)
    async with looking(worker.url, "jobs", token=worker.full) as look:
        await expect(look.row(job)).to_contain_text("success")
        await look.page.get_by_label("Task").select_option("add")
        await look.page.get_by_label("failure").check(force=True)
        await expect(look.row(job)).to_have_count(0)
        assert look.page.url.endswith("#/jobs?task=add&state=FAILURE")
        await look.page.reload()
        await expect(look.page.get_by_label("failure")).to_be_checked()
        await expect(look.page.get_by_label("Task")).to_have_value("add")
        await look.page.go_back()
        await expect(look.page.get_by_label("failure")).not_to_be_checked()
        await expect(look.row(job)).to_have_count(1)
        await look.page.get_by_label("Open a job by its id").fill(job)
        await look.page.keyboard.press("Enter")
        await expect(look.page.locator("h1")).to_have_text("add")


async def test_who_may_only_read_finds_nothing_to_press(
    looking: Looking, worker: RealWorker
) -> None:
    job = await worker.enqueue("doomed", n=7)
    await worker.enqueue("slow")
    views = ["", "schedules", "schedules/holdable", "running", "queues", "jobs", "dead", "enqueue"]
    async with looking(worker.url, token=worker.read) as look:
        for at in [*views, f"jobs/{job}"]:
            await look.go(at)
            await expect(look.page.locator("#role")).to_have_text("Read only")
            await expect(look.page.locator("#view h1")).to_be_attached()
            assert await deeds(look) == [], at
        await expect(look.page.locator("h1")).to_have_text("doomed")
    await worker.ask("POST", "/api/v1/dead/drop", {"ids": [job]})


async def deeds(look: Look) -> list[str]:
    """The buttons that would change something."""
    names = await look.page.locator("#view button:visible").all_inner_texts()
    return [name for name in names if not name.startswith(("Open", "Show", "Copy id"))]


async def test_signing_out_ends_the_session_and_a_token_opens_another(
    looking: Looking, worker: RealWorker
) -> None:
    async with looking(worker.url, token=worker.full) as look:
        await look.button("Sign out").click()
        await look.page.get_by_label("Token").fill("wrong")
        await look.page.keyboard.press("Enter")
        await expect(look.page.locator("form")).to_contain_text("no token")
        await look.page.get_by_label("Token").fill(worker.full)
        await look.page.keyboard.press("Enter")
        await expect(look.page.locator("#live")).to_have_attribute("data-is", "live")
        look.complaints = [one for one in look.complaints if "401" not in one]
