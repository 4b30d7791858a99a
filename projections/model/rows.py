"""Converts folded registers and parked messages into the column arrays that writes.sql takes as parameters."""

import sys
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Struct

from projections.model.events import (
    CampaignDeleted,
    CampaignId,
    CampaignRestored,
    CampaignStatusChanged,
    CampaignUpserted,
    CountersChanged,
    CustomerId,
    CustomerUpserted,
    Message,
    TargetEnrolled,
    Unreadable,
)
from projections.model.membership import STATUS_RANK, Registers, TargetKey, display_json, is_present
from projections.model.search_key import search_key

Row = tuple[Any, ...]
"""The parameters of one row, in the order of its statement's unnest()."""

Definitions = Mapping[CampaignId, Row]
"""The columns of campaign definitions already converted, by campaign; see `definition_row`."""


class Columns(Struct, frozen=True):
    """The parameters of the statements that write registers, one array per column; empty where nothing is written."""

    customers: list[list[Any]]
    enrolled: list[CustomerId]
    campaigns: list[list[Any]]
    counters: list[list[Any]]
    targets: list[list[Any]]


def columns(rows: Iterable[Row]) -> list[list[Any]]:
    """Turn rows into column arrays: one parameter per column, so a batch of any size is one statement."""
    return [list(column) for column in zip(*rows, strict=True)]


def _columns_of(width: int, rows: Iterable[Row]) -> list[list[Any]]:
    """Do the same for rows that may be empty: return `width` empty arrays."""
    return columns(rows) or [[] for _ in range(width)]


def customer_row(event: CustomerUpserted) -> Row:
    """Return a row of write_customers."""
    return event.customer_id, event.version, event.owner_id, event.deleted or False


def register_columns(registers: Registers, definitions: Definitions | None = None) -> Columns:
    """Return the parameters of all statements for these registers; `definitions` avoids converting texts again."""
    return Columns(
        customers=columns(map(customer_row, registers.customers.values())),
        enrolled=[key.customer_id for key in registers.enrolments],
        campaigns=_campaign_columns(registers, definitions or {}),
        counters=columns(map(counters_row, registers.counters.values())),
        targets=columns(target_row(key, registers) for key in sorted(registers.presences)),
    )


def definition_row(event: CampaignUpserted) -> Row:
    """Return the columns of a campaign's definition: search keys and display JSON, which are slow to make."""
    keys = (None if text is None else search_key(text) for text in (event.name, event.goal, event.agent_name))
    return event.version, event.owner_id, event.created_at, *keys, display_json(event)


def row_bytes(row: Row) -> int:
    """Return the memory used by the texts of a row; a search key may be many times as long as its text."""
    return sum(sys.getsizeof(value) for value in row if isinstance(value, str))


def campaign_row(campaign_id: CampaignId, registers: Registers, definitions: Definitions) -> Row:
    """Return a campaign as one row without its counters; version 0 for a register that was not written."""
    return (
        campaign_id,
        *(_definition(registers, campaign_id, definitions) if campaign_id in registers.definitions else _NO_DEFINITION),
        *_status(registers.statuses.get(campaign_id)),
        *_deletion(registers.deletions.get(campaign_id)),
    )


counters_row: Final[Callable[[CountersChanged], Row]] = attrgetter(
    "campaign_id",
    "version",
    "contacts_total",
    "contacts_contacted",
    "contacts_remaining",
    "contacts_to_recall",
    "contacts_failed",
    "contacts_succeeded",
    "progress",
)
"""Returns a row of write_counters."""


def _campaign_columns(registers: Registers, definitions: Definitions) -> list[list[Any]]:
    """Return the parameters of write_campaigns, each register separately: most campaigns write only one."""
    if not registers.definitions and not registers.statuses and not registers.deletions:
        return []
    return [
        *_columns_of(8, ((key, *_definition(registers, key, definitions)) for key in registers.definitions)),
        *_columns_of(3, ((key, *_status(event)) for key, event in registers.statuses.items())),
        *_columns_of(3, ((key, *_deletion(event)) for key, event in registers.deletions.items())),
    ]


def target_row(key: TargetKey, registers: Registers) -> Row:
    """Return a row of write_targets. Every target event writes the presence register; only an enrolment writes both."""
    presence = registers.presences[key]
    return (
        *key,
        *_enrolment(registers.enrolments.get(key)),
        presence.version,
        is_present(presence),
        None if isinstance(presence, TargetEnrolled) else presence.reason,
    )


def parked_row(message: Message, why: Unreadable) -> Row:
    """Return a row of park_events; any subject, headers and body can be stored."""
    headers = msgspec.json.encode(dict(message.headers)).decode() if message.headers else None
    return (
        message.position,
        storable(message.subject),
        headers,
        message.body,
        why.reason,
        storable(why.detail),
    )


def storable(text: str) -> str:
    """Escape what PostgreSQL's text type cannot store (NUL and lone surrogates); leave the rest unchanged."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


_NO_DEFINITION: Row = (0, None, None, None, None, None, None)


def _definition(registers: Registers, campaign_id: CampaignId, definitions: Definitions) -> Row:
    return definitions.get(campaign_id) or definition_row(registers.definitions[campaign_id])


def _status(event: CampaignUpserted | CampaignStatusChanged | None) -> Row:
    return (0, None) if event is None else (event.version, STATUS_RANK[event.status])


def _deletion(event: CampaignDeleted | CampaignRestored | None) -> Row:
    return (0, False) if event is None else (event.version, isinstance(event, CampaignDeleted))


def _enrolment(event: TargetEnrolled | None) -> Row:
    return (0, None, None, None) if event is None else (event.version, event.target_id, event.enrolled_at, event.source)
