"""The wire contract: what a message must hold to be an event, and why a message that is none is parked.

Source: docs/events.md says the same for producers; a change here is a change of the contract.
Invariants: `decode` is total. Any subject and any bytes give an event or an `Unreadable`, never an exception.
Types are versioned (`….v1`) and closed: a new meaning is a new type beside the old one, never a new reading of it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, time
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Final, Literal, NamedTuple, NewType

import msgspec
from msgspec import Meta, Struct, inspect
from msgspec.structs import force_setattr

CustomerId = NewType("CustomerId", str)
CampaignId = NewType("CampaignId", str)
Position = NewType("Position", int)

BODY_BYTES_MAX: Final = 256 * 1024
INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
SUBJECT_ROOT: Final = "membership"

UUID_PATTERN: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
"""Ids are lower-case hyphenated UUIDs, so that equal ids are equal strings everywhere."""

_ID_PATTERN: Final = rf"\A{UUID_PATTERN}\Z"
Id = Annotated[str, Meta(pattern=_ID_PATTERN)]
Version = Annotated[int, Meta(ge=1, le=INT64_MAX)]
Count = Annotated[int, Meta(ge=0, le=INT64_MAX)]
Integer = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
"""Every integer of an event is an int64, also one that is only shown: clients read it into a type of that size."""
Instant = Annotated[datetime, Meta(tz=True)]
Status = Literal["draft", "running", "paused", "done"]
Channel = Literal["call", "whatsapp"]

Reason = Literal[
    "oversize",
    "unknown_subject",
    "invalid_subject",
    "invalid_json",
    "unknown_type",
    "invalid_field",
    "id_mismatch",
    "refused_by_tables",
]
"""Why a message is parked; docs/events.md says for each what an operator can do."""

REFUSED_BY_TABLES: Final[Reason] = "refused_by_tables"
"""The one reason that decoding does not find: PostgreSQL refused a valid event's values."""


class Message(Struct, frozen=True, gc=False):
    """A message of the stream, as any broker's edge hands it over.

    Like the events of plain values below it says `gc=False`: it can be in no cycle, and a million of them that the
    garbage collector walks through again and again would cost more than reading them.
    """

    position: Position
    subject: str
    body: bytes
    time_ns: int
    """When the broker stored it, nanoseconds since 1970."""
    headers: Mapping[str, str] | None = None


class Unreadable(Struct, frozen=True):
    """A message that is no event of this contract, with a reason an operator can act on."""

    reason: Reason
    detail: str


# --- The parts of a campaign that are shown as they came -------------------------------------------------------------


def _fill(part: Struct, **defaults: Any) -> None:  # noqa: ANN401 - by field
    """Give absent fields the default that the HTTP contract's schema states for them."""
    for field, default in defaults.items():
        if getattr(part, field) is None:
            force_setattr(part, field, default)


def _in_utc(part: Struct, *fields: str) -> None:
    for field in fields:
        instant = getattr(part, field)
        if instant is not None and instant.tzinfo is not UTC:
            force_setattr(part, field, instant.astimezone(UTC))


class ContactObjective(Struct, frozen=True, omit_defaults=True):
    """A goal reached by being in contact."""

    type: Literal["contact"] | None = None
    channels: list[Channel] | None = None
    min_count: Integer | None = None

    def __post_init__(self) -> None:
        _fill(self, type="contact", min_count=1)


class EmailObjective(Struct, frozen=True, omit_defaults=True):
    """A goal reached by e-mail."""

    type: Literal["email"] | None = None
    min_count: Integer | None = None

    def __post_init__(self) -> None:
        _fill(self, type="email", min_count=1)


class AiObjective(Struct, frozen=True, omit_defaults=True):
    """A goal reached when the conversation was judged so."""

    type: Literal["ai"] | None = None
    label_in: list[Literal["positive", "negative", "neutral"]] | None = None
    min_score: float | None = None

    def __post_init__(self) -> None:
        _fill(self, type="ai", min_score=0.0)


