"""``python -m tests.dashboard.screenshots [LINK]``: pictures of each view, into docs/screenshots.

LINK is what ``worker demo`` prints. Without one a demo is started, and looked at once it has
something to show.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from playwright.async_api import async_playwright, expect

from tests.dashboard.looking import FLAGS, Look
from tests.support.processes import WORKER, clean_environment

if TYPE_CHECKING:
    from playwright.async_api import Browser, StorageState

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
SHOWN = "Dashboard at "
DEMO_S = 240
WIDE, LOW, PHONE = (1240, 860), (1240, 640), (360, 740)
VIEWS = {
    "overview": "",
    "schedules": "schedules",
    "schedule": "schedules/count_stock",
    "running": "running",
    "queues": "queues",
    "jobs": "jobs",
    "dead": "dead",
    "enqueue": "enqueue/send_invoice",
}

LISTS = ("running", "queues", "jobs", "dead")


async def picture(
    browser: Browser,
    url: str,
    session: StorageState,
    name: str,
    at: str,
    size: tuple[int, int] = WIDE,
) -> None:
    dark = name.endswith("dark")
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        storage_state=session,
    )
    page = await context.new_page()
    look = Look(page, url)
    await look.go(at)
    if name == "job":
        await page.locator("tbody .name").first.click()
        await expect(page.locator(".timeline li").first).to_be_visible()
    if at == "queues":  # their depth is drawn from what the page has seen
        await page.wait_for_timeout(30_000)
    await page.wait_for_timeout(3_000)
    await page.screenshot(path=FOLDER / f"{name}.png")
    await context.close()


async def signed_in(browser: Browser, link: str) -> StorageState:
    """The session that a link opens; it does so once."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(link)
    await expect(page.locator("#live")).to_have_attribute("data-is", "live")
    session = await context.storage_state()
    await context.close()
    return session


async def pictures(link: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    async with async_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        url, session = urljoin(link, "/").rstrip("/"), await signed_in(browser, link)
        for name, at in VIEWS.items():
            await picture(browser, url, session, name, at, LOW if name in LISTS else WIDE)
        await picture(browser, url, session, "job", "dead")
        await picture(browser, url, session, "overview-dark", "")
        await picture(browser, url, session, "phone", "schedules", PHONE)
        await browser.close()


async def main() -> None:
    if len(sys.argv) > 1:
        await pictures(sys.argv[1])
        return
    demo = await asyncio.create_subprocess_exec(
        *WORKER, "demo", env=clean_environment(), stdout=asyncio.subprocess.PIPE
    )
    assert demo.stdout is not None
    link = ""
    while not link.startswith(SHOWN):
        link = (await demo.stdout.readline()).decode()
    reading = asyncio.create_task(demo.stdout.read())
    await asyncio.sleep(DEMO_S)
    try:
        await pictures(link.removeprefix(SHOWN).strip())
    finally:
        demo.terminate()
        await demo.wait()
        await reading


if __name__ == "__main__":
    asyncio.run(main())
