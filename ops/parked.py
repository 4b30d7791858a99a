"""`membership parked`: what could not be applied, why, the message itself, and what to do about it."""

import asyncio
import sys
import time
from collections.abc import Sequence

import asyncpg
from rich.table import Column, Table

from ops.actor import actor
from ops.terminal import confirm, console, counted, escaped, fail, format_time, progress
from projections.maintenance import parking
from projections.maintenance.parking import Filter
from projections.store import checkpoint as checkpoints
from projections.store import generations
from projections.store.queries import generation

CHUNK_EVENTS = 100
"""Events that are retried in one transaction; the projector waits for no more."""


async def list_parked(connection: asyncpg.Connection, wanted: Filter, rows_max: int) -> int:
    """Print the parked events, newest first, after a count by reason."""
    name = await checkpoints.live_generation(connection)
    reasons = await parking.reasons(connection, name, wanted)
    if not reasons:
        print("No parked events." if wanted == Filter() else "No parked events of that kind.")
        return 0
    out = console()
    out.print(_counted(reasons))
    table = Table("position", "reason", "first seen", Column("subject", overflow="fold"), "detail", box=None)
    for row in await parking.newest(connection, name, wanted, rows_max):
        seen = format_time(row["first_seen_at"])
        table.add_row(str(row["position"]), row["reason"], seen, escaped(row["subject"]), escaped(row["detail"]))
    out.print(table)
    return 0


async def show_parked(connection: asyncpg.Connection, position: int) -> int:
    """Print one parked event whole; return 1 when nothing is parked at that position."""
    name = await checkpoints.live_generation(connection)
    row = await parking.get(connection, name, position)
    if row is None:
        # Perhaps in one that is being made: that is what its gate complains of.
        for each in await generations.statuses(connection):
            row = row or await parking.get(connection, generation(each.generation), position)
    if row is None:
        return fail(f"No event is parked at position {position}. `membership parked list` shows those that are.")
    body = bytes(row["body"])
    print(f"position: {row['position']}\nsubject: {row['subject']}\nreason: {row['reason']}\ndetail: {row['detail']}")
    print(
        f"first seen: {format_time(row['first_seen_at'])}\nheaders: {row['headers'] or 'none'}\nbody: {len(body)} bytes"
    )
    print(body.decode(errors="backslashreplace"))
    return 0


async def retry_all(connection: asyncpg.Connection, wanted: Filter, max_rate: int, *, yes: bool) -> int:
    """Say how many events are parked, ask, and read all of them again."""
    name = await checkpoints.live_generation(connection)
    reasons = await parking.reasons(connection, name, wanted)
    if not reasons:
        print("No parked events." if wanted == Filter() else "No parked events of that kind.")
        return 0
    total = sum(reasons.values())
    print(f"{counted(total, 'event')} {'is' if total == 1 else 'are'} parked: {_counted(reasons)}.", flush=True)
    if not yes:
        if not sys.stdin.isatty():
            return fail("Add --yes to retry them without being asked; nothing was changed.", 2)
        if not await confirm("Retry them all?"):
            return fail("Nothing was changed.")
    return await retry(connection, await parking.positions(connection, name, wanted), max_rate)


async def retry(connection: asyncpg.Connection, positions: Sequence[int], max_rate: int) -> int:
    """Read parked events again through the current code; return 1 if one of them is still parked."""
    applied = still = 0
    await parking.require_parked(connection, positions)  # before the first chunk: what follows is not taken back
    with progress() as bar:
        task = bar.add_task("retry", total=len(positions))
        for start in range(0, len(positions), CHUNK_EVENTS):
            chunk = positions[start : start + CHUNK_EVENTS]
            began = time.monotonic()
            retried = await parking.retry(connection, chunk, actor())
            applied += len(retried.applied)
            still += len(retried.still_parked)
            bar.advance(task, len(chunk))
            for position, why in retried.still_parked.items():
                print(f"{position}: still {why.reason}: {why.detail}")
            await asyncio.sleep(max(0.0, len(chunk) / max_rate - (time.monotonic() - began)))
    print(f"Applied {applied:,}, still parked {still:,}.")
    return 1 if still else 0


async def discard(connection: asyncpg.Connection, positions: Sequence[int], reason: str) -> int:
    """Take parked events out for good, with a reason that is kept."""
    await parking.discard(connection, positions, reason, actor())
    events = counted(len(positions), "event")
    print(f"Discarded {events}: not listed, nor parked by a rebuild. The stream keeps them, the audit says why.")
    return 0


def _counted(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
