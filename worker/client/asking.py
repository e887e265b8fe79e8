"""What is sent when somebody asks for a job: parameters and options, checked, as one value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from worker.client.enqueue_options import (
    checked_names,
    concurrency_of,
    delay_of,
    expires_of,
    headers_of,
    job_id,
    overrides_of,
    priority_of,
    queue_of,
    unique_of,
)
from worker.durations import format_duration
from worker.errors import InvalidOptions, InvalidParams, NotSupported, nearest
from worker.jobs.declaration import LEFT_OPEN, Declaration, with_left_open
from worker.jobs.job import TASK, NewJob
from worker.jobs.keys import key_of, values_of
from worker.jobs.options import JobOptions
from worker.json_values import NotJson, check_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from worker.client.enqueue_options import EnqueueOptions
    from worker.jobs.job import Capabilities
    from worker.jobs.params import Params

__all__ = [
    "Askable",
    "Definition",
    "new_job",
    "raises_on_conflict",
    "refuse_unsupported",
    "with_own",
]


class Definition(Protocol):
    """What has to be known of a task to ask for it."""

    @property
    def name(self) -> str: ...

    @property
    def params(self) -> Params: ...

    @property
    def options(self) -> JobOptions | None: ...

    @property
    def asking(self) -> Callable[[Any], EnqueueOptions] | None: ...


class Askable(Protocol):
    """A task that can be asked for: a `BaseTask` subclass, or what ``@task`` made of a function."""

    def define(self) -> Definition:
        """What the worker knows of it."""
        ...


def new_job(
    name: str,
    definition: Definition | None,
    params: object,
    options: EnqueueOptions,
    *,
    payload_limit: int,
    declared: Declaration | None = None,
) -> NewJob:
    """The job that is asked for.

    Args:
        definition: Of its task; ``None`` if only the worker knows it.
        declared: Without a definition, what a worker has published of the task; ``None`` if
            nothing: what it declares is then left to the worker.
        params: A mapping, or an instance of the task's own type.
        options: What is said in the place of the task's own options.
        payload_limit: How many bytes of parameters it can have.

    Raises:
        InvalidParams: The parameters do not fit the task, or are too large.
        InvalidOptions: An option is wrong, or the task cannot be asked for.
    """
    checked_names(options)
    plain = JobOptions()
    if definition is None:
        if not TASK.fullmatch(name):
            raise InvalidOptions(
                f"the name of a task: expected up to 100 letters, digits and _ . : -, a letter "
                f"first, got {name[:200]!r}"
            )
        text = dump_unknown(name, params)
        if declared is not None:
            plain = declared.options
    else:
        text = dump(definition, params)
        if definition.options is None:
            raise InvalidOptions(
                f'{name} has no queue; expected a class attribute such as queue = "default"'
            )
        plain = definition.options
        options = with_own(definition, text, options)
    size = len(text.encode())
    if size > payload_limit:
        raise InvalidParams(
            f"{name}: the parameters are {size} bytes as JSON, expected up to {payload_limit}; "
            "store large data elsewhere and hand on where it is"
        )
    try:
        if definition is not None:
            check_job(definition, options)
            new = described(name, text, plain, options, definition)
        else:
            check_keys(options, declared)
            new = described(name, text, plain, options, declared)
            new = left_to_task(new, plain, options, declared)
    except InvalidOptions as exc:
        raise InvalidOptions(f"{name}: {exc}") from exc
    return new


class Keys(Protocol):
    """How the keys of one job are made."""

    def key(self, name: str, by: tuple[str, ...], *, explicit: bool) -> str | None:
        """The key for a name and the fields that count; ``None`` if a worker has to make it.

        Args:
            explicit: The caller states it, and the task does not.
        """
        ...


class KeysOfTask:
    """Made of the validated values, by the task's own code."""

    def __init__(self, definition: Definition, params: str) -> None:
        self._definition = definition
        self._params = params
        self._values: Mapping[str, object] | None = None

    def key(self, name: str, by: tuple[str, ...], *, explicit: bool) -> str | None:
        if self._values is None:
            self._values = values_of(self._definition.params, self._params)
        return key_of(name, self._values, by)


class KeysByName:
    """Made of JSON values, as far as what the task declares allows it."""

    def __init__(self, declared: Declaration | None, params: str) -> None:
        self._declared = declared
        self._said: Mapping[str, object] = json.loads(params)

    def key(self, name: str, by: tuple[str, ...], *, explicit: bool) -> str | None:
        found = None if self._declared is None else self._declared.key(name, by, self._said)
        return key_of(name, self._said, by) if found is None and explicit else found


def keys_of(known: Definition | Declaration | None, params: str) -> Keys:
    if known is None or isinstance(known, Declaration):
        return KeysByName(known, params)
    return KeysOfTask(known, params)


def left_to_task(
    new: NewJob, plain: JobOptions, options: EnqueueOptions, declared: Declaration | None
) -> NewJob:
    """The job, which says what of its task's declaration a worker is to apply."""
    names: tuple[str, ...] = LEFT_OPEN
    if declared is not None:
        open_keys = {
            "unique": plain.unique is not None and new.unique is None,
            "concurrency": plain.concurrency is not None and new.concurrency_key is None,
        }
        names = tuple(name for name, is_open in open_keys.items() if is_open)
    if options:
        names = tuple(name for name in names if options.get(name) is None)
    return new._replace(options=with_left_open(new.options, names)) if names else new


