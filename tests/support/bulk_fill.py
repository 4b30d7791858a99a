"""Fills a generation by the bulk path, as a rebuild does."""

from collections.abc import Sequence

import asyncpg

from projections.maintenance import rebuild
from projections.model.events import Message
from projections.store import checkpoint as checkpoints
from projections.store.checkpoint import Checkpoint
from projections.store.queries import Generation
from tests.support.read_model import CREATED


async def begun(connection: asyncpg.Connection) -> Checkpoint:
    async with connection.transaction():
        name = await rebuild.create(connection)
    return await checkpoints.take_over(connection, name)


async def finished(connection: asyncpg.Connection, name: Generation, killed_after: int = 1000) -> None:
    """Run the steps left, but only so many of the first time, as a job would that is killed and resumed."""
    for step in (await rebuild.steps_left(connection, name))[:killed_after]:
        await connection.execute(step.script)
    for step in await rebuild.steps_left(connection, name):
        await connection.execute(step.script)
    assert await rebuild.steps_left(connection, name) == []


async def rebuilt(connection: asyncpg.Connection, chunks: Sequence[Sequence[Message]], killed_after: int) -> Generation:
    held = await begun(connection)
    for chunk in chunks:
        held = await rebuild.fill(connection, held, chunk, CREATED)
    await finished(connection, held.generation, killed_after)
    return held.generation
