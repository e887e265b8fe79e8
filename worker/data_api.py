"""The Data API's contract: one method a call, one error for whatever can go wrong with it.

Times go out as RFC 3339 in UTC. Ids go out percent-encoded as one path segment. Each unsafe call
carries an ``Idempotency-Key``, so every call of the contract may be repeated, and is: transient
failures (connection errors, timeouts, 408, 425, 429, 500, 502, 503, 504) as the run's
`RetryPolicy` says, anything else fails at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID, uuid5

import httpx
from pydantic import BaseModel, Field, StrictBool, StrictInt, StrictStr, TypeAdapter
from pydantic import ValidationError as InvalidShape

from worker.context import CALL
from worker.errors import (
    AnswerTooLarge,
    DataApiError,
    DataApiUnreachable,
    InvalidId,
    MalformedAnswer,
    UnexpectedRedirect,
    UnexpectedStatus,
)
from worker.network import explain
from worker.retry import (
    TRANSIENT_STATUS,
    may_repeat,
    parse_retry_after,
    passes,
)
from worker.transport import DEFAULT_BODY_LIMIT, DataApiClient, too_large

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from worker.context import Calling, RunContext

__all__ = ["Booking", "DataApi", "ItemId", "idempotency_key"]

ItemId = StrictInt | StrictStr
"""What the service calls an order or a booking: an integer or an arbitrary text."""

CALLS = (
    "bookings.remind",
    "bookings.upcoming",
    "orders.cleanup",
    "orders.list",
    "orders.process",
    "sync",
)
"""The names of the contract's calls."""
LARGEST_DRAIN = 64 * 1024
LONGEST_DRAIN_S = 1.0

KEY_NAMESPACE = UUID("a2b7c2a5-6a3e-4e39-9d6f-0b6b7a1f1c55")

T = TypeVar("T")


class Deleted(BaseModel):
    deleted_count: Annotated[StrictInt, Field(ge=0)]


class Order(BaseModel):
    id: ItemId


class Orders(BaseModel):
    items: list[Order]


class Booking(BaseModel):
    """A booking that starts soon; fields the worker does not need are left out."""

    id: ItemId
    reminder_sent: StrictBool


class Bookings(BaseModel):
    items: list[Booking]


STATISTICS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


