"""What is called a secret is shown to nobody."""

from __future__ import annotations

import ast
import io
import json
from typing import Any

import pytest
import structlog

from tests.support.documents import ROOT
from worker.secret_keys import (
    HIDDEN,
    is_secret_key,
    judged,
    without_secret_values,
    without_secrets,
)
from worker.telemetry.logs import configure_logging


@pytest.mark.parametrize(
    "name",
    [
        *("password", "PASSWORD", "db_password", "userPassword", "passwd", "pwd", "passphrase"),
        *("token", "access-token", "refreshToken", "X-Auth-Token", "csrf.token"),
        *("secret", "client_secret", "aws_secret_access_key", "SecretKey"),
        *("authorization", "Proxy-Authorization", "cookie", "Set-Cookie"),
        *("api_key", "apiKey", "API-KEY", "apikey", "private_key", "accessKey", "credentials"),
        *("pin", "otp", "cvv", "passcode", "pin_code", "otpCode", "recovery_code", "sig"),
        *("key", "sshKey", "aes_key", "hmac-key", "STRIPE_KEY", "master_key", "session_key"),
        *("auth", "x-auth", "proxy_auth", "pass", "db_pass", "bearer", "jwt", "session", "sid"),
        *("dsn", "database_dsn", "connection_string", "ConnectionString", "database_url"),
    ],
)
def test_a_name_of_a_secret(name: str) -> None:
    assert is_secret_key(name)


@pytest.mark.parametrize(
    "name",
    [
        *("order_id", "author", "path", "keys", "pinned", "spin", "user", "monkey", ""),
        *("unique_key", "concurrency_key", "idempotency_key", "Idempotency-Key", "order_key"),
        *("primaryKey", "s3_object_key", "partition_key", "public_key", "key_id", "KeyError"),
        *("signal", "assigned", "design", "passed", "compass", "passenger", "sessions", "side"),
        *("authors", "authority", "code", "postcode", "country_code", "url", "data_api_url"),
    ],
)
def test_a_name_of_no_secret(name: str) -> None:
    assert not is_secret_key(name)


def test_secrets_are_hidden_at_any_depth_and_nothing_else_is() -> None:
    given = {
        "order": 7,
        "card": {"cvv": 123, "holder": "Ann"},
        "headers": [{"Authorization": "Bearer x", "Accept": "*/*"}],
        "credentials": {"user": "ann", "any": ["thing"]},
        "token": None,
        "has_password": True,
    }
    before = json.dumps(given)
    assert without_secrets(given) == {
        "order": 7,
        "card": {"cvv": HIDDEN, "holder": "Ann"},
        "headers": [{"Authorization": HIDDEN, "Accept": "*/*"}],
        "credentials": HIDDEN,
        "token": None,
        "has_password": True,
    }
    assert json.dumps(given) == before


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"headers": [["Authorization", "Bearer x"], ["Accept", "*/*"]]}, ["Accept", "*/*"]),
        ([("Cookie", "a=x")], ["Cookie", HIDDEN]),
        ({"name": "password", "value": "x"}, "password"),
        ({"key": "password", "value": "x"}, "password"),
        ({"key": "color", "value": "red"}, "red"),
        ({"name": "color", "value": "red", "password": "x"}, "red"),
        ({"name": "x-api-key", "values": ["x"]}, "x-api-key"),
        (["token", {"password": "x"}], {"password": HIDDEN}),
    ],
)
def test_a_value_beside_the_name_of_a_secret_is_one(given: Any, shown: Any) -> None:
    told = json.dumps(without_secrets(given))
    assert json.dumps(shown) in told
    assert '"x"' not in told
    assert "=x" not in told
    assert "r x" not in told


def test_long_names_are_judged_and_not_kept() -> None:
    before = judged.cache_info().currsize
    for number in range(10):
        assert is_secret_key(f"{number}" + "k" * 1000 + "_password")
        assert not is_secret_key(f"{number}" + "k" * 1000)
    assert judged.cache_info().currsize == before


def test_what_is_nested_without_end_is_hidden() -> None:
    deep: Any = {"token": "x"}
    for _ in range(5000):
        deep = [deep]
    assert HIDDEN in str(without_secrets(deep))


def test_no_key_of_the_workers_own_log_is_taken_for_a_secret() -> None:
    levels = {"debug", "info", "warning", "error", "exception"}
    keys = {
        keyword.arg
        for path in (ROOT / "worker").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in levels
        for keyword in node.keywords
        if keyword.arg is not None
    }
    assert {"session_name", "address"} <= keys
    assert {key for key in keys if is_secret_key(key)} == set()


def test_the_log_hides_by_name() -> None:
    stream = io.StringIO()
    configure_logging(form="json", stream=stream)
    structlog.get_logger("task").info(
        "paid",
        password="hunter2",
        order={"api_key": "hunter2", "n": 1},
        lines=[{"token": "hunter2"}],
    )
    line = json.loads(stream.getvalue())
    assert "hunter2" not in stream.getvalue()
    assert line["password"] == HIDDEN
    assert line["order"] == {"api_key": HIDDEN, "n": 1}


def test_a_schema_keeps_its_form_and_loses_the_values_of_secrets() -> None:
    schema = {
        "properties": {
            "api_key": {"anyOf": [{"const": "k1"}, {"type": "null"}], "default": "k2"},
            "size": {"type": "integer", "default": 3, "examples": [1]},
            "login": {"$ref": "#/$defs/Login", "default": {"password": "k3"}},
        },
        "required": ["size"],
        "$defs": {"Login": {"properties": {"password": {"enum": ["k4"], "type": "string"}}}},
    }
    assert without_secret_values(schema) == {
        "properties": {
            "api_key": {"anyOf": [{}, {"type": "null"}]},
            "size": {"type": "integer", "default": 3, "examples": [1]},
            "login": {"$ref": "#/$defs/Login"},
        },
        "required": ["size"],
        "$defs": {"Login": {"properties": {"password": {"type": "string"}}}},
    }
    assert without_secret_values(None) is None
