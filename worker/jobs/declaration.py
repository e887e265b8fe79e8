"""What a task declares about its jobs, as a value that workers publish and producers read.

A producer that knows a task by name only has neither its code nor its types. From the declaration
it learns the queue, the priority, when a job expires, and how the keys of ``unique`` and
``concurrency`` are made. Where a key depends on the task's code (a validator, a nested model), the
producer leaves it open: the job's options then list under ``from_task`` what the worker applies
before it runs the job.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from worker.errors import InvalidOptions
from worker.jobs.job import Unique
from worker.jobs.keys import canonical, canonical_json, hashed, tagged
from worker.jobs.options import ConcurrencyPer, JobOptions, UniquePer

if TYPE_CHECKING:
    from worker.jobs.params import Params

__all__ = ["FROM_TASK", "LEFT_OPEN", "Declaration", "Terms", "left_open", "with_left_open"]

FROM_TASK = "from_task"
"""Among a job's options: what its producer did not know, and left to the task's declaration."""
LEFT_OPEN = ("priority", "expires", "unique", "concurrency")
"""What a producer that knows nothing of the task leaves open, unless the caller states it."""
SIMPLE = {
    "str": "str",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "decimal": "decimal",
    "uuid": "uuid",
    "datetime": "datetime",
    "date": "date",
}
CHANGED_TEXT = ("strip_whitespace", "to_lower", "to_upper")


class Terms(NamedTuple):
    """What a worker applies to a job that was enqueued without knowledge of its task.

    Attributes:
        options: The job's options from now on.
        expires: From its creation; ``None`` leaves what is recorded.
        unique, concurrency_key: ``None`` for none.
    """

    priority: int
    options: str
    expires: timedelta | None = None
    unique: Unique | None = None
    concurrency_key: str | None = None
    concurrency_limit: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a task declares.

    Attributes:
        kinds: By field, as it travels: how a JSON value of it is read for a key; ``None`` if only
            the task's code can tell.
        defaults: By field that has a constant default: its canonical text.
    """

    task: str
    queue: str = "default"
    version: int = 1
    priority: int = 0
    expires: timedelta | None = None
    unique: UniquePer | None = None
    concurrency: ConcurrencyPer | None = None
    kinds: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, params: Params, options: JobOptions) -> Declaration:
        """The declaration of a task whose code is here."""
        kinds: dict[str, Any] = dict.fromkeys(params.fields)
        defaults: dict[str, str] = {}
        for one, schema in field_schemas(params).items():
            if one in kinds:
                kinds[one] = kind_of(schema)
                default = default_of(schema)
                if default is not None:
                    defaults[one] = default
        return cls(
            task=name,
            queue=options.queue,
            version=options.version,
            priority=options.priority,
            expires=options.expires,
            unique=options.unique,
            concurrency=options.concurrency,
            kinds=kinds,
            defaults=defaults,
        )

    @property
    def options(self) -> JobOptions:
        """What a producer applies of it."""
        return JobOptions(
            queue=self.queue,
            version=self.version,
            priority=self.priority,
            expires=self.expires,
            unique=self.unique,
            concurrency=self.concurrency,
        )

    def fields(self, said: Mapping[str, object]) -> dict[str, str | None]:
        """The canonical text of each field of some parameters; ``None`` where only the task's
        code can tell."""
        found: dict[str, str | None] = {
            one: canonical_json(kind, said[one]) if one in said else self.defaults.get(one)
            for one, kind in self.kinds.items()
        }
        return {**dict.fromkeys(said.keys() - self.kinds.keys()), **found}

    def key(self, name: str, by: tuple[str, ...], said: Mapping[str, object]) -> str | None:
        """The key of a job with these parameters; ``None`` if only the task's code can tell."""
        texts = self.fields(said)
        if said.keys() - self.kinds.keys():
            return None  # the worker refuses the job, or knows a newer version
        parts = []
        for one in sorted(by or self.kinds, key=lambda one: tagged("s", one)):
            text = texts.get(one)
            if text is None:
                return None
            parts.append(tagged("s", one) + text)
        return hashed(name, "".join([f"d{len(parts)}:", *parts]))

    def dump(self) -> str:
        """As JSON, as it is published."""
        unique, concurrency = self.unique, self.concurrency
        said: dict[str, Any] = {
            "task": self.task,
            "queue": self.queue,
            "version": self.version,
            "priority": self.priority,
            "expires": seconds(self.expires),
            "unique": None,
            "concurrency": None,
            "kinds": dict(sorted(self.kinds.items())),
            "defaults": dict(sorted(self.defaults.items())),
        }
        if unique is not None:
            said["unique"] = {
                "name": self.task,
                "by": self._fields_of_key(unique.by),
                "states": list(unique.states),
                "ttl": seconds(unique.ttl),
                "on_conflict": unique.on_conflict,
            }
        if concurrency is not None:
            said["concurrency"] = {
                "name": concurrency.name or self.task,
                "by": self._fields_of_key(concurrency.by) if concurrency.by else None,
                "limit": concurrency.limit,
            }
        return json.dumps(said, ensure_ascii=False, separators=(",", ":"))

    def _fields_of_key(self, by: tuple[str, ...]) -> list[str]:
        """In the order in which they stand in the canonical text."""
        return sorted(by or self.kinds, key=lambda one: tagged("s", one))

    @classmethod
    def read(cls, text: str) -> Declaration | None:
        """As `load`; ``None`` if it cannot be read, as when a newer worker published it in another
        form: producers then leave everything to the worker that leases the job."""
        try:
            return cls.load(text)
        except ValueError:
            return None

    @classmethod
    def load(cls, text: str) -> Declaration:
        """What a worker published, of this version or another.

        Raises:
            ValueError: It cannot be read.
        """
        try:
            said = json.loads(text)
            unique, concurrency = said["unique"], said["concurrency"]
            return cls(
                task=said["task"],
                queue=said["queue"],
                version=said["version"],
                priority=said["priority"],
                expires=duration(said["expires"]),
                unique=None
                if unique is None
                else UniquePer(
                    *unique["by"],
                    ttl=duration(unique["ttl"]),
                    states=tuple(unique["states"]),
                    on_conflict=unique["on_conflict"],
                ),
                concurrency=None
                if concurrency is None
                else ConcurrencyPer(
                    *(concurrency["by"] or ()), limit=concurrency["limit"], name=concurrency["name"]
                ),
                kinds=said["kinds"],
                defaults=said["defaults"],
            )
        except (KeyError, TypeError, AttributeError, InvalidOptions) as exc:
            raise ValueError(f"expected the declaration of a task: {exc!r}") from exc


