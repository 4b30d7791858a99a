"""Compares a new generation with the live one, both at one position in one snapshot.

The comparing transaction itself applies the last messages up to the live generation's position, so that neither side
has to pause: the projector keeps writing the live generation while the transaction reads its snapshot.
"""

import asyncio
import time
from contextlib import aclosing
from typing import Final

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from consumers import loss_check, stream
from consumers.replay import replay
from ops.rebuild.context import JobContext
from ops.stream_check import only_copy_warning
from projections.errors import JobRefused
from projections.maintenance import rebuild, reviews, sentences
from projections.maintenance.differences import KEYS, Comparison, Difference, Part
from projections.maintenance.reviews import Report
from projections.store import checkpoint as checkpoints
from projections.store import fan_out, generations
from projections.store.checkpoint import Checkpoint
from projections.store.database import UNAVAILABLE
from projections.store.projector import park, write_in_parts
from projections.store.queries import writes

CATCH_UP_EVENTS: Final = 2_000
COMPARE_ROWS: Final = 20_000
THROTTLED_COMPARE_ROWS: Final = 250
"""Rows compared in one statement, so that the job can pause between statements."""
SLICES_MAX: Final = 2**14
NEWLY_PARKED_MAX: Final = 100
"""Positions of newly parked events in a report."""
ROWS_READ_MAX: Final = 1_000
"""Differences read in full; further ones are only counted."""

FAN_OUT_WAIT_MAX_S: Final = 120.0
"""A fan-out takes seconds; if it takes this long, no projector runs, or it is restarted repeatedly."""
FAN_OUT_POLL_S: Final = 0.2

_SLICED: Final = ("customer", "membership", "customer_summary")
_SLICE: Final = "customer_id BETWEEN $1::uuid AND $2::uuid"


class Findings(Struct, frozen=True):
    """What a comparison at one position found."""

    position: int
    differences: list[Difference]
    """The first ones, ordered by table and key."""
    count: int
    newly_parked: list[int]
    """Positions that the new generation parked and the live one did not."""
    not_compared: str = ""
    """PostgreSQL's message when the live generation could not be compared, otherwise empty."""
    by_table: dict[str, int] = {}
    """How many rows differ, by table."""
    acknowledged: int = 0
    """Lost messages that an operator has acknowledged: differing rows may be the only copy of their data."""


NOT_COMPARED: Final = Findings(0, [], 0, [])


async def compare(context: JobContext, checkpoint: Checkpoint) -> Findings:
    """Return the differences; commit the messages applied to reach the live position."""
    await rebuild.take_statistics(context.connection, context.new)
    began = time.monotonic()
    while (findings := await _compare(context, checkpoint)) is None:
        if time.monotonic() - began > FAN_OUT_WAIT_MAX_S:
            raise JobRefused(
                f"{context.live} cannot be compared yet: a campaign's new status, owner or deletion is not copied to "
                "all its memberships. Make sure that `membership project` runs, then run this command again."
            )
        await asyncio.sleep(FAN_OUT_POLL_S)
    return replace(findings, acknowledged=await _acknowledged(context))


async def _acknowledged(context: JobContext) -> int:
    state = await stream.fetch_state(context.client)
    return 0 if state is None else (await loss_check.tally_of(context.connection, state)).acknowledged


async def _compare(context: JobContext, checkpoint: Checkpoint) -> Findings | None:
    """Return the differences; None, without any change, while a fan-out is pending in the live generation.

    A broken generation is compared as it is: no projector will finish its fan-outs.
    """
    async with context.connection.transaction(isolation="repeatable_read"):
        live = await checkpoints.read(context.connection, context.live)  # the snapshot is taken here
        broken = await generations.state_of(context.connection, context.live) == "broken"
        if not broken and await fan_out.count(context.connection, context.live):
            return None
        await _apply_remaining(context, checkpoint, live)
        await rebuild.forget_discarded(context.connection, context.new)
        return await _read_live(context, live.position)


