"""`membership parked`: what could not be applied, why, and the message itself."""

import asyncpg
from rich.console import Console
from rich.table import Table

from ops.terminal import fail
from projections import checkpoint as checkpoints
from projections.queries import for_generation

SHOWN_MAX = 50
"""Rows that `list` prints unless told otherwise."""


async def list_parked(connection: asyncpg.Connection, limit: int) -> int:
    """Print the parked events, newest first, after a count by reason."""
    name = await checkpoints.live_generation(connection)
    reasons = await connection.fetch(
        for_generation("SELECT reason, count(*) FROM {generation}.parked_event GROUP BY reason ORDER BY 2 DESC", name)
    )
    console = Console(soft_wrap=True)
    if not reasons:
        console.print("No parked events.")
        return 0
    console.print(", ".join(f"{row['count']} {row['reason']}" for row in reasons))
    rows = await connection.fetch(
        for_generation(
            "SELECT position, reason, first_seen_at, subject, detail FROM {generation}.parked_event "
            "ORDER BY position DESC LIMIT $1",
            name,
        ),
        limit,
    )
    table = Table("position", "reason", "first seen", "subject", "detail", box=None)
    for row in rows:
        seen = row["first_seen_at"].isoformat(timespec="seconds")
        table.add_row(str(row["position"]), row["reason"], seen, _plain(row["subject"]), _plain(row["detail"]))
    console.print(table)
    return 0


async def show_parked(connection: asyncpg.Connection, position: int) -> int:
    """Print one parked event whole; return 1 when nothing is parked at that position."""
    name = await checkpoints.live_generation(connection)
    row = await connection.fetchrow(
        for_generation("SELECT * FROM {generation}.parked_event WHERE position = $1", name), position
    )
    if row is None:
        return fail(f"No event is parked at position {position}. `membership parked list` shows those that are.")
    body = bytes(row["body"])
    print(f"position: {row['position']}\nsubject: {row['subject']}\nreason: {row['reason']}\ndetail: {row['detail']}")
    print(
        f"first seen: {row['first_seen_at'].isoformat()}\nheaders: {row['headers'] or 'none'}\nbody: {len(body)} bytes"
    )
    print(body.decode(errors="backslashreplace"))
    return 0


def _plain(text: str) -> str:
    """Keep rich from reading a message's text as markup."""
    return text.replace("[", r"\[")