def check_keys(options: EnqueueOptions, declared: Declaration | None) -> None:
    """Refuse keys made of parameters that a published task does not have.

    Raises:
        InvalidOptions: There is such a key.
    """
    if declared is not None:
        refuse_unknown_fields(declared.kinds.keys(), options, declared.options)


def described(
    name: str,
    params: str,
    plain: JobOptions,
    options: EnqueueOptions,
    known: Definition | Declaration | None,
) -> NewJob:
    """A job of the task ``name``.

    Args:
        plain: The task's own options.
        options: What is said in their place.
        known: What is known of the task, for its keys.

    Raises:
        InvalidOptions: One of them is wrong.
    """
    unique, concurrency = unique_of(options, plain), concurrency_of(options, plain)
    unique_key = concurrency_key = None
    if unique is not None or concurrency is not None:
        keys = keys_of(known, params)
    if unique is not None:
        explicit = options.get("unique") is not None
        unique_key = keys.key(name, unique.by, explicit=explicit)
    if concurrency is not None:
        shared, explicit = concurrency.name or name, options.get("concurrency") is not None
        concurrency_key = shared
        if concurrency.by:
            concurrency_key = keys.key(shared, concurrency.by, explicit=explicit)
    delay = delay_of(options)
    return NewJob(
        id=job_id(options.get("id")),
        task=name,
        queue=queue_of(options, plain),
        params=params,
        version=plain.version,
        priority=priority_of(options, plain),
        delay=delay,
        expires=expires_of(options, plain, delay),
        options=overrides_of(options, plain),
        headers=headers_of(options),
        unique=None if unique is None or unique_key is None else unique.holding(unique_key),
        concurrency_key=concurrency_key,
        concurrency_limit=1 if concurrency is None else concurrency.limit,
    )


def refuse_unsupported(new: NewJob, able: Capabilities) -> None:
    """See that the engine can do what is asked for.

    Raises:
        NotSupported: It cannot.
    """
    problems = []
    if able.longest_delay is not None and new.delay > able.longest_delay:
        problems.append(
            f"a delay of {format_duration(new.delay)}; it takes up to "
            f"{format_duration(able.longest_delay)}"
        )
    if new.priority and not able.priorities:
        problems.append("priorities; use a queue of its own for what is urgent")
    if new.unique is not None and not able.unique:
        problems.append("unique jobs")
    if new.concurrency_key is not None and not able.concurrency:
        problems.append("a concurrency limit by key")
    if problems:
        raise NotSupported(f"{new.task}: {able.backend} does not do {'; nor '.join(problems)}")


def raises_on_conflict(
    definition: Definition | None,
    declared: Declaration | None,
    params: str,
    options: EnqueueOptions,
) -> bool:
    """Whether it is an error that another job holds the unique key of this one."""
    plain = JobOptions() if declared is None else declared.options
    if definition is not None:
        plain = definition.options or plain
        options = with_own(definition, params, options)
    unique = unique_of(options, plain)
    return unique is not None and unique.on_conflict == "raise"


def with_own(definition: Definition, params: str, options: EnqueueOptions) -> EnqueueOptions:
    """The options, with what the task itself says of a job with these parameters.

    Raises:
        InvalidOptions: That is no option.
    """
    if definition.asking is None:
        return options
    arguments, named = definition.params.load(params)
    own = definition.asking(arguments[0] if arguments else named or None)
    checked_names(own)
    if "delay" in options or "at" in options:
        own = {**own}
        own.pop("delay", None)
        own.pop("at", None)
    together: EnqueueOptions = {**own, **options}
    ours, theirs = own.get("headers"), options.get("headers")
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        together["headers"] = {**ours, **theirs}
    return together


def check_job(definition: Definition, options: EnqueueOptions) -> None:
    """See that the task can do what is said of this job alone.

    Raises:
        InvalidOptions: It cannot.
    """
    refuse_unknown_fields(definition.params.fields, options, definition.options or JobOptions())


def refuse_unknown_fields(
    known: Collection[str], options: EnqueueOptions, plain: JobOptions
) -> None:
    for key in (unique_of(options, plain), concurrency_of(options, plain)):
        if key is None:
            continue
        for name in key.by:
            if name not in known:
                raise InvalidOptions(f"there is no parameter {name!r}{nearest(name, known)}")


def dump(definition: Definition, params: object) -> str:
    try:
        return definition.params.dump(params)
    except InvalidParams as exc:
        raise InvalidParams(f"{definition.name}: {exc}") from exc


def dump_unknown(name: str, params: object) -> str:
    """The parameters of a task that only the worker knows."""
    said = {} if params is None else params
    if not isinstance(said, Mapping):
        raise InvalidParams(
            f"{name}: expected an object of parameters, got a {type(said).__name__}"
        )
    try:
        check_json(said)
    except NotJson as exc:
        raise InvalidParams(f"{name}: {exc}") from exc
    return json.dumps(dict(said), separators=(",", ":"))
