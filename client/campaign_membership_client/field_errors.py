"""Finds every wrong field of an event at once, each with its value and what it allows.

The service's decoder, which is copied into `contract`, stops at the first error. It decides whether an event is valid;
this module only explains an event that it refused.
"""

import json
import types
from collections.abc import Iterator, Mapping
from datetime import datetime, time
from itertools import islice
from typing import Annotated, Any, Final, Literal, NewType, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from campaign_membership_client.contract.decode import Envelope
from campaign_membership_client.contract.events import (
    EVENT_TYPES,
    SUBJECT_IDS,
    UUID_PATTERN,
    Id,
    Objective,
    family_of,
)
from campaign_membership_client.errors import VALUE_CHARS_MAX, FieldError

ERRORS_MAX: Final = 50
"""Errors reported per event: an event may hold thousands of wrong list items."""
_MISSING: Final = object()
_NULL: Final = type(None)
_NAMES: Final[Mapping[Any, str]] = {
    str: "a text",
    int: "an integer",
    float: "a finite number",
    bool: "true or false",
    datetime: "an RFC 3339 date-time with an offset, such as 2026-01-05T09:00:00Z",
    time: "a time such as 09:00:00",
}


def find_errors(envelope: Mapping[str, Any]) -> tuple[FieldError, ...]:
    """Return the errors of a decoded event, at most ERRORS_MAX; none if this module finds no wrong field."""
    return tuple(islice(_event_errors(envelope), ERRORS_MAX))


def allowed_types() -> str:
    """Return the event types as a noun phrase."""
    return _one_of([name for family in EVENT_TYPES.values() for name in family])


def field_error(path: str, value: object, allowed: str) -> FieldError:
    """Return an error that repeats the value as JSON, cut if it is long."""
    if value is _MISSING:
        return FieldError(path, "", allowed)
    text = json.dumps(value, default=str, ensure_ascii=True)
    return FieldError(path, text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}…", allowed)


def _event_errors(envelope: Mapping[str, Any]) -> Iterator[FieldError]:
    yield from _struct_errors("", envelope, Envelope)
    event_type = envelope.get("type", _MISSING)
    family = family_of(event_type) if isinstance(event_type, str) else None
    if family is None:
        yield field_error("type", event_type, allowed_types())
        return
    data = envelope.get("data", _MISSING)
    if not isinstance(data, Mapping):
        yield field_error("data", data, "an object")
        return
    kind = EVENT_TYPES[family][str(event_type)]
    for field in msgspec.structs.fields(kind):
        # The contract's types leave the pattern of these ids to the check of the subject.
        annotation = Id if field.name in SUBJECT_IDS[family] else field.type
        yield from _member_errors("data.", data, field, annotation)


def _struct_errors(prefix: str, value: Mapping[str, Any], kind: type[Struct]) -> Iterator[FieldError]:
    for field in msgspec.structs.fields(kind):
        yield from _member_errors(prefix, value, field, field.type)


def _member_errors(
    prefix: str,
    value: Mapping[str, Any],
    field: msgspec.structs.FieldInfo,
    annotation: Any,  # noqa: ANN401 - a type
) -> Iterator[FieldError]:
    member = value.get(field.encode_name, _MISSING)
    if member is not _MISSING:
        yield from _errors(f"{prefix}{field.encode_name}", member, annotation)
    elif field.required:
        yield field_error(f"{prefix}{field.encode_name}", _MISSING, allowed(annotation))


def _errors(path: str, value: object, annotation: Any) -> Iterator[FieldError]:  # noqa: ANN401 - a type
    kind, optional = _without_null(annotation)
    if value is None and optional:
        return
    if _is_struct(kind):
        if isinstance(value, Mapping):
            yield from _struct_errors(f"{path}.", value, kind)
        else:
            yield field_error(path, value, "an object")
    elif get_origin(kind) is list and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _errors(f"{path}[{index}]", item, get_args(kind)[0])
    elif kind is Objective:
        yield from _objective_errors(path, value)
    elif not _fits(value, kind):
        yield field_error(path, value, allowed(kind))


def _objective_errors(path: str, value: object) -> Iterator[FieldError]:
    try:
        Objective.parse(value)
    except (TypeError, ValueError) as problem:
        yield field_error(path, value, f"an objective; {str(problem).rstrip('.')}")


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401 - a type
    if isinstance(value, str) and "\0" in value:
        return False
    try:
        msgspec.convert(value, kind, strict=True)
    except (msgspec.ValidationError, OverflowError):
        return False
    return True


def allowed(annotation: Any) -> str:  # noqa: ANN401 - a type; one return per kind of type
    """Return what a type allows, as a noun phrase."""
    kind, _ = _without_null(annotation)
    if get_origin(kind) is Annotated:
        base, *metas = get_args(kind)
        return _with_bounds(base, [meta for meta in metas if isinstance(meta, Meta)])
    if get_origin(kind) is Literal:
        return _one_of([str(value) for value in get_args(kind)])
    if get_origin(kind) is list:
        return f"a list, each item {allowed(get_args(kind)[0])}"
    if isinstance(kind, NewType):
        return allowed(kind.__supertype__)
    if kind is str:
        return "a text without NUL"
    return _NAMES.get(kind, "an object")


def _with_bounds(base: Any, metas: list[Meta]) -> str:  # noqa: ANN401 - a type
    for meta in metas:
        if meta.pattern is not None and UUID_PATTERN in meta.pattern:
            return "a lower-case hyphenated UUID"
        if meta.ge is not None and meta.le is not None:
            return f"{_NAMES[base]} from {meta.ge} to {meta.le}"
        if meta.min_length is not None:
            most = f" to {meta.max_length}" if meta.max_length is not None else " or more"
            return f"a text of {meta.min_length}{most} characters"
    return allowed(base)


def _without_null(annotation: Any) -> tuple[Any, bool]:  # noqa: ANN401 - a type
    """Return a type without its None, and whether it had one."""
    if get_origin(annotation) not in {Union, types.UnionType}:
        return annotation, False
    members = [member for member in get_args(annotation) if member is not _NULL]
    return (members[0] if len(members) == 1 else Union[tuple(members)]), _NULL in get_args(annotation)  # noqa: UP007 - of a list


def _is_struct(kind: Any) -> bool:  # noqa: ANN401 - a type
    return isinstance(kind, type) and issubclass(kind, Struct)


def _one_of(values: list[str]) -> str:
    return f"one of {', '.join(values)}"
