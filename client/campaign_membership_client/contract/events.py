# Copied from projections/model/events.py by client/copy_contract.py. Change the source, then copy.
"""The wire contract: the types of events, their fields and their subjects.

Source: docs/events.md documents the same contract for producers; a change here changes the contract.
Types are versioned (`….v1`) and closed: a new meaning is a new type, never a change to an existing one.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, time
from typing import Annotated, Any, Final, Literal, NewType

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from campaign_membership_client.contract.decode_errors import describe_decode_error

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
"""Every integer of an event is an int64, even one that is only displayed: clients parse it into an int64."""
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
"""Why a message is parked; docs/events.md documents what an operator can do about each."""
REFUSED_BY_TABLES: Final[Reason] = "refused_by_tables"
"""The only reason not found by decoding: PostgreSQL refused the values of a valid event."""


class Message(Struct, frozen=True, gc=False):
    """A message of the stream, independent of the broker's client library.

    `gc=False`, as for the events of plain values below: it cannot be part of a reference cycle, and repeated garbage
    collector passes over a million of them would cost more than reading them.
    """

    position: Position
    subject: str
    body: bytes
    time_ns: int
    """When the broker stored it, nanoseconds since 1970."""
    headers: Mapping[str, str] | None = None
    header_bytes: int = 0
    """Size of the headers as stored; they are parsed only if they are shown."""


class Unreadable(Struct, frozen=True):
    """A message that is not an event of this contract, with a reason that an operator can act on."""

    reason: Reason
    detail: str


def _fill(part: Struct, **defaults: Any) -> None:  # noqa: ANN401 - by field
    """Set absent fields to the defaults in the schema of the HTTP contract."""
    for field, default in defaults.items():
        if getattr(part, field) is None:
            force_setattr(part, field, default)


def _in_utc(part: Struct, *fields: str) -> None:
    for field in fields:
        instant = getattr(part, field)
        if instant is not None and instant.tzinfo is not UTC:
            force_setattr(part, field, instant.astimezone(UTC))


class ContactObjective(Struct, frozen=True, omit_defaults=True):
    """A goal reached by contacting the customer."""

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
    """A goal reached when the AI judges a conversation accordingly."""

    type: Literal["ai"] | None = None
    label_in: list[Literal["positive", "negative", "neutral"]] | None = None
    min_score: float | None = None

    def __post_init__(self) -> None:
        _fill(self, type="ai", min_score=0.0)


class Objective:
    """One objective of a goal. Its kind is given by `type`, or else by the first kind that has one of its fields."""

    __slots__ = ("kind",)

    def __init__(self, kind: ContactObjective | EmailObjective | AiObjective) -> None:
        self.kind = kind

    @classmethod
    def parse(cls, wire: object) -> "Objective":
        """Read a decoded JSON object strictly; raises msgspec's ValidationError."""
        if not isinstance(wire, dict):
            raise TypeError("Expected `object`")
        type_name = wire.get("type")
        if type_name is None:
            type_name = "ai" if wire.keys() & {"label_in", "min_score"} and "channels" not in wire else "contact"
        if not isinstance(type_name, str) or type_name not in _OBJECTIVES:
            raise ValueError(f"Invalid objective type {type_name!r}; allowed: {', '.join(_OBJECTIVES)}")
        try:
            return cls(msgspec.convert(wire, _OBJECTIVES[type_name], strict=True))
        except msgspec.ValidationError as problem:
            # Unchanged, the path in the message would start at the objective instead of at the event.
            raise ValueError(
                describe_decode_error(str(problem), _OBJECTIVES[type_name]).replace(" - at `$.", " in `")
            ) from None


_OBJECTIVES: Final[dict[str, Any]] = {"contact": ContactObjective, "email": EmailObjective, "ai": AiObjective}


class GoalSpec(Struct, frozen=True, omit_defaults=True):
    """The objectives that define the campaign's goal."""

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
    """The part of a campaign's definition that the API returns unchanged."""

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


class CustomerUpserted(Struct, frozen=True, gc=False):
    """A customer exists, belongs to an owner, and is deleted or not."""

    customer_id: CustomerId
    version: Version
    owner_id: Id
    deleted: bool | None = None


class CampaignUpserted(CampaignDisplay, frozen=True, kw_only=True):
    """A campaign's full definition, including its status but not its deletion."""

    campaign_id: CampaignId
    version: Version
    owner_id: Id
    status: Status
    created_at: Instant | None = None

    def __post_init__(self) -> None:
        _in_utc(self, "created_at")


class CampaignStatusChanged(Struct, frozen=True, gc=False):
    """A campaign's status changed."""

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
    """A campaign's counters, as absolute values; the read model does not interpret them."""

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
"""The fields of `data` whose values follow the family in a subject, in order."""


def subject_of(event: Event) -> str:
    """Return the subject on which this event is published."""
    family = next(name for name, types in EVENT_TYPES.items() if type(event) in types.values())
    return ".".join([SUBJECT_ROOT, family, *(getattr(event, name) for name in SUBJECT_IDS[family])])


def family_of(event_type: str) -> str | None:
    """Return the subject family of an event type; None for an unknown type."""
    return next((family for family, types in EVENT_TYPES.items() if event_type in types), None)
