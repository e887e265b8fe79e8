"""The shapes of what a caller of the API says. The one definition of each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from worker.model import State

__all__ = ["Bulk", "Enqueue", "JobFilter", "Note", "in_utc"]


def in_utc(moment: datetime) -> datetime:
    """The moment in UTC, which is meant where nothing else is said.

    Raises:
        ValueError: It is in no year that has four digits there.
    """
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(
            f"expected a moment of the years 1 to 9999 in UTC, got {moment.isoformat()}"
        ) from exc


Moment = Annotated[datetime, AfterValidator(in_utc)]
Text = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


class Said(BaseModel):
    """What a caller says. Nothing unknown is let pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Note(Said):
    """Why, for the others."""

    note: str = Field("", max_length=1000, pattern=r"^[^\x00]*$")


class JobFilter(Said):
    """Which jobs to list."""

    task: Text | None = None
    queue: Text | None = None
    state: tuple[State, ...] = Field((), description="In one of these states; repeatable.")
    dead: bool | None = Field(None, description="Dead letters only, or none of them.")
    since: Moment | None = Field(None, description="Created at this moment or later.")
    before: Text | None = Field(
        None, description="Created before this moment; or the `next` of the page before."
    )
    limit: int = Field(50, ge=1, le=200)


class Bulk(Said):
    """Which dead letters: those named, or all that fit and had died before a moment.

    Unless they are only to be counted, one of both is to be said.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["ids"], "properties": {"ids": {"type": "array"}}},
                {"required": ["before"], "properties": {"before": {"type": "string"}}},
                {"required": ["dry_run"], "properties": {"dry_run": {"const": True}}},
            ]
        }
    )

    task: Text | None = None
    queue: Text | None = None
    before: Moment | None = Field(
        None, description="Dead before this moment, as the dry run told it."
    )
    ids: tuple[Text, ...] | None = Field(None, max_length=1000)
    dry_run: bool = Field(False, description="Only count them.")

    @model_validator(mode="after")
    def _says_which(self) -> Bulk:
        if self.ids is None and self.before is None and not self.dry_run:
            raise ValueError(
                "expected ids, or before as a dry run told it: have them counted first with "
                '{"dry_run": true}'
            )
        return self


class Enqueue(Said):
    """A job to be asked for."""

    params: dict[str, Any] = Field(default_factory=dict)
    id: str | None = Field(None, description="The same id twice is one job.")
    delay: str | None = Field(None, description="From now to when it may begin, such as 5m.")
    priority: int | None = Field(None, ge=-100, le=100)
    max_retries: int | None = Field(None, ge=0)
