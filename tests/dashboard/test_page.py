"""How the page behaves, whatever the worker says: over facts that hold still."""

from __future__ import annotations

import copy
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.dashboard.looking import VIEWS
from tests.dashboard.still import still_worker
from worker.ledger.book import Outcome

if TYPE_CHECKING:
    from tests.dashboard.looking import Look, Looking
    from tests.dashboard.still import StillWorker

pytestmark = pytest.mark.asyncio(loop_scope="session")

STALE = "document.body.dataset.stale"


async def test_the_banner_says_what_is_wrong_and_leads_there(looking: Looking) -> None:
    places = {
        "process_pending_orders fails": "#/schedules/process_pending_orders",
        "sync_external_data is stale": "#/schedules/sync_external_data",
        "3 dead letters": "#/dead?queue=billing",
    }
    async with still_worker() as worker, looking(worker.url) as look:
        banner = look.page.locator("#banner")
        await expect(banner).to_contain_text("3 things need a look")
        await expect(banner).to_contain_text("2 runs in a row have failed")
        for what, place in places.items():
            await look.go("")
            await banner.get_by_role("link", name=what).click()
            assert look.page.url.endswith(place)
        await expect(look.page).to_have_title("(3) Dead letters · worker")
        worker.state["overview"] |= {"status": "ok", "problems": []}
        await worker.tell()
        await expect(banner).to_contain_text("All is well")
        await expect(look.page.locator("#announce")).to_have_text("All is well again")


async def test_what_is_wrong_is_announced_when_it_changes_and_not_with_every_word(
    looking: Looking,
) -> None:
    async with still_worker() as worker, looking(worker.url) as look:
        announced = look.page.locator("#announce")
        await expect(announced).to_contain_text("3 dead letters")
        problems = worker.state["overview"]["problems"]
        problems[2]["what"] = "4 dead letters"
        await worker.tell()
        await expect(look.page.locator("#banner")).to_contain_text("4 dead letters")
        await expect(announced).to_contain_text("3 dead letters")
        problems.append(problems[1] | {"name": "cleanup_old_orders", "what": "cleanup is stale"})
        await worker.tell()
        await expect(announced).to_contain_text("cleanup is stale")


async def test_live_data_takes_neither_focus_nor_selection_nor_place(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url, "schedules", height=500) as look:
        button = look.button("Pause sync_external_data")
        await button.focus()
        await look.page.evaluate("window.held = document.activeElement; window.scrollBy(0, 40)")
        await select(look, ".schedules .note")
        place = await look.page.evaluate("window.held.getBoundingClientRect().top")
        state = worker.state["schedules"]
        state[3] |= {"failures": 7, "standing": "failing"}
        state[0]["strip"][-1]["outcome"] = "failed"
        await worker.tell()
        await expect(look.row("sync_external_data")).to_contain_text("failing")
        assert await look.page.evaluate("document.activeElement === window.held")
        assert "until noon" in await look.page.evaluate("getSelection().toString()")
        assert await look.page.evaluate("window.held.getBoundingClientRect().top") == place
        worker.state["schedules"] = [state[3], *state[:2]]
        await worker.tell()
        await expect(look.row("send_reminders")).to_have_count(0)
        assert await look.page.evaluate("document.activeElement === window.held")


async def select(look: Look, what: str) -> None:
    await look.page.evaluate(
        "(what) => getSelection().selectAllChildren(document.querySelector(what))",
        f"{what}:not([hidden])",
    )


async def test_a_paused_view_stands_still_and_goes_on_with_what_is_new(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url, "queues") as look:
        waiting = look.page.get_by_label("waiting in billing")
        await look.page.locator("#live").click()
        await expect(look.page.locator("#lost")).to_contain_text("The live view is paused")
        assert await look.page.evaluate(STALE) == "paused"
        worker.state["queues"][0]["waiting"] = 9
        await worker.tell()
        await look.settled()
        await expect(waiting).to_have_text("128")
        await look.button("Go on").click()
        await expect(waiting).to_have_text("9")
        await expect(look.page.locator("#lost")).to_be_hidden()


async def test_a_lost_connection_is_seen_and_mended(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url, "schedules") as look:
        await hang_up(worker)
        await expect(look.page.locator("#lost")).to_contain_text("The worker does not answer")
        await expect(look.page.locator("#lost")).to_contain_text("What you see is of")
        assert await look.page.evaluate(STALE) == "lost"
        opacity = "Number(getComputedStyle(document.querySelector('#view')).opacity)"
        assert await look.page.evaluate(opacity) < 1
        worker.down = False
        await look.button("Try now").click()
        await expect(look.page.locator("#live")).to_have_attribute("data-is", "live")
        assert await look.page.evaluate(STALE) is None
        look.complaints = [one for one in look.complaints if "503" not in one]


