"""Which fault befalls which call: the one place that remembers and rolls."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import dataclass
from enum import StrEnum

from worker.demo.answer import Answer
from worker.demo.faults import Faults

_GATEWAY_ERRORS = (500, 502, 503, 504)


class Loss(StrEnum):
    """How an answer is lost, or spoilt, on its way. The names are those of the faults."""

    RESET = "reset"
    HANG = "hang"
    RESET_IN_BODY = "reset_in_body"
    TRUNCATE = "truncate"
    SLOW_BODY = "slow_body"
    HUGE_BODY = "huge_body"
    MALFORMED = "malformed"
    WRONG_SHAPE = "wrong_shape"
    BODY = "body"


@dataclass(frozen=True, slots=True)
class Fate:
    """What befalls one call: a delay, and then perhaps another answer, or a loss."""

    faults: Faults
    delay_s: float = 0.0
    instead: Answer | None = None
    loss: Loss | None = None

    def name_for(self, answer: Answer) -> str | None:
        """What the journal calls the fault that this answer met; a delay alone is none."""
        if self.loss is not None:
            return self.loss.value
        if answer is not self.instead:
            return None
        return "redirect" if answer.status == 302 else "error"

    @property
    def unseen(self) -> bool:
        """Whether the client never gets to see a status."""
        return self.loss in (Loss.RESET, Loss.HANG)


class Stopping(Exception):
    """The server stops, and a pause ends early."""


class Dice:
    """Rolls the fate of each call. `faults` counts down its own `_next` values."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._random = random.Random(faults.seed)
        # A test loads from its own thread, while the server's thread counts down.
        self._lock = threading.Lock()
        self._stopping = asyncio.Event()

    def load(self, faults: Faults) -> None:
        """From now on these faults, the dice starting at their seed."""
        with self._lock:
            self._random = random.Random(faults.seed)
            self.faults = faults

    def roll(self, line: str) -> Fate:
        """The fate of the call whose method and target read like this."""
        with self._lock:
            return self._roll(self.faults, line)

    def _roll(self, faults: Faults, line: str) -> Fate:
        if faults.only_path is not None and faults.only_path not in line:
            return Fate(faults)
        if faults.only_next is not None and not self._count("only_next"):
            return Fate(faults)
        delay_s = faults.latency_s
        if faults.latency_jitter_s:
            delay_s += faults.latency_jitter_s * self._random.random()
        if self._count("reset_next") or self._happens(faults.reset_rate):
            return Fate(faults, delay_s, loss=Loss.RESET)
        if faults.hang:
            return Fate(faults, delay_s, loss=Loss.HANG)
        instead = self._error(faults)
        if instead is not None:
            return Fate(faults, delay_s, instead=instead)
        return Fate(faults, delay_s, loss=_spoilt(faults))

    async def pause(self, seconds: float) -> None:
        """Wait. Raises `Stopping` when the server stops meanwhile."""
        if seconds <= 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise Stopping

    async def stopped(self) -> None:
        """Wait until the server stops."""
        await self._stopping.wait()

    def stop(self) -> None:
        """End all pauses. Called on the server's loop, once."""
        self._stopping.set()

    def _error(self, faults: Faults) -> Answer | None:
        status: int | None = None
        if self._count("fail_next"):
            status = faults.error_status or 503
        elif self._happens(faults.error_rate):
            status = faults.error_status or self._random.choice(_GATEWAY_ERRORS)
        if status is not None:
            retry_after = faults.retry_after
            headers = () if retry_after is None else (("retry-after", retry_after),)
            return Answer.refusal(status, "a fault that was asked for", *headers)
        if faults.redirect is not None:
            return Answer.json(302, {"detail": "moved"}, ("location", faults.redirect))
        return None

    def _happens(self, rate: float) -> bool:
        return rate > 0 and self._random.random() < rate

    def _count(self, name: str) -> bool:
        """Take one from a counter; False if nothing was left."""
        left = getattr(self.faults, name)
        if not left:
            return False
        self.faults = self.faults.model_copy(update={name: left - 1})
        return True


def _spoilt(faults: Faults) -> Loss | None:
    asked = {
        Loss.RESET_IN_BODY: faults.reset_in_body,
        Loss.TRUNCATE: faults.truncate,
        Loss.SLOW_BODY: faults.slow_body,
        Loss.HUGE_BODY: faults.huge_body,
        Loss.MALFORMED: faults.malformed,
        Loss.WRONG_SHAPE: faults.wrong_shape,
        Loss.BODY: faults.body is not None,
    }
    return next((loss for loss, wanted in asked.items() if wanted), None)
