"""`membership parked`: lists, shows, retries and discards events that could not be applied."""

import asyncio
import sys
import time
from collections.abc import Sequence

import asyncpg

from ops.actor import actor
from ops.terminal import confirm, fail, format_time, print_table, printable, progress
from projections.maintenance import parking, sentences
from projections.maintenance.parking import Filter
from projections.maintenance.sentences import counted
from projections.store import checkpoint as checkpoints
from projections.store import generations
from projections.store.queries import generation

CHUNK_EVENTS = 100
"""Events retried in one transaction, which bounds how long the projector waits."""


async def list_parked(connection: asyncpg.Connection, selection: Filter, rows_max: int) -> int:
    """Print the parked events, newest first, after a count by reason."""
    name = await checkpoints.live_generation(connection)
    reasons = await parking.reasons(connection, name, selection)
    if not reasons:
        print("No parked events." if selection == Filter() else "No parked events match the filter.")
        return 0
    print(_counts_by_reason(reasons))
    rows = [
        (str(row["position"]), row["reason"], format_time(row["first_seen_at"]), row["subject"], row["detail"])
        for row in await parking.newest(connection, name, selection, rows_max)
    ]
    print_table(("position", "reason", "first seen", "subject", "detail"), rows, folded=("subject", "detail"))
    return 0


async def show_parked(connection: asyncpg.Connection, position: int) -> int:
    """Print one parked event in full; return 1 when none is parked at that position."""
    name = await checkpoints.live_generation(connection)
    row = await parking.get(connection, name, position)
    if row is None:
        # A generation being filled may have parked it: the gate before the switch names such positions.
        for status in await generations.statuses(connection):
            row = row or await parking.get(connection, generation(status.generation), position)
    if row is None:
        return fail(f"No event is parked at position {position}. `membership parked list` shows those that are.")
    body = bytes(row["body"])
    print(f"position: {row['position']}\nsubject: {printable(row['subject'])}\nreason: {row['reason']}")
    print(f"detail: {printable(row['detail'])}")
    print(f"first seen: {format_time(row['first_seen_at'])}\nheaders: {printable(str(row['headers'] or 'none'))}")
    print(f"body: {len(body)} bytes")
    print(printable(body.decode(errors="backslashreplace")))
    return 0


async def retry_all(connection: asyncpg.Connection, selection: Filter, max_rate: int, *, yes: bool) -> int:
    """Show how many events are parked, ask for approval, and retry all of them."""
    name = await checkpoints.live_generation(connection)
    reasons = await parking.reasons(connection, name, selection)
    if not reasons:
        print("No parked events." if selection == Filter() else "No parked events match the filter.")
        return 0
    total = sum(reasons.values())
    print(
        f"{counted(total, 'event')} {'is' if total == 1 else 'are'} parked: {_counts_by_reason(reasons)}.", flush=True
    )
    if not yes:
        if not sys.stdin.isatty():
            return fail("Add --yes to retry them without a prompt; nothing was changed.", 2)
        if not await confirm("Retry them all?"):
            return fail("Nothing was changed.")
    return await retry(connection, await parking.positions(connection, name, selection), max_rate)


async def retry(connection: asyncpg.Connection, positions: Sequence[int], max_rate: int) -> int:
    """Retry parked events with the current code; return 1 if any of them is still parked."""
    applied = still_parked = 0
    await parking.require_parked(connection, positions)  # before the first chunk: committed chunks are not rolled back
    with progress() as bar:
        task = bar.add_task("retry", total=len(positions))
        for start in range(0, len(positions), CHUNK_EVENTS):
            chunk = positions[start : start + CHUNK_EVENTS]
            began = time.monotonic()
            retried = await parking.retry(connection, chunk, actor())
            applied += len(retried.applied)
            still_parked += len(retried.still_parked)
            bar.advance(task, len(chunk))
            for position, failure in retried.still_parked.items():
                print(f"{position}: still {failure.reason}: {printable(failure.detail)}")
            await asyncio.sleep(max(0.0, len(chunk) / max_rate - (time.monotonic() - began)))
    print(sentences.retried(applied, still_parked))
    return 1 if still_parked else 0


async def discard(connection: asyncpg.Connection, positions: Sequence[int], reason: str) -> int:
    """Discard parked events permanently; the reason is kept in the audit."""
    await parking.discard(connection, positions, reason, actor())
    print(sentences.discarded(len(positions)))
    return 0


def _counts_by_reason(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
