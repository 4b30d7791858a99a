"""W4: many counter events on one campaign, which fold into one row write a batch."""

import asyncpg

from benchmarks.dataset import DataSet
from benchmarks.effort import Effort
from benchmarks.progress import applying_rate, live
from benchmarks.rows import Row, Target, figure
from benchmarks.stack import Stack

OF_A_TERM = 1
"""Writes of the checkpoint that are no batch: taking over."""


async def measure(stack: Stack, data: DataSet, effort: Effort) -> list[Row]:
    """Publish them while nobody applies, then count what applying them wrote."""
    # A session counts its writes for all to see when it ends, so the projector is stopped before each look.
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
    written, applied = rows - rows_before, batches - batches_before - OF_A_TERM
    what = f"{effort.counter_events:,} counter events on one campaign"
    told = f"{written:,} row writes in {applied:,} batches"
    return [
        figure("W4", what, rate, target=Target(at_least=50_000, unit="events/s")),
        figure("W4", what, written / applied, told, target=Target(at_most=1, unit="row writes/batch"), digits=2),
    ]


async def _written(stack: Stack) -> tuple[int, int]:
    """Return how many rows of campaigns, and how many times the checkpoint, were ever updated."""
    connection = await asyncpg.connect(stack.database_url)
    statement = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = $2"
    name = await live(connection)
    found = [await connection.fetchval(statement, *each) for each in ((name, "campaign"), ("control", "checkpoint"))]
    await connection.close()
    return found[0], found[1]
