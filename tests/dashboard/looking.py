"""A page in a browser, and what it complains of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from playwright.async_api import Page, expect

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from playwright.async_api import ConsoleMessage, Dialog, Locator, Request

__all__ = ["FLAGS", "VIEWS", "Look", "Looking"]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VIEWS = {
    "overview": "",
    "schedules": "schedules",
    "schedule": "schedules/process_pending_orders",
    "running": "running",
    "queues": "queues",
    "jobs": "jobs",
    "job": "jobs/job-4",
    "dead": "dead",
    "enqueue": "enqueue/send_invoice",
}
"""Every view, and where it is."""


class Look:
    """A page that is open.

    Attributes:
        complaints: Errors and warnings of the console, of scripts and of the content security
            policy, every dialog that a script opened, and requests to anybody but the worker.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"{error}\n{error.stack}"))
        page.on("dialog", self._dialog)
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith(self.url):
            self.complaints.append(f"asks somebody else: {request.url}")

    async def _dialog(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    async def go(self, at: str) -> None:
        """Open a view, once it is live and has what it shows."""
        await self.page.goto(f"{self.url}/#/{at}")
        await expect(self.page.locator("#live")).to_have_attribute("data-is", "live")
        await self.settled()

    async def settled(self) -> None:
        """Return once nothing is asked for any more but the stream."""
        await self.page.wait_for_function("document.getAnimations().length >= 0")
        await self.page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
        )

    def row(self, *texts: str) -> Locator:
        """The row of a table in which all of these stand."""
        found = self.page.locator("tbody tr")
        for text in texts:
            found = found.filter(has_text=text)
        return found

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    async def confirm(self, name: str) -> None:
        """Press a button of the dialog that is open."""
        dialog = self.page.locator("dialog[open]")
        await dialog.get_by_role("button", name=name, exact=True).click()
        await expect(dialog).to_have_count(0)

    async def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        wider: int = await self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return wider


class Looking(Protocol):
    """Opens a page; see the fixture."""

    def __call__(
        self,
        url: str,
        at: str = "",
        *,
        token: str = "full",
        theme: str = "light",
        width: int = 1280,
        height: int = 900,
    ) -> AbstractAsyncContextManager[Look]: ...
