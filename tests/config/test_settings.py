"""The environment in, frozen settings or every problem out."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from worker import ConfigurationError, Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

URL = "http://orders:8000"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of the machine gets in."""
    import os

    for name in list(os.environ):
        if name.startswith(("WORKER_", "KUBERNETES_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in {"WORKER_DATA_API_URL": URL, **variables}.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def problems(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(monkeypatch, **variables)
    return list(caught.value.problems)


def test_the_defaults_are_those_that_are_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    assert settings.cleanup_interval == timedelta(hours=1)
    assert settings.reminders_interval == timedelta(minutes=5)
    assert settings.sync_interval == timedelta(minutes=30)
    assert settings.orders_interval == timedelta(minutes=5)
    assert settings.cleanup_max_age == timedelta(days=30)
    assert settings.task_time_limit == timedelta(minutes=5)
    assert settings.orders_concurrency == 32
    assert settings.data_api_token is None


@pytest.mark.parametrize("text", ["0", "off", "OFF", " off "])
def test_an_interval_can_be_off(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert load(monkeypatch, WORKER_SYNC_INTERVAL=text).sync_interval == timedelta(0)


def test_every_problem_is_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(
        monkeypatch,
        WORKER_DATA_API_URL="orders:8000",
        WORKER_SYNC_INTERVAL="often",
        WORKER_ORDERS_BATCH_SIZE="many",
        WORKER_ORDERS_CONCURRENCY="0",
        WORKER_LOG_LEVEL="loud",
        WORKER_ORDRES_INTERVAL="5m",
    )
    assert len(found) == 6
    told = "\n".join(found)
    assert (
        "WORKER_ORDRES_INTERVAL is not a setting (did you mean 'WORKER_ORDERS_INTERVAL'?)" in told
    )
    assert "WORKER_SYNC_INTERVAL: expected a duration such as 90s" in told
    assert "got 'often'" in told
    assert "got 'many'" in told


def test_the_url_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(monkeypatch, WORKER_DATA_API_URL="")
    assert problem.startswith("WORKER_DATA_API_URL is required")


@pytest.mark.parametrize(
    "url",
    [
        "orders:8000",
        "ftp://orders",
        "http://",
        "http://orders:0",
        "http://orders:99999",
        "http://orders:http",
        "http://orders?key=hunter2",
        "http://orders#x",
        "http://user:hunter2@orders",
        "http://or ders",
        "http://a:b:c",
        "http://[::1",
        "http://[1]",
        "http://orders/\x07",
        "http://" + "x" * 70_000,
    ],
)
def test_a_url_that_is_no_base_url_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    (problem,) = problems(monkeypatch, WORKER_DATA_API_URL=url)
    assert problem.startswith("WORKER_DATA_API_URL: ")
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    "url", ["http://orders", "https://orders.example:8443/prefix", "http://[::1]:80", "HTTP://x"]
)
def test_a_base_url_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert load(monkeypatch, WORKER_DATA_API_URL=url).data_api_url == url


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(monkeypatch, WORKER_DATA_API_TOKEN="hunter2 with\nspaces")
    assert "hunter2" not in problem
    settings = load(monkeypatch, WORKER_DATA_API_TOKEN="hunter2")
    assert "hunter2" not in repr(settings)


def test_a_secret_can_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    settings = load(monkeypatch, WORKER_DATA_API_TOKEN_FILE=str(tmp_path / "token"))
    assert settings.data_api_token is not None
    assert settings.data_api_token.get_secret_value() == "hunter2"


def test_a_secret_file_that_is_missing_empty_or_one_too_many_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (missing,) = problems(monkeypatch, WORKER_DATA_API_TOKEN_FILE="nowhere")
    assert missing == (
        "WORKER_DATA_API_TOKEN_FILE: the file cannot be read: No such file or directory"
    )
    (tmp_path / "empty").write_text("\n")
    (empty,) = problems(monkeypatch, WORKER_DATA_API_TOKEN_FILE="empty")
    assert empty.startswith("WORKER_DATA_API_TOKEN_FILE: expected")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (binary,) = problems(monkeypatch, WORKER_DATA_API_TOKEN_FILE="binary")
    assert "UTF-8" in binary
    (both,) = problems(
        monkeypatch, WORKER_DATA_API_TOKEN="hunter2", WORKER_DATA_API_TOKEN_FILE="empty"
    )
    assert "both given" in both


def test_the_environment_wins_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        f"WORKER_DATA_API_URL={URL}\nWORKER_SYNC_INTERVAL=1m\nWORKER_CLEANUP_INTERVAL=2m\n"
        "OTHER_PROGRAM=x\n"
    )
    monkeypatch.setenv("WORKER_SYNC_INTERVAL", "7m")
    settings = load_settings()
    assert settings.sync_interval == timedelta(minutes=7)
    assert settings.cleanup_interval == timedelta(minutes=2)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"WORKER_LOG_LEVEL debug\n", ".env line 1: expected NAME=value"),
        (b"A=1\nthis is junk\n", ".env line 2: expected NAME=value"),
        (b"\xff\xfe", ".env cannot be read: it is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, complaint: str
) -> None:
    (tmp_path / ".env").write_bytes(content)
    assert problems(monkeypatch) == [complaint]
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    assert problems(monkeypatch) == [".env cannot be read: Is a directory"]


