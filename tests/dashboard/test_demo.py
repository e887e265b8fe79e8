"""What a newcomer finds behind the address that ``worker demo`` prints, and does there."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.dashboard.looking import Look
from tests.support.processes import DEADLINE_S, WORKER, clean_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Browser

pytestmark = pytest.mark.asyncio(loop_scope="session")

SHOWN = b"Dashboard at "


@asynccontextmanager
async def demo(folder: Path) -> AsyncIterator[str]:
    """``worker demo``; the link that it prints."""
    process = await asyncio.create_subprocess_exec(
        *(*WORKER, "demo"), env=clean_environment(), cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            async for line in process.stdout:
                if line.startswith(SHOWN):
                    break
        reading = asyncio.create_task(process.stdout.read(), name="read-demo")
        yield line.removeprefix(SHOWN).decode().strip()
    finally:
        process.terminate()
        await process.wait()
        await reading


async def test_a_newcomer_sees_everything_and_can_act_on_it(
    browser: Browser, tmp_path: Path
) -> None:
    soon = 60_000  # a job has failed for good after three attempts, on a slow machine late
    async with demo(tmp_path) as link, await browser.new_page() as page:
        look = Look(page, link.partition("/session")[0])
        await page.goto(link)
        banner = page.locator("#banner")
        await expect(banner).to_contain_text("import_prices fails")
        await expect(banner).to_contain_text("send_newsletter is paused")
        await expect(banner).to_contain_text("in the queue billing", timeout=soon)
        await look.go("schedules")
        await expect(look.row("send_newsletter")).to_contain_text("the mail provider is down")
        await look.button("Resume send_newsletter").click()
        await expect(look.row("send_newsletter").locator(".badge").first).not_to_have_text("paused")
        await look.button("Run now: import_prices").click()
        await expect(page.locator(".toast").last).to_contain_text("import_prices will run")
        await look.go("running")
        report = look.row("render_report").first
        await expect(report.locator("progress")).to_have_attribute("value", re.compile("[1-9]"))
        bars = look.row("render_report").locator("progress")
        done = await bars.evaluate_all("bars => bars.map(bar => bar.value)")
        youngest = look.row("render_report").nth(done.index(min(done)))  # the others may end now
        await youngest.get_by_role("button", name="Cancel").click()
        await look.confirm("Cancel the job")
        await expect(page.locator(".toast").last).to_contain_text("cancel requested")
        await look.go("dead")
        await expect(look.row("LookupError")).not_to_have_count(0)
        await look.button("Drop all …").click()
        await expect(page.locator("dialog h2")).to_contain_text("dead letter")
        await page.locator("dialog .danger").click()
        await expect(page.locator(".toast").last).to_contain_text("Dropped")
        assert look.complaints == []
