"""The browser's way in, and what keeps other pages from going it."""

from __future__ import annotations

import asyncio
import re
from html import unescape
from typing import TYPE_CHECKING

import httpx
import pytest
import structlog

from tests.support.ops import FULL, PATIENCE_S, READ, Door, ops_door
from worker.ops import bodies, locks
from worker.ops.locks import Role, Sessions, Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ASKS_FOR_A_PAGE = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with ops_door(tmp_path) as opened:
        yield opened


@pytest.fixture
async def browser(door: Door) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in; like a browser it keeps cookies, and says where a request comes from."""
    async with door.client() as client:
        client.headers["Origin"] = door.url
        answer = await client.post("/session", json={"token": FULL})
        assert answer.status_code == 200
        yield client


# --- in and out


async def test_a_token_opens_a_session_that_signing_out_ends(door: Door) -> None:
    async with door.client() as client:
        for token, role in ((FULL, "full"), (READ, "read")):
            answer = await client.post("/session", json={"token": token})
            assert answer.json() == {"role": role}
            assert (await client.get("/session")).json() == {"role": role}
            kept = dict(client.cookies)
            gone = await client.delete("/session", headers={"Origin": door.url})
            assert gone.status_code == 204
            assert dict(client.cookies) == {}
            client.cookies.update(kept)
            assert (await client.get("/session")).status_code == 401, "the session is over"
            client.cookies.clear()


async def test_a_password_manager_finds_whose_token_it_is(door: Door) -> None:
    async with door.client() as client:
        page = (await client.get("/", headers=ASKS_FOR_A_PAGE)).text
        assert re.search(r'<input [^>]*autocomplete="username" value="worker" hidden>', page)
        form = {"username": "worker", "token": FULL, "next": "/"}
        answer = await client.post("/session", data=form, headers={"Origin": door.url})
        assert answer.status_code == 303


async def test_the_cookie_is_out_of_reach_for_scripts_and_other_pages(door: Door) -> None:
    async with door.client() as client:
        answer = await client.post("/session", json={"token": FULL})
        parts = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
        assert parts == {"httponly", "path=/", "samesite=strict"}


async def test_behind_tls_the_cookie_is_for_tls_only(tmp_path: Path) -> None:
    name = "ops.example.com"
    async with ops_door(tmp_path, ops_hosts=(name,)) as door, door.client() as client:
        headers = {"Host": name, "Origin": f"https://{name}"}
        answer = await client.post("/session", json={"token": FULL}, headers=headers)
        kept = {"Host": name, "Cookie": answer.headers["set-cookie"].partition(";")[0]}
        assert (await client.get("/session", headers=kept)).json() == {"role": "full"}
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-")
    assert "; Secure" in cookie


async def test_a_browser_gets_a_form_that_leads_where_it_wanted_to_go(door: Door) -> None:
    async with door.client() as client:
        client.headers.update(ASKS_FOR_A_PAGE)
        form = await client.get('/?state=dead&q="><script>alert(1)</script>')
        assert form.status_code == 401
        assert "<script" not in form.text
        onward = unescape(
            form.text.partition('name="next" type="hidden" value="')[2].partition('"')[0]
        )
        assert onward.startswith("/?state=dead&q=")
        fields = {"token": "wrong-token-123456", "next": onward}
        again = await client.post("/session", data=fields)
        assert (again.status_code, "no token of the worker" in again.text) == (401, True)
        done = await client.post("/session", data={**fields, "token": FULL})
        assert done.status_code == 303
        assert unescape(done.headers["location"]).startswith("/?state=dead&q=")
        assert (await client.get("/session")).json() == {"role": "full"}


@pytest.mark.parametrize(
    "onward",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/\r\nX: y",
        "",
    ],
)
async def test_signing_in_leads_to_no_other_site(door: Door, onward: str) -> None:
    async with door.client() as client:
        answer = await client.post("/session", data={"token": FULL, "next": onward})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "x" not in answer.headers


@pytest.mark.parametrize("token", [None, 7, "", [FULL], {"full": FULL}, FULL.upper()])
async def test_no_token_opens_no_session(door: Door, token: object) -> None:
    async with door.client() as client:
        answer = await client.post("/session", json={"token": token})
        assert (await client.post("/session")).status_code == 401
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


async def test_half_a_surrogate_pair_is_no_token(door: Door) -> None:
    async with door.client() as client:
        answer = await client.post("/session", content=b'{"token": "\\ud800"}')
        assert answer.status_code == 400
        assert not client.cookies


async def test_who_is_slow_to_say_his_token_is_sent_away(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "STRANGERS_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(door.url.rpartition(":")[2]))
    writer.write(b"POST /session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    async with asyncio.timeout(PATIENCE_S):
        assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"
    writer.close()


async def test_the_log_names_the_session_and_holds_nothing_that_opens_it(door: Door) -> None:
    async with door.client() as client:
        with structlog.testing.capture_logs() as logs:
            await client.post("/session", json={"token": READ})
            await client.post("/no-such-path", headers={"Origin": door.url})
        (secret,) = client.cookies.values()
    signed_in, action = logs
    assert (signed_in["event"], signed_in["role"]) == ("ops.signed_in", "read")
    assert (action["event"], action["status"]) == ("ops.action", 403)
    assert action["session_name"] == signed_in["session_name"]
    assert secret not in str(logs)
    assert READ not in str(logs)


# --- where no token is set


@pytest.fixture
async def unlocked(tmp_path: Path) -> AsyncIterator[Door]:
    async with ops_door(tmp_path, ops_token=None, ops_read_token=None) as opened:
        yield opened


async def test_a_link_of_the_terminal_signs_in_once_and_then_the_next_does(unlocked: Door) -> None:
    link = unlocked.ops.sign_in_link
    shown: list[str] = []
    assert link is not None
    link.shown_by(shown.append)
    for _ in range(2):
        assert shown[-1].startswith(unlocked.url)
        async with unlocked.client() as client:
            assert (await client.get("/session/link?key=x")).status_code == 401
            answer = await client.get(shown[-1])
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
            assert (await client.get("/session")).json() == {"role": "full"}
    assert len(shown) == len(set(shown)) == 3
    async with unlocked.client() as client:
        for used in shown[:2]:
            answer = await client.get(used)
            assert (answer.status_code, "the next one" in answer.text) == (401, True)


async def test_who_only_asks_what_a_link_would_answer_does_not_use_it_up(unlocked: Door) -> None:
    """As programs do that look into links before a person opens them."""
    link = unlocked.ops.sign_in_link
    assert link is not None
    async with unlocked.client() as client:
        asked = await client.head(link.address)
        assert (asked.status_code, asked.headers["allow"]) == (405, "GET")
        assert "set-cookie" not in asked.headers
        assert (await client.get(link.address)).status_code == 303


async def test_who_has_no_link_is_told_where_it_is(unlocked: Door) -> None:
    async with unlocked.client() as client:
        assert "its terminal" in (await client.get("/", headers=ASKS_FOR_A_PAGE)).text


async def test_a_token_that_was_set_does_not_sign_in_by_an_address(door: Door) -> None:
    assert door.ops.sign_in_link is None
    async with door.client() as client:
        assert (await client.get(f"/session/link?key={FULL}")).status_code == 401
    async with door.client(FULL) as client:
        assert (await client.get(f"/session/link?key={FULL}")).status_code == 404


async def test_no_other_page_guesses_by_our_browser(door: Door, unlocked: Door) -> None:
    """Such as by ``<img src="http://127.0.0.1:8080/session/link?key=x">``, again and again."""
    said = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
    for opened, status in ((door, 401), (unlocked, 403)):
        with structlog.testing.capture_logs() as logs:
            async with opened.client() as client:
                for _ in range(3):
                    answer = await client.get("/session/link?key=x", headers=said)
                    assert answer.status_code == status
        assert logs == [], "none is counted"


# --- other pages (CSRF)


@pytest.mark.parametrize(
    ("site", "origin", "passes"),
    [
        ("same-origin", "ours", True),
        ("same-origin", None, True),
        (None, "ours", True),
        ("same-site", "ours", False),
        ("cross-site", "ours", False),
        ("none", None, False),
        (None, None, False),
        (None, "null", False),
        (None, "http://evil.example", False),
        (None, "http://127.0.0.1:1", False),
        (None, "http://127.0.0.1.evil.example", False),
        (None, "file://", False),
    ],
)
async def test_only_our_own_page_acts_by_a_session(
    door: Door, browser: httpx.AsyncClient, site: str | None, origin: str | None, passes: bool
) -> None:
    del browser.headers["Origin"]
    said = {"Sec-Fetch-Site": site, "Origin": door.url if origin == "ours" else origin}
    headers = {name: value for name, value in said.items() if value is not None}
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = await browser.request(method, "/no-such-path", headers=headers)
        assert answer.status_code == (404 if passes else 403), method


async def test_a_session_over_tls_acts_from_no_page_without_it(tmp_path: Path) -> None:
    name = "ops.example.com"
    async with ops_door(tmp_path, ops_hosts=(name,)) as door, door.client() as client:
        headers = {"Host": name, "Origin": f"https://{name}"}
        answer = await client.post("/session", json={"token": FULL}, headers=headers)
        headers["Cookie"] = answer.headers["set-cookie"].partition(";")[0]
        assert (await client.post("/no-such-path", headers=headers)).status_code == 404
        headers["Origin"] = f"http://{name}"
        assert (await client.post("/no-such-path", headers=headers)).status_code == 403


async def test_a_program_with_a_token_needs_no_origin(door: Door) -> None:
    async with door.client(FULL) as client:
        assert (await client.post("/no-such-path")).status_code == 404


async def test_no_other_page_signs_a_browser_in(door: Door) -> None:
    async with door.client() as client:
        for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            answer = await client.post("/session", data={"token": FULL}, headers=headers)
            assert answer.status_code == 403
            assert "set-cookie" not in answer.headers


# --- how long, and how many


def test_a_session_ends_by_itself() -> None:
    now = 1000.0
    sessions = Sessions(monotonic=lambda: now)
    secret, session = sessions.open(Role.READ)
    assert sessions.find(secret) == session
    now += locks.SESSION_LASTS.total_seconds()
    assert sessions.find(secret) is None


def test_sessions_are_not_kept_without_end() -> None:
    sessions = Sessions()
    secrets = [sessions.open(Role.FULL)[0] for _ in range(locks.MOST_SESSIONS + 10)]
    assert len(set(secrets)) == len(secrets)
    known = [secret for secret in secrets if sessions.find(secret) is not None]
    assert known == secrets[10:]


def test_who_may_only_look_does_not_push_others_out() -> None:
    sessions = Sessions()
    secret, _ = sessions.open(Role.FULL)
    for _ in range(locks.MOST_SESSIONS + 10):
        sessions.open(Role.READ)
    assert sessions.find(secret) is not None


def test_a_session_is_not_found_by_its_name() -> None:
    sessions = Sessions()
    _, session = sessions.open(Role.FULL)
    assert sessions.find(session.name) is None
    assert sessions.find("") is None


def test_each_token_has_its_role() -> None:
    tokens = Tokens(FULL, READ)
    assert (tokens.role_of(FULL), tokens.role_of(READ)) == (Role.FULL, Role.READ)
    assert tokens.role_of("") is tokens.role_of("\udcff") is None
    assert FULL not in str(vars(tokens))
    assert not Tokens(None, None)
    assert Tokens(None, None).role_of("") is None
