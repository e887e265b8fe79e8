"""The one HTTP client of a worker, and the transport of slots under it.

Everything that makes the client fast or safe is here, behind httpx's transport interface, so that
another connection can slip in later. What it gives beyond ``httpx.AsyncClient(base_url=…)``:

* **Slots.** One httpcore pool that many callers wait on hands one idle connection to several of
  them, and gets slower the more it is asked. Here each slot is a stock transport with a single
  connection, a free list hands out slots, and a slot comes back when its response is closed.
* **No leak.** A slot whose request did not end cleanly (an error, a cancellation at whatever
  moment) is thrown away and replaced, so nothing that httpcore forgot to release can stay.
* **A cap on bodies**, enforced while they stream.
* **No surprises**: no redirects, no cookies, no proxies from the environment unless asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

import httpx

from worker.context import CALL, current_run
from worker.errors import AnswerTooLarge, ConfigurationError, WorkerError
from worker.network import is_token
from worker.retry import may_repeat

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

__all__ = ["ClientOptions", "SlotTransport", "open_client"]

OTHER = "other"
"""The name of a call that is not of the contract."""
DEFAULT_BODY_LIMIT = 10 * 1024 * 1024
KEEPALIVE_EXPIRY_S = 4.0
"""Under the five seconds after which many servers hang up on an idle connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """How the shared client reaches the Data API.

    Attributes:
        timeout: For each of: reading or writing a piece, waiting for a free connection.
        connect_timeout: For making a connection; ``timeout`` if that is shorter.
        connections: How many requests can be under way at once.
        body_limit: The largest body that is accepted, in bytes as transferred.
        trust_env: Whether proxies and certificates come from the environment (``HTTPS_PROXY``…).

    Raises:
        ValueError: ``token`` cannot be sent in a header.
    """

    base_url: str
    token: str | None = field(default=None, repr=False)
    timeout: timedelta = timedelta(seconds=10)
    connect_timeout: timedelta = timedelta(seconds=5)
    connections: int = 48
    body_limit: int = DEFAULT_BODY_LIMIT
    trust_env: bool = False
    user_agent: str = "sidecar-worker"

    def __post_init__(self) -> None:
        if self.token is not None and not is_token(self.token):
            raise ValueError("token: expected printable ASCII without spaces, and not nothing")


