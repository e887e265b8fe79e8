"""Secrets are taken out of texts: first, at any length, and in linear time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from worker import redaction
from worker.redaction import LONGEST, Redaction, plain, told_json
from worker.summary import describe, format_traceback

SECRET = 's3"cret'
MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('the token s3"cret leaked', "the token *** leaked"),
        ("GET http://api:1/x?before=2026&a=b failed", "GET http://api:1/x failed"),
        ("see https://user:pw@api/x for more", "see https://***@api/x for more"),
        ("'http://api/x?y' and 'http://b/?z'", "'http://api/x' and 'http://b/'"),
        ("GET /api/v1/orders?key=hidden&x=1 failed", "GET /api/v1/orders failed"),
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer ***"),
        ("nothing to hide?", "nothing to hide?"),
        ("redis://:pw@cache:6379/0#x", "redis://***@cache:6379/0"),
        ("first http://x?a=b\nsecond line", "first http://x\nsecond line"),
        ("2026-11-21T09:30:00Z sync: 3 of 7 done", "2026-11-21T09:30:00Z sync: 3 of 7 done"),
        ("KeyError: 'order'", "KeyError: 'order'"),
        ("unique_key=a idempotency_key: b", "unique_key=a idempotency_key: b"),
        ("password: Field required", "password: Field required"),
        ("api_key: Input should be a valid string", "api_key: Input should be a valid string"),
        ("WORKER_OPS_TOKEN: expected 16 signs", "WORKER_OPS_TOKEN: expected 16 signs"),
    ],
)
def test_what_is_taken_out_and_what_is_left(text: str, redacted: str) -> None:
    assert Redaction([SECRET])(text) == redacted


@pytest.mark.parametrize(
    "password", ["pa/ss", "p@ssw0rd", "p'w", 'p"w', "p#ss", "p?x", "a://b", "1"]
)
@pytest.mark.parametrize("scheme", ["postgresql", "redis", "HTTP", "x+y.z-1"])
def test_any_sign_may_be_in_the_password_of_a_url(scheme: str, password: str) -> None:
    said = Redaction()(f"no answer of {scheme}://usr:{password}@host:1/db, again")
    assert said == f"no answer of {scheme}://***@host:1/db, again"


@pytest.mark.parametrize(
    "said",
    [
        "Authorization: Basic hunter2",
        "Authorization: Token hunter2",
        "authorization: hunter2",
        "proxy-authorization = Basic hunter2",
        'Authorization: Digest username="hunter2", response="hunter2"',
        "Basic hunter2=",
        "X-Api-Key: hunter2",
        "Cookie: a=hunter2; b=hunter2",
        "Bearer:hunter2",
        "Bearer abc:hunter2",
        "bearer hunter2",
        "password=hunter2",
        "--password=hunter2",
        "host=db password=hunter2 user=x",
        "Server=db;password=hunter2;Database=x",
        "password = 'hunter2 and more hunter2'",
        "error: password=hunter2",
        "{'password': 'hunter2'}",
        '{"password":"hunter2"}',
        '{"a": "{\\"password\\": \\"hunter2\\"}"}',
        '{"pass_word": 1, "credentials": {"a": "hunter2"}}',
        "{'db_pass'=>'hunter2'}",
        "[(b'authorization', b'hunter2')]",
        '["X-Auth-Token", "hunter2"]',
        "password: [hunter2, hunter2]",
        "password='hunter2 that does not end",
        "dbPassword: hunter2,hunter2",
    ],
)
def test_a_value_goes_by_its_name_or_its_scheme(said: str) -> None:
    for text in (said, f"before {said}", f"a\n{said}\nb", json.dumps(said), repr({"a": said})):
        assert "hunter2" not in Redaction()(text), text


def test_what_is_redacted_stays_as_it_is() -> None:
    redact = Redaction([SECRET])
    text = f"{SECRET} https://u:p@h/?q=1 Authorization: Basic x password='y' Bearer z"
    assert redact(redact(text)) == redact(text) != text


HOSTILE = {
    "letters": "a" * MEGABYTE + " ://",
    "schemes": "a://" * (MEGABYTE // 4),
    "at signs": "://" + "@" * MEGABYTE,
    "questions": "a?" * (MEGABYTE // 2),
    "long query": "a?" + "a" * MEGABYTE,
    "bearers": "bearer " * (MEGABYTE // 7),
    "blanks": "Bearer" + " " * MEGABYTE,
    "colons": "Bearer" + ":" * MEGABYTE + "'",
    "names": "password=" * (MEGABYTE // 9),
    "open quotes": "password='" * (MEGABYTE // 10),
    "brackets": "password=[" * (MEGABYTE // 10),
    "commas": "password=a, " * (MEGABYTE // 12),
    "semicolons": "password=a; b" + " b" * (MEGABYTE // 2),
    "backslashes": "password" + "\\" * MEGABYTE + "x",
    "escapes": 'password="' + "\\" * MEGABYTE,
    "said": "password: " + "Aa" * (MEGABYTE // 2),
    "marks": "a_-." * (MEGABYTE // 4) + "=",
    "humps": "aA" * (MEGABYTE // 2) + "=",
    "blanks behind a name": ("key" + " " * 100) * (MEGABYTE // 103),
    "lines": "key:\n" * (MEGABYTE // 5),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_grows_with_the_text_and_not_with_its_square(name: str) -> None:
    """A megabyte, of which a square would take hours."""
    redaction.redacted(HOSTILE[name])
    assert len(Redaction([SECRET])(HOSTILE[name])) <= LONGEST


@pytest.mark.parametrize("at", [-3, 0, 3, 7])
@pytest.mark.parametrize(
    "said", [SECRET, "postgresql://u:hunter2@h", "password=hunter2", "Basic hunter2"]
)
def test_no_half_of_a_secret_stands_beside_a_cut(said: str, at: int) -> None:
    redact = Redaction([SECRET])
    for longest in (500, redaction.ENDS, LONGEST):
        filler = "x " * (longest // 2)
        for text in (f"{filler[: longest - at]} {said}", f"{said} {filler[: longest - at]}"):
            whole = redact(text + " " + filler + " " + text)
            for half in ("s3", "hunter2", "hunt"):
                assert half not in whole
            assert "s3" not in describe(ValueError(text), redact)
            assert "hunt" not in describe(ValueError(text), redact)


def test_a_secret_across_the_cut_of_a_message_or_a_traceback_is_none_of_it() -> None:
    token = "token-0123456789abcdef"
    redact = Redaction([token])
    for filler in range(470, 500):
        assert "oke" not in describe(ValueError("x" * filler + token), redact)
    for filler in range(3_800, 4_200, 7):
        failure = ValueError("x" * filler + token + "y" * 20_000)
        assert "oke" not in format_traceback(failure, redact)


def test_of_a_long_text_the_middle_is_left_out() -> None:
    text = Redaction()("first " + "x " * MEGABYTE + "last")
    assert text.startswith("first ")
    assert text.endswith(" last")
    assert "characters left out" in text
    assert len(text) < LONGEST
    assert "characters left out" in Redaction()("x" * MEGABYTE)


def test_a_value_has_its_keys_redacted_too() -> None:
    told = plain({SECRET: [SECRET, {"a": SECRET}], 7: "http://u:p@h"}, Redaction([SECRET]))
    assert told == {"***": ["***", {"a": "***"}], "7": "http://***@h"}


@pytest.mark.parametrize("text", ["nul", "", "{not json", "[" * 20_000, "{" * 20_000, '"\\ud800"'])
def test_what_is_no_json_is_told_as_it_is(text: str) -> None:
    told: Any = told_json(text, str)
    assert isinstance(told, str)
    told.encode()
