"""Everything that can be configured, from the environment (``WORKER_…``) and from ``.env``.

`load_settings` is the only way in: it finds every fault at once, names the nearest known name for
one that does not exist, and never repeats a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.durations import parse_duration
from worker.environment import (
    ENV_FILE,
    PAYLOAD_BOUNDS,
    PAYLOAD_LIMIT,
    PREFIX,
    our_variables,
    read_secret_file,
)
from worker.errors import ConfigurationError, nearest
from worker.network import is_loopback, is_token
from worker.schedules.schedule import LONGEST, OFF

__all__ = ["PREFIX", "Settings", "load_settings"]

SHORTEST_OPS_TOKEN = 16
LEAST_VARIETY = 6
"""Different characters of such a token: a random one has them, a chosen one may not."""


def as_duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def as_duration_or_off(value: object) -> object:
    if isinstance(value, str) and value.strip().lower() == "off":
        return OFF
    return as_duration(value)


def as_names(value: object) -> object:
    if isinstance(value, str):
        return tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    return value


Duration = Annotated[timedelta, BeforeValidator(as_duration), Field(gt=OFF, le=LONGEST)]
DurationOrOff = Annotated[timedelta, BeforeValidator(as_duration_or_off), Field(ge=OFF, le=LONGEST)]


class Settings(BaseSettings):
    """The worker's settings. Each is read from ``WORKER_`` and its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_default=False,
    )

    data_api_url: str = Field(description="Base URL of the Data API, `http://` or `https://`.")
    data_api_token: SecretStr | None = Field(
        None, description="Bearer token for the Data API; none is sent without it."
    )
    data_api_timeout: Duration = Field(
        timedelta(seconds=10),
        description="How long to wait for the Data API's next sign of life, and for a free "
        "connection. Connecting may take half of it.",
    )
    data_api_body_limit: int = Field(
        10 * 1024 * 1024, gt=0, description="Largest answer that is read, in bytes."
    )
    data_api_trust_env: bool = Field(
        False, description="Take proxies and certificates from the environment (`HTTPS_PROXY` …)."
    )
    retry_attempts: int = Field(
        3, ge=1, le=100, description="Tries a call gets in all while its failures are transient."
    )
    retry_base: Duration = Field(
        timedelta(seconds=0.5), description="Longest wait before the first repetition; it doubles."
    )
    retry_longest: Duration = Field(
        timedelta(seconds=30), description="Longest wait before any repetition."
    )
    retry_after_cap: Duration = Field(
        timedelta(seconds=60), description="Longest wait that a `Retry-After` can ask for."
    )
    cleanup_interval: DurationOrOff = Field(
        timedelta(hours=1), description="How often `cleanup_old_orders` runs; `off` for never."
    )
    cleanup_max_age: Duration = Field(
        timedelta(days=30), description="Age beyond which `cleanup_old_orders` deletes."
    )
    reminders_interval: DurationOrOff = Field(
        timedelta(minutes=5), description="How often `send_reminders` runs; `off` for never."
    )
    reminders_window: Duration = Field(
        timedelta(hours=1), description="How far ahead `send_reminders` looks for bookings."
    )
    sync_interval: DurationOrOff = Field(
        timedelta(minutes=30), description="How often `sync_external_data` runs; `off` for never."
    )
    orders_interval: DurationOrOff = Field(
        timedelta(minutes=5),
        description="How often `process_pending_orders` runs; `off` for never.",
    )
    orders_batch_size: int = Field(
        100, ge=2, le=10_000, description="Orders `process_pending_orders` asks for in one page."
    )
    orders_concurrency: int = Field(
        32, ge=1, le=1_000, description="Orders that are processed at the same time."
    )
    task_modules: Annotated[tuple[str, ...], NoDecode, BeforeValidator(as_names)] = Field(
        (), description="Modules with tasks of your own, separated by commas."
    )
    task_time_limit: Duration = Field(
        timedelta(minutes=5), description="Longest a run may take, if its task does not say."
    )
    first_run_delay: DurationOrOff = Field(
        timedelta(seconds=1), description="From the start of the worker to the first overdue run."
    )
    first_run_spread: DurationOrOff = Field(
        timedelta(seconds=5), description="Over how long the runs that are overdue are spread."
    )
    schedules_file: Path | None = Field(
        None, description="TOML or YAML file with schedules; it overrides any task's own."
    )
    store_url: SecretStr | None = Field(
        None,
        description="Where the ledger is kept: `sqlite:///…`, `postgresql://…`, `redis://…` or "
        "`memory://`; without it, SQLite in the state folder.",
    )
    queue_url: SecretStr | None = Field(
        None,
        description="Where jobs wait: `sqlite:///…`, `postgresql://…`, `redis://…`, `sqs://…` or "
        "`memory://`; without it, the store.",
    )
    queues_file: Path | None = Field(
        None, description="YAML or TOML file that says how each queue is polled."
    )
    concurrency: int = Field(
        100, ge=1, le=10_000, description="Jobs that run at the same time, over all queues."
    )
    visibility_timeout: Duration = Field(
        timedelta(minutes=1),
        description="How long a job is hidden from other workers; extended while it runs, and for "
        "`WORKER_STALL_LIMIT` while it blocks the event loop.",
    )
    job_losses: int = Field(
        3,
        ge=1,
        le=1_000,
        description="How often a job's lease may run out while it runs, as its workers died or "
        "stood still, before it is dead.",
    )
    job_refusals: int = Field(
        10,
        ge=1,
        le=1_000,
        description="Deliveries that may find no worker which knows a job's task, or this version "
        "of its parameters, before the job is dead: ten take twenty minutes.",
    )
    jobs_keep: Duration = Field(
        timedelta(days=7), description="How long jobs that ended are remembered."
    )
    payload_limit: int = Field(
        PAYLOAD_LIMIT,
        ge=PAYLOAD_BOUNDS[0],
        le=PAYLOAD_BOUNDS[1],
        description="Largest parameters, and largest result, of one job, in bytes of JSON.",
    )
    call_functions: Annotated[tuple[str, ...], NoDecode, BeforeValidator(as_names)] = Field(
        (), description="Functions that jobs may call by name, `pkg.module:function`, by commas."
    )
    state_dir: Path = Field(
        Path(".worker"), description="Folder for what outlives a restart, if no store is named."
    )
    replica: str | None = Field(
        None,
        max_length=100,
        description="This worker's name in the ledger; without it, host name and process id.",
    )
    lease: Duration = Field(
        timedelta(seconds=30),
        description="How long a worker may be silent before its runs count as lost.",
    )
    ledger_keep: Duration = Field(
        timedelta(days=30), description="How long the ledger remembers what became of a slot."
    )
    stall_after: Duration = Field(
        timedelta(seconds=5),
        description="How long the event loop may stand still before the log says which task "
        "holds it.",
    )
    stall_limit: Duration = Field(
        timedelta(minutes=5),
        description="How long leases, of slots and of jobs, are kept for an event loop that stands "
        "still. After that its jobs are taken over, and each has lost a worker.",
    )
    shutdown_grace: DurationOrOff = Field(
        timedelta(seconds=25), description="How long runs may go on after SIGTERM."
    )
    heartbeat_file: Path | None = Field(
        None,
        description="File to touch every 10 s while the event loop turns, for health checks.",
    )
    heartbeat_url: SecretStr | None = Field(
        None,
        description="URL to call while no task is stale, as healthchecks.io and Dead Man's Snitch "
        "take it.",
    )
    heartbeat_url_interval: Duration = Field(
        timedelta(minutes=1), description="How often `WORKER_HEARTBEAT_URL` is called."
    )
    tracing: bool = Field(
        False,
        description="Make spans of runs and requests, for OpenTelemetry; where they go, the "
        "`OTEL_…` variables say.",
    )
    ops_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of the dashboard, its API and the metrics; `0` for none of them.",
    )
    ops_host: str = Field("127.0.0.1", description="Address on which `WORKER_OPS_PORT` listens.")
    ops_token: SecretStr | None = Field(
        None, description="Token that opens the dashboard and its API, 16 characters or more."
    )
    ops_read_token: SecretStr | None = Field(
        None, description="Token that lets its owner look, and change nothing."
    )
    ops_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(as_names)] = Field(
        (),
        description="Names by which browsers reach the dashboard, apart from loopback's, by "
        "commas.",
    )
    probe_port: int = Field(
        0, ge=0, le=65535, description="Port of the health probes; `0` for none of its own."
    )
    probe_host: str = Field("0.0.0.0", description="Address on which `WORKER_PROBE_PORT` listens.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged: `debug`, `info`, `warning`, `error`."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`json` lines, readable `console`, or `auto`: by where the log goes."
    )

    @field_validator("data_api_url")
    @classmethod
    def _is_base_url(cls, value: str) -> str:
        match = re.fullmatch(r"(https?)://([^/?#\s]+)(/[^?#\s]*)?", value.strip(), re.IGNORECASE)
        if match is None:
            raise ValueError(
                "expected the address of a service such as http://orders:8000, without a query"
            )
        if "@" in match[2]:
            raise ValueError("credentials do not belong in the URL; use WORKER_DATA_API_TOKEN")
        host, _, port = match[2].rpartition(":") if ":" in match[2] else (match[2], "", "80")
        if not host or not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[^\[\]:]+", host):
            raise ValueError(f"expected a host name, got {match[2]!r}")
        try:
            httpx.URL(value.strip())
        except (httpx.InvalidURL, ValueError) as exc:
            raise ValueError(f"expected a URL, {exc}") from exc
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"expected a port from 1 to 65535, got {port!r}")
        return value.strip()

    @field_validator("data_api_token")
    @classmethod
    def _is_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not is_token(value.get_secret_value()):
            raise ValueError("expected printable ASCII without spaces, and not nothing")
        return value

    @field_validator("ops_token", "ops_read_token")
    @classmethod
    def _is_long_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        token = value.get_secret_value()
        if (
            not is_token(token)
            or len(token) < SHORTEST_OPS_TOKEN
            or len(set(token)) < LEAST_VARIETY
        ):
            raise ValueError(
                f"expected {SHORTEST_OPS_TOKEN} or more characters of printable ASCII without "
                f"spaces, of which {LEAST_VARIETY} differ, such as `openssl rand -hex 24` prints"
            )
        return value

    @field_validator("ops_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"[\w.-]+|[0-9A-Fa-f:]+:[0-9A-Fa-f:.]*", name, re.ASCII):
                raise ValueError(
                    f"expected names such as ops.example.com, without scheme and port, got {name!r}"
                )
        return value

    @field_validator("lease")
    @classmethod
    def _is_lease(cls, value: timedelta) -> timedelta:
        if value < timedelta(seconds=1):
            raise ValueError("a lease must be a second or more; it is renewed three times in it")
        return value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("task_modules")
    @classmethod
    def _are_modules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"expected module names such as shop.tasks, got {name!r}")
        return value

    @field_validator("call_functions")
    @classmethod
    def _are_functions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            module, mark, function = name.partition(":")
            if not mark or not all(p.isidentifier() for p in (*module.split("."), function)):
                raise ValueError(f"expected names such as shop.tasks:reindex, got {name!r}")
        return value

    @field_validator("visibility_timeout")
    @classmethod
    def _is_visibility_timeout(cls, value: timedelta) -> timedelta:
        if value < timedelta(seconds=3):
            raise ValueError("a visibility timeout must be 3 s or more; it is extended three times")
        return value

    @model_validator(mode="after")
    def _waits_fit(self) -> Settings:
        if self.retry_longest < self.retry_base:
            raise ValueError("WORKER_RETRY_LONGEST must not be shorter than WORKER_RETRY_BASE")
        return self

    @model_validator(mode="after")
    def _ops_is_locked(self) -> Settings:
        if not self.ops_port:
            return self
        if self.ops_token is self.ops_read_token is None and not is_loopback(self.ops_host):
            raise ValueError(
                f"WORKER_OPS_HOST: {self.ops_host} is reached by others than this machine; set "
                "WORKER_OPS_TOKEN, or WORKER_OPS_READ_TOKEN to let them look only"
            )
        if self.ops_port == self.probe_port:
            raise ValueError(
                "WORKER_PROBE_PORT must differ from WORKER_OPS_PORT, which serves the probes too"
            )
        return self

    @model_validator(mode="after")
    def _ops_tokens_differ(self) -> Settings:
        if self.ops_token is not None and self.ops_token == self.ops_read_token:
            raise ValueError("WORKER_OPS_READ_TOKEN must differ from WORKER_OPS_TOKEN")
        return self