async def hang_up(worker: StillWorker) -> None:
    worker.down = True
    await worker.tell()


async def test_a_part_that_cannot_be_asked_stays_as_it_was(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url, "schedules") as look:
        known = copy.deepcopy(worker.state)
        await fall_silent(worker)
        await expect(look.page.locator("#banner")).to_contain_text("the store cannot be used")
        for view, part in (
            ("schedules", "schedules"),
            ("queues", "queues"),
            ("running", "running"),
        ):
            await look.go(view)
            await expect(look.page.locator("tbody tr")).to_have_count(len(known[part]))
            age = look.page.locator("#view .age")
            await expect(age).to_contain_text("does not answer. What you see is of")
            await expect(look.page.locator("#view [data-old]")).to_be_visible()
        await look.go("")
        await expect(look.page.locator("#view [data-old]")).to_have_count(3)
        worker.state = known
        await worker.tell()
        await expect(look.page.locator("#view [data-old]")).to_have_count(0)
        await expect(age.first).to_be_hidden()


ZERO = re.compile("^0 ")
NOT_KNOWN = {
    "overview": 3,
    "schedules": 1,
    "running": 1,
    "queues": 1,
    "jobs": 1,
    "dead": 1,
}


async def test_what_was_never_known_is_not_shown_as_nothing(looking: Looking) -> None:
    async with still_worker() as worker:
        await fall_silent(worker)
        for view, parts in NOT_KNOWN.items():
            async with looking(worker.url, VIEWS[view]) as look:
                unknown = look.page.locator("#view").get_by_text("Not known: ")
                await expect(unknown.locator("visible=true")).to_have_count(parts)
                for nothing in (ZERO, "No task has", "Nothing runs", "No dead", "No job"):
                    shown = look.page.locator("#view").get_by_text(nothing)
                    await expect(shown.locator("visible=true")).to_have_count(0)
                for bulk in ("Retry all", "Drop all"):
                    await expect(look.button(bulk)).to_have_count(0)
                look.complaints = [one for one in look.complaints if "503" not in one]


@pytest.mark.parametrize("view", ["schedule", "job"])
async def test_one_that_was_never_known_is_shown_once_it_can_be_asked(
    looking: Looking, view: str
) -> None:
    async with still_worker() as worker:
        known = copy.deepcopy(worker.state)
        await fall_silent(worker)
        async with looking(worker.url, VIEWS[view]) as look:
            await expect(look.page.locator("#view section > .empty")).to_have_text("disk I/O error")
            await expect(look.page.locator("#view .detail")).to_be_hidden()
            await expect(look.page.locator("#view .actions button:visible")).to_have_count(0)
            worker.state, worker.silent = known, False
            await worker.tell()
            await expect(look.page.locator("#view .detail")).to_be_visible()
            await expect(look.page.locator("#view section > .empty")).to_be_hidden()
            look.complaints = [one for one in look.complaints if "503" not in one]


async def fall_silent(worker: StillWorker) -> None:
    worker.silent = True
    worker.state = copy.deepcopy(worker.state)
    worker.state |= {"schedules": None, "queues": None, "running": None}
    worker.state["overview"]["problems"] = [
        {"severity": "critical", "what": "the store cannot be used", "why": "disk I/O error",
         "kind": "store", "name": "store"},
    ]  # fmt: skip
    await worker.tell()


async def test_the_banner_counts_its_rows_and_says_how_many_it_has_no_room_for(
    looking: Looking,
) -> None:
    async with still_worker() as worker, looking(worker.url) as look:
        banner = look.page.locator("#banner")
        problems = worker.state["overview"]["problems"]
        problems.append(problems[0] | {"severity": "info", "what": "send_reminders is paused"})
        await worker.tell()
        await expect(banner).to_contain_text("3 things need a look, 1 to know")
        await expect(banner.locator("li:visible")).to_have_count(4)
        await look.go("jobs")
        await expect(banner.locator("li:visible")).to_have_count(3)
        await expect(banner.get_by_role("link", name="+1 more")).to_be_visible()
        del problems[:3]
        await worker.tell()
        await expect(banner.locator(".line")).to_have_text("All is well, 1 thing to know")
        await expect(banner.locator(".others")).to_be_hidden()


async def test_the_attempt_in_course_is_the_same_number_everywhere(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url, "running") as look:
        attempt = look.row("job-run").locator("[data-label=Attempt]")
        await expect(attempt).to_have_text("1")
        await look.go("jobs")
        running = look.row("job-1").first.locator("[data-label=Attempts]")
        await expect(running).to_have_text("1")


