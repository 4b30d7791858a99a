"""Lists parked events for operators: in groups by reason, type and source, page by page, and one with its explanation.

Reads: parked_event of the live generation. Statements: parking.sql.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal

import asyncpg
from msgspec import Struct

from projections.maintenance.parking import Filter
from projections.model.attributes import read_attributes
from projections.model.decode import decode
from projections.model.events import REFUSED_BY_TABLES, Instant, Unreadable
from projections.store.queries import Generation, statements

HOURS: Final = 24
DETAIL_CHARS_MAX: Final = 500
"""In a list; a detail quotes values, which may have 256 KB."""
BODY_BYTES_MAX: Final = 256 * 1024
"""Of one event; an event that was parked for its size may be larger."""


class ParkedGroup(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The parked events of one reason, type and source."""

    reason: str
    type: str | None = None
    """Absent if the body does not say."""
    source: str | None = None
    count: int
    first_seen_at: Instant
    last_seen_at: Instant
    by_hour: list[int]
    """How many were first seen in each of the last 24 hours, the latest last."""


class ParkedGroups(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """All parked events that match, in groups."""

    total: int
    groups: list[ParkedGroup]
    """The largest first."""
    more_groups: int = 0
    """How many smaller groups are not listed; `total` includes their events."""


class ParkedEvent(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A parked event in a list."""

    position: int
    subject: str
    reason: str
    detail: str
    """Why; cut after 500 characters."""
    type: str | None = None
    source: str | None = None
    first_seen_at: Instant


class Retrial(Struct, frozen=True, omit_defaults=True):
    """What a retry by this release would do."""

    outcome: Literal["would_apply", "still_parked", "undecided"]
    """`undecided`: the event is valid, but the tables refused its values; only a retry shows whether they still do."""
    reason: str | None = None
    detail: str | None = None


class WholeParkedEvent(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A parked event with its body."""

    position: int
    subject: str
    reason: str
    detail: str
    type: str | None = None
    source: str | None = None
    first_seen_at: Instant
    headers: dict[str, str]
    body: str
    """As text: bytes that are not UTF-8 are escaped (`\\\\xff`). Cut after 256 KiB."""
    body_bytes: int
    """The size of the whole body."""
    error_path: list[str | int] | None = None
    """Where in the body the error is: names and indexes from the top. Absent if it is at no value."""
    error_byte: int | None = None
    """Where the body ceases to be JSON, counted from 0."""
    now: Retrial


async def groups(connection: asyncpg.Connection, name: Generation, selection: Filter, groups_max: int) -> ParkedGroups:
    """Return the parked events that match, in at most `groups_max` groups."""
    rows = await connection.fetch(_statements(name)["groups"], *selection, groups_max)
    total, existing = (rows[0]["all_events"], rows[0]["all_groups"]) if rows else (0, 0)
    return ParkedGroups(total=total, groups=[_group(row) for row in rows], more_groups=existing - len(rows))


async def count(connection: asyncpg.Connection, name: Generation, selection: Filter) -> int:
    """Return how many parked events match."""
    return int(await connection.fetchval(_statements(name)["count"], *selection))


async def page(
    connection: asyncpg.Connection, name: Generation, selection: Filter, before: int | None, rows_max: int
) -> list[ParkedEvent]:
    """Return the parked events that match and are before a position, newest first."""
    rows = await connection.fetch(_statements(name)["page"], *selection, before, DETAIL_CHARS_MAX, rows_max)
    return [ParkedEvent(**row) for row in rows]


def explained(row: asyncpg.Record, headers: Mapping[str, str]) -> WholeParkedEvent:
    """Return a parked event with what this release makes of it."""
    body = bytes(row["body"])
    attributes = read_attributes(body)
    now = retrial(row["subject"], body, row["reason"])
    detail = now.detail or row["detail"]
    return WholeParkedEvent(
        position=row["position"],
        subject=row["subject"],
        reason=row["reason"],
        detail=row["detail"],
        type=attributes.type,
        source=attributes.source,
        first_seen_at=row["first_seen_at"],
        headers=dict(headers),
        body=body[:BODY_BYTES_MAX].decode(errors="backslashreplace"),
        body_bytes=len(body),
        error_path=error_path(now.reason or row["reason"], detail),
        error_byte=error_byte(detail),
        now=now,
    )


def retrial(subject: str, body: bytes, reason: str) -> Retrial:
    """Return what a retry would do with an event that was parked for `reason`."""
    event = decode(subject, body)
    if isinstance(event, Unreadable):
        return Retrial("still_parked", event.reason, event.detail)
    return Retrial("undecided" if reason == REFUSED_BY_TABLES else "would_apply")


_AT: Final = re.compile(r"`\$(?P<path>(?:\.\w+|\[[0-9]+\])*)`")
_STEP: Final = re.compile(r"\.(?P<name>\w+)|\[(?P<index>[0-9]+)\]")
_BYTE: Final = re.compile(r"\(byte (?P<byte>[0-9]+)\)")
_MISMATCH: Final = re.compile(r"\A(?P<name>\w+) is ")
_MISSING: Final = re.compile(r"required field `(?P<name>\w+)`")


def error_path(reason: str, detail: str) -> list[str | int] | None:
    """Return the path of the value that a parking detail names; None if it names none.

    The path of a missing field ends with the field that should be there.
    """
    if reason == "id_mismatch":
        named = _MISMATCH.match(detail)
        return None if named is None else ["data", named["name"]]
    found = _AT.search(detail)
    missing = _MISSING.search(detail)
    if found is None:
        return None if missing is None else [missing["name"]]
    steps = _STEP.finditer(found["path"])
    path: list[str | int] = [step["name"] if step["index"] is None else int(step["index"]) for step in steps]
    return path if missing is None else [*path, missing["name"]]


def error_byte(detail: str) -> int | None:
    """Return the byte at which a body ceases to be JSON, if the parking detail names it."""
    found = _BYTE.search(detail)
    return None if found is None else int(found["byte"])


def _group(row: asyncpg.Record) -> ParkedGroup:
    by_hour = [0] * HOURS
    for hours_ago, events in zip(row["hours"], row["events_by_hour"], strict=True):
        if 0 <= hours_ago < HOURS:
            by_hour[HOURS - 1 - hours_ago] += events
    return ParkedGroup(
        reason=row["reason"],
        type=row["type"],
        source=row["source"],
        count=row["events"],
        first_seen_at=row["first_seen_at"],
        last_seen_at=row["last_seen_at"],
        by_hour=by_hour,
    )


def _statements(name: Generation) -> Mapping[str, str]:
    return statements("projections.maintenance", "parking.sql", generation=name)