async def _read_live(context: JobContext, position: int) -> Findings:
    """Return the differences; unreadable live tables are a finding too, and leave the new tables intact."""
    try:
        async with context.connection.transaction():  # a savepoint: a failure here keeps the messages applied above
            await rebuild.keep_first_seen(context.connection, context.new, context.live)
            return await _differences(context, position)
    except (*UNAVAILABLE, asyncpg.TransactionRollbackError):  # transient: the caller retries
        raise
    except asyncpg.PostgresError as problem:
        if context.connection.is_closed():
            raise
        return Findings(position, [], 0, [], not_compared=str(problem.args[0]))


async def _apply_remaining(context: JobContext, checkpoint: Checkpoint, live: Checkpoint) -> None:
    statements = writes(context.new)
    async with aclosing(
        replay(context.client, checkpoint.position, live.position, events_max=CATCH_UP_EVENTS)
    ) as batches:
        async for replayed in batches:
            batch = replayed.batch()
            _, refused = await write_in_parts(context.connection, statements, batch)
            await park(context.connection, statements, [*batch.parked, *refused])
    if live.position > checkpoint.position and live.message_time_ns is not None and live.stream_created is not None:
        reached = Checkpoint(
            checkpoint.generation, live.position, live.message_time_ns, live.stream_created, checkpoint.epoch
        )
        await checkpoints.advance(context.connection, checkpoint, reached)


async def _differences(context: JobContext, position: int) -> Findings:
    comparison = Comparison(context.connection, context.live, context.new)
    parts = await _parts(context)
    progress = await context.enter("compare", "slices", 0, len(parts))
    differences: list[Difference] = []
    by_table: dict[str, int] = {}
    for number, (part, bounds) in enumerate(parts, start=1):
        began = time.perf_counter()
        differing = await comparison.count(part, *bounds)
        if differing and len(differences) < ROWS_READ_MAX:
            differences += await comparison.find(part, *bounds, rows_max=ROWS_READ_MAX - len(differences))
        by_table[part.table] = by_table.get(part.table, 0) + differing
        await context.report_progress(progress, number, progress.total)
        await context.pace.pause_after(time.perf_counter() - began)
    context.reporter.end(progress)
    newly = await rebuild.newly_parked(context.connection, context.new, context.live)
    return Findings(position, differences, sum(by_table.values()), newly, by_table=by_table)


async def _parts(context: JobContext) -> list[tuple[Part, tuple[str, ...]]]:
    parts: list[tuple[Part, tuple[str, ...]]] = [(Part(table), ()) for table in KEYS if table not in _SLICED]
    for table in _SLICED:
        rows = await rebuild.row_estimate(context.connection, context.new, table)
        slices = _slices(rows // (THROTTLED_COMPARE_ROWS if context.pace.small_batches else COMPARE_ROWS))
        parts += [(Part(table, _SLICE), bounds) for bounds in slices]
    return parts


def _slices(number_min: int) -> list[tuple[str, str]]:
    """Cut the UUID space into a power of two of ranges, more than `number_min`, inclusive on both ends."""
    number = 2 ** min(number_min, SLICES_MAX).bit_length()
    size = 2**16 // number
    first, last = "0000-0000-0000-0000-000000000000", "ffff-ffff-ffff-ffff-ffffffffffff"
    return [(f"{start:04x}{first}", f"{start + size - 1:04x}{last}") for start in range(0, 2**16, size)]


def report_of(live: str, new: str, findings: Findings) -> Report:
    """Return what the console shows of a comparison."""
    said = [sentences.differing_at(findings.count, findings.position)]
    if findings.not_compared:
        said = [sentences.not_compared(live, findings.not_compared)]
    if findings.count > len(findings.differences):
        said.append(f"Columns, sides and samples are those of the first {len(findings.differences):,} differing rows.")
    if findings.newly_parked:
        events = sentences.counted(len(findings.newly_parked), "event")
        said.append(f"{new} parked {events} that {live} has applied.")
    if findings.acknowledged:
        said.append(only_copy_warning(findings.acknowledged))
    return Report(
        findings.count,
        findings.position,
        said,
        reviews.tables_of(findings.differences, findings.by_table),
        findings.newly_parked[:NEWLY_PARKED_MAX],
        bool(findings.not_compared),
    )
