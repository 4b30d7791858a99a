"""The membership projection: how events change the read model. It returns values and does no I/O.

The fold is a set of last-writer-wins registers. A register holds the winning event: the one with the highest version
and, of equal versions, the first in the stream. So the order of events with distinct versions, their duplication and
their division into batches do not matter; the upserts in writes.sql apply the same rule, `held < offered`.

Invariants: folding an event twice equals folding it once; fold(b, fold(a)) = fold(a + b).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol, TypeVar, assert_never

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
"""The lifecycle of a campaign; a status is stored as its index here, so it sorts in this order."""

STATUS_RANK: Final[Mapping[Status, int]] = {status: rank for rank, status in enumerate(STATUS_ORDER)}


class TargetKey(NamedTuple):
    """A customer in a campaign: versions of targets are counted per pair."""

    customer_id: CustomerId
    campaign_id: CampaignId


class _Versioned(Protocol):
    @property
    def version(self) -> int: ...


K = TypeVar("K")
E = TypeVar("E", bound=_Versioned)


class Registers(Struct):
    """The result of folding events in stream order: per entity and register, the event that won."""

    customers: dict[CustomerId, CustomerUpserted] = field(default_factory=dict)
    definitions: dict[CampaignId, CampaignUpserted] = field(default_factory=dict)
    statuses: dict[CampaignId, CampaignUpserted | CampaignStatusChanged] = field(default_factory=dict)
    deletions: dict[CampaignId, CampaignDeleted | CampaignRestored] = field(default_factory=dict)
    counters: dict[CampaignId, CountersChanged] = field(default_factory=dict)
    enrolments: dict[TargetKey, TargetEnrolled] = field(default_factory=dict)
    presences: dict[TargetKey, TargetEnrolled | TargetRemoved | TargetRestored] = field(default_factory=dict)

    def campaign_ids(self) -> set[CampaignId]:
        """Return the campaigns with at least one written register."""
        return {*self.definitions, *self.statuses, *self.deletions, *self.counters}


class Meetings(Struct):
    """The events of a batch that met another in one register and do not hold it: classes and versions, no content."""

    replaced: dict[Any, list[tuple[type, int]]] = field(default_factory=dict)
    """Events that won on arrival and were replaced, by key; versions rise."""
    lost: list[type] = field(default_factory=list)
    """Events that lost on arrival."""


class Contests(Struct):
    """The meetings in each register, by the names of `Registers`; None: they are not recorded."""

    customers: Meetings | None = field(default_factory=Meetings)
    definitions: Meetings | None = field(default_factory=Meetings)
    statuses: Meetings | None = field(default_factory=Meetings)
    deletions: Meetings | None = field(default_factory=Meetings)
    counters: Meetings | None = field(default_factory=Meetings)
    enrolments: Meetings | None = field(default_factory=Meetings)
    presences: Meetings | None = field(default_factory=Meetings)


_NOT_RECORDED: Final = Contests(*[None] * len(Contests.__struct_fields__))


def fold(events: Iterable[Event], registers: Registers | None = None, contests: Contests = _NOT_RECORDED) -> Registers:
    """Offer `events`, in stream order, to `registers` (by default empty ones) and return them, changed in place.

    Records in `contests` the events that met another in a register.
    """
    target = Registers() if registers is None else registers
    for event in events:
        _offer_event(target, event, contests)
    return target


def is_present(event: TargetEnrolled | TargetRemoved | TargetRestored) -> bool:
    """Return whether the winner of a presence register means that the customer is in the campaign."""
    return not isinstance(event, TargetRemoved)


def display_json(definition: CampaignUpserted) -> str:
    """Return the JSON members of an item that depend on the definition alone, without braces."""
    display = CampaignDisplay(**{name: getattr(definition, name) for name in CampaignDisplay.__struct_fields__})
    return _ENCODER.encode(display).decode()[1:-1]


def _offer(register: dict[K, E], key: K, event: E, meetings: Meetings | None) -> None:
    current = register.get(key)
    if current is None:
        register[key] = event
    elif current.version < event.version:
        register[key] = event
        if meetings is not None:
            meetings.replaced.setdefault(key, []).append((type(current), current.version))
    elif meetings is not None:
        meetings.lost.append(type(event))


def _offer_event(registers: Registers, event: Event, contests: Contests) -> None:
    match event:  # the most frequent first
        case CountersChanged():
            _offer(registers.counters, event.campaign_id, event, contests.counters)
        case TargetEnrolled():
            key = TargetKey(event.customer_id, event.campaign_id)
            _offer(registers.enrolments, key, event, contests.enrolments)
            _offer(registers.presences, key, event, contests.presences)
        case TargetRemoved() | TargetRestored():
            _offer(registers.presences, TargetKey(event.customer_id, event.campaign_id), event, contests.presences)
        case CampaignUpserted():
            _offer(registers.definitions, event.campaign_id, event, contests.definitions)
            _offer(registers.statuses, event.campaign_id, event, contests.statuses)
        case CampaignStatusChanged():
            _offer(registers.statuses, event.campaign_id, event, contests.statuses)
        case CampaignDeleted() | CampaignRestored():
            _offer(registers.deletions, event.campaign_id, event, contests.deletions)
        case CustomerUpserted():
            _offer(registers.customers, event.customer_id, event, contests.customers)
        case _:
            assert_never(event)


def _encode_objective(value: object) -> object:
    if isinstance(value, Objective):
        return value.kind
    raise NotImplementedError


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_encode_objective)
