"""Which options a schedule is made of, and where each was given: the code, a setting, a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from worker.durations import format_duration
from worker.schedules.registration import GOES_WITH, WHEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.schedules.policies import TaskSchedule
    from worker.schedules.registration import ScheduleOptions

__all__ = ["ScheduleField", "describe_fields", "fields_of", "merged_fields", "merged_options"]

BY_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class ScheduleField:
    """One option of a schedule.

    Attributes:
        value: For people; empty for what is not shown, such as parameters.
        origin: Where it was given: code, a setting, a file.
        used: Whether it has a meaning beside the others: a time zone has none with an interval.
    """

    name: str
    value: str
    origin: str
    used: bool = True

    def __str__(self) -> str:
        return f"{self.name}={self.value} ({self.origin})" if self.value else self.named

    @property
    def named(self) -> str:
        return f"{self.name} ({self.origin})"


def fields_of(options: ScheduleOptions, *, when: str, code: str) -> tuple[ScheduleField, ...]:
    """The fields of one source.

    Args:
        when: Where the option is given that says when the task runs.
        code: Where the others are given.
    """
    return tuple(
        ScheduleField(name, value_of(name, value), when if name in WHEN else code)
        for name, value in options.items()
        if value is not None
    )


def merged_options(options: ScheduleOptions, override: ScheduleOptions) -> ScheduleOptions:
    """The options, each replaced by the one that overrides it, if any.

    Those that say when a task runs replace each other. An option that only goes with the one that
    was replaced is left out.
    """
    said: dict[str, Any] = {**options}
    if any(name in override for name in WHEN):
        said = {name: value for name, value in said.items() if name not in WHEN}
    said |= {name: value for name, value in override.items() if value is not None}
    for name, owners in GOES_WITH.items():
        if name not in override and not any(owner in said for owner in owners):
            said.pop(name, None)
    return cast("ScheduleOptions", said)


def merged_fields(
    fields: Sequence[ScheduleField], override: ScheduleOptions, origin: str
) -> tuple[ScheduleField, ...]:
    """The fields of `merged_options`, and those that it left out, which are not used."""
    over = fields_of(override, when=origin, code=origin)
    replaced = {field.name for field in over}
    if replaced & set(WHEN):
        replaced |= set(WHEN)
    merged = [*over, *(field for field in fields if field.name not in replaced)]
    names = {field.name for field in merged}
    return tuple(
        replace(field, used=not (field.name in GOES_WITH and names.isdisjoint(owners)))
        for field in merged
        for owners in [GOES_WITH.get(field.name, ())]
    )


def describe_fields(terms: TaskSchedule, fields: Sequence[ScheduleField]) -> str:
    """The schedule that results, and the origin of each of its fields, on one line."""
    used = [field for field in fields if field.used]
    names = {field.name for field in used}
    if terms.schedule is not None and "cron" in names and "timezone" not in names:
        used.append(ScheduleField("timezone", "UTC", BY_DEFAULT))
    is_interval = not names.isdisjoint(GOES_WITH["phase"])
    if terms.schedule is not None and is_interval and "phase" not in names:
        source = "start_at" if "start_at" in names else "the task's name"
        used.append(ScheduleField("phase", f"from {source}", BY_DEFAULT))
    told = f"{terms.task}: {terms.schedule or 'off'}; {', '.join(map(str, used))}"
    unused = ", ".join(
        f"{field}, which goes with {GOES_WITH[field.name][0]}" for field in fields if not field.used
    )
    return f"{told}; not used: {unused}" if unused else told


def value_of(name: str, value: object) -> str:
    """A value for people; no parameters, which may be secret."""
    match value:
        case timedelta() if value >= timedelta(0):
            return format_duration(value)
        case datetime():
            return value.isoformat()
        case bool():
            return str(value).lower()
        case Mapping():
            return ""
        case str():
            return repr(value) if " " in value else value
    return str(value)
