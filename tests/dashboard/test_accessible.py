"""Nothing serious is found by axe-core in any view, light or dark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from tests.dashboard.looking import VIEWS
from tests.dashboard.still import still_worker

if TYPE_CHECKING:
    from tests.dashboard.looking import Look, Looking

pytestmark = pytest.mark.asyncio(loop_scope="session")

GRAVE = ("serious", "critical")
ALL: dict[str, Any] = {"resultTypes": ["violations"]}
COLOURS = ALL | {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
"""What can differ between light and dark."""


@pytest.mark.parametrize("width", [1280, 360])
async def test_no_view_has_a_serious_fault_in_light_or_dark(looking: Looking, width: int) -> None:
    async with still_worker() as worker, looking(worker.url, width=width) as look:
        for name, at in VIEWS.items():
            await look.go(at)
            await expect(look.page.locator("#view h1")).to_be_attached()
            assert await faults(look, dark=width == 1280) == [], name
        await look.go("schedules")
        await look.button("Pause cleanup_old_orders").click()
        assert await faults(look) == [], "a dialog"
        await look.page.keyboard.press("Escape")
        await look.page.locator("#live").click()
        assert await faults(look) == [], "a paused view"


async def faults(look: Look, *, dark: bool = True) -> list[str]:
    """What axe-core calls serious or critical."""
    if not await look.page.evaluate("'axe' in window"):
        await look.page.evaluate(Axe().axe_script)
    await look.page.emulate_media(color_scheme="light")
    found = await look.page.evaluate("(options) => axe.run(options)", ALL)
    violations = found["violations"]
    if dark:
        await look.page.emulate_media(color_scheme="dark")
        found = await look.page.evaluate("(options) => axe.run(options)", COLOURS)
        violations += found["violations"]
    return [
        f"{one['id']}: {node['html']} {node['failureSummary']}"
        for one in violations
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]


async def test_faults_are_found_where_there_are_any(looking: Looking) -> None:
    async with still_worker() as worker, looking(worker.url) as look:
        await look.page.evaluate("document.querySelector('#theme').removeAttribute('aria-label')")
        assert "button-name" in "".join(await faults(look))
        await look.page.evaluate("document.querySelector('#theme').remove()")
        await look.page.evaluate("document.querySelector('#who').style.color = '#777'")
        assert {one.split(":")[0] for one in await faults(look)} == {"color-contrast"}


@pytest.mark.parametrize("width", [1280, 360])
async def test_the_sign_in_has_no_serious_fault(looking: Looking, width: int) -> None:
    async with still_worker() as worker, looking(worker.url, width=width) as look:
        await look.page.context.clear_cookies()
        await look.page.goto(f"{worker.url}/?again")
        await expect(look.page.get_by_label("Token")).to_be_focused()
        assert await faults(look) == []
        assert await look.overflow() == 0
        look.complaints = [one for one in look.complaints if "401" not in one]
