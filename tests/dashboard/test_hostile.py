"""Nothing that a worker says runs, breaks a view, or hides itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from tests.dashboard.looking import VIEWS
from tests.dashboard.still import still_worker

if TYPE_CHECKING:
    from tests.dashboard.looking import Looking

pytestmark = pytest.mark.asyncio(loop_scope="session")

CORPUS = (
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "\"><svg onload='window.ran = 1'>",
    "javascript:window.ran=1",
    "</title></textarea></style><iframe srcdoc='<script>parent.ran = 1</script>'>",
    "${window.ran=1}{{constructor.constructor('window.ran=1')()}}",
    "&lt;b&gt; &#x3c;b&#x3e;",
    "\x1b[2J\x1b]0;title\x07",
    "abc\u202etxt.exe\u2066\u200b\u061c\ufeff",
    "a\x00b\u2028c",
    "?a=1&b=2#/dead/../..",
    "__proto__",
    "ä𝄞👩‍💻" + "e\u0301" * 20,
    "W" * 400,
)
FREE = {
    *("name", "task", "id", "queue", "error", "message", "type", "why", "what", "note", "by"),
    *("replica", "worker", "said_by", "schedule", "detail", "verdict", "run_id", "version"),
    *("trigger", "defined_in", "state", "standing", "outcome"),
}
"""The fields of free text, and those of words that the page might not know."""


def spoiled(value: Any, key: str = "") -> Any:
    """The same with all of the corpus in every text of a worker's making."""
    if isinstance(value, dict):
        return {name: spoiled(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [spoiled(one, key) for one in value]
    if isinstance(value, str) and (key in FREE or key in ("facts", "params")):
        return value + " ".join(CORPUS)
    return value


@pytest.mark.parametrize("width", [1280, 360])
async def test_hostile_texts_neither_run_nor_break_a_view(looking: Looking, width: int) -> None:
    async with still_worker(spoiled) as worker, looking(worker.url, width=width) as look:
        for name, at in VIEWS.items():
            await look.go(at)
            await expect(look.page.locator("#view")).to_contain_text(CORPUS[0])
            assert await look.page.evaluate("window.ran") is None, name
            strange = "#view :is(img, iframe, script, style, object, embed), [onerror], [onload]"
            assert await look.page.locator(strange).count() == 0, name
            assert await look.overflow() == 0, name
            shown = await look.page.locator("#view").inner_text()
            assert not {"\x1b", "\u202e", "\u2066", "\u061c", "\x00"} & set(shown), name


async def test_hostile_parameters_are_shown_as_the_text_that_they_are(looking: Looking) -> None:
    async with still_worker(spoiled) as worker, looking(worker.url, "jobs/job-4") as look:
        await look.button("Show them").click()
        await expect(look.page.locator(".payload")).to_contain_text("order_id")
        assert await look.page.evaluate("window.ran") is None


async def test_no_link_leads_out_of_the_page(looking: Looking) -> None:
    async with still_worker(spoiled) as worker, looking(worker.url) as look:
        for at in VIEWS.values():
            await look.go(at)
            links = await look.page.evaluate(
                "[...document.links].map((one) => one.getAttribute('href'))"
            )
            assert all(link.startswith(("#/", "/api/v1/openapi.json", "#main")) for link in links)
