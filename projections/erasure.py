"""Takes a customer's rows out of every generation, for good, and keeps count of what an erasure took out of the stream.

Writes: every table that can hold something of the customer, in every generation, half-filled ones included;
control.erasure, which says how many messages and never whose.
Invariants: no batch that was read before can bring a row back: the projector starts a new term and reads again.
"""

from typing import Final

import asyncpg

from projections import generations, notices
from projections.events import SUBJECT_ROOT
from projections.jobs import Job
from projections.queries import Generation, for_generation, generation

OWNED: Final = ("customer_summary", "membership", "customer", "fill_target", "fill_customer")
"""Tables with a customer_id; those of a fill are there only while a generation is being filled."""


def subjects(customer_id: str) -> tuple[str, ...]:
    """Return the subjects that all events of a customer are on."""
    return f"{SUBJECT_ROOT}.customer.{customer_id}", f"{SUBJECT_ROOT}.target.{customer_id}.*"


async def begin(connection: asyncpg.Connection, job: Job, customer_id: str, stream_created: str, missing: int) -> None:
    """Record, before anything is purged, how many messages the stream lacks; twice is once."""
    async with connection.transaction():
        await connection.execute(
            "UPDATE control.job SET erased_customer = $2 WHERE job_id = $1", job.job_id, customer_id
        )
        await connection.execute(
            "INSERT INTO control.erasure (job_id, stream_created, missing_before) "
            "SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM control.erasure WHERE job_id = $1)",
            job.job_id,
            stream_created,
            missing,
        )


async def begun(connection: asyncpg.Connection) -> int:
    """Return how many erasures there ever were, one that is under way included."""
    return int(await connection.fetchval("SELECT count(*) FROM control.erasure"))


async def conclude(connection: asyncpg.Connection, job: Job, missing: int) -> int:
    """Record that all is purged; return how many messages that were. In the caller's transaction."""
    return int(
        await connection.fetchval(
            "UPDATE control.erasure SET messages = $2 - missing_before, erased_at = now() WHERE job_id = $1 "
            "RETURNING messages",
            job.job_id,
            missing,
        )
    )


async def remove_rows(connection: asyncpg.Connection, customer_id: str) -> int:
    """Delete everything of the customer, in the caller's transaction; return how many rows the live one held."""
    await generations.summon(connection)
    await notices.tell_flush(connection)
    removed = 0
    for each in await generations.standings(connection):
        rows = await _remove_from(connection, generation(each.generation), customer_id)
        removed += rows if each.live else 0
    return removed


async def _remove_from(connection: asyncpg.Connection, name: Generation, customer_id: str) -> int:
    removed = 0
    for table in OWNED:
        if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{name}.{table}"):
            # Both names come from closed sets.
            ended = await connection.execute(f"DELETE FROM {name}.{table} WHERE customer_id = $1", customer_id)  # noqa: S608
            removed += int(ended.rpartition(" ")[2])
    own, targets = subjects(customer_id)
    ended = await connection.execute(
        for_generation("DELETE FROM {generation}.parked_event WHERE subject = $1 OR starts_with(subject, $2)", name),
        own,
        targets.removesuffix("*"),
    )
    return removed + int(ended.rpartition(" ")[2])