async def test_a_slot_that_has_just_come_is_due_now(looking: Looking) -> None:
    async with still_worker() as worker:
        now = datetime.fromisoformat(worker.state["overview"]["now"])
        for one, late_s in zip(worker.state["schedules"], (1, 400), strict=False):
            one["due"] = (now - timedelta(seconds=late_s)).isoformat()
        async with looking(worker.url, "schedules") as look:
            due = look.page.locator("[data-shows=due]")
            await expect(due.nth(0)).to_have_text("now")
            await expect(due.nth(1)).to_have_text(re.compile("^due . min ago$"))


async def test_the_keyboard_alone_is_enough(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url) as look:
        keys = look.page.keyboard
        await keys.press("Tab")
        await expect(look.page.locator("#skip")).to_be_focused()
        await keys.press("Enter")
        await expect(look.page.locator("#main")).to_be_focused()
        for key, title in {
            "s": "Schedules",
            "q": "Queues",
            "j": "Jobs",
            "d": "Dead letters",
        }.items():
            await keys.press("g")
            await keys.press(key)
            await expect(look.page.locator("h1")).to_have_text(title)
            await expect(look.page.locator("h1")).to_be_focused()
        await keys.press("/")
        await expect(look.page.get_by_label("Task")).to_be_focused()
        await look.go("schedules")
        assert await walk(look) >= 4 * 3
        await look.button("Pause cleanup_old_orders").focus()
        await keys.press("Enter")
        await expect(look.page.get_by_label("Why?")).to_be_focused()
        await keys.press("Escape")
        await expect(look.button("Pause cleanup_old_orders")).to_be_focused()


async def walk(look: Look) -> int:
    """Go through all that can be reached by Tab; how much of the view that was. Each is marked."""
    reached = 0
    await look.page.locator("#main").focus()
    while True:
        await look.page.keyboard.press("Tab")
        inside, marked, name = await look.page.evaluate(
            """() => {
                const one = document.activeElement, style = getComputedStyle(one);
                return [
                    document.querySelector("#view").contains(one),
                    style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
                    one.outerHTML,
                ];
            }"""
        )
        if not inside and reached:
            return reached
        assert marked, name
        reached += inside


async def test_shortcuts_are_told_and_can_be_turned_off(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url) as look:
        keys, theme = look.page.keyboard, "document.documentElement.dataset.theme"
        await keys.press("t")
        assert await look.page.evaluate(theme) == "dark"
        await look.page.reload()
        assert await look.page.evaluate(theme) == "dark"
        await keys.press("p")
        await expect(look.page.locator("#live")).to_have_attribute("data-is", "paused")
        await keys.press("p")
        await keys.press("?")
        await expect(look.page.locator("dialog h2")).to_have_text("Keyboard shortcuts")
        await look.page.get_by_label("Use single-key shortcuts").uncheck()
        await keys.press("Escape")
        await keys.press("t")
        assert await look.page.evaluate(theme) == "dark"


async def test_on_a_phone_nothing_is_wider_than_the_screen_and_all_can_be_hit(
    looking: Looking,
) -> None:
    async with still_worker() as worker, looking(worker.url, width=360, height=740) as look:
        for name, at in VIEWS.items():
            await look.go(at)
            await expect(look.page.locator("#view h1")).to_be_attached()
            assert await look.overflow() == 0, name
            assert await small_targets(look) == [], name
            for width in (760, 901, 1100):
                await look.page.set_viewport_size({"width": width, "height": 740})
                assert await look.overflow() == 0, (name, width)
            await look.page.set_viewport_size({"width": 360, "height": 740})


