"""Schedules from a file: TOML, or YAML where PyYAML is installed.

::

    [tasks.cleanup_old_orders]
    cron = "0 3 * * *"
    timezone = "Europe/Berlin"
    max_age = "26h"

    [tasks.send_reminders]
    enabled = false
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from worker.config.file import read_config, wrong
from worker.errors import TaskDefinitionError
from worker.schedules.registration import GOES_WITH, WHEN, ScheduleOptions, task_schedule

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["load_schedules"]

SETTING = "WORKER_SCHEDULES_FILE"
EXPECTED = "expected tables [tasks.NAME] with options of its schedule, such as interval or cron"


def load_schedules(path: Path) -> dict[str, ScheduleOptions]:
    """The options of each task that the file names.

    Raises:
        ConfigurationError: It cannot be read, or anything in it is wrong; every problem is named.
    """
    content = read_config(SETTING, path, EXPECTED)
    tasks = content.get("tasks")
    others = sorted(str(name) for name in content if name != "tasks")
    if not isinstance(tasks, dict) or others:
        got = f"{', '.join(others)} beside it" if others and tasks else "no tasks"
        raise wrong(SETTING, path, [f"{EXPECTED}; got {got}"])
    problems: list[str] = []
    schedules: dict[str, ScheduleOptions] = {}
    for name, said in tasks.items():
        if not isinstance(name, str):
            problems.append(f"tasks.{name}: expected a task's name, got {name!r}; put it in quotes")
            continue
        if not isinstance(said, dict):
            problems.append(f"tasks.{name}: {EXPECTED}; got {said!r}")
            continue
        try:
            schedules[name] = options_of(name, said)
        except TaskDefinitionError as exc:
            problems.append(str(exc))
    if problems:
        raise wrong(SETTING, path, problems)
    return schedules


def options_of(name: str, said: Mapping[str, Any]) -> ScheduleOptions:
    """The options of one task, checked as far as they can be without the code's own."""
    options = {str(key): value for key, value in said.items() if key != "enabled"}
    enabled = said.get("enabled", True)
    if not isinstance(enabled, bool):
        raise TaskDefinitionError(f"{name!r}: enabled: expected true or false, got {enabled!r}")
    for key, value in options.items():
        if value is None:
            raise TaskDefinitionError(
                f"{name!r}: {key}: expected a value, got none; remove the line to keep what the "
                "code gives"
            )
        if value is False and key != "needs_ledger":
            options[key] = "off"  # as YAML reads a bare off
    interval = options.get("interval")
    if isinstance(interval, int | float) and not isinstance(interval, bool):
        del options["interval"]
        options["interval_seconds"] = interval
    task_schedule(
        name,
        options
        if any(key in options for key in WHEN)
        else {
            "interval": "1h",
            **{key: value for key, value in options.items() if key not in GOES_WITH},
        },
    )
    if not enabled:
        spoken_for = {*WHEN, *GOES_WITH}
        policies = {key: value for key, value in options.items() if key not in spoken_for}
        return cast("ScheduleOptions", {"interval": "off", **policies})
    return cast("ScheduleOptions", options)
