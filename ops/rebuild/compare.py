"""Compares a new generation with the live one, both at one position in one snapshot.

The transaction that compares applies the last messages up to the live generation's position itself, so that neither
side has to stand still for it: the live one goes on beside its own snapshot.
"""

import asyncio
import time
from contextlib import aclosing
from typing import Final

import asyncpg
from msgspec import Struct

from consumers.replay import replay
from ops.rebuild.context import JobContext
from projections.errors import JobRefused
from projections.maintenance import rebuild
from projections.maintenance.differences import KEYS, Comparison, Difference, Part
from projections.model.batch import read_batch
from projections.store import checkpoint as checkpoints
from projections.store import fan_out, generations
from projections.store.checkpoint import Checkpoint
from projections.store.database import UNAVAILABLE
from projections.store.projector import park, write_in_parts
from projections.store.queries import writes

CATCH_UP_EVENTS: Final = 2_000
COMPARE_ROWS: Final = 20_000
THROTTLED_COMPARE_ROWS: Final = 250
"""Rows that are compared in one statement, so that it can pause between them."""
SLICES_MAX: Final = 2**14
ROWS_READ_MAX: Final = 1_000
"""Differences that are read whole; beyond they are only counted."""

FAN_OUT_WAIT_MAX_S: Final = 120.0
"""A fan-out takes seconds; so long a one waits for a projector that does not run, or is begun again and again."""
FAN_OUT_POLL_S: Final = 0.2

_SLICED: Final = ("customer", "membership", "customer_summary")
_SLICE: Final = "customer_id BETWEEN $1::uuid AND $2::uuid"


class Findings(Struct, frozen=True):
    """What a comparison at one position found."""

    position: int
    differences: list[Difference]
    """The first of them, in the order of their tables and keys."""
    count: int
    newly_parked: list[int]
    """Positions that the new generation parked and the live one did not."""
    not_compared: str = ""
    """Why the live generation could not be compared, in PostgreSQL's words; empty when it was."""


NOT_COMPARED: Final = Findings(0, [], 0, [])


async def compare(place: JobContext, held: Checkpoint) -> Findings:
    """Return what differs; what was caught up for it is committed."""
    await rebuild.take_statistics(place.connection, place.new)
    began = time.monotonic()
    while (found := await _compare(place, held)) is None:
        if time.monotonic() - began > FAN_OUT_WAIT_MAX_S:
            raise JobRefused(
                f"A campaign's new status, owner or deletion is not copied to all its memberships in {place.live}, so "
                "there is nothing to compare with yet. See that `membership project` runs, then run this again."
            )
        await asyncio.sleep(FAN_OUT_POLL_S)
    return found


async def _compare(place: JobContext, held: Checkpoint) -> Findings | None:
    """Return what differs; None, having done nothing, while a fan-out is under way in the live generation.

    A broken one is compared as it is: no projector will end its fan-outs.
    """
    async with place.connection.transaction(isolation="repeatable_read"):
        live = await checkpoints.read(place.connection, place.live)  # the snapshot is taken here
        broken = await generations.state_of(place.connection, place.live) == "broken"
        if not broken and await fan_out.count(place.connection, place.live):
            return None
        await _apply_remaining(place, held, live)
        await rebuild.forget_discarded(place.connection, place.new)
        return await _read_live(place, live.position)


async def _read_live(place: JobContext, position: int) -> Findings:
    """Return what differs; that the live tables cannot be read is a finding too, and leaves the new ones whole."""
    try:
        async with place.connection.transaction():  # a savepoint, so that what was made up stays
            await rebuild.keep_first_seen(place.connection, place.new, place.live)
            return await _differences(place, position)
    except (*UNAVAILABLE, asyncpg.TransactionRollbackError):  # passes by itself
        raise
    except asyncpg.PostgresError as problem:
        if place.connection.is_closed():
            raise
        return Findings(position, [], 0, [], not_compared=str(problem.args[0]))


async def _apply_remaining(place: JobContext, held: Checkpoint, live: Checkpoint) -> None:
    statements = writes(place.new)
    async with aclosing(replay(place.client, held.position, live.position, events_max=CATCH_UP_EVENTS)) as stretch:
        async for messages in stretch:
            batch = read_batch(messages)
            _, refused = await write_in_parts(place.connection, statements, batch)
            await park(place.connection, statements, [*batch.parked, *refused])
    if live.position > held.position and live.message_time_ns is not None and live.stream_created is not None:
        to = Checkpoint(held.generation, live.position, live.message_time_ns, live.stream_created, held.epoch)
        await checkpoints.advance(place.connection, held, to)


async def _differences(place: JobContext, position: int) -> Findings:
    comparison = Comparison(place.connection, place.live, place.new)
    parts = await _parts(place)
    meter = await place.enter("compare", "slices", 0, len(parts))
    found: list[Difference] = []
    count = 0
    for number, (part, bounds) in enumerate(parts, start=1):
        began = time.perf_counter()
        differing = await comparison.count(part, *bounds)
        if differing and len(found) < ROWS_READ_MAX:
            found += await comparison.find(part, *bounds, rows_max=ROWS_READ_MAX - len(found))
        count += differing
        await place.report_progress(meter, number, meter.total)
        await place.pace.pause_after(time.perf_counter() - began)
    place.reporter.end(meter)
    newly = await rebuild.newly_parked(place.connection, place.new, place.live)
    return Findings(position, found, count, newly)


async def _parts(place: JobContext) -> list[tuple[Part, tuple[str, ...]]]:
    parts: list[tuple[Part, tuple[str, ...]]] = [(Part(table), ()) for table in KEYS if table not in _SLICED]
    for table in _SLICED:
        rows = await rebuild.row_estimate(place.connection, place.new, table)
        slices = _slices(rows // (THROTTLED_COMPARE_ROWS if place.pace.small_batches else COMPARE_ROWS))
        parts += [(Part(table, _SLICE), bounds) for bounds in slices]
    return parts


def _slices(wanted: int) -> list[tuple[str, str]]:
    """Cut the space of UUIDs into about so many ranges, inclusive on both ends."""
    number = 2 ** min(wanted, SLICES_MAX).bit_length()
    size = 2**16 // number
    first, last = "0000-0000-0000-0000-000000000000", "ffff-ffff-ffff-ffff-ffffffffffff"
    return [(f"{at:04x}{first}", f"{at + size - 1:04x}{last}") for at in range(0, 2**16, size)]
