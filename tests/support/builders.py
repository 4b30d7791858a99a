"""Builds events for tests: complete and valid by default, as data, as bodies, as messages."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from projections.model.batch import BatchBuilder
from projections.model.events import EVENT_TYPES, SUBJECT_IDS, SUBJECT_ROOT, Message, Position, family_of

ANYONE = "a0000000-0000-4000-8000-000000000000"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
COUNTERS = (
    "contacts_total",
    "contacts_contacted",
    "contacts_remaining",
    "contacts_to_recall",
    "contacts_failed",
    "contacts_succeeded",
)
_numbers = itertools.count(1)


def an_id(kind: str, number: int) -> str:
    """Return a readable id: the kind's two hexadecimal digits first, the number last."""
    return f"{kind}000000-0000-4000-8000-{number:012x}"


def customer_id(number: int) -> str:
    return an_id("c0", number)


def campaign_id(number: int) -> str:
    return an_id("ca", number)


def owner_id(number: int) -> str:
    return an_id("0e", number)


def data_of(event_type: str, version: int, /, customer: int = 1, campaign: int = 1, **fields: Any) -> dict[str, Any]:
    """Return the data of an event with every required field; `fields` replace or add fields, `...` removes one."""
    customer_only: dict[str, Any] = {"customer_id": customer_id(customer)}
    campaign_only: dict[str, Any] = {"campaign_id": campaign_id(campaign)}
    target = {"target_id": an_id("7a", 1000 * customer + campaign)} | customer_only | campaign_only
    required: dict[str, dict[str, Any]] = {
        "customer.upserted.v1": customer_only | {"owner_id": owner_id(1)},
        "campaign.upserted.v1": campaign_only
        | {
            "owner_id": owner_id(1),
            "name": f"Campaign {campaign}",
            "status": "running",
            "agent_id": ANYONE,
            "first_contact_channel": "call",
            "whatsapp_after_attempts": 2,
        },
        "campaign.status_changed.v1": campaign_only | {"status": "paused"},
        "campaign.deleted.v1": campaign_only,
        "campaign.restored.v1": campaign_only,
        "campaign.counters_changed.v1": campaign_only
        | dict.fromkeys(
            ("contacts_total", "contacts_contacted", "contacts_remaining", "contacts_to_recall", "contacts_failed"),
            version,
        )
        | {"contacts_succeeded": version, "progress": version / 4},
        "target.enrolled.v1": target | {"enrolled_at": (EPOCH + timedelta(minutes=campaign)).isoformat()},
        "target.removed.v1": target,
        "target.restored.v1": target,
    }
    data = required[event_type] | {"version": version} | fields
    return {name: value for name, value in data.items() if value is not ...}


def body_of(event_type: str, data: Any, /, **attributes: Any) -> bytes:
    """Return the CloudEvents JSON of an event; `attributes` replace or add attributes, `...` removes one."""
    envelope = {
        "specversion": "1.0",
        "id": f"event-{next(_numbers)}",
        "source": "tests",
        "type": event_type,
        "time": "2026-01-01T00:00:00Z",
        "data": data,
    } | attributes
    return msgspec.json.encode({name: value for name, value in envelope.items() if value is not ...})


def subject_for(event_type: str, data: dict[str, Any]) -> str:
    """Return the subject for an event's data."""
    family = family_of(event_type)
    assert family is not None
    return ".".join([SUBJECT_ROOT, family, *(str(data[name]) for name in SUBJECT_IDS[family])])


def published(event_type: str, version: int, /, **fields: Any) -> tuple[str, bytes]:
    """Return (subject, body) of a valid event; `fields` as for `data_of`."""
    data = data_of(event_type, version, **fields)
    return subject_for(event_type, data), body_of(event_type, data)


def message(position: int, subject: str, body: bytes) -> Message:
    """Return a message as the intake returns it."""
    return Message(Position(position), subject, body, time_ns=1_767_225_600_000_000_000 + position)


def batch_of(messages: Sequence[Message]) -> BatchBuilder:
    """Return messages as the replay returns them."""
    batch = BatchBuilder(Position(messages[0].position - 1))
    batch.add(messages)
    return batch


ALL_TYPES = tuple(name for types in EVENT_TYPES.values() for name in types)
