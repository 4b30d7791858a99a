"""Decodes a message into an event, or into the reason why it is parked.

Invariants: `decode` is total. Any subject and any bytes give an event or an `Unreadable`, never an exception.
"""

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from projections.model.decode_errors import describe_decode_error
from projections.model.events import (
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
    """The CloudEvents 1.0 attributes we hold producers to; others are ignored, as CloudEvents asks."""

    specversion: Literal["1.0"]
    id: Annotated[str, Meta(min_length=1, max_length=128)]
    source: Annotated[str, Meta(min_length=1)]
    time: Instant


def _hook(wanted: type, wire: object) -> object:
    if wanted is Objective:
        return Objective.parse(wire)
    raise NotImplementedError


def _decoder(types: dict[str, type[Event]]) -> msgspec.json.Decoder[Any]:
    """One decoder for a family: a union of envelopes told apart by `type`, so a body is read in a single pass."""
    if len(types) == 1:  # msgspec lets a lone struct go without its tag, so here `type` is a field like any other
        ((name, data),) = types.items()
        fields: list[Any] = [("type", Literal[name]), ("data", data)]
        return msgspec.json.Decoder(msgspec.defstruct(data.__name__, fields, bases=(Envelope,)), dec_hook=_hook)
    union: Any = None
    for name, data in types.items():
        envelope = msgspec.defstruct(data.__name__, [("data", data)], bases=(Envelope,), tag_field="type", tag=name)
        union = envelope if union is None else union | envelope
    return msgspec.json.Decoder(union, dec_hook=_hook)


class _Family(NamedTuple):
    """How the events of one subject family are read."""

    subject: re.Pattern[str]
    """A well-formed subject; its groups are the ids."""
    ids_of: Callable[[Any], str | tuple[str, ...]]
    """The same ids as an event's data names them."""
    decoder: msgspec.json.Decoder[Any]


def _family(name: str) -> _Family:
    ids = SUBJECT_IDS[name]
    subject = r"\.".join([rf"\A{SUBJECT_ROOT}", name, *[f"({UUID_PATTERN})"] * len(ids)])
    return _Family(re.compile(rf"{subject}\Z"), attrgetter(*ids), _decoder(EVENT_TYPES[name]))


_FAMILIES: Final = {name: _family(name) for name in EVENT_TYPES}


def decode(subject: str, body: bytes) -> Event | Unreadable:
    """Read one message. Total: what is no event of this contract comes back as `Unreadable`."""
    root, _, rest = subject.partition(".")
    name = rest.partition(".")[0]
    family = _FAMILIES.get(name)
    if family is None or root != SUBJECT_ROOT:
        return Unreadable("unknown_subject", f"No event type is published on {subject}.")
    found = family.subject.match(subject)
    if found is None:
        wanted = ".".join(f"<{each}>" for each in SUBJECT_IDS[name])
        return Unreadable(
            "invalid_subject",
            f"{subject!r} should be {SUBJECT_ROOT}.{name}.{wanted} with lower-case hyphenated UUIDs.",
        )
    if len(body) > BODY_BYTES_MAX:
        return Unreadable("oversize", f"The body has {len(body)} bytes; at most {BODY_BYTES_MAX} are allowed.")
    event = _read(family.decoder, body, name)
    if isinstance(event, Unreadable):
        return event
    ids = found.groups() if found.lastindex != 1 else found[1]
    return event if family.ids_of(event) == ids else _disagreeing(event, SUBJECT_IDS[name], found.groups())


def _read(decoder: msgspec.json.Decoder[Any], body: bytes, family: str) -> Event | Unreadable:
    try:
        body.decode()  # msgspec does not look into fields it ignores, but ill-formed UTF-8 is no JSON anywhere
        envelope = decoder.decode(body)
    except msgspec.ValidationError as problem:
        return _invalid(describe_decode_error(str(problem), decoder.type), family)
    except OverflowError as problem:
        return Unreadable("invalid_field", f"A date-time is outside the years 1 to 9999 in UTC: {problem}.")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        return Unreadable("invalid_json", f"The body is not a JSON object in UTF-8: {problem}.")
    # A single byte is found several times as fast as six, and few bodies hold one.
    if b"\\" in body and rb"\u0000" in body and _holds_nul(envelope):
        return Unreadable("invalid_field", "A string holds NUL (\\u0000), which no store of text can keep.")
    event: Event = envelope.data
    return event


def _invalid(problem: str, family: str) -> Unreadable:
    if problem.startswith("Invalid") and problem.endswith("`$.type`"):
        known = ", ".join(EVENT_TYPES[family])
        return Unreadable("unknown_type", f"{problem}. On {SUBJECT_ROOT}.{family}.> the types are {known}.")
    return Unreadable("invalid_field", f"{problem}.")


def _disagreeing(event: Event, names: tuple[str, ...], ids: tuple[str, ...]) -> Unreadable:
    name, in_subject = next(pair for pair in zip(names, ids, strict=True) if getattr(event, pair[0]) != pair[1])
    in_body = getattr(event, name)
    return Unreadable("id_mismatch", f"{name} is {in_body!r} in the body but {in_subject!r} in the subject.")


def _holds_nul(value: object) -> bool:
    """Look into every string that was read; slow, so only asked when the bytes hold the escape at all."""
    match value:
        case str():
            return "\0" in value
        case Objective():
            return _holds_nul(value.kind)
        case Struct():
            return any(_holds_nul(getattr(value, field)) for field in value.__struct_fields__)
        case list():
            return any(map(_holds_nul, value))
    return False
