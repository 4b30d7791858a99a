"""An event on its way to the stream: what a producer states, and its encoded, validated form.

Fails: `InvalidEvent` with every wrong field, before anything is sent.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from campaign_membership_client.contract.decode import decode
from campaign_membership_client.contract.events import (
    SUBJECT_IDS,
    SUBJECT_ROOT,
    Objective,
    Unreadable,
    family_of,
)
from campaign_membership_client.derived_ids import derived_id
from campaign_membership_client.errors import FieldError, InvalidEvent
from campaign_membership_client.field_errors import allowed_types, field_error, find_errors


class Event(Struct, frozen=True):
    """An event as a producer states it; `campaign_membership_client.events` has a function for each type."""

    type: str
    data: Mapping[str, Any]
    """The fields of the contract; a None is not sent. UUIDs, date-times and the contract's structs are encoded."""
    id: str | None = None
    """None: derived from source, type, entity and version, so that a repeated call sends the same id."""
    time: datetime | None = None
    """When it happened; None: now."""


class Publication(NamedTuple):
    """An encoded event: its subject, message id and JSON."""

    subject: str
    msg_id: str
    body: bytes


def prepare(event: Event, source: str) -> Publication:
    """Encode and validate an event; raises `InvalidEvent` with all errors."""
    family = family_of(event.type)
    if family is None:
        raise InvalidEvent(event.type, [field_error("type", event.type, allowed_types())])
    data = {name: value for name, value in event.data.items() if value is not None}
    entity = [str(data.get(name)) for name in SUBJECT_IDS[family]]
    msg_id = event.id or derived_id(source, event.type, *entity, data.get("version"))
    body = _encoded(event, {"id": msg_id, "source": source, "data": data})
    return validated(event.type, Publication(".".join([SUBJECT_ROOT, family, *entity]), msg_id, body))


def validated(event_type: str, publication: Publication) -> Publication:
    """Return a publication that the service can apply; raises `InvalidEvent` for any other."""
    result = decode(publication.subject, publication.body)
    if isinstance(result, Unreadable):
        errors = find_errors(msgspec.json.decode(publication.body))
        raise InvalidEvent(event_type, errors or [FieldError("event", result.reason, result.detail.rstrip("."))])
    return publication


def version_of(publication: Publication) -> int:
    """Return the version of a valid publication."""
    return _VERSION.decode(publication.body).data.version


def _encoded(event: Event, attributes: dict[str, Any]) -> bytes:
    envelope = {"specversion": "1.0", "type": event.type, "time": event.time or datetime.now(UTC)} | attributes
    try:
        return _ENCODER.encode(envelope)
    except (TypeError, ValueError, OverflowError):  # a UnicodeEncodeError is a ValueError
        raise InvalidEvent(event.type, _unencodable(envelope)) from None


def _unencodable(envelope: Mapping[str, Any]) -> list[FieldError]:
    fields = {name: value for name, value in envelope.items() if name != "data"}
    fields |= {f"data.{name}": value for name, value in envelope["data"].items()}
    return [
        FieldError(name, ascii(value)[:80], "a value that JSON in UTF-8 can hold")
        for name, value in fields.items()
        if not _is_encodable(value)
    ]


def _is_encodable(value: object) -> bool:
    try:
        _ENCODER.encode(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _encode_objective(value: object) -> object:
    if isinstance(value, Objective):
        return value.kind
    raise TypeError(type(value).__name__)


class _Versioned(Struct):
    version: int


class _VersionOnly(Struct):
    data: _Versioned


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_encode_objective)
_VERSION: Final = msgspec.json.Decoder(_VersionOnly)
