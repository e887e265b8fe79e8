"""The shared client: what it sends, what it leaves out, and what its environment may change."""

from __future__ import annotations

import os

import httpx
import pytest
import respx

from tests.support.servers import Received, answer, answering, raw_server
from worker.errors import ConfigurationError
from worker.transport import ClientOptions, open_client

from .clients import slots

NOWHERE = "http://data-api.invalid"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def sent(request: Received, header: str) -> str | None:
    return request.headers.get(header)


async def test_request_says_what_it_wants_and_who_asks() -> None:
    async with (
        raw_server(answering(answer())) as server,
        open_client(ClientOptions(base_url=server.url, user_agent="me/1")) as client,
    ):
        await client.get("/x")
    [request] = server.requests
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "application/json",
        "accept-encoding": "identity",
        "connection": "keep-alive",
        "user-agent": "me/1",
    }


async def test_redirect_is_not_followed() -> None:
    moved = answer(status="302 Found", headers=("Location: /elsewhere",))
    async with (
        raw_server(answering(moved)) as server,
        open_client(ClientOptions(base_url=server.url)) as client,
    ):
        assert (await client.get("/")).status_code == 302
    assert [request.target for request in server.requests] == ["/"]


async def test_cookie_is_neither_kept_nor_sent() -> None:
    async with (
        raw_server(answering(answer(headers=("Set-Cookie: session=1; Path=/",)))) as server,
        open_client(ClientOptions(base_url=server.url)) as client,
    ):
        await client.get("/")
        await client.get("/")
        assert len(client.cookies) == 0
    assert [sent(request, "cookie") for request in server.requests] == [None, None]


async def test_token_goes_to_the_data_api_only() -> None:
    async with (
        raw_server(answering(answer())) as data_api,
        raw_server(answering(answer())) as stranger,
        open_client(ClientOptions(base_url=data_api.url, token="s3cret")) as client,
    ):
        await client.get("/own")
        await client.get(f"{data_api.url}/own-in-full")
        await client.get("/own", headers={"Authorization": "Basic mine"})
        await client.get(f"{stranger.url}/other")
    assert [sent(request, "authorization") for request in data_api.requests] == [
        "Bearer s3cret",
        "Bearer s3cret",
        "Basic mine",
    ]
    assert [sent(request, "authorization") for request in stranger.requests] == [None]


async def test_token_does_not_follow_a_redirect_that_a_task_asked_for() -> None:
    async with raw_server(answering(answer())) as stranger:
        moved = answer(status="302 Found", headers=(f"Location: {stranger.url}/taken",))
        async with (
            raw_server(answering(moved)) as data_api,
            open_client(ClientOptions(base_url=data_api.url, token="s3cret")) as client,
        ):
            await client.get("/", follow_redirects=True)
    assert [sent(request, "authorization") for request in stranger.requests] == [None]


async def test_proxy_of_the_environment_is_ignored_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        raw_server(answering(answer())) as proxy,
        raw_server(answering(answer())) as server,
    ):
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        async with open_client(ClientOptions(base_url=server.url)) as client:
            await client.get("/")
    assert (proxy.accepted, server.accepted) == (0, 1)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_proxy_of_the_environment_is_used_if_asked_for(
    monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    async with raw_server(answering(answer(b"via"))) as proxy:
        monkeypatch.setenv(variable, f"{scheme}127.0.0.1:{proxy.port}")
        options = ClientOptions(base_url=NOWHERE, token="s3cret", trust_env=True)
        async with open_client(options) as client:
            assert (await client.get("/x")).text == "via"
    [request] = proxy.requests
    assert request.target == f"{NOWHERE}/x"
    assert sent(request, "authorization") == "Bearer s3cret"


async def test_proxy_that_refuses_a_tunnel_is_proxy_error_and_costs_no_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with raw_server(answering(answer(status="403 Forbidden"))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        options = ClientOptions(
            base_url="https://data-api.invalid", connections=2, token="s3cret", trust_env=True
        )
        async with open_client(options) as client:
            for _ in range(3):
                with pytest.raises(httpx.ProxyError):
                    await client.get("/")
                assert slots(client).free == 2
    assert {request.method for request in proxy.requests} == {"CONNECT"}
    assert {sent(request, "authorization") for request in proxy.requests} == {None}


async def test_host_without_proxy_is_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        raw_server(answering(answer())) as proxy,
        raw_server(answering(answer())) as server,
    ):
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
        async with open_client(ClientOptions(base_url=server.url, trust_env=True)) as client:
            await client.get("/")
    assert (proxy.accepted, server.accepted) == (0, 1)


def test_proxy_that_cannot_be_used_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "carrier-pigeon://user:s3cret@loft:1")
    with pytest.raises(ConfigurationError, match="carrier-pigeon") as caught:
        open_client(ClientOptions(base_url=NOWHERE, trust_env=True))
    assert "s3cret" not in str(caught.value)


@respx.mock
async def test_default_mocking_of_respx_works_with_the_shared_client() -> None:
    route = respx.get(f"{NOWHERE}/x").respond(json={"mocked": True})
    async with open_client(ClientOptions(base_url=NOWHERE, token="s3cret")) as client:
        for _ in range(3):
            assert (await client.get("/x")).json() == {"mocked": True}
        assert slots(client).free == 48
    assert route.calls.last.request.headers["Authorization"] == "Bearer s3cret"


@respx.mock
async def test_default_mocking_of_respx_works_with_a_plain_client() -> None:
    respx.get(f"{NOWHERE}/x").respond(json={"mocked": True})
    async with httpx.AsyncClient(base_url=NOWHERE) as client:
        assert (await client.get("/x")).json() == {"mocked": True}


@respx.mock
async def test_mocked_failure_costs_no_slot() -> None:
    respx.get(f"{NOWHERE}/x").mock(side_effect=httpx.ReadTimeout)
    async with open_client(ClientOptions(base_url=NOWHERE, connections=2)) as client:
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/x")
        assert slots(client).free == 2