class Objective:
    """One objective of a goal. Its `type` says which; without one, the first kind that owns a field given."""

    __slots__ = ("kind",)

    def __init__(self, kind: ContactObjective | EmailObjective | AiObjective) -> None:
        self.kind = kind

    @classmethod
    def parse(cls, wire: object) -> "Objective":
        """Read a decoded JSON object strictly; raises msgspec's ValidationError."""
        if not isinstance(wire, dict):
            raise TypeError("Expected `object`")
        named = wire.get("type")
        if named is None:
            named = "ai" if wire.keys() & {"label_in", "min_score"} and "channels" not in wire else "contact"
        if not isinstance(named, str) or named not in _OBJECTIVES:
            raise ValueError(f"Invalid objective type {named!r}; allowed: {', '.join(_OBJECTIVES)}")
        try:
            return cls(msgspec.convert(wire, _OBJECTIVES[named], strict=True))
        except msgspec.ValidationError as problem:
            # Passed on as it is, its path would begin at the objective instead of at the event.
            raise ValueError(_in_plain_words(str(problem), _OBJECTIVES[named]).replace(" - at `$.", " in `")) from None


_OBJECTIVES: Final[dict[str, Any]] = {"contact": ContactObjective, "email": EmailObjective, "ai": AiObjective}


class GoalSpec(Struct, frozen=True, omit_defaults=True):
    """What counts as reaching the campaign's goal."""

    objectives: list[Objective] | None = None


class CallWindow(Struct, frozen=True, omit_defaults=True):
    """When calls may be made."""

    start: time | None = None
    end: time | None = None
    weekdays: list[Integer] | None = None

    def __post_init__(self) -> None:
        _fill(self, start=time(9), end=time(19))


