"""Nothing moves away from under a hand, and nothing that is old passes for new."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from tests.dashboard import sample
from tests.dashboard.still import still_worker

if TYPE_CHECKING:
    from tests.dashboard.looking import Look, Looking

pytestmark = pytest.mark.asyncio(loop_scope="session")

LETTERS = "tbody tr:not([data-gone])"


def letter(number: int, died: float) -> dict[str, Any]:
    return sample.job(
        number, state="FAILURE", dead=True, error=sample.ERROR, finished_at=sample.ago(died)
    )


async def test_dead_letters_hold_still_while_the_pointer_is_among_them(looking: Looking) -> None:
    async with still_worker() as worker:
        worker.letters = [letter(1, 30), letter(2, 20)]
        async with looking(worker.url, "dead") as look:
            assert await ids(look) == ["job-2", "job-1"], "what died last stands first"
            drop = look.button("Drop job-1")
            await drop.hover()
            place = await drop.bounding_box()
            worker.letters = [letter(1, 30), letter(3, 2), letter(4, 1)]
            await worker.tell()
            await expect(look.page.locator(".news")).to_contain_text("2 new")
            assert await drop.bounding_box() == place
            await expect(look.row("job-2")).to_contain_text("not here any more")
            await expect(look.button("Drop job-2")).to_have_count(0)
            await look.page.locator(".news").get_by_role("button", name="Show").click()
            await expect(look.page.locator(LETTERS)).to_have_count(3)
            assert await ids(look) == ["job-4", "job-3", "job-1"]
            await expect(look.page.locator(".news")).to_be_hidden()


async def test_dead_letters_hold_still_while_the_focus_is_among_them(looking: Looking) -> None:
    async with still_worker() as worker:
        worker.letters = [letter(1, 30)]
        async with looking(worker.url, "dead") as look:
            await look.button("Retry job-1").focus()
            worker.letters = [letter(1, 30), letter(3, 2)]
            await worker.tell()
            await expect(look.page.locator(".news")).to_contain_text("1 new")
            await expect(look.button("Retry job-1")).to_be_focused()
            await look.page.locator("#main").focus()
            await worker.tell()
            await expect(look.page.locator(LETTERS)).to_have_count(2)


async def ids(look: Look) -> list[str]:
    return await look.page.locator("tbody th .mono").all_inner_texts()


async def test_a_dialog_names_the_task_and_its_error(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url, "dead") as look:
        dialog = look.page.locator("dialog")
        for open_it in (look.button("Drop job-1"), look.button("Drop")):
            await open_it.click()
            await expect(dialog.locator("h2")).to_have_text("Drop send_invoice?")
            await expect(dialog).to_contain_text("InvalidParams: order_id")
            await look.confirm("Not now")
            await look.go("jobs/job-4")
        await look.go("running")
        await look.button("Cancel resize job-run").click()
        await expect(dialog.locator("h2")).to_have_text("Cancel resize?")
        await look.confirm("Not now")


async def test_in_a_paused_view_no_time_goes_on(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url, "schedules") as look:
        worker.state["overview"] |= {"status": "ok", "problems": []}
        await worker.tell()
        await expect(look.page.locator("#banner .line")).to_have_text("All is well")
        await look.page.locator("#live").click()
        await expect(look.page.locator("#banner .line")).to_contain_text("All was well at ")
        told = "[...document.querySelectorAll('#view time')].map((one) => one.textContent).join()"
        shown = await look.page.evaluate(told)
        # An hour later, by the page's own clock.
        await look.page.evaluate(
            "(() => { const now = Date.now; Date.now = () => now() + 3600000; })()"
        )
        await look.page.evaluate("import('/page/format.js').then(({ tick }) => tick())")
        assert await look.page.evaluate(told) == shown
        await look.page.locator("#live").click()
        await expect(look.page.locator("#banner .line")).to_have_text("All is well")


async def test_what_is_over_stays_listed_for_a_while_and_moves_nothing(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url) as look:
        banner = look.page.locator("#banner")
        top = "document.querySelector('.overview h2').getBoundingClientRect().top"
        await expect(banner.locator("li")).to_have_count(3)
        before, problems = await look.page.evaluate(top), worker.state["overview"]["problems"]
        gone = copy.deepcopy(problems[1])
        del problems[1]
        await worker.tell()
        await expect(banner).to_contain_text(f"Over: {gone['what']}")
        await expect(banner.locator(".line")).to_have_text("2 things need a look")
        assert await look.page.evaluate(top) == before
        problems.insert(1, gone)
        await worker.tell()
        await expect(banner).not_to_contain_text("Over: ")
        assert await look.page.evaluate(top) == before
        del problems[1]
        await worker.tell()
        await expect(banner).to_contain_text("Over: ")
        await look.page.evaluate(
            "(() => { const now = Date.now; Date.now = () => now() + 3600000; })()"
        )
        await expect(banner.locator("li")).to_have_count(2)


async def test_what_went_wrong_has_its_sign_when_the_worker_is_gone(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url, "schedules") as look:
        await expect(look.page.locator("#i-bad")).to_be_attached()
        await look.page.context.route("**/*", lambda route: route.abort())
        await look.button("Run now: cleanup_old_orders").click()
        toast = look.page.locator(".toast")
        await expect(toast).to_contain_text("the worker does not answer")
        drawn = "(one) => one.getBBox().width"
        assert await toast.locator(".icon").evaluate(drawn) > 5
        look.complaints = [one for one in look.complaints if "ERR_FAILED" not in one]


async def test_a_message_covers_no_button_of_the_view(looking: Looking) -> None:
    async with still_worker() as worker:
        for width in (1280, 1000, 360):
            async with looking(worker.url, "schedules", width=width) as look:
                await look.page.evaluate(
                    "import('/page/dialogs.js').then(({ say }) => say('It will run', 'ok'))"
                )
                await expect(look.page.locator(".toast")).to_be_visible()
                assert await covered(look) == [], width


async def covered(look: Look) -> list[str]:
    """What can be pressed in the view and the foot, and lies under a message."""
    found: list[str] = await look.page.evaluate(
        """() => {
            const over = document.querySelector(".toast").getBoundingClientRect();
            const pressed = "header :is(a, button), main :is(button, input), footer a";
            return [...document.querySelectorAll(pressed)]
                .filter((one) => one.checkVisibility() && !one.closest(".toast"))
                .filter((one) => {
                    const box = one.getBoundingClientRect();
                    return box.left < over.right && box.right > over.left
                        && box.top < over.bottom && box.bottom > over.top;
                })
                .map((one) => one.outerHTML);
        }"""
    )
    return found
