"""Fills a new generation from the stream: in bulk and indexed afterwards, or gently into indexed tables; catches up.

Fails: `Fenced` if anyone else wrote to the generation.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

import asyncpg

from consumers.replay import replay
from ops.rebuild.context import JobContext
from ops.rebuild.progress import PhaseProgress
from projections.maintenance import rebuild
from projections.model.batch import read_batch
from projections.model.events import Message, Position
from projections.store import database
from projections.store.checkpoint import Checkpoint
from projections.store.projector import apply_batch

CHUNK_EVENTS: Final = 10_000
BATCH_EVENTS: Final = 2_000
THROTTLED_EVENTS: Final = 50
"""A unit of work while readers are to be spared: about as much as a few reads."""
CAUGHT_UP_EVENTS_MAX: Final = 5_000
"""So close to the live generation, the next phase may begin; it makes up for the rest."""

ApplyMessages = Callable[[asyncpg.Connection, Checkpoint, Sequence[Message], str], Awaitable[Checkpoint]]
"""Puts messages into the new generation and returns its new checkpoint."""


async def fill(place: JobContext, held: Checkpoint) -> Checkpoint:
    """Bring the new generation near the live one, from wherever it is, and finish its tables."""
    steps = await rebuild.steps_left(place.connection, place.new)
    if any(step.phase == "resolve" and step.stage == 0 for step in steps):
        held = await _replay(place, "fill", held, rebuild.fill, CHUNK_EVENTS)
    elif not steps and place.job.phase == "fill":  # indexed from the start
        held = await _replay(place, "fill", held, _apply, BATCH_EVENTS)
    await _run_steps(place)
    return await _replay(place, "catch up", held, _apply, BATCH_EVENTS)


async def _apply(
    connection: asyncpg.Connection, held: Checkpoint, messages: Sequence[Message], created: str
) -> Checkpoint:
    return await apply_batch(connection, held, read_batch(messages), created)


async def _replay(place: JobContext, phase: str, held: Checkpoint, add: ApplyMessages, events_max: int) -> Checkpoint:
    """Add what lies between the new generation and the live one, which moves on meanwhile."""
    through = await place.live_position()
    meter = await place.enter(phase, "events", held.position, through)
    while True:
        behind = through - held.position
        held = await _replay_through(place, meter, held, through, add=add, events_max=events_max)
        reached, through = through, await place.live_position()
        if through - reached <= CAUGHT_UP_EVENTS_MAX:
            break
        if through - reached > behind / 2:
            place.pace.raise_minimum_share()
    place.reporter.end(meter)
    return held


async def _replay_through(
    place: JobContext, meter: PhaseProgress, held: Checkpoint, through: int, *, add: ApplyMessages, events_max: int
) -> Checkpoint:
    created = await place.stream_created()
    at_once = place.pace.events_at_once(THROTTLED_EVENTS if place.pace.small_batches else events_max)
    async with aclosing(replay(place.client, held.position, Position(through), events_max=at_once)) as stretch:
        began = time.perf_counter()
        async for messages in stretch:
            held = await add(place.connection, held, messages, created)
            await place.report_progress(meter, held.position, through)
            await place.pace.pause_after(time.perf_counter() - began, len(messages))
            began = time.perf_counter()
    return held


async def _run_steps(place: JobContext) -> None:
    steps = await rebuild.steps_left(place.connection, place.new)
    for phase, of_phase in itertools.groupby(steps, key=lambda step: step.phase):
        todo = list(of_phase)
        meter = await place.enter(phase, "steps", 0, len(todo))
        for _, of_stage in itertools.groupby(todo, key=lambda step: step.stage):
            scripts = [step.script for step in of_stage]
            workers = (
                [place.connection]
                if place.pace.small_batches or len(scripts) == 1
                else [place.connection, place.helper_connection]
            )
            ended = await asyncio.gather(
                *(_run_scripts(place, each, scripts, meter) for each in workers), return_exceptions=True
            )
            # Raised when both have ended: what follows uses their connections.
            if problems := [each for each in ended if each is not None]:
                raise problems[0]
        place.reporter.end(meter)


async def _run_scripts(
    place: JobContext, connection: asyncpg.Connection, scripts: list[str], meter: PhaseProgress
) -> None:
    try:
        with database.closed_is_unavailable(connection):
            while scripts:
                began = time.perf_counter()
                await connection.execute(scripts.pop(0))
                await place.report_progress(meter, meter.done + 1, meter.total)
                await place.pace.pause_after(time.perf_counter() - began)
    except BaseException:
        scripts.clear()  # the other one finishes its script and ends too
        raise