async def small_targets(look: Look) -> list[str]:
    """What is too small to hit, but for links in a text."""
    found: list[str] = await look.page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, nav a, .button")]
            .filter((one) => one.checkVisibility())
            .filter((one) => {
                const box = (one.closest("label") ?? one).getBoundingClientRect();
                return box.width < 24 || box.height < 24;
            })
            .map((one) => one.outerHTML)"""
    )
    return found


async def test_a_session_that_has_ended_leads_to_the_sign_in(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url) as look:
        await look.page.context.clear_cookies()
        await look.page.locator("#live").click()
        await look.page.locator("#live").click()
        await expect(look.page.get_by_label("Token")).to_be_visible()
        look.complaints = [one for one in look.complaints if "401" not in one]


async def test_an_address_that_leads_nowhere_says_so(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url) as look:
        for place in ("nowhere", "constructor", "__proto__/x"):
            await look.page.goto(f"{worker.url}/#/{place}")
            await expect(look.page.locator("#view h1")).to_have_text("Nothing is here")
            await expect(look.page.locator("#view")).to_contain_text(f"#/{place}")
            await expect(look.page.locator("nav [aria-current=page]")).to_have_count(0)
        await look.page.goto(f"{worker.url}/#/jobs/%E0%A4%A")
        await expect(look.page.locator("#view h1")).to_be_attached()


@pytest.mark.parametrize(("at", "head"), [("jobs", "No such job"), ("schedules", "No such task")])
async def test_the_page_of_what_is_not_there_offers_nothing(
    looking: Looking, at: str, head: str
) -> None:
    async with still_worker() as worker, looking(worker.url) as look:
        await look.go(f"{at}/nothing")
        await expect(look.page.locator("#view h1")).to_have_text(head)
        await expect(look.page.locator("#view")).to_contain_text("nothing is known of it")
        for what in (".title .badge", ".title button", ".title .button"):
            await expect(look.page.locator(f"#view {what}:visible")).to_have_count(0)
        look.complaints = [one for one in look.complaints if "404" not in one]


async def test_a_task_on_demand_is_asked_for_with_parameters_and_shows_its_jobs(
    looking: Looking,
) -> None:
    async with still_worker() as worker, looking(worker.url, "schedules/send_invoice") as look:
        await expect(look.page.locator(".title .badge")).to_have_text("on demand")
        await expect(look.page.get_by_role("button", name="Run now")).to_have_count(0)
        ask = look.page.get_by_role("link", name="Enqueue with parameters")
        await expect(ask).to_have_attribute("href", "#/enqueue/send_invoice")
        for slots in ("Last 50 slots", "History", "Said by", "Next slots"):
            await expect(look.page.get_by_text(slots, exact=True)).to_be_hidden()
        await expect(look.row("job-2")).to_contain_text("pending")
        jobs = look.page.get_by_role("link", name="All of them")
        await expect(jobs).to_have_attribute("href", "#/jobs?task=send_invoice")
        await look.go("schedules")
        await expect(look.button("Run now: cleanup_old_orders")).to_be_visible()
        await expect(look.button("Run now: send_invoice")).to_have_count(0)


async def test_a_long_history_is_shown_in_part_until_all_is_asked_for(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url) as look:
        worker.history = 200
        await look.go("schedules/process_pending_orders")
        rows = look.page.get_by_role("table", name="History").locator("tbody tr")
        await expect(rows).to_have_count(25)
        await look.button("Show all 200").click()
        await expect(rows).to_have_count(200)
        await expect(look.button("Show all 200")).to_have_count(0)


async def test_the_legend_has_an_entry_for_every_kind_of_bar(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url, "schedules") as look:
        entries = await look.page.locator(".legend li").all_inner_texts()
        drawn = await look.page.evaluate(
            "[...document.querySelectorAll('.legend [data-outcome]')].map((one) => "
            "[one.dataset.outcome, one.getBBox().height, one.outerHTML])"
        )
        assert sorted(name for name, _, _ in drawn) == sorted(OUTCOMES)
        assert len(entries) == len(set(entries)) == len(OUTCOMES)
        assert all(height > 0 for _, height, _ in drawn)


OUTCOMES = {outcome.value for outcome in Outcome}


async def test_a_sign_in_leads_to_the_view_that_was_wanted(looking: Looking) -> None:
    wanted = "#/jobs?state=FAILURE"
    async with still_worker() as worker, looking(worker.url) as look:
        await look.page.context.clear_cookies()
        await look.page.goto(f"{worker.url}/?shared{wanted}")
        for token in ("wrong", "wrong again", "full"):
            await look.page.get_by_label("Token").fill(token)
            await look.page.keyboard.press("Enter")
            said = "This is no token" if token != "full" else "Enqueue a job"
            await expect(look.page.locator("body")).to_contain_text(said)
        await expect(look.page.get_by_label("failure")).to_be_checked()
        assert look.page.url == f"{worker.url}/?shared{wanted}"
        look.complaints = [one for one in look.complaints if "401" not in one]


async def test_a_session_that_has_ended_goes_on_where_it_was_in_whatever_tab(
    looking: Looking,
) -> None:
    async with still_worker() as worker, looking(worker.url, "jobs?state=FAILURE") as look:
        context = look.page.context
        await context.clear_cookies()
        await hang_up(worker)  # the page asks again, and is not known any more
        await expect(look.page.get_by_label("Token")).to_be_visible()
        worker.down = False
        # As a link from the terminal does it: another tab, and an address without a view.
        await context.request.post(f"{worker.url}/session", data={"token": "full"})
        other = await context.new_page()
        await other.goto(worker.url)
        await expect(other.get_by_label("failure")).to_be_checked()
        await other.goto(f"{worker.url}/?again")
        await expect(other.locator("#view h1")).to_have_text("Overview")
        look.complaints = [one for one in look.complaints if "401" not in one]
