"""Samples of the read model beside the stream, and the last report on the stream: what the API shows without a broker.

Writes: control.sample, control.stream_report. Reads: the same.
Invariants: samples are at least `APART_S` apart, however many processes write them, and deleted after `KEPT`; so the
table never holds more than some 1,300 rows.
"""

from datetime import datetime, timedelta
from typing import Final

import asyncpg
import msgspec
from msgspec import Struct

from projections.model.events import Instant

EVERY_S: Final = 5.0
"""How often a process writes a sample."""
APART_S: Final = 3.0
KEPT: Final = timedelta(minutes=65)
"""The console shows an hour."""
STALE_S: Final = 3 * EVERY_S
"""A sample older than this says nothing of the present: nothing writes samples."""
_COLUMNS: Final = (
    "generation, position, parked, fan_outs, leader, stream_position, lag_events, lag_s, missing_events, problem"
)


class Sample(Struct, frozen=True, kw_only=True):
    """The read model and the stream at one moment. What is None was not known."""

    at: Instant | None = None
    """When it was written, by PostgreSQL's clock."""
    generation: str
    position: int
    parked: int
    fan_outs: int
    leader: bool
    stream_position: int | None = None
    lag_events: int | None = None
    lag_s: float | None = None
    missing_events: int | None = None
    problem: str | None = None
    """A sentence: why the stream's values are unknown, or what is wrong with the stream."""


class StreamSetting(Struct, frozen=True, omit_defaults=True):
    """One setting of the stream, beside the value that this service needs."""

    name: str
    wanted: str
    found: str
    ok: bool
    sentence: str | None = None
    """What is wrong; absent if nothing is."""


class StreamSource(Struct, frozen=True):
    """A producer, and its last event among those that were looked at."""

    source: str
    last_position: int
    last_at: Instant


class StreamReport(Struct, frozen=True, kw_only=True):
    """The stream as the broker reported it."""

    name: str
    first_position: int
    last_position: int
    messages: int
    bytes: int
    settings: list[StreamSetting]
    sources: list[StreamSource]


async def write(connection: asyncpg.Connection, sample: Sample) -> bool:
    """Write a sample; return False if another process has just written one. Deletes those that are too old."""
    row = await connection.fetchrow(
        f"INSERT INTO control.sample ({_COLUMNS}) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 "  # noqa: S608 - fixed
        "WHERE NOT EXISTS (SELECT FROM control.sample WHERE at > now() - make_interval(secs => $11)) "
        "ON CONFLICT (at) DO NOTHING RETURNING at",
        *msgspec.structs.astuple(sample)[1:],
        APART_S,
    )
    await connection.execute("DELETE FROM control.sample WHERE at < now() - $1::interval", KEPT)
    return row is not None


async def recent(connection: asyncpg.Connection, since: timedelta) -> list[Sample]:
    """Return the samples of the last while, oldest first."""
    rows = await connection.fetch(
        f"SELECT at, {_COLUMNS} FROM control.sample WHERE at > now() - $1::interval ORDER BY at",  # noqa: S608 - fixed
        since,
    )
    return [Sample(**row) for row in rows]


async def newest(connection: asyncpg.Connection) -> tuple[Sample, float] | None:
    """Return the newest sample and its age in seconds, by PostgreSQL's clock; None if there is none."""
    row = await connection.fetchrow(
        f"SELECT extract(epoch FROM clock_timestamp() - at)::float8 AS age_s, at, {_COLUMNS} "  # noqa: S608 - fixed
        "FROM control.sample ORDER BY at DESC LIMIT 1"
    )
    if row is None:
        return None
    values = dict(row)
    age_s: float = values.pop("age_s")
    return Sample(**values), age_s


async def write_stream(connection: asyncpg.Connection, report: StreamReport) -> None:
    """Replace the report on the stream."""
    await connection.execute(
        "INSERT INTO control.stream_report (report) VALUES ($1) "
        "ON CONFLICT (only_row) DO UPDATE SET report = excluded.report, at = now()",
        msgspec.json.encode(report).decode(),
    )


async def read_stream(connection: asyncpg.Connection) -> tuple[StreamReport, datetime] | None:
    """Return the last report on the stream, and when it was made; None if the broker never answered."""
    row = await connection.fetchrow("SELECT report, at FROM control.stream_report")
    return None if row is None else (msgspec.json.decode(row["report"], type=StreamReport), row["at"])
