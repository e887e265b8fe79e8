"""How queues are polled, from a file: YAML where PyYAML is installed, or TOML.

::

    billing:
      poll_interval: 10s
      visibility_timeout: 30s
      max_batch_size: 10
      concurrency: 20

A number is seconds. The names that other processors use are taken as well: ``pollInterval``,
``messageVisibilityTimeout``, ``maxBatchSize``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from worker.config.file import read_config, wrong
from worker.consuming.queue_plan import QueuePlan
from worker.errors import InvalidOptions, nearest
from worker.jobs.options import as_flag, as_limit, as_number, as_queue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["load_queues"]

SETTING = "WORKER_QUEUES_FILE"
EXPECTED = "expected a table for each queue, with poll_interval, max_batch_size or the like"
OTHER_NAMES = {
    "pollInterval": "poll_interval",
    "messageVisibilityTimeout": "visibility_timeout",
    "visibilityTimeout": "visibility_timeout",
    "message_visibility_timeout": "visibility_timeout",
    "maxBatchSize": "max_batch_size",
}


def load_queues(path: Path, default: QueuePlan) -> dict[str, QueuePlan]:
    """The plan of each queue that the file names.

    Args:
        default: Holds for what the file does not say.

    Raises:
        ConfigurationError: It cannot be read, or anything in it is wrong; every problem is named.
    """
    problems: list[str] = []
    plans: dict[str, QueuePlan] = {}
    for name, said in read_config(SETTING, path, EXPECTED).items():
        try:
            if not isinstance(said, dict | None):
                raise InvalidOptions(f"{EXPECTED}; got {said!r}")
            plans[str(name)] = plan_of(as_queue("name", name), said or {}, default)
        except InvalidOptions as exc:
            problems.append(f"{name}: {exc}")
    if problems:
        raise wrong(SETTING, path, problems)
    return plans


def plan_of(name: str, said: Mapping[Any, Any], default: QueuePlan) -> QueuePlan:
    """One queue's plan.

    Raises:
        InvalidOptions: Something in it is unknown or wrong.
    """
    options: dict[str, Any] = {}
    for key, value in said.items():
        option = OTHER_NAMES.get(key, key)
        if option not in CHECKS:
            raise InvalidOptions(
                f"unknown option {key}{nearest(str(key), CHECKS)}; known: {', '.join(CHECKS)}"
            )
        if option in options:
            raise InvalidOptions(f"{option} is given twice")
        options[option] = CHECKS[option](option, value)
    plan = QueuePlan(
        name=name,
        poll_interval=options.get("poll_interval", default.poll_interval),
        push=options.get("push", default.push),
        visibility_timeout=options.get("visibility_timeout", default.visibility_timeout),
        max_batch_size=options.get("max_batch_size", default.max_batch_size),
        concurrency=options.get("concurrency", default.concurrency),
    )
    if plan.visibility_timeout < timedelta(seconds=3):
        raise InvalidOptions(
            f"visibility_timeout: expected 3 s or more, got {plan.visibility_timeout}"
        )
    return plan


def as_time(name: str, value: object) -> timedelta:
    return as_limit(name, value)


def as_count(name: str, value: object) -> int:
    return as_number(name, value, 1, 10_000)


CHECKS: Mapping[str, Any] = {
    "poll_interval": as_time,
    "push": as_flag,
    "visibility_timeout": as_time,
    "max_batch_size": as_count,
    "concurrency": as_count,
}
