"""The state of the read model as PostgreSQL knows it, and the sentences for what needs an operator.

`membership status` and the operators' API show the same values and the same sentences.
Reads: control tables, the live generation, pg_locks.
"""

from typing import Final

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from projections.maintenance import job_summary, jobs, reviews
from projections.maintenance.job_summary import JobSummary
from projections.store import checkpoint as checkpoints
from projections.store import fan_out, generations
from projections.store.checkpoint import Checkpoint
from projections.store.generations import GenerationStatus
from projections.store.leader import projector_leads
from projections.store.queries import for_generation

STUCK_S: Final = 60.0
"""How long events may wait while none is applied; the longest expected pause, a take-over, is 5 s."""
NO_LEADER: Final = (
    "No projector leads, so no event is applied. Start `membership project`; if one has ended, its log says why."
)


class ReadModelStatus(Struct, frozen=True):
    """The read model, without the stream."""

    checkpoint: Checkpoint
    """Of the live generation."""
    parked: int
    fan_outs: int
    """Campaigns whose changed keys are not yet copied to all their memberships in the live generation."""
    leader: bool
    """Whether a projector leads now."""
    applied_ago_s: float
    """How long ago the last batch was applied; infinite if none ever was."""
    jobs: list[JobSummary]
    """Running and interrupted jobs."""
    generations: list[GenerationStatus]
    """All existing copies of the read model, the live one first."""


async def read_status(connection: asyncpg.Connection) -> ReadModelStatus:
    """Return the state of the read model."""
    name = await checkpoints.live_generation(connection)
    running = await jobs.is_running(connection)
    return ReadModelStatus(
        checkpoint=await checkpoints.read(connection, name),
        parked=await connection.fetchval(for_generation("SELECT count(*) FROM {generation}.parked_event", name)),
        fan_outs=await fan_out.count(connection, name),
        leader=await projector_leads(connection),
        applied_ago_s=await checkpoints.applied_ago_s(connection, name),
        jobs=await _unfinished(connection, running=running),
        generations=await generations.statuses(connection),
    )


async def _unfinished(connection: asyncpg.Connection, *, running: bool) -> list[JobSummary]:
    """Return the open jobs, and which of them await a decision; without reports, which may be large."""
    unfinished = await jobs.unfinished(connection)
    found = await reviews.of(connection, [job.job_id for job in unfinished])
    shown = [job_summary.summary(job, running=running, review=found.get(job.job_id)) for job in unfinished]
    return [replace(job, report=None) for job in shown]


def stuck_sentence(status: ReadModelStatus, lag_s: float | None) -> str:
    """Return a sentence if a projector leads and applies nothing although events wait."""
    waiting_s = min(lag_s or 0.0, status.applied_ago_s)
    if not status.leader or waiting_s < STUCK_S:
        return ""
    return (
        f"A projector leads, but has applied nothing for {waiting_s:,.0f} s although events wait. Its log says what it "
        "waits for."
    )


def loss_sentence(stream: str, missing: int) -> str:
    """Return a sentence if the stream of this name lacks messages."""
    if not missing:
        return ""
    return (
        f"Stream {stream} has lost {missing:,} messages that no erasure took out. Restore it from its backup, "
        "or accept the loss with `membership acknowledge-missing`."
    )
