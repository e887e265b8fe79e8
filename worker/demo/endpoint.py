"""What happens to every call of the contract, whichever it is.

In this order: it is written down, its fate is rolled, the token is checked, its key is claimed, its
latency passes, its effect and the answer to its key are written together, the answer is sent.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from worker.demo.answer import Answer, Refused
from worker.demo.contract import Call, Operation
from worker.demo.delivery import deliver
from worker.demo.dice import Dice, Fate, Stopping
from worker.demo.journal import Received
from worker.demo.keys import fingerprint
from worker.demo.store import Store

_LONGEST_KEY = 255


class Endpoint:
    """The ASGI application of one operation."""

    def __init__(
        self,
        operation: Operation,
        store: Store,
        dice: Dice,
        *,
        token: str | None,
        require_key: bool,
    ) -> None:
        self._operation = operation
        self._store = store
        self._dice = dice
        self._token = token
        self._require_key = require_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        # The routes match the path as it was sent, so an id may hold an encoded slash.
        subject = unquote(request.path_params.get("id", ""))
        key = request.headers.get("idempotency-key")
        number = self._store.journal.received(
            Received(request.method, self._operation.path, subject or None, key)
        )
        target = scope["path"] + "?" + scope["query_string"].decode("latin-1")
        fate = self._dice.roll(f"{request.method} {target}")
        call = Call(subject, key, request.query_params)
        try:
            self._check_token(request)
            digest = fingerprint(request.method, target, await request.body())
            answer = await self._work(call, fate, digest)
        except ClientDisconnect:
            return  # It left before it had said all, so there is nothing to do and no one to tell.
        except Refused as refused:
            answer = refused.answer
        self._store.journal.answered(
            number,
            status=None if fate.unseen else answer.status,
            fault=fate.name_for(answer),
            replayed=answer.replayed,
        )
        await deliver(answer, fate, self._dice, scope, receive, send)

    async def _work(self, call: Call, fate: Fate, digest: str) -> Answer:
        key = self._checked_key(call.key)
        with self._claimed(key, digest):
            try:
                await self._dice.pause(fate.delay_s)
            except Stopping:
                raise Refused(503, "the service stops") from None
            if fate.instead is not None:
                return fate.instead
            if fate.loss is not None and not fate.faults.after_effect:
                return Answer.json(200, {})
            if key is None:
                with self._store.transaction():
                    return self._handle(call)
            return self._once(key, digest, call)

    def _once(self, key: str, digest: str, call: Call) -> Answer:
        """The answer that this key got before; or the effect, now, and its answer kept."""
        with self._store.transaction():
            replay = self._store.keys.replay(key, digest)
            if replay is not None:
                return replay
            answer = self._handle(call)
            self._store.keys.keep(key, digest, answer)
            return answer

    def _handle(self, call: Call) -> Answer:
        try:
            return self._operation.handle(self._store, call)
        except Refused as refused:
            return refused.answer

    @contextmanager
    def _claimed(self, key: str | None, digest: str) -> Iterator[None]:
        if key is None:
            yield
            return
        with self._store.keys.claim(key, digest):
            yield

    def _checked_key(self, key: str | None) -> str | None:
        """The key if this operation wants one. Raises `Refused`."""
        if not self._operation.keyed or (key is None and not self._require_key):
            return None
        if key is None:
            raise Refused(400, "this call needs an Idempotency-Key header")
        if not 0 < len(key) <= _LONGEST_KEY:
            raise Refused(400, f"Idempotency-Key: expected 1 to {_LONGEST_KEY} characters")
        return key

    def _check_token(self, request: Request) -> None:
        if self._token is None:
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise Refused(401, "expected a bearer token", ("www-authenticate", "Bearer"))
