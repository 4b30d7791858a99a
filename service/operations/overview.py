"""`GET /ops/overview` and `GET /ops/samples`: the read model at a glance, what needs an operator, and the last hour.

PostgreSQL knows the read model; the stream is known from the newest sample, if that is recent.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
from msgspec import Struct

from projections.maintenance import runner_presence, samples
from projections.maintenance.job_summary import JobSummary
from projections.maintenance.runner_presence import Presence
from projections.maintenance.samples import STALE_S, Sample
from projections.maintenance.status import NO_LEADER, ReadModelStatus, read_status, stuck_sentence
from projections.model.events import Instant
from service import pydantic_compat
from service.operations.endpoint import Call, Endpoint, Parameter
from service.operations.statistics import Reads

MINUTES_MAX: Final = 60
RATE_S: Final = 20.0
"""Events per second are of about this time."""
NO_RUNNER: Final = (
    "No job runner has ever measured the stream, so its position and the lag are unknown. Start `membership jobs run`."
)


class Runner(Struct, frozen=True, omit_defaults=True):
    """The process that executes plans and measures the stream."""

    alive: bool
    seen_at: Instant | None = None


class Overview(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The read model now. What is unknown is absent, and `problems` says why."""

    at: Instant
    generation: str
    position: int
    stream_position: int | None = None
    """This, the lag and the missing events are of `sampled_at`."""
    lag_events: int | None = None
    lag_s: float | None = None
    """Age of the first event that is not applied."""
    missing_events: int | None = None
    """Positions of the stream without a message that neither an erasure nor an acknowledgement explains."""
    sampled_at: Instant | None = None
    events_per_s: float | None = None
    """Positions that the live generation has advanced by, per second."""
    leader: bool
    """Whether a projector leads."""
    parked: int
    fan_outs: int
    """Campaigns whose changed keys are not yet copied to all their memberships."""
    reads: Reads
    runner: Runner
    problems: list[str]
    """A sentence for each thing that needs an operator."""
    jobs: list[JobSummary]
    """Running and interrupted jobs."""


class ChartSample(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The read model and the stream at one moment."""

    at: Instant
    position: int
    stream_position: int | None = None
    lag_events: int | None = None
    lag_s: float | None = None
    parked: int
    fan_outs: int


class Samples(Struct, frozen=True):
    """The last hour, oldest first."""

    samples: list[ChartSample]


async def show_overview(call: Call) -> Overview:
    """Return the read model at a glance."""
    reads = await call.services.statistics.current()
    async with call.services.database.snapshot() as connection:
        return await overview(connection, reads)


async def overview(connection: asyncpg.Connection, reads: Reads) -> Overview:
    """Return the read model at a glance, from a snapshot."""
    status = await read_status(connection)
    found = await samples.newest(connection)
    sample = None if found is None or found[1] > STALE_S else found[0]
    recent = await samples.recent(connection, timedelta(seconds=RATE_S))
    return Overview(
        at=datetime.now(UTC),
        generation=status.checkpoint.generation,
        position=status.checkpoint.position,
        stream_position=None if sample is None else sample.stream_position,
        lag_events=None if sample is None else sample.lag_events,
        lag_s=None if sample is None else sample.lag_s,
        missing_events=None if sample is None else sample.missing_events,
        sampled_at=None if sample is None else sample.at,
        events_per_s=_events_per_s(recent),
        leader=status.leader,
        parked=status.parked,
        fan_outs=status.fan_outs,
        reads=reads,
        runner=_runner(await runner_presence.read(connection)),
        problems=_problems(status, found, sample),
        jobs=status.jobs,
    )


def _runner(presence: Presence | None) -> Runner:
    return Runner(alive=False) if presence is None else Runner(presence.alive, presence.seen_at)


def _events_per_s(recent: list[Sample]) -> float | None:
    """Return the rate between the oldest and the newest sample; None after a switch, or with too few samples."""
    if len(recent) < 2 or len({sample.generation for sample in recent}) > 1:  # noqa: PLR2004 - a rate needs two
        return None
    first, last = recent[0], recent[-1]
    if first.at is None or last.at is None:
        return None
    return round((last.position - first.position) / (last.at - first.at).total_seconds(), 1)


def _problems(status: ReadModelStatus, found: tuple[Sample, float] | None, sample: Sample | None) -> list[str]:
    sentences = ["" if status.leader else NO_LEADER, stuck_sentence(status, None if sample is None else sample.lag_s)]
    if found is None:
        sentences.append(NO_RUNNER)
    elif sample is None:
        sentences.append(
            f"Nothing has measured the stream for {found[1]:,.0f} s, so its position and the lag are unknown. "
            "Start `membership jobs run`; if it has ended, its log says why."
        )
    else:
        sentences.append(sample.problem or "")
    return [sentence for sentence in sentences if sentence]


async def show_samples(call: Call) -> Samples:
    """Return the samples of the last minutes."""
    async with call.services.database.snapshot() as connection:
        found = await samples.recent(connection, timedelta(minutes=call.values["minutes"]))
    return Samples([_chart_sample(sample) for sample in found if sample.at is not None])


def _chart_sample(sample: Sample) -> ChartSample:
    assert sample.at is not None  # noqa: S101 - set by PostgreSQL
    return ChartSample(
        at=sample.at,
        position=sample.position,
        stream_position=sample.stream_position,
        lag_events=sample.lag_events,
        lag_s=sample.lag_s,
        parked=sample.parked,
        fan_outs=sample.fan_outs,
    )


_MINUTES: Final = Parameter(
    "minutes",
    pydantic_compat.integer(1, MINUTES_MAX),
    {"type": "integer", "minimum": 1, "maximum": MINUTES_MAX},
    "How far back.",
    MINUTES_MAX,
)
ENDPOINTS: Final = (
    Endpoint("/overview", "operator_overview", "How is the read model?", show_overview, Overview),
    Endpoint("/samples", "operator_samples", "How was it in the last hour?", show_samples, Samples, (_MINUTES,)),
)
