"""W4: many counter events on one campaign, which fold into one row write per batch."""

import asyncpg

from benchmarks.dataset import DataSet
from benchmarks.effort import Effort
from benchmarks.progress import applying_rate, live
from benchmarks.rows import Row, Target, figure
from benchmarks.stack import Stack

TERM_WRITES = 1
"""Checkpoint writes at the start of a term, which are not batches."""


async def measure(stack: Stack, data: DataSet, effort: Effort) -> list[Row]:
    """Publish the events while the projector is stopped, then count the writes that applying them takes."""
    # A session publishes its write statistics when it ends, so the projector is stopped before each reading.
    stack.projector.stop()
    began_at = stack.applied()
    rows_before, batches_before = await _written(stack)
    last = await stack.publish(data.counter_events(data.campaigns[0], effort.counter_events))
    stack.projector.start()
    rate = await applying_rate(stack.database_url, began_at, last)
    await stack.wait_for(last)
    stack.projector.stop()
    rows, batches = await _written(stack)
    stack.projector.start()
    written, applied = rows - rows_before, batches - batches_before - TERM_WRITES
    what = f"{effort.counter_events:,} counter events on one campaign"
    beside = f"{written:,} row writes in {applied:,} batches"
    return [
        figure("W4", what, rate, target=Target(at_least=50_000, unit="events/s")),
        figure("W4", what, written / applied, beside, target=Target(at_most=1, unit="row writes/batch"), digits=2),
    ]


async def _written(stack: Stack) -> tuple[int, int]:
    """Return how often counter rows, and the checkpoint, were updated in total."""
    connection = await asyncpg.connect(stack.database_url)
    statement = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = $2"
    name = await live(connection)
    tables = ((name, "campaign_counters"), ("control", "checkpoint"))
    counts = [await connection.fetchval(statement, *table) for table in tables]
    await connection.close()
    return counts[0], counts[1]
