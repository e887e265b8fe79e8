"""An answer, complete but not yet sent: so that it can be kept, replayed, or lost on the way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, the bytes of a JSON body, and headers beyond the content's type and length."""

    status: int
    content: bytes
    headers: tuple[tuple[str, str], ...] = ()
    replayed: bool = False

    @classmethod
    def json(cls, status: int, body: object, *headers: tuple[str, str]) -> Self:
        """An answer with this body."""
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        return cls(status, content, headers)

    @classmethod
    def refusal(cls, status: int, detail: str, *headers: tuple[str, str]) -> Self:
        """An answer that says what was wrong with the request."""
        return cls.json(status, {"detail": detail}, *headers)


class Refused(Exception):
    """The request cannot be served; what it is answered."""

    def __init__(self, status: int, detail: str, *headers: tuple[str, str]) -> None:
        super().__init__(detail)
        self.answer = Answer.refusal(status, detail, *headers)
