"""Everything that can go wrong with a service, on request."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

Rate = Annotated[float, Field(ge=0, le=1)]
# What may stand in a header: nonsense is welcome, line breaks are not.
HeaderText = Annotated[str, Field(pattern=r"^([!-~]([ -~]*[!-~])?)?$")]
ErrorStatus = Annotated[int, Field(ge=400, le=599)]


class Faults(BaseModel):
    """What befalls the calls of the contract. The default is nothing.

    Where several apply to one call, the first one in this order wins, after the latency: a reset,
    a hang, an error, a redirect, a spoilt body.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        use_attribute_docstrings=True,
    )

    only_path: str | None = None
    """Only calls whose line contains this text, as in "GET /api/v1/orders?status=pending"."""
    only_next: NonNegativeInt | None = None
    """Only the next n calls (that `only_path` lets through); None means all."""
    seed: int = 0
    """Where the dice of the rates and of the jitter start."""
    after_effect: bool = True
    """Whether a call whose answer is lost or spoilt had its effect. Errors never have one."""

    latency_s: NonNegativeFloat = 0.0
    """How long a call is worked on, its idempotency key being in flight meanwhile."""
    latency_jitter_s: NonNegativeFloat = 0.0
    """At most how much longer."""

    reset_rate: Rate = 0.0
    """How many of the connections are reset (TCP RST) before any byte of the answer."""
    reset_next: NonNegativeInt = 0
    """The next n connections are reset."""
    hang: bool = False
    """No answer ever comes."""

    error_rate: Rate = 0.0
    """How many of the calls fail."""
    fail_next: NonNegativeInt = 0
    """The next n calls fail."""
    error_status: ErrorStatus | None = None
    """What failing calls answer: 503, or one of 500, 502, 503, 504 for those of `error_rate`."""
    retry_after: HeaderText | None = None
    """The Retry-After header of failing calls, sent as it is."""
    redirect: HeaderText | None = None
    """A 302 to this place."""

    reset_in_body: bool = False
    """The connection is reset halfway through the body."""
    truncate: bool = False
    """The connection is closed in good order halfway through the body."""
    slow_body: NonNegativeFloat = 0.0
    """The body comes byte by byte, with this many seconds before each."""
    huge_body: NonNegativeInt = 0
    """The body is the right one, with a field of so many bytes added; its length is not announced.
    """
    malformed: bool = False
    """The body is not JSON."""
    wrong_shape: bool = False
    """The body is JSON, and an array where every call of the contract answers an object."""
    body: str | None = None
    """The body is this text."""

    @classmethod
    def parse(cls, items: Iterable[str]) -> Self:
        """Read `["latency_s=0.02", "hang=true"]`, as a command line has them.

        Raises ValueError for a name that is none, or a value that does not fit.
        """
        values: dict[str, object] = {}
        for item in items:
            name, equals, value = item.partition("=")
            if not equals:
                raise ValueError(f"a fault is NAME=VALUE, as in latency_s=0.02; got {item!r}")
            values[name.strip()] = value
        return cls.of(values)

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Self:
        """Read named values, as JSON has them. Raises ValueError like `parse`."""
        for name in values:
            if name not in cls.model_fields:
                raise ValueError(_unknown(name, cls.model_fields))
        try:
            faults = cls.model_validate(values)
        except ValidationError as exc:
            raise ValueError(explain(exc)) from exc
        if faults.error_status and not (faults.error_rate or faults.fail_next):
            raise ValueError(
                "error_status says which error, not how often: add error_rate=1 or fail_next=3"
            )
        return faults


NO_FAULTS = Faults()


def explain(error: ValidationError) -> str:
    """What pydantic found, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'value'}: {problem['msg']}, "
        f"got {problem['input']!r}"
        for problem in error.errors(include_url=False)
    )


def _unknown(name: str, known: Iterable[str]) -> str:
    def distance(candidate: str) -> float:
        return -difflib.SequenceMatcher(None, name, candidate).ratio()

    return f"there is no fault {name!r}; the nearest first, there are: " + ", ".join(
        sorted(known, key=distance)
    )