class SlotTransport(httpx.AsyncBaseTransport):
    """``connections`` single-connection transports behind a free list, sharing one SSL context.

    Raises what the stock transport raises, and `httpx.PoolTimeout` when no slot came free in time.
    The slot used last is used next, so that few connections stay open when little is going on.
    """

    def __init__(
        self,
        *,
        connections: int,
        body_limit: int | None = None,
        trust_env: bool = False,
        proxy: str | None = None,
    ) -> None:
        self._ssl_context: ssl.SSLContext = httpx.create_ssl_context(trust_env=trust_env)
        self._trust_env = trust_env
        self._proxy = proxy
        self._body_limit = body_limit
        # A slot is made when it is first used, but for one, so that a proxy that cannot be used is
        # refused here. Places are first come, first served: a busy caller cannot take the slot
        # that it gave back past those who wait.
        self._free: list[httpx.AsyncHTTPTransport | None] = [None] * connections
        self._free[-1] = self._new_slot()
        self._places = asyncio.Semaphore(connections)
        self._closed = False
        self._closing: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._take_place(request)
        slot = self._free.pop()
        try:
            slot = slot or self._new_slot()
            sent = watched(request)
            with mapped(request, sent):
                response = await slot.handle_async_request(request)
        except BaseException:
            self._discard(slot)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = SlotStream(self, slot, response.stream, request)
        return response

    async def aclose(self) -> None:
        """Close every connection: now, or when its response is closed if it is in use."""
        self._closed = True
        idle = [slot for slot in self._free if slot is not None]
        self._free = [None] * len(self._free)
        for slot in idle:
            await slot.aclose()
        if self._closing:
            await asyncio.wait(self._closing)

    @property
    def body_limit(self) -> int | None:
        return self._body_limit

    @property
    def free(self) -> int:
        """How many more requests could be sent right now."""
        return len(self._free)

    async def _take_place(self, request: httpx.Request) -> None:
        if not self._places.locked():
            await self._places.acquire()  # at once: a timer would cost more than the request
            return
        limit_s = request.extensions.get("timeout", {}).get("pool")
        try:
            async with asyncio.timeout(limit_s):
                await self._places.acquire()
        except TimeoutError as exc:
            raise httpx.PoolTimeout(
                f"no connection came free within {limit_s:g} s", request=request
            ) from exc

    def _new_slot(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(
            verify=self._ssl_context,
            trust_env=self._trust_env,
            proxy=self._proxy,
            limits=httpx.Limits(
                max_connections=1,
                max_keepalive_connections=1,
                keepalive_expiry=KEEPALIVE_EXPIRY_S,
            ),
        )

    def _release(self, slot: httpx.AsyncHTTPTransport) -> None:
        if self._closed:
            self._discard(slot)
            return
        self._free.append(slot)
        self._places.release()

    def _discard(self, slot: httpx.AsyncHTTPTransport | None) -> None:
        """Put a fresh slot in the place of one whose state is unknown, or not wanted any more."""
        self._free.append(None)
        self._places.release()
        if slot is None:
            return
        closing = asyncio.get_running_loop().create_task(slot.aclose(), name="http-slot-close")
        self._closing.add(closing)
        closing.add_done_callback(self._closed_one)

    def _closed_one(self, closing: asyncio.Task[None]) -> None:
        self._closing.discard(closing)
        if not closing.cancelled():
            closing.exception()  # seen: the connection is gone, however it ended


class SentBody(httpx.AsyncByteStream):
    """A request's body, which notes what its own source raises."""

    def __init__(self, body: httpx.AsyncByteStream) -> None:
        self._body = body
        self.failure: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._body:
                yield chunk
        except Exception as exc:
            self.failure = exc
            raise

    async def aclose(self) -> None:
        await self._body.aclose()


def watched(request: httpx.Request) -> SentBody | None:
    """The request's body, if it has a source that may fail by itself."""
    body = request.stream
    if isinstance(body, httpx.ByteStream) or not isinstance(body, httpx.AsyncByteStream):
        return None
    sent = SentBody(body)
    request.stream = sent
    return sent


@contextmanager
def mapped(request: httpx.Request, sent: SentBody | None = None) -> Iterator[None]:
    """Raise what httpx and httpcore have forgotten to map as the error of a broken connection.

    `ssl.SSLError` while reading is one: a garbage record, a client certificate that is demanded.

    Args:
        sent: The request's body. What its own source raises is not the connection's failure.

    Raises:
        httpx.ReadError: The connection broke.
        httpx.UnsupportedProtocol: The URL names a host that cannot be one.
    """
    try:
        yield
    except (httpx.HTTPError, WorkerError, MemoryError):
        raise
    except Exception as exc:
        if sent is not None and exc is sent.failure:
            raise
        known = isinstance(exc, ValueError) and not isinstance(exc, OSError)
        kind = httpx.UnsupportedProtocol if known else httpx.ReadError
        raise kind(str(exc), request=request) from exc


class SlotStream(httpx.AsyncByteStream):
    """A response's body; gives its slot back when it is closed, and counts its bytes."""

    def __init__(
        self,
        transport: SlotTransport,
        slot: httpx.AsyncHTTPTransport,
        stream: httpx.AsyncByteStream,
        request: httpx.Request,
    ) -> None:
        self._transport = transport
        self._slot: httpx.AsyncHTTPTransport | None = slot
        self._stream = stream
        self._request = request
        self._complete = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        limit = self._transport.body_limit
        size = 0
        chunks = aiter(self._stream)
        try:
            while True:
                with mapped(self._request):
                    try:
                        chunk = await anext(chunks)
                    except StopAsyncIteration:
                        break
                size += len(chunk)
                if limit is not None and size > limit:
                    raise too_large(f"{self._request.method} {self._request.url.path}", limit)
                yield chunk
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()  # or the garbage collector would, some time
        self._complete = True

    def __del__(self) -> None:
        """Take back the slot of a response that nobody closed, or it would be lost to all tasks."""
        slot, self._slot = self._slot, None
        if slot is not None:
            with suppress(RuntimeError):  # without a running loop there is nobody to starve
                self._transport._discard(slot)

    async def aclose(self) -> None:
        slot, self._slot = self._slot, None
        if slot is None:
            return
        if not self._complete:
            self._transport._discard(slot)  # the rest of the body would be read by the next user
            return
        try:
            with mapped(self._request):
                await self._stream.aclose()
        except BaseException:
            self._transport._discard(slot)
            raise
        self._transport._release(slot)


class NoCookies(httpx.Cookies):
    """Keeps nothing: a worker has no session, and the jar costs a third of a request's CPU."""

    def extract_cookies(self, response: httpx.Response) -> None:
        pass


class DataApiClient(httpx.AsyncClient):
    """The shared client: an ordinary `httpx.AsyncClient` but for what this module's head says.

    The token goes to the Data API's own origin and to no other, whatever URL a task calls.
    """

    def __init__(self, options: ClientOptions) -> None:
        super().__init__(
            base_url=options.base_url,
            headers={
                "Accept": "application/json",
                # What was not compressed cannot be a small body that unpacks to a huge one.
                "Accept-Encoding": "identity",
                "User-Agent": options.user_agent,
            },
            timeout=httpx.Timeout(
                options.timeout.total_seconds(),
                connect=min(options.timeout, options.connect_timeout).total_seconds(),
            ),
            follow_redirects=False,
            trust_env=False,  # asked for, it is the transport's matter
            event_hooks={"request": [self._before_request]},
            transport=SlotTransport(
                connections=options.connections,
                body_limit=options.body_limit,
                trust_env=options.trust_env,
                proxy=environment_proxy(options.base_url) if options.trust_env else None,
            ),
        )
        self.body_limit = options.body_limit
        self._no_cookies = NoCookies()
        self._origin = origin(self.base_url)
        self._authorization = f"Bearer {options.token}" if options.token is not None else None

    @property
    def cookies(self) -> httpx.Cookies:
        return self._no_cookies

    @cookies.setter
    def cookies(self, cookies: object) -> None:
        raise AttributeError("the shared client keeps no cookies")

    async def send(self, request: httpx.Request, **how: Any) -> httpx.Response:
        """As `httpx.AsyncClient.send`; what a run sends by itself is announced, as ``other``."""
        run = current_run()
        if run is None or CALL in request.extensions:
            return await super().send(request, **how)
        with run.calling(OTHER) as calling:
            request.extensions = {**request.extensions, CALL: calling}
            response = await super().send(request, **how)
            calling.status = response.status_code
            return response

    async def _before_request(self, request: httpx.Request) -> None:
        if self._authorization is not None and origin(request.url) == self._origin:
            request.headers.setdefault("Authorization", self._authorization)
        if not may_repeat(request):
            run = current_run()
            if run is not None:
                run.repeatable = False


def open_client(options: ClientOptions) -> httpx.AsyncClient:
    """The client that all tasks of a worker share. Close it with ``aclose`` or ``async with``.

    Raises:
        ConfigurationError: The environment names a proxy that cannot be used.
    """
    try:
        return DataApiClient(options)
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as exc:
        raise ConfigurationError(
            [f"the environment's proxy or certificates cannot be used: {exc}"]
        ) from exc


def origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def environment_proxy(base_url: str) -> str | None:
    """The proxy that ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` name."""
    url = httpx.URL(base_url)
    if proxy_bypass(url.host):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def too_large(call: str, limit: int) -> AnswerTooLarge:
    return AnswerTooLarge(call, f"the answer's body is over the limit of {limit} bytes")
