"""Reads what can be read of a message's envelope, whether the message is a valid event or not.

Invariants: total, as `decode` is. An attribute that is missing or ill-typed is None; the others are still read.
"""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from projections.model.events import INT64_MAX, Instant

TEXT_CHARS_MAX: Final = 256
"""A longer text is cut: only `id` has a limit in the contract, and a history holds thousands of events."""


class Attributes(Struct, frozen=True, gc=False):
    """The attributes of a message's envelope, and the version in its data. None: absent or unreadable."""

    time: datetime | None = None
    """In UTC if that is a year from 1 to 9999, else with its own offset."""
    type: str | None = None
    id: str | None = None
    source: str | None = None
    version: int | None = None


class _AnyEnvelope(Struct, gc=False):
    time: Any = None
    type: Any = None
    id: Any = None
    source: Any = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class _AnyData(Struct, gc=False):
    version: Any = None


_ENVELOPE: Final = msgspec.json.Decoder(_AnyEnvelope)
_DATA: Final = msgspec.json.Decoder(_AnyData)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
"""`msgspec.ValidationError` is a `DecodeError`."""


def read_attributes(body: bytes) -> Attributes:
    """Return the attributes of any body."""
    try:
        envelope = _ENVELOPE.decode(body)
    except _UNREADABLE:
        return Attributes()
    return Attributes(
        _instant(envelope.time),
        _text(envelope.type),
        _text(envelope.id),
        _text(envelope.source),
        _version(envelope.data),
    )


def _instant(value: object) -> datetime | None:
    try:
        instant: datetime = msgspec.convert(value, Instant)
    except _UNREADABLE:
        return None
    try:
        return instant.astimezone(UTC)
    except (OverflowError, ValueError):
        return instant


def _text(value: object) -> str | None:
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) and value else None


def _version(raw: msgspec.Raw) -> int | None:
    try:
        version = _DATA.decode(raw).version
    except _UNREADABLE:
        return None
    valid = isinstance(version, int) and not isinstance(version, bool) and 1 <= version <= INT64_MAX
    return version if valid else None
