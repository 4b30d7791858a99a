# Copied from projections/model/decode.py by client/copy_contract.py. Change the source, then copy.
"""Decodes a message into an event, or into the reason to park it.

Invariants: `decode` is total. Any subject and any bytes give an event or an `Unreadable`, never an exception.
"""

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from campaign_membership_client.contract.decode_errors import describe_decode_error
from campaign_membership_client.contract.events import (
    BODY_BYTES_MAX,
    EVENT_TYPES,
    SUBJECT_IDS,
    SUBJECT_ROOT,
    UUID_PATTERN,
    Event,
    Instant,
    Objective,
    Unreadable,
)


class Envelope(Struct, gc=False):
    """The CloudEvents 1.0 attributes that we require; others are ignored, as CloudEvents specifies."""

    specversion: Literal["1.0"]
    id: Annotated[str, Meta(min_length=1, max_length=128)]
    source: Annotated[str, Meta(min_length=1)]
    time: Instant


def _decode_objective(target: type, wire: object) -> object:
    if target is Objective:
        return Objective.parse(wire)
    raise NotImplementedError


def _decoder(types: dict[str, type[Event]]) -> msgspec.json.Decoder[Any]:
    """Make a family's decoder: a union of envelopes tagged by `type`, so a body is parsed in one pass."""
    if len(types) == 1:  # msgspec accepts a single struct without its tag, so here `type` is an ordinary field
        ((name, data),) = types.items()
        fields: list[Any] = [("type", Literal[name]), ("data", data)]
        return msgspec.json.Decoder(
            msgspec.defstruct(data.__name__, fields, bases=(Envelope,)), dec_hook=_decode_objective
        )
    union: Any = None
    for name, data in types.items():
        envelope = msgspec.defstruct(data.__name__, [("data", data)], bases=(Envelope,), tag_field="type", tag=name)
        union = envelope if union is None else union | envelope
    return msgspec.json.Decoder(union, dec_hook=_decode_objective)


class _Family(NamedTuple):
    """How to decode the events of one subject family."""

    subject: re.Pattern[str]
    """Matches a well-formed subject; its groups are the ids."""
    ids_of: Callable[[Any], str | tuple[str, ...]]
    """Returns the same ids from an event's data."""
    decoder: msgspec.json.Decoder[Any]


def _family(name: str) -> _Family:
    ids = SUBJECT_IDS[name]
    subject = r"\.".join([rf"\A{SUBJECT_ROOT}", name, *[f"({UUID_PATTERN})"] * len(ids)])
    return _Family(re.compile(rf"{subject}\Z"), attrgetter(*ids), _decoder(EVENT_TYPES[name]))


_FAMILIES: Final = {name: _family(name) for name in EVENT_TYPES}


def decode(subject: str, body: bytes) -> Event | Unreadable:
    """Decode one message. Total: anything that is not an event of this contract gives an `Unreadable`."""
    root, _, rest = subject.partition(".")
    name = rest.partition(".")[0]
    family = _FAMILIES.get(name)
    if family is None or root != SUBJECT_ROOT:
        return Unreadable("unknown_subject", f"No event type is published on {subject}.")
    match = family.subject.match(subject)
    if match is None:
        ids_pattern = ".".join(f"<{field}>" for field in SUBJECT_IDS[name])
        return Unreadable(
            "invalid_subject",
            f"{subject!r} should be {SUBJECT_ROOT}.{name}.{ids_pattern} with lower-case hyphenated UUIDs.",
        )
    if len(body) > BODY_BYTES_MAX:
        return Unreadable("oversize", f"The body has {len(body)} bytes; at most {BODY_BYTES_MAX} are allowed.")
    event = _read(family.decoder, body, name)
    if isinstance(event, Unreadable):
        return event
    ids = match.groups() if match.lastindex != 1 else match[1]
    return event if family.ids_of(event) == ids else _id_mismatch(event, SUBJECT_IDS[name], match.groups())


def _read(decoder: msgspec.json.Decoder[Any], body: bytes, family: str) -> Event | Unreadable:
    try:
        body.decode()  # msgspec skips ignored fields, but ill-formed UTF-8 is invalid JSON anywhere
        envelope = decoder.decode(body)
    except msgspec.ValidationError as problem:
        return _invalid(describe_decode_error(str(problem), decoder.type), family)
    except OverflowError as problem:
        return Unreadable("invalid_field", f"A date-time is outside the years 1 to 9999 in UTC: {problem}.")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        return Unreadable("invalid_json", f"The body is not a JSON object in UTF-8: {problem}.")
    # Searching for one byte is several times as fast as for six, and few bodies contain it.
    if b"\\" in body and rb"\u0000" in body and _contains_nul(envelope):
        return Unreadable("invalid_field", "A string holds NUL (\\u0000), which no store of text can keep.")
    event: Event = envelope.data
    return event


def _invalid(problem: str, family: str) -> Unreadable:
    if problem.startswith("Invalid") and problem.endswith("`$.type`"):
        known = ", ".join(EVENT_TYPES[family])
        return Unreadable("unknown_type", f"{problem}. On {SUBJECT_ROOT}.{family}.> the types are {known}.")
    return Unreadable("invalid_field", f"{problem}.")


def _id_mismatch(event: Event, names: tuple[str, ...], ids: tuple[str, ...]) -> Unreadable:
    name, in_subject = next(pair for pair in zip(names, ids, strict=True) if getattr(event, pair[0]) != pair[1])
    in_body = getattr(event, name)
    return Unreadable("id_mismatch", f"{name} is {in_body!r} in the body but {in_subject!r} in the subject.")


def _contains_nul(value: object) -> bool:
    """Return whether any decoded string contains NUL. Slow, so called only when the body contains the escape."""
    match value:
        case str():
            return "\0" in value
        case Objective():
            return _contains_nul(value.kind)
        case Struct():
            return any(_contains_nul(getattr(value, field)) for field in value.__struct_fields__)
        case list():
            return any(map(_contains_nul, value))
    return False
