"""Turns folded registers and parked messages into the rows that writes.sql takes, one column array each."""

from collections.abc import Iterable
from typing import Any

import msgspec

from projections.events import (
    CampaignDeleted,
    CampaignId,
    CampaignRestored,
    CampaignStatusChanged,
    CampaignUpserted,
    CountersChanged,
    CustomerUpserted,
    Message,
    TargetEnrolled,
    Unreadable,
)
from projections.membership import STATUS_RANK, Registers, TargetKey, display_json, is_present
from projections.search_key import search_key

Row = tuple[Any, ...]
"""The parameters of one row, in the order of its statement's unnest()."""


def columns(rows: Iterable[Row]) -> list[list[Any]]:
    """Turn rows into column arrays: one parameter a column, so a batch of any size is one statement."""
    return [list(column) for column in zip(*rows, strict=True)]


def _columns_of(width: int, rows: Iterable[Row]) -> list[list[Any]]:
    """Do the same for rows of which there may be none."""
    return columns(rows) or [[] for _ in range(width)]


def customer_row(event: CustomerUpserted) -> Row:
    """Return a row of write_customers."""
    return event.customer_id, event.version, event.owner_id, event.deleted or False


def campaign_row(campaign_id: CampaignId, registers: Registers) -> Row:
    """Return a campaign as one row: all four registers, version 0 where none was written."""
    return (
        campaign_id,
        *_definition(registers.definitions.get(campaign_id)),
        *_status(registers.statuses.get(campaign_id)),
        *_deletion(registers.deletions.get(campaign_id)),
        *_counters(registers.counters.get(campaign_id)),
    )


def campaign_columns(registers: Registers) -> list[list[Any]]:
    """Return the parameters of write_campaigns: each register's rows apart, for most campaigns write but one."""
    return [
        *_columns_of(8, ((key, *_definition(event)) for key, event in registers.definitions.items())),
        *_columns_of(3, ((key, *_status(event)) for key, event in registers.statuses.items())),
        *_columns_of(3, ((key, *_deletion(event)) for key, event in registers.deletions.items())),
        *_columns_of(9, ((key, *_counters(event)) for key, event in registers.counters.items())),
    ]


def target_row(key: TargetKey, registers: Registers) -> Row:
    """Return a row of write_targets. Every target event writes the presence; only an enrolment the enrolment."""
    presence = registers.presences[key]
    return (
        *key,
        *_enrolment(registers.enrolments.get(key)),
        presence.version,
        is_present(presence),
        None if isinstance(presence, TargetEnrolled) else presence.reason,
    )


def parked_row(message: Message, why: Unreadable) -> Row:
    """Return a row of park_events; any subject, header and body can be kept."""
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
    """Escape what PostgreSQL's text cannot hold, NUL and lone surrogates, and leave all else as it is."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


def _definition(event: CampaignUpserted | None) -> Row:
    if event is None:
        return 0, None, None, None, None, None, None
    keys = (None if text is None else search_key(text) for text in (event.name, event.goal, event.agent_name))
    return event.version, event.owner_id, event.created_at, *keys, display_json(event)


def _status(event: CampaignUpserted | CampaignStatusChanged | None) -> Row:
    return (0, None) if event is None else (event.version, STATUS_RANK[event.status])


def _deletion(event: CampaignDeleted | CampaignRestored | None) -> Row:
    return (0, False) if event is None else (event.version, isinstance(event, CampaignDeleted))


def _counters(event: CountersChanged | None) -> Row:
    if event is None:
        return 0, 0, 0, 0, 0, 0, 0, 0.0
    return (
        event.version,
        event.contacts_total,
        event.contacts_contacted,
        event.contacts_remaining,
        event.contacts_to_recall,
        event.contacts_failed,
        event.contacts_succeeded,
        event.progress,
    )


def _enrolment(event: TargetEnrolled | None) -> Row:
    return (0, None, None, None) if event is None else (event.version, event.target_id, event.enrolled_at, event.source)
