"""A task and its schedule, as they are registered: what the code says, and what overrides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.errors import InvalidParams, TaskDefinitionError
from worker.schedules.registration import ScheduleOptions, task_schedule
from worker.schedules.schedule import OFF, Interval, Within
from worker.scheduling.schedule_fields import (
    ScheduleField,
    fields_of,
    merged_fields,
    merged_options,
)
from worker.tasks.enqueuing import enqueuing

if TYPE_CHECKING:
    from datetime import timedelta

    from worker.schedules.policies import TaskSchedule
    from worker.tasks.base import TaskDefinition

__all__ = ["Override", "ScheduledTask"]

ON_DEMAND = "on demand"


@dataclass(frozen=True, slots=True)
class Override:
    """Options that stand in the place of what the code says, and where they were said."""

    options: ScheduleOptions
    said_by: str


@dataclass(frozen=True, slots=True)
class ScheduledTask:
    """A registered task.

    Attributes:
        terms: Its schedule; without one it only runs by hand.
        said_by: Where its schedule was said: a setting, a file, or the code that registered it.
        slots: What a slot runs, if not the task itself.
        params: What it is run with, as JSON.
        fields: The options that were given, each with where it was given.
    """

    definition: TaskDefinition
    terms: TaskSchedule
    said_by: str
    slots: TaskDefinition | None = None
    params: str = "{}"
    fields: tuple[ScheduleField, ...] = ()

    @property
    def interval(self) -> timedelta | None:
        """The time between two slots, for a schedule that has one."""
        schedule = self.terms.schedule
        if isinstance(schedule, Within):
            schedule = schedule.schedule
        return schedule.every if isinstance(schedule, Interval) else None

    @property
    def on_demand(self) -> bool:
        """Whether it has no schedule, and waits to be asked for."""
        return self.terms.schedule is None and self.definition.options is not None

    def check_params(self, said: str | None = None) -> None:
        """See that a run by hand could begin, before anything of it is recorded.

        Args:
            said: A JSON object; without it, what the schedule says.

        Raises:
            InvalidParams: The parameters do not fit.
        """
        try:
            self.definition.params.load(self.params if said is None else said)
        except InvalidParams as exc:
            raise InvalidParams(f"{self.definition.name}: {exc}") from exc

    @classmethod
    def of(
        cls,
        definition: TaskDefinition,
        options: ScheduleOptions,
        *,
        said_by: str | None,
        override: Override | None,
    ) -> ScheduledTask:
        """Make it of what was said.

        Args:
            options: What the code says; of a task that can be asked for it may be nothing.
            said_by: Who says that, if not the code itself.

        Raises:
            TaskDefinitionError: No or two schedules, an option out of range, or parameters that
                do not fit the task.
        """
        if definition.options is not None and not options:
            options, said_by = {"interval": OFF}, said_by or ON_DEMAND
        terms = task_schedule(definition.name, options)
        code = definition.defined_in
        fields = fields_of(options, when=said_by or code, code=code)
        if override is not None:
            fields = merged_fields(fields, override.options, override.said_by)
            options, said_by = merged_options(options, override.options), override.said_by
            try:
                terms = task_schedule(definition.name, options)
            except TaskDefinitionError as exc:
                raise TaskDefinitionError(f"{said_by}: {exc}") from exc
        try:
            params = params_of(definition, terms, options.get("params"))
        except InvalidParams as exc:
            raise TaskDefinitionError(f"{definition.name!r}: params: {exc}") from exc
        return cls(
            definition,
            terms,
            said_by or code,
            enqueuing(definition, options.get("params")) if options.get("enqueue") else None,
            params,
            fields,
        )


def params_of(definition: TaskDefinition, terms: TaskSchedule, said: object) -> str:
    """What a task on a schedule is run with, as JSON.

    Raises:
        InvalidParams: It does not fit, or it is missing.
    """
    if said is None and (terms.schedule is None or not definition.params.required):
        return "{}"
    return definition.params.dump(said)