class DataApi:
    """The calls of the contract, over any `httpx.AsyncClient`, on behalf of one run.

    Raises (every call):
        DataApiUnreachable: No complete answer came, after all attempts.
        UnexpectedStatus: The answer's status was not 2xx.
        MalformedAnswer: The answer is not JSON, or not of the contract's shape.
        AnswerTooLarge: The answer's body is over the client's limit.
        InvalidId: An id is empty, ``.``, ``..``, or does not fit into a URL; nothing was sent.
    """

    def __init__(
        self,
        http_client: httpx.AsyncClient,
        run: RunContext,
        *,
        sleep: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        """
        Args:
            run: Whose retries, clock and events the calls use.
            sleep: How to wait, in seconds, before a call is repeated; the clock's way unless given.
        """
        self._client = http_client
        self._run = run
        self._sleep = sleep or run.clock.sleep
        self._base = str(http_client.base_url).rstrip("/")
        self._headers = http_client.headers.raw
        self._body_limit = (
            http_client.body_limit if isinstance(http_client, DataApiClient) else DEFAULT_BODY_LIMIT
        )

    async def cleanup_orders(self, *, before: datetime) -> int:
        """Delete the orders older than ``before``; how many there were."""
        body = await self._call(
            "orders.cleanup", "DELETE", "/api/v1/orders/cleanup", {"before": rfc3339(before)}
        )
        return parse("orders.cleanup", Deleted, body).deleted_count

    async def sync(self, *, key: str) -> dict[str, Any]:
        """Trigger the sync; the service's statistics, as they are."""
        body = await self._call("sync", "POST", "/api/v1/sync", key=key)
        return parse("sync", STATISTICS, body)

    async def pending_orders(self, *, offset: int, limit: int) -> list[ItemId]:
        """The ids of up to ``limit`` pending orders from ``offset`` on, in the service's order."""
        query = {"status": "pending", "offset": str(offset), "limit": str(limit)}
        body = await self._call("orders.list", "GET", "/api/v1/orders", query)
        return [order.id for order in parse("orders.list", Orders, body).items]

    async def process_order(self, order_id: ItemId) -> None:
        """Process one order. The same order has the same idempotency key in every run."""
        segment = path_segment("orders.process", order_id)
        await self._call(
            "orders.process",
            "POST",
            f"/api/v1/orders/{segment}/process",
            key=idempotency_key("orders.process", segment),
        )

    async def upcoming_bookings(self, *, start: datetime, end: datetime) -> list[Booking]:
        """The bookings that start between ``start`` and ``end``."""
        query = {"start": rfc3339(start), "end": rfc3339(end)}
        body = await self._call("bookings.upcoming", "GET", "/api/v1/bookings/upcoming", query)
        return parse("bookings.upcoming", Bookings, body).items

    async def remind(self, booking_id: ItemId) -> None:
        """Send one booking's reminder. The same booking has the same key in every run."""
        segment = path_segment("bookings.remind", booking_id)
        await self._call(
            "bookings.remind",
            "POST",
            f"/api/v1/bookings/{segment}/remind",
            key=idempotency_key("bookings.remind", segment),
        )

    async def _call(
        self,
        call: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        key: str | None = None,
    ) -> bytes:
        """Send one call until it succeeds or its attempts are spent; the answer's body."""
        target = f"{self._base}{path}?{urlencode(query)}" if query else f"{self._base}{path}"
        try:
            url = httpx.URL(target)
        except httpx.InvalidURL as exc:
            raise InvalidId(call, f"the id does not fit into a URL: {exc}") from exc
        headers = [*self._headers, (b"Idempotency-Key", key.encode())] if key else self._headers

        spent = 1

        async def attempt() -> bytes:
            with self._run.calling(call, spent) as calling:
                request = httpx.Request(method, url, headers=headers, extensions={CALL: calling})
                return await self._send(call, request, calling)

        def before_wait(number: int, wait_s: float, failure: BaseException) -> None:
            nonlocal spent
            spent = number + 1
            self._run.call_retrying(call, number, wait_s, failure)

        try:
            return await self._run.retry.call(
                attempt, clock=self._run.clock, sleep=self._sleep, before_wait=before_wait
            )
        except DataApiError as exc:
            exc.attempts = spent
            raise

    async def _send(self, call: str, request: httpx.Request, calling: Calling) -> bytes:
        try:
            response = await self._client.send(request, stream=True, follow_redirects=False)
            calling.status = response.status_code
            try:
                if response.is_success:
                    return await self._read(call, response)
                refusal = self._bad_status(call, response)
                await drain(response)
                raise refusal
            finally:
                await response.aclose()
        except httpx.RequestError as exc:
            raise translate(call, request, exc) from exc
        except AnswerTooLarge as exc:
            raise too_large(call, self._body_limit) from exc

    async def _read(self, call: str, response: httpx.Response) -> bytes:
        coding = response.headers.get("Content-Encoding", "")
        if "," in coding:  # a few kilobytes, packed twice, can unpack to all memory at one stroke
            raise MalformedAnswer(call, f"the answer is encoded more than once ({coding})")
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > self._body_limit:
                raise too_large(call, self._body_limit)
            chunks.append(chunk)
        return b"".join(chunks)

    def _bad_status(self, call: str, response: httpx.Response) -> UnexpectedStatus:
        status = response.status_code
        if 300 <= status < 400:
            target = without_query(response.headers.get("Location", ""))
            return UnexpectedRedirect(
                call,
                f"expected an answer, got a redirect ({status}) to {target!r}; redirects are not "
                "followed, so WORKER_DATA_API_URL should name the final address",
                status=status,
            )
        transient = status in TRANSIENT_STATUS and may_repeat(response.request)
        return UnexpectedStatus(
            call,
            f"expected 2xx, got {status_line(status)}{self._hint(status)}",
            status=status,
            transient=transient,
            retry_after_s=parse_retry_after(
                response.headers.get("Retry-After"), self._run.clock.now()
            ),
        )

    def _hint(self, status: int) -> str:
        """What to look at."""
        base = httpx.URL(self._base).path
        if status == HTTPStatus.NOT_FOUND and base != "/":
            return f"; is the path in WORKER_DATA_API_URL right: {base}?"
        return HINTS.get(status, "")


HINTS = {
    401: "; is WORKER_DATA_API_TOKEN right?",
    403: "; may this token do that?",
    409: "; the same effect is in flight elsewhere, it will be tried later",
}


async def drain(response: httpx.Response) -> None:
    """Read a refusal's short body to its end: only then can its connection be used again."""
    if response.is_closed:  # as a mocked one is from the beginning
        return
    size = 0
    with suppress(httpx.RequestError, AnswerTooLarge, TimeoutError):
        async with asyncio.timeout(LONGEST_DRAIN_S):
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > LARGEST_DRAIN:
                    return


def translate(call: str, request: httpx.Request, exc: httpx.RequestError) -> DataApiError:
    """The one place where httpx's errors become ours."""
    if isinstance(exc, httpx.DecodingError):
        return MalformedAnswer(call, f"the answer could not be decoded: {exc}")
    if isinstance(exc, httpx.TransportError):
        return DataApiUnreachable(
            call,
            explain(exc),
            transient=passes(exc) and may_repeat(request),
        )
    return DataApiError(call, f"{type(exc).__name__}: {exc}")


def parse(call: str, shape: type[T] | TypeAdapter[T], body: bytes) -> T:
    adapter = shape if isinstance(shape, TypeAdapter) else ADAPTERS[shape]
    try:
        parsed: T = adapter.validate_json(body)
    except InvalidShape as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise MalformedAnswer(call, f"the answer is malformed at {where}: {first['msg']}") from None
    return parsed


ADAPTERS: dict[type, TypeAdapter[Any]] = {
    shape: TypeAdapter(shape) for shape in (Deleted, Orders, Bookings)
}


def path_segment(call: str, item_id: ItemId) -> str:
    """An id percent-encoded as one segment of a path (RFC 3986 §3.3)."""
    text = str(item_id)
    if text in ("", ".", ".."):
        raise InvalidId(call, f"the id {text!r} cannot be one segment of a path; nothing was sent")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as exc:
        raise InvalidId(call, "the id is not valid Unicode; nothing was sent") from exc


def idempotency_key(effect: str, subject: str) -> str:
    """The same key for the same effect on the same subject, in every run and every worker."""
    return str(uuid5(KEY_NAMESPACE, f"{effect}:{subject}"))


def rfc3339(moment: datetime) -> str:
    """RFC 3339, in UTC and to the second: ``2026-11-21T09:30:00Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def without_query(url: str) -> str:
    """Where a URL points, without a query or credentials, which may hold secrets."""
    try:
        return str(httpx.URL(url).copy_with(query=None, fragment=None, userinfo=b""))
    except httpx.InvalidURL:
        return "(not a URL)"


def status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
