"""A lost connection raises one readable error, and batches look rows up by key."""

import itertools

import asyncpg
import pytest

from projections.model.batch import read_batch
from projections.store.checkpoint import Checkpoint
from projections.store.database import UNAVAILABLE, closed_is_unavailable, connect, connect_leader
from projections.store.projector import apply_batch, apply_shared_batch
from tests.support.builders import message, published
from tests.support.read_model import CREATED, applied, empty

PLANNED_ONCE = 8
"""Executions after which PostgreSQL keeps the plan of a prepared statement."""
GROWN = 20_000
"""Memberships and counts that the tables have gained since they were last analyzed, when they were empty."""


async def test_a_lost_connection_is_reported_without_the_driver_state(connection: asyncpg.Connection) -> None:
    with pytest.raises(UNAVAILABLE, match="broke in the middle of an answer") as lost:  # noqa: SIM117
        with closed_is_unavailable(connection):
            raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
    assert "state 12" not in str(lost.value)
    assert connection.is_closed()


async def apply_next(
    connection: asyncpg.Connection, checkpoint: Checkpoint, *, shared: bool, customers: int = 1
) -> Checkpoint:
    """Apply a batch of a few events as the projector does, or as a job: more than the planner expects in general."""
    after = checkpoint.position + 1
    pairs = itertools.product(range(customers, customers + 5), range(1, 6))
    batch = read_batch(
        [
            message(position, *published("target.enrolled.v1", position, customer=customer, campaign=campaign))
            for position, (customer, campaign) in enumerate(pairs, start=after)
        ]
    )
    if shared:
        return (await apply_shared_batch(connection, [checkpoint], batch, CREATED)).checkpoints[0]
    return await apply_batch(connection, checkpoint, batch, CREATED)


async def rows_scanned_after_growth(writer: asyncpg.Connection, other: asyncpg.Connection, *, shared: bool) -> int:
    """Plan a session's statements for tables of a few rows, let these grow, and apply one more batch."""
    checkpoint = await applied(
        writer,
        await empty(writer),
        [message(n, *published("campaign.upserted.v1", n, campaign=n)) for n in range(1, 6)],
    )
    for _ in range(3):
        checkpoint = await apply_next(writer, checkpoint, shared=shared)
    await other.execute("VACUUM ANALYZE g1.membership, g1.customer_summary, g1.campaign")
    for _ in range(PLANNED_ONCE):
        checkpoint = await apply_next(writer, checkpoint, shared=shared)
    await other.execute(
        f"""
        INSERT INTO g1.customer_summary
        SELECT gen_random_uuid(), gen_random_uuid(), 1, false, 1 FROM generate_series(1, {GROWN});
        INSERT INTO g1.membership (customer_id, campaign_id, presence_version, present)
        SELECT gen_random_uuid(), gen_random_uuid(), 1, true FROM generate_series(1, {GROWN})
        """  # noqa: S608
    )
    before = await rows_scanned(writer)
    await apply_next(writer, checkpoint, shared=shared, customers=10)
    return await rows_scanned(writer) - before


async def rows_scanned(connection: asyncpg.Connection) -> int:
    """Return how many rows were read by scans of whole tables."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    rows = await connection.fetchval(
        "SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname IN ('membership', 'customer_summary')"
    )
    return int(rows)


async def test_the_leader_reads_no_whole_table_that_has_grown(
    connection: asyncpg.Connection, database_url: str
) -> None:
    leader = await connect_leader(database_url)
    try:
        assert await rows_scanned_after_growth(leader, connection, shared=True) < GROWN
    finally:
        await leader.close()


async def test_a_batch_of_a_job_reads_no_whole_table_that_has_grown(
    connection: asyncpg.Connection, database_url: str
) -> None:
    job = await connect(database_url, "test-job")
    try:
        assert await rows_scanned_after_growth(job, connection, shared=False) < GROWN
        assert await job.fetchval("SHOW enable_seqscan") == "on", "comparisons scan whole tables"
    finally:
        await job.close()