class Stage(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One column of the campaign's board."""

    id: Id
    campaign_id: Id
    key: str
    name: str
    position: Integer
    semantic_type: Literal["new", "active", "won", "lost"]
    color: str | None = None
    is_system: bool | None = None
    created_at: Instant
    updated_at: Instant

    def __post_init__(self) -> None:
        _fill(self, is_system=False)
        _in_utc(self, "created_at", "updated_at")


class CampaignDisplay(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The part of a campaign's definition that an item of the API shows unchanged."""

    name: str
    agent_id: Id
    agent_name: str | None = None
    phone_number_id: Id | None = None
    phone_number: str | None = None
    whatsapp_channel_id: Id | None = None
    goal: str | None = None
    goal_spec: GoalSpec | None = None
    first_contact_channel: Channel
    call_opening_message: str | None = None
    whatsapp_first_message: str | None = None
    whatsapp_after_attempts: Integer
    call_attempt_delays: list[Integer] | None = None
    call_working_hours: CallWindow | None = None
    stages: list[Stage] | None = None


# --- What happened ---------------------------------------------------------------------------------------------------


class CustomerUpserted(Struct, frozen=True, gc=False):
    """A customer exists, belongs to an owner, and is deleted or not."""

    customer_id: CustomerId
    version: Version
    owner_id: Id
    deleted: bool | None = None


class CampaignUpserted(CampaignDisplay, frozen=True, kw_only=True):
    """A campaign's whole definition, its status included, its deletion not."""

    campaign_id: CampaignId
    version: Version
    owner_id: Id
    status: Status
    created_at: Instant | None = None

    def __post_init__(self) -> None:
        _in_utc(self, "created_at")


class CampaignStatusChanged(Struct, frozen=True, gc=False):
    """A campaign moved on in its life."""

    campaign_id: CampaignId
    version: Version
    status: Status


class CampaignDeleted(Struct, frozen=True, gc=False):
    """A campaign is no longer listed by default."""

    campaign_id: CampaignId
    version: Version


class CampaignRestored(Struct, frozen=True, gc=False):
    """A deleted campaign is listed again."""

    campaign_id: CampaignId
    version: Version


class CountersChanged(Struct, frozen=True, gc=False):
    """A campaign's counters, absolute; they are opaque to the read model."""

    campaign_id: CampaignId
    version: Version
    contacts_total: Count
    contacts_contacted: Count
    contacts_remaining: Count
    contacts_to_recall: Count
    contacts_failed: Count
    contacts_succeeded: Count
    progress: float


class TargetEnrolled(Struct, frozen=True, gc=False):
    """A customer is in a campaign."""

    target_id: Id
    customer_id: CustomerId
    campaign_id: CampaignId
    version: Version
    enrolled_at: Instant
    source: str | None = None

    def __post_init__(self) -> None:
        _in_utc(self, "enrolled_at")


class TargetRemoved(Struct, frozen=True, gc=False):
    """A customer is out of a campaign."""

    target_id: Id
    customer_id: CustomerId
    campaign_id: CampaignId
    version: Version
    reason: str | None = None


class TargetRestored(Struct, frozen=True, gc=False):
    """A removed customer is in the campaign again."""

    target_id: Id
    customer_id: CustomerId
    campaign_id: CampaignId
    version: Version
    reason: str | None = None


Event = (
    CustomerUpserted
    | CampaignUpserted
    | CampaignStatusChanged
    | CampaignDeleted
    | CampaignRestored
    | CountersChanged
    | TargetEnrolled
    | TargetRemoved
    | TargetRestored
)

EVENT_TYPES: Final[dict[str, dict[str, type[Event]]]] = {
    "customer": {"customer.upserted.v1": CustomerUpserted},
    "campaign": {
        "campaign.upserted.v1": CampaignUpserted,
        "campaign.status_changed.v1": CampaignStatusChanged,
        "campaign.deleted.v1": CampaignDeleted,
        "campaign.restored.v1": CampaignRestored,
    },
    "counters": {"campaign.counters_changed.v1": CountersChanged},
    "target": {
        "target.enrolled.v1": TargetEnrolled,
        "target.removed.v1": TargetRemoved,
        "target.restored.v1": TargetRestored,
    },
}
"""The closed set of types, by subject family: the token after `membership.`."""

SUBJECT_IDS: Final[dict[str, tuple[str, ...]]] = {
    "customer": ("customer_id",),
    "campaign": ("campaign_id",),
    "counters": ("campaign_id",),
    "target": ("customer_id", "campaign_id"),
}
"""The fields of `data` that follow the family in a subject, in order."""


# --- Reading ---------------------------------------------------------------------------------------------------------


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


def subject_of(event: Event) -> str:
    """Return the subject this event is published on."""
    family = next(name for name, types in EVENT_TYPES.items() if type(event) in types.values())
    return ".".join([SUBJECT_ROOT, family, *(getattr(event, name) for name in SUBJECT_IDS[family])])


def family_of(event_type: str) -> str | None:
    """Return the subject family an event type is published in; None for a type that does not exist."""
    return next((family for family, types in EVENT_TYPES.items() if event_type in types), None)


def _read(decoder: msgspec.json.Decoder[Any], body: bytes, family: str) -> Event | Unreadable:
    try:
        body.decode()  # msgspec does not look into fields it ignores, but ill-formed UTF-8 is no JSON anywhere
        envelope = decoder.decode(body)
    except msgspec.ValidationError as problem:
        return _invalid(_in_plain_words(str(problem), decoder.type), family)
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


def _in_plain_words(problem: str, kind: Any) -> str:  # noqa: ANN401 - a type
    """Add to a decoder's message what it leaves out: the values a field allows, and what the pattern of an id means."""
    problem = problem.replace(_ID_PATTERN_TEXT, "a lower-case hyphenated UUID")
    if not problem.startswith("Invalid enum value"):
        return problem
    path = problem.rpartition(" - at ")[2].strip("`")  # for an unknown type, the caller names those of the subject
    allowed = _allowed_values(kind).get(_INDEX.sub("[]", path))
    return f"{problem}; allowed: {allowed}" if allowed and path != "$.type" else problem


_ID_PATTERN_TEXT: Final = f"`str` matching regex {_ID_PATTERN!r}"
"""How msgspec describes an ill-formed id."""
_INDEX: Final = re.compile(r"\[[0-9]+\]")


@cache
def _allowed_values(kind: Any) -> Mapping[str, str]:  # noqa: ANN401 - a type
    """Return, by path, the values of every field of a type that allows only some; found once, when first needed."""
    return dict(_walk("$", inspect.type_info(kind)))


def _walk(path: str, node: inspect.Type) -> Iterator[tuple[str, str]]:
    match node:
        case inspect.LiteralType(values=values):
            yield path, ", ".join(map(str, values))
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from _walk(f"{path}.{field.encode_name}", field.type)
        case inspect.ListType(item_type=item):
            yield from _walk(f"{path}[]", item)
        case inspect.UnionType(types=types):
            for each in types:
                yield from _walk(path, each)


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
