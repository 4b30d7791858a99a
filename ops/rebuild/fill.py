"""Fills a new generation from the stream, then catches up with the live one.

Fills in bulk and builds the indexes afterwards; or, while yielding to readers, fills indexed tables slowly.

Fails: `Fenced` if another process wrote to the generation.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

import asyncpg

from consumers.replay import replay
from ops.rebuild.context import JobContext
from ops.rebuild.progress import PhaseProgress
from projections.maintenance import rebuild
from projections.model.batch import BatchBuilder
from projections.model.events import Position
from projections.store import database
from projections.store.checkpoint import Checkpoint
from projections.store.projector import apply_batch

CHUNK_EVENTS: Final = 10_000
BATCH_EVENTS: Final = 2_000
THROTTLED_EVENTS: Final = 50
"""A unit of work while yielding to readers: about the cost of a few reads."""
CAUGHT_UP_EVENTS_MAX: Final = 5_000
"""The next phase may begin when at most this far behind the live generation; it applies the remainder."""

ApplyBatch = Callable[[asyncpg.Connection, Checkpoint, BatchBuilder, str], Awaitable[Checkpoint]]
"""Writes a batch of messages to the new generation and returns its new checkpoint."""


async def fill(context: JobContext, checkpoint: Checkpoint) -> Checkpoint:
    """Bring the new generation close to the live one, from any checkpoint, and finish its tables."""
    steps = await rebuild.steps_left(context.connection, context.new)
    if any(step.phase == "resolve" and step.stage == 0 for step in steps):
        checkpoint = await _replay(context, "fill", checkpoint, rebuild.fill, CHUNK_EVENTS)
    elif not steps and context.job.phase == "fill":  # indexed from the start
        checkpoint = await _replay(context, "fill", checkpoint, _apply, BATCH_EVENTS)
    await _run_steps(context)
    return await _replay(context, "catch up", checkpoint, _apply, BATCH_EVENTS)


async def _apply(
    connection: asyncpg.Connection, checkpoint: Checkpoint, batch: BatchBuilder, created: str
) -> Checkpoint:
    return await apply_batch(connection, checkpoint, batch.batch(), created)


async def _replay(
    context: JobContext, phase: str, checkpoint: Checkpoint, apply: ApplyBatch, events_max: int
) -> Checkpoint:
    """Apply the events between the new generation and the live one, which advances meanwhile."""
    through = await context.live_position()
    progress = await context.enter(phase, "events", checkpoint.position, through)
    while True:
        lag = through - checkpoint.position
        checkpoint = await _replay_through(context, progress, checkpoint, through, apply=apply, events_max=events_max)
        reached, through = through, await context.live_position()
        if through - reached <= CAUGHT_UP_EVENTS_MAX:
            break
        if through - reached > lag / 2:
            context.pace.raise_minimum_share()
    context.reporter.end(progress)
    return checkpoint


async def _replay_through(
    context: JobContext,
    progress: PhaseProgress,
    checkpoint: Checkpoint,
    through: int,
    *,
    apply: ApplyBatch,
    events_max: int,
) -> Checkpoint:
    created = await context.stream_created()
    batch_max = context.pace.events_at_once(THROTTLED_EVENTS if context.pace.small_batches else events_max)
    async with aclosing(
        replay(context.client, checkpoint.position, Position(through), events_max=batch_max)
    ) as batches:
        began = time.perf_counter()
        async for batch in batches:
            checkpoint = await apply(context.connection, checkpoint, batch, created)
            await context.report_progress(progress, checkpoint.position, through)
            await context.pace.pause_after(time.perf_counter() - began, batch.events)
            began = time.perf_counter()
    return checkpoint


async def _run_steps(context: JobContext) -> None:
    steps = await rebuild.steps_left(context.connection, context.new)
    for phase, phase_steps in itertools.groupby(steps, key=lambda step: step.phase):
        remaining = list(phase_steps)
        progress = await context.enter(phase, "steps", 0, len(remaining))
        for _, stage in itertools.groupby(remaining, key=lambda step: step.stage):
            scripts = [step.script for step in stage]
            connections = (
                [context.connection]
                if context.pace.small_batches or len(scripts) == 1
                else [context.connection, context.helper_connection]
            )
            outcomes = await asyncio.gather(
                *(_run_scripts(context, connection, scripts, progress) for connection in connections),
                return_exceptions=True,
            )
            # Raise only after both have ended: the next stage uses their connections.
            if problems := [outcome for outcome in outcomes if outcome is not None]:
                raise problems[0]
        context.reporter.end(progress)


async def _run_scripts(
    context: JobContext, connection: asyncpg.Connection, scripts: list[str], progress: PhaseProgress
) -> None:
    try:
        with database.closed_is_unavailable(connection):
            while scripts:
                began = time.perf_counter()
                await connection.execute(scripts.pop(0))
                await context.report_progress(progress, progress.done + 1, progress.total)
                await context.pace.pause_after(time.perf_counter() - began)
    except BaseException:
        scripts.clear()  # the other connection finishes its script and stops too
        raise
