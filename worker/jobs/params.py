"""The parameters of a task: from what a producer says to what the task's code is called with.

They are validated twice, when a job is enqueued and when it is run, and travel as a JSON object.
Unknown fields are refused. Values are never repeated in a message: they may be personal.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from worker.errors import InvalidParams, TaskDefinitionError
from worker.jobs.round_trip import changed_on_the_way, fields_of
from worker.jobs.strict_schema import strict_validator
from worker.json_values import NotJson, check_written, is_suspicious, read_json
from worker.redaction import cut, writable

if TYPE_CHECKING:
    from pydantic import BaseModel, TypeAdapter
    from pydantic_core import SchemaValidator

__all__ = ["NO_PARAMS", "Params", "params_of_function", "params_of_type"]

LONGEST_SAID = 1000
"""Of one thing that does not fit, which may quote what came."""
UNFIT = (ValueError, TypeError, OverflowError, RecursionError)
"""What reading and writing values raises: pydantic's own errors are among them."""
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Params:
    """How the parameters of one task are read and written.

    Attributes:
        adapter: Of the type that holds them; ``None`` for a task that takes none.
        validator: The same, with unknown fields refused.
        kind: The type as the task has it. Its own instances can be handed in.
        spread: Whether the fields are arguments of their own, or one object.
        required: Whether there is a field without a default.
        fields: Their names, as they travel.
    """

    adapter: TypeAdapter[Any] | None
    validator: SchemaValidator | None = None
    kind: type[Any] = object
    spread: bool = False
    required: bool = False
    fields: frozenset[str] = frozenset()

    def schema(self) -> dict[str, Any] | None:
        """Their JSON schema; ``None`` for a task that takes none, or that has types which JSON
        does not know."""
        from pydantic.errors import PydanticInvalidForJsonSchema

        if self.adapter is None:
            return None
        try:
            schema = self.adapter.json_schema()
        except PydanticInvalidForJsonSchema:
            return None
        if "$ref" in schema:  # of a model that holds itself
            name = schema.pop("$ref").rpartition("/")[2]
            schema = {**schema["$defs"][name], **schema}
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
        return schema

    def dump(self, said: object) -> str:
        """The parameters as they travel.

        Args:
            said: A mapping, or an object of the task's own type.

        Raises:
            InvalidParams: They do not fit, or would not arrive as they are.
        """
        if self.adapter is None:
            if said:
                raise InvalidParams(f"expected no parameters, got {shape(said)}")
            return "{}"
        own = isinstance(said, self.kind)
        value = said if own else self._validated(said)
        text = self._written(value)
        received = self._read(text, value)
        changed = changed_on_the_way(value, received, private=own)
        if changed is not None:
            raise InvalidParams(changed)
        return text

    def load(self, text: str) -> Arguments:
        """The arguments that the task's code is called with.

        Raises:
            InvalidParams: They do not fit.
        """
        if text.startswith('"'):
            raise InvalidParams(f"expected a JSON object, got {what_text(text)}")
        if self.adapter is None:
            if text != "{}" and "".join(text.split()) not in ("", "{}"):
                raise InvalidParams("expected no parameters, got some")
            return (), {}
        value = self._read(text)
        return ((), vars(value)) if self.spread else ((value,), {})

    def _validated(self, said: object) -> object:
        assert self.validator is not None
        try:
            return self.validator.validate_python(said if said is not None else {})
        except UNFIT as exc:
            raise InvalidParams(in_words(exc)) from exc

    def _written(self, value: object) -> str:
        assert self.adapter is not None
        try:
            # round_trip leaves out what is computed from other fields.
            text = self.adapter.dump_json(value, by_alias=True, round_trip=True, warnings="none")
        except UNFIT as exc:
            problem = unwritten(exc, value)
            raise InvalidParams(f"expected what can be written as JSON: {problem}") from exc
        return text.decode()

    def _read(self, text: str, written: object = None) -> object:
        """What a worker makes of the text.

        Args:
            written: What the text was made of, if that is known.
        """
        assert self.validator is not None
        if is_suspicious(text):
            check_text(text, written)
        try:
            return self.validator.validate_json(text)
        except UNFIT as exc:
            raise InvalidParams(in_words(exc)) from exc


NO_PARAMS = Params(None)


def params_of_type(kind: type[Any], of: str) -> Params:
    """The parameters that a pydantic model or a dataclass describes.

    Raises:
        TaskDefinitionError: It is neither, or pydantic cannot make sense of it.
    """
    from pydantic import BaseModel

    if inspect.isclass(kind) and issubclass(kind, BaseModel):
        described = partial(params_of_model, kind)
    elif inspect.isclass(kind) and dataclasses.is_dataclass(kind):
        described = partial(params_of_dataclass, kind)
    else:
        raise TaskDefinitionError(
            f"{of}: Params: expected a pydantic model or a dataclass, got {kind!r}"
        )
    return checked(described, of)


def params_of_model(kind: type[BaseModel]) -> Params:
    from pydantic import TypeAdapter

    return Params(
        TypeAdapter(kind),
        kind=kind,
        required=any(field.is_required() for field in kind.model_fields.values()),
        fields=frozenset(
            field.serialization_alias or field.alias or name
            for name, field in kind.model_fields.items()
        ),
    )


