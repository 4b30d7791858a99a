"""Fills a generation through the bulk path, as a rebuild does."""

from collections.abc import Sequence

import asyncpg

from projections.maintenance import rebuild
from projections.model.events import Message
from projections.store import checkpoint as checkpoints
from projections.store.checkpoint import Checkpoint
from projections.store.queries import Generation
from tests.support.builders import batch_of
from tests.support.read_model import CREATED


async def start_rebuild(connection: asyncpg.Connection) -> Checkpoint:
    """Create a generation and take over its checkpoint."""
    async with connection.transaction():
        name = await rebuild.create(connection)
    return await checkpoints.take_over(connection, name)


async def run_remaining_steps(connection: asyncpg.Connection, name: Generation, killed_after: int = 1000) -> None:
    """Run the remaining steps: as a job killed after `killed_after` steps, then as one that resumes it."""
    for step in (await rebuild.steps_left(connection, name))[:killed_after]:
        await connection.execute(step.script)
    for step in await rebuild.steps_left(connection, name):
        await connection.execute(step.script)
    assert await rebuild.steps_left(connection, name) == []


async def rebuild_generation(
    connection: asyncpg.Connection, chunks: Sequence[Sequence[Message]], killed_after: int
) -> Generation:
    """Fill a new generation with the messages, and return its name."""
    checkpoint = await start_rebuild(connection)
    for chunk in chunks:
        checkpoint = await rebuild.fill(connection, checkpoint, batch_of(chunk), CREATED)
    await run_remaining_steps(connection, checkpoint.generation, killed_after)
    return checkpoint.generation