SECRETS = (
    "data_api_token",
    "store_url",
    "queue_url",
    "heartbeat_url",
    "ops_token",
    "ops_read_token",
)
"""Settings that a file may hold, named by ``WORKER_…_FILE``; their values are never shown."""
UNSHOWN = (*SECRETS, "data_api_url")


def load_settings(**overrides: Any) -> Settings:
    """Read the settings: the environment wins over ``.env``, ``overrides`` win over both.

    Raises:
        ConfigurationError: Anything at all is wrong; it names every problem.
    """
    problems: list[str] = []
    given = our_variables(problems)
    if problems:  # nothing that the file may say can be trusted
        raise ConfigurationError(problems)
    problems += unknown_names(given)
    secrets = read_secret_files(given, problems)
    try:
        settings = Settings(**{**secrets, **overrides})
    except ValidationError as exc:
        problems += [explain(error, secrets) for error in exc.errors(include_url=False)]
    if problems:
        raise ConfigurationError(problems)
    return settings


def unknown_names(given: Mapping[str, str]) -> list[str]:
    known = {variable(name) for name in Settings.model_fields}
    known |= {f"{variable(name)}_FILE" for name in SECRETS}
    return [
        f"{name} is not a setting{nearest(name, known)}"
        for name in sorted(given)
        if name not in known
    ]


def read_secret_files(given: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    read = {name: read_secret_file(given, variable(name), problems) for name in SECRETS}
    return {name: value for name, value in read.items() if value is not None}


def explain(error: Any, from_files: Mapping[str, str]) -> str:
    """One fault that pydantic found, in the words of the environment."""
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    name = str(error["loc"][0])
    if error["type"] == "missing":
        return f"{variable(name)} is required: {Settings.model_fields[name].description}"
    message = str(error["msg"]).removeprefix("Value error, ")
    shown = "" if name in UNSHOWN or ", got " in message else f", got {error['input']!r}"
    source = f"{variable(name)}_FILE" if name in from_files else variable(name)
    return f"{source}: {message}{shown}"


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()
