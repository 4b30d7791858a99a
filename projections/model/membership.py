"""The membership projection: what events do to the read model, as a value that does no I/O.

The fold is a set of last-writer-wins registers. A register holds the event that won it: the one with the highest
version, and of equal versions the first of the stream. So it does not matter in which order events with distinct
versions come, how often, or how they are cut into batches; and the same rule, `held < offered`, is all that the
upserts in writes.sql know.

Invariants: folding an event twice is folding it once; fold(b, fold(a)) = fold(a + b).
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Protocol, TypeVar, assert_never

import msgspec
from msgspec import Struct, field

from projections.model.events import (
    CampaignDeleted,
    CampaignDisplay,
    CampaignId,
    CampaignRestored,
    CampaignStatusChanged,
    CampaignUpserted,
    CountersChanged,
    CustomerId,
    CustomerUpserted,
    Event,
    Objective,
    Status,
    TargetEnrolled,
    TargetRemoved,
    TargetRestored,
)

STATUS_ORDER: Final[tuple[Status, ...]] = ("draft", "running", "paused", "done")
"""The life of a campaign; a status is stored as its index here, so it sorts in this order."""

STATUS_RANK: Final[Mapping[Status, int]] = {status: rank for rank, status in enumerate(STATUS_ORDER)}


class TargetKey(NamedTuple):
    """A customer's place in a campaign: versions of targets are counted per pair."""

    customer_id: CustomerId
    campaign_id: CampaignId


class _Versioned(Protocol):
    @property
    def version(self) -> int: ...


K = TypeVar("K")
E = TypeVar("E", bound=_Versioned)


class Registers(Struct):
    """What some events, in stream order, leave behind: per entity and register the event that won."""

    customers: dict[CustomerId, CustomerUpserted] = field(default_factory=dict)
    definitions: dict[CampaignId, CampaignUpserted] = field(default_factory=dict)
    statuses: dict[CampaignId, CampaignUpserted | CampaignStatusChanged] = field(default_factory=dict)
    deletions: dict[CampaignId, CampaignDeleted | CampaignRestored] = field(default_factory=dict)
    counters: dict[CampaignId, CountersChanged] = field(default_factory=dict)
    enrolments: dict[TargetKey, TargetEnrolled] = field(default_factory=dict)
    presences: dict[TargetKey, TargetEnrolled | TargetRemoved | TargetRestored] = field(default_factory=dict)

    def campaign_ids(self) -> set[CampaignId]:
        """Return the campaigns of which any register was written."""
        return {*self.definitions, *self.statuses, *self.deletions, *self.counters}


def fold(events: Iterable[Event], registers: Registers | None = None) -> Registers:
    """Offer `events`, in stream order, to `registers` (empty ones by default), and return those, changed in place."""
    into = Registers() if registers is None else registers
    for event in events:
        _offer_event(into, event)
    return into


def is_present(event: TargetEnrolled | TargetRemoved | TargetRestored) -> bool:
    """Say what a presence register holds: in the campaign, or out of it."""
    return not isinstance(event, TargetRemoved)


def display_json(definition: CampaignUpserted) -> str:
    """Return the members of the item's JSON object that the definition alone decides, without braces."""
    display = CampaignDisplay(**{name: getattr(definition, name) for name in CampaignDisplay.__struct_fields__})
    return _ENCODER.encode(display).decode()[1:-1]


def _offer(register: dict[K, E], key: K, event: E) -> None:
    held = register.get(key)
    if held is None or held.version < event.version:
        register[key] = event


def _offer_event(into: Registers, event: Event) -> None:
    match event:  # the most frequent first
        case CountersChanged():
            _offer(into.counters, event.campaign_id, event)
        case TargetEnrolled():
            key = TargetKey(event.customer_id, event.campaign_id)
            _offer(into.enrolments, key, event)
            _offer(into.presences, key, event)
        case TargetRemoved() | TargetRestored():
            _offer(into.presences, TargetKey(event.customer_id, event.campaign_id), event)
        case CampaignUpserted():
            _offer(into.definitions, event.campaign_id, event)
            _offer(into.statuses, event.campaign_id, event)
        case CampaignStatusChanged():
            _offer(into.statuses, event.campaign_id, event)
        case CampaignDeleted() | CampaignRestored():
            _offer(into.deletions, event.campaign_id, event)
        case CustomerUpserted():
            _offer(into.customers, event.customer_id, event)
        case _:
            assert_never(event)


def _encode_objective(value: object) -> object:
    if isinstance(value, Objective):
        return value.kind
    raise NotImplementedError


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_encode_objective)