def left_open(options: str) -> tuple[str, ...]:
    """What of a task's declaration is still to be applied to a job with these options."""
    if FROM_TASK not in options:
        return ()
    try:
        said = json.loads(options).get(FROM_TASK)
    except (ValueError, AttributeError):
        return ()
    return tuple(one for one in LEFT_OPEN if isinstance(said, list) and one in said)


@lru_cache(maxsize=1000)
def with_left_open(options: str, names: tuple[str, ...]) -> str:
    """A job's options that leave this to the task's declaration, and nothing else."""
    said = {name: one for name, one in json.loads(options).items() if name != FROM_TASK}
    if names:
        said[FROM_TASK] = list(names)
    return json.dumps(said, separators=(",", ":"))


def seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def duration(said: float | None) -> timedelta | None:
    return None if said is None else timedelta(seconds=said)


def field_schemas(params: Params) -> Mapping[str, Mapping[str, Any]]:
    """pydantic's schema of each field, by its name as it travels; empty if the task's own code
    changes the fields together."""
    schema: Any = getattr(params.adapter, "core_schema", None) or {}
    if schema.get("type") == "definitions":
        schema = schema["schema"]
    config = schema.get("config") or {}
    if schema.get("post_init") or any(config.get(f"str_{change}") for change in CHANGED_TEXT):
        return {}
    inner = schema.get("schema") or {}
    match schema.get("type"), inner.get("type"):
        case "model", "model-fields":
            fields = list(inner["fields"].items())
        case "dataclass", "dataclass-args":
            fields = [(one["name"], one) for one in inner["fields"]]
        case _:
            return {}
    found = {}
    for name, one in fields:
        alias = one.get("serialization_alias") or name
        if one.get("validation_alias") in (None, alias):
            found[alias] = one["schema"]
    return found


def kind_of(schema: Mapping[str, Any]) -> Any:
    """How a JSON value is read that pydantic reads by this schema; ``None`` if unknown."""
    match schema:
        case {"type": "default", "schema": inner}:
            return kind_of(inner)
        case {"type": "nullable", "schema": inner}:
            kind = kind_of(inner)
            return None if kind is None else {"optional": kind}
        case {"type": "list", "items_schema": inner}:
            kind = kind_of(inner)
            return None if kind is None else {"list": kind}
        case {"type": "set" | "frozenset", "items_schema": inner}:
            kind = kind_of(inner)
            return None if kind is None else {"set": kind}
        case {"type": "str"} if any(schema.get(change) for change in CHANGED_TEXT):
            return None
        case {"type": "enum", "cls": kind, "members": members}:
            own = getattr(kind, "_missing_", None)
            plain = getattr(own, "__func__", None) is getattr(Enum._missing_, "__func__", None)
            return kind_of_values([one.value for one in members]) if plain else None
        case {"type": "literal", "expected": values}:
            return kind_of_values(values)
        case {"type": str(name)}:
            return SIMPLE.get(name)
    return None


def kind_of_values(values: list[Any]) -> str | None:
    if all(type(value) is str for value in values):
        return "str"
    return "int" if all(type(value) is int for value in values) else None


def default_of(schema: Mapping[str, Any]) -> str | None:
    """The canonical text of a constant default; ``None`` if there is none."""
    if schema.get("type") != "default" or schema.get("validate_default"):
        return None
    factory: Callable[[], object] | None = schema.get("default_factory")
    try:
        if "default" in schema:
            return canonical(schema["default"])
        copies = isinstance(factory, partial) and factory.func is deepcopy
        if factory is not None and (copies or factory in (dict, frozenset, list, set, tuple)):
            return canonical(factory())
    except InvalidOptions:
        pass
    return None
