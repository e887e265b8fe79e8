"""Sends an answer, in one piece or as its fate has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import assert_never

from starlette.types import Receive, Scope, Send

from worker.demo.answer import JSON_TYPE, Answer
from worker.demo.dice import Dice, Fate, Loss, Stopping
from worker.demo.wire import Wire, wire_of

_CHUNK = 64 * 1024
_NOT_JSON = b'{"items": [{"id": 1}, {"id"'
_WRONG_SHAPE = b'["an array", "where an object belongs"]'


async def deliver(
    answer: Answer, fate: Fate, dice: Dice, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send the answer, or do to it what its fate says."""
    faults = fate.faults
    match fate.loss:
        case None:
            await _send(answer, answer.content, send)
        case Loss.RESET:
            wire_of(scope).reset()
            await _gone(receive)
        case Loss.HANG:
            await _hang(wire_of(scope), dice, receive)
        case Loss.RESET_IN_BODY:
            await _send_half(answer, send)
            wire_of(scope).reset()
            await _gone(receive)
        case Loss.TRUNCATE:
            await _send_half(answer, send)
            wire_of(scope).close()
            await _gone(receive)
        case Loss.SLOW_BODY:
            chunks = _bytewise(answer.content, faults.slow_body, dice)
            await _stream(answer, chunks, wire_of(scope), receive, send, length=len(answer.content))
        case Loss.HUGE_BODY:
            chunks = _padded(answer.content, faults.huge_body)
            await _stream(answer, chunks, wire_of(scope), receive, send)
        case Loss.MALFORMED:
            await _send(answer, _NOT_JSON, send)
        case Loss.WRONG_SHAPE:
            await _send(answer, _WRONG_SHAPE, send)
        case Loss.BODY:
            await _send(answer, (faults.body or "").encode(), send)
        case _:
            assert_never(fate.loss)


async def _send(answer: Answer, content: bytes, send: Send) -> None:
    await _start(answer, len(content), send)
    await send({"type": "http.response.body", "body": content})


async def _start(answer: Answer, length: int | None, send: Send) -> None:
    headers = [(b"content-type", JSON_TYPE.encode())]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})


async def _send_half(answer: Answer, send: Send) -> None:
    await _start(answer, len(answer.content), send)
    half = answer.content[: len(answer.content) // 2]
    await send({"type": "http.response.body", "body": half, "more_body": True})


async def _stream(
    answer: Answer,
    chunks: AsyncIterator[bytes],
    wire: Wire,
    receive: Receive,
    send: Send,
    *,
    length: int | None = None,
) -> None:
    """Send chunk by chunk, until the client has had enough, or the server stops.

    Length None: it is not announced, so that the client learns of it by reading only.
    """
    await _start(answer, length, send)
    try:
        async for chunk in chunks:
            if wire.closed:
                break
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except Stopping:
        wire.close()
    if wire.closed:
        await _gone(receive)
    else:
        await send({"type": "http.response.body", "body": b""})


async def _bytewise(content: bytes, seconds: float, dice: Dice) -> AsyncIterator[bytes]:
    """The content byte by byte, with a pause before each. Raises `Stopping`."""
    for index in range(len(content)):
        await dice.pause(seconds)
        yield content[index : index + 1]


async def _padded(content: bytes, size: int) -> AsyncIterator[bytes]:
    """A JSON object with a field of this size put before the others, made as it is sent."""
    yield b'{"padding":"'
    while size > 0:
        yield b"x" * min(size, _CHUNK)
        size -= _CHUNK
    yield b'"}' if content == b"{}" else b'",' + content[1:]


async def _hang(wire: Wire, dice: Dice, receive: Receive) -> None:
    """Do nothing until the client gives up, or the server stops."""
    stopped = asyncio.create_task(dice.stopped(), name="demo.hang.stopped")
    gone = asyncio.create_task(_gone(receive), name="demo.hang.gone")
    try:
        await asyncio.wait((stopped, gone), return_when=asyncio.FIRST_COMPLETED)
        wire.close()
        await gone
    finally:
        stopped.cancel()
        gone.cancel()


async def _gone(receive: Receive) -> None:
    """Wait until the connection is closed, after which uvicorn expects no answer."""
    while (await receive())["type"] != "http.disconnect":
        pass
