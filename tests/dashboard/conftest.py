"""One browser for all tests of the page, and a page that tells of everything that went wrong."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from tests.dashboard.looking import FLAGS, Look, Looking
from tests.dashboard.real import RealWorker, real_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE_MS = 20_000
"""A job hears that it is cancelled when its lease is extended."""
expect.set_options(timeout=PATIENCE_MS)
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium; Playwright's own is never downloaded."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    async with async_playwright() as playwright:
        yield await playwright.chromium.launch(executable_path=found, args=FLAGS)


@pytest.fixture
def looking(browser: Browser) -> Looking:
    """Opens pages. None of them may have complained of anything when it is closed."""

    @asynccontextmanager
    async def look(
        url: str,
        at: str = "",
        *,
        token: str = "full",
        theme: str = "light",
        width: int = 1280,
        height: int = 900,
    ) -> AsyncIterator[Look]:
        context = await browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if theme == "dark" else "light",
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE_MS)
        try:
            answer = await context.request.post(f"{url}/session", data={"token": token})
            assert answer.ok, await answer.text()
            one = Look(await context.new_page(), url)
            await one.go(at)
            yield one
            assert one.complaints == []
        finally:
            await context.close()

    return look


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealWorker]:
    """``worker start`` as a process of its own, over SQLite, with something of each kind to do."""
    async with real_worker(tmp_path_factory.mktemp("dashboard")) as one:
        yield one