def test_an_unknown_name_in_the_file_is_refused_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("WORKER_LOGLEVEL=debug\n")
    (problem,) = problems(monkeypatch)
    assert problem == "WORKER_LOGLEVEL is not a setting (did you mean 'WORKER_LOG_LEVEL'?)"


def test_what_kubernetes_adds_for_a_service_called_worker_is_not_taken_for_a_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    links = {
        "WORKER_SERVICE_HOST": "10.0.0.1",
        "WORKER_SERVICE_PORT": "80",
        "WORKER_PORT": "tcp://10.0.0.1:80",
        "WORKER_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert len(problems(monkeypatch, **links)) == 4
    load(monkeypatch, KUBERNETES_SERVICE_HOST="10.0.0.2", **links)


def test_modules_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, WORKER_TASK_MODULES="a.b, c,").task_modules == ("a.b", "c")
    (problem,) = problems(monkeypatch, WORKER_TASK_MODULES="a/b.py")
    assert "got 'a/b.py'" in problem


def test_settings_that_contradict_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(monkeypatch, WORKER_RETRY_BASE="1m", WORKER_RETRY_LONGEST="1s")
    assert problem == "WORKER_RETRY_LONGEST must not be shorter than WORKER_RETRY_BASE"


LONG = "0123456789abcdef"


@pytest.mark.parametrize(
    "token",
    [
        "short",
        "0123456789abcde",
        "a" * 40,
        "abcabcabcabcabcabc",
        "sixteen or more with spaces",
        "\u00e9" * 16,
        LONG + "\n",
    ],
)
def test_a_weak_ops_token_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    for name in ("WORKER_OPS_TOKEN", "WORKER_OPS_READ_TOKEN"):
        monkeypatch.delenv("WORKER_OPS_TOKEN", raising=False)
        (problem,) = problems(monkeypatch, **{name: token})
        assert problem.startswith(f"{name}: expected 16 or more characters")
        assert token not in problem


def test_the_two_ops_tokens_must_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(monkeypatch, WORKER_OPS_TOKEN=LONG, WORKER_OPS_READ_TOKEN=LONG)
    assert "must differ" in problem


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "ops.internal"])
def test_an_ops_address_that_others_reach_needs_a_token(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    (problem,) = problems(monkeypatch, WORKER_OPS_PORT="8080", WORKER_OPS_HOST=host)
    assert "set WORKER_OPS_TOKEN" in problem
    assert host in problem
    assert load(monkeypatch, WORKER_OPS_READ_TOKEN=LONG).ops_host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_an_ops_address_of_this_machine_needs_none(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    assert load(monkeypatch, WORKER_OPS_PORT="8080", WORKER_OPS_HOST=host).ops_token is None


def test_an_ops_address_that_is_not_served_needs_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, WORKER_OPS_HOST="0.0.0.0").ops_port == 0


def test_the_two_listeners_have_two_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems(monkeypatch, WORKER_OPS_PORT="8080", WORKER_PROBE_PORT="8080")
    assert "WORKER_PROBE_PORT must differ from WORKER_OPS_PORT" in problem


@pytest.mark.parametrize("name", ["https://ops.example", "ops.example:8080", "*", "a b", "ops/x"])
def test_an_ops_host_is_a_name_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (problem,) = problems(monkeypatch, WORKER_OPS_HOSTS=f"fine.example,{name}")
    assert "without scheme and port" in problem
    assert repr(name) in problem
