"""The page's files, as the worker serves them; no browser is needed for that."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.dashboard.still import still_worker
from worker.ops import page

STATIC = Path(page.__file__).parent / "static"
FILES = sorted(str(path.relative_to(STATIC)) for path in STATIC.rglob("*") if path.is_file())
FULL = {"Authorization": "Bearer full"}


async def test_every_file_is_served_with_its_type_and_only_to_who_may_see_it() -> None:
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    async with still_worker() as worker, httpx.AsyncClient(trust_env=False) as client:
        for name in FILES:
            url = f"{worker.url}/page/{name}"
            assert (await client.get(url)).status_code == 401
            answer = await client.get(url, headers=FULL)
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "no-cache"
            kind = answer.headers["content-type"].partition(";")[0]
            # Older tables of types have application/javascript, which browsers take as well.
            kind = kind.replace("application/javascript", "text/javascript")
            assert kind == types.get(Path(name).suffix, "text/html")
            known = {**FULL, "If-None-Match": answer.headers["etag"]}
            assert (await client.get(url, headers=known)).status_code == 304


@pytest.mark.parametrize("path", ["__init__.py", "..%2f__init__.py", "views", "nothing.js", ""])
async def test_nothing_else_is_served(path: str) -> None:
    async with still_worker() as worker, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{worker.url}/page/{path}", headers=FULL)
    assert answer.status_code == 404


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".js", ".html"))])
def test_no_text_is_ever_read_as_markup_or_code(name: str) -> None:
    text = (STATIC / name).read_text("utf-8")
    forbidden = r"innerHTML|outerHTML\s*=|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert not re.search(forbidden, text)
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    if name.endswith(".html"):
        assert not re.search(
            r"\son\w+=|\sstyle=|<style|<script(?! (src|type=\"module\" src)=)", text
        )
