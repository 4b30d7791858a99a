"""`GET /ops/overview`: the read model at a glance, and what needs an operator."""

from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from projections.maintenance.job_summary import JobSummary
from projections.maintenance.status import NO_LEADER, read_status, stuck_sentence
from service.operations.endpoint import Call, Endpoint


class Overview(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The read model now. What is unknown is absent, and `problems` says why."""

    at: datetime
    generation: str
    position: int
    leader: bool
    """Whether a projector leads."""
    parked: int
    fan_outs: int
    """Campaigns whose changed keys are not yet copied to all their memberships."""
    problems: list[str]
    """A sentence for each thing that needs an operator."""
    jobs: list[JobSummary]
    """Running and interrupted jobs."""


async def show_overview(call: Call) -> Overview:
    """Return the read model at a glance."""
    async with call.services.database.snapshot() as connection:
        status = await read_status(connection)
    problems = ("" if status.leader else NO_LEADER, stuck_sentence(status, None))
    return Overview(
        at=datetime.now(UTC),
        generation=status.checkpoint.generation,
        position=status.checkpoint.position,
        leader=status.leader,
        parked=status.parked,
        fan_outs=status.fan_outs,
        problems=[sentence for sentence in problems if sentence],
        jobs=status.jobs,
    )


ENDPOINTS: Final = (Endpoint("/overview", "operator_overview", "How is the read model?", show_overview, Overview),)