def params_of_dataclass(kind: type[Any], *, spread: bool = False) -> Params:
    from pydantic import ConfigDict, TypeAdapter

    if not hasattr(kind, "__pydantic_config__"):
        type.__setattr__(kind, "__pydantic_config__", ConfigDict(extra="forbid"))
    fields = [field for field in dataclasses.fields(kind) if field.init]
    return Params(
        TypeAdapter(kind),
        kind=kind,
        spread=spread,
        required=any(is_required(field) for field in fields),
        fields=frozenset(field.name for field in fields),
    )


def is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def params_of_function(
    function: Callable[..., object], of: str, *, leave_out: frozenset[str] = frozenset()
) -> Params:
    """The parameters that a signature describes.

    Args:
        leave_out: Arguments that the worker itself hands in.

    Raises:
        TaskDefinitionError: One cannot be said by name, or pydantic cannot make sense of it.
    """
    fields: list[tuple[str, Any, Any]] = []
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as exc:
        raise TaskDefinitionError(
            f"{of}: a type of its signature is unknown: {exc}; import it where it is there at run "
            "time, too, not under TYPE_CHECKING"
        ) from exc
    for name, parameter in inspect.signature(function).parameters.items():
        if name in leave_out:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TaskDefinitionError(f"{of}: expected named parameters, got {parameter}")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TaskDefinitionError(f"{of}: {name} can only be given by place; remove the /")
        if parameter.annotation is parameter.empty:
            raise TaskDefinitionError(f"{of}: {name} has no type; write {name}: int, or the like")
        fields.append((name, hints[name], default_of(parameter)))
    if not fields:
        return NO_PARAMS
    # A dataclass, as its fields can have any name: a model has attributes of its own.
    return checked(
        lambda: params_of_dataclass(
            dataclasses.make_dataclass("Params", fields, kw_only=True), spread=True
        ),
        of,
    )


def default_of(parameter: inspect.Parameter) -> Any:
    default = parameter.default
    if default is parameter.empty:
        return dataclasses.field()
    if type(default).__hash__ is None:  # such as a list: each job gets its own
        return dataclasses.field(default_factory=partial(deepcopy, default))
    return dataclasses.field(default=default)


def checked(described: Callable[[], Params], of: str) -> Params:
    """The parameters, if they survive their way.

    Raises:
        TaskDefinitionError: They do not, or pydantic cannot make sense of them.
    """
    from pydantic import PydanticUserError, SecretBytes, SecretStr
    from pydantic.errors import PydanticSchemaGenerationError

    try:
        params = described()
        assert params.adapter is not None
        if not getattr(params.adapter, "pydantic_complete", True):
            params.adapter.rebuild()  # or it would be found out with the first job
        params = replace(params, validator=strict_validator(params.adapter.core_schema))
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as exc:
        raise TaskDefinitionError(f"{of}: its parameters cannot be described: {exc}") from exc
    for name, hint in hints_of(params.kind).items():
        if any(part in (SecretBytes, SecretStr) for part in (hint, *get_args(hint))):
            raise TaskDefinitionError(
                f"{of}: {name} is a secret, which a queue does not keep: it would come out as "
                "asterisks; hand on where to find it"
            )
    return params


def hints_of(kind: type[Any]) -> dict[str, Any]:
    from pydantic import BaseModel

    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    try:
        return get_type_hints(kind)
    except NameError:  # pydantic finds more names than Python does
        return {}


def what_text(quoted: str) -> str:
    """What came in place of an object: engines hand on a body that is not JSON as a string."""
    try:
        read_json(json.loads(quoted))
    except ValueError as exc:
        return f"text that is not JSON: {str(exc).removeprefix('expected JSON: ')}"
    return "a string that holds JSON: it was encoded twice"


def check_text(text: str, written: object) -> None:
    """Refuse numbers that JSON does not have. pydantic reads them, so it is no use to ask it.

    Raises:
        InvalidParams: There is one; the message says where.
    """
    try:
        read_json(text)
    except NotJson as exc:
        try:
            check_written(fields_of(written))  # the text does not always say where
        except NotJson as placed:
            raise InvalidParams(str(placed)) from exc
        raise InvalidParams(str(exc)) from exc


def unwritten(exc: Exception, value: object) -> str:
    """What cannot be written as JSON, and in which field, if that is found."""
    from pydantic_core import to_json

    for name, item in (fields_of(value) or {}).items():
        try:
            to_json(item)
        except UNFIT as found:
            return f"{cut(name)}: {in_brief(found)}"
    return in_brief(exc)


def in_brief(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    return cut(writable(str(exc)), LONGEST_SAID)


def in_words(exc: Exception) -> str:
    """What does not fit, a clause a field, without any of the values."""
    from pydantic import ValidationError

    if isinstance(exc, RecursionError):
        return "expected parameters that are not nested so deeply"
    if not isinstance(exc, ValidationError):
        return f"expected what can be read as JSON, got a {type(exc).__name__}"
    problems = []
    for error in exc.errors(include_url=False, include_context=False):
        where = ".".join(cut(str(part)) for part in error["loc"]) or "parameters"
        got = (
            ""
            if error["type"] in ("missing", "extra_forbidden")
            else f", got {shape(error['input'])}"
        )
        problems.append(f"{where}: {cut(error['msg'], LONGEST_SAID)}{got}")
    shown = "; ".join(problems[:10])
    return shown if len(problems) <= 10 else f"{shown}; and {len(problems) - 10} more"


def shape(value: object) -> str:
    """What kind of value it is, and nothing of what it says."""
    if isinstance(value, Mapping):
        return f"an object with {', '.join(cut(str(key)) for key in list(value)[:10]) or 'nothing'}"
    return f"a {type(value).__name__}"
