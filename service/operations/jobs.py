"""`GET /ops/jobs…` and `GET /ops/generations`: rebuilds, verifications, erasures, and the copies of the read model."""

from collections.abc import Sequence
from typing import Final

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from projections.maintenance import job_summary, jobs, reviews, samples
from projections.maintenance.job_summary import JobSummary
from projections.maintenance.jobs import Job
from projections.maintenance.samples import STALE_S
from projections.model.events import Instant
from projections.store import generations
from projections.store.generations import GenerationStatus
from service.operations import parameters
from service.operations.endpoint import Call, Endpoint
from service.operations.refusals import Refused

JOBS_SHOWN: Final = 20
"""Jobs beside the generations."""


class Jobs(Struct, frozen=True, omit_defaults=True):
    """A page of the jobs, newest first."""

    jobs: list[JobSummary]
    next_cursor: int | None = None
    """The `before` of the next page; absent on the last page."""


class ShownGeneration(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One copy of the read model."""

    generation: str
    state: str
    """`live`, `filling`, `following` or `broken`."""
    position: int
    lag_events: int | None = None
    """Of a generation at the live one's position, as of the last sample."""
    created_at: Instant
    follows_until: Instant | None = None
    """When it is dropped."""
    is_previous: bool
    """Whether a rollback would switch to it."""
    job: JobSummary | None = None
    """The open job that fills or compares it."""


class Generations(Struct, frozen=True):
    """All copies of the read model, the live one first, and the latest jobs."""

    generations: list[ShownGeneration]
    jobs: list[JobSummary]


async def list_jobs(call: Call) -> Jobs:
    """Return a page of the jobs."""
    limit: int = call.values["limit"]
    async with call.services.database.snapshot() as connection:
        found = await jobs.page(connection, call.values["before"], limit + 1)
        shown = await shown_jobs(connection, found[:limit])
    return Jobs(shown, shown[-1].job_id if len(found) > limit else None)


async def show_job(call: Call) -> JobSummary:
    """Return one job."""
    async with call.services.database.snapshot() as connection:
        job = await jobs.get(connection, call.values["job_id"])
        if job is None:
            raise Refused("job_not_found")
        return (await shown_jobs(connection, [job], samples_too=True))[0]


async def shown_jobs(
    connection: asyncpg.Connection, found: Sequence[Job], *, samples_too: bool = False
) -> list[JobSummary]:
    """Return what is shown of jobs; their reports have samples of differing rows only with `samples_too`."""
    running = await jobs.is_running(connection)
    found_reviews = await reviews.of(connection, [job.job_id for job in found])
    shown = [job_summary.summary(job, running=running, review=found_reviews.get(job.job_id)) for job in found]
    return shown if samples_too else [_without_samples(job) for job in shown]


def _without_samples(job: JobSummary) -> JobSummary:
    if job.report is None:
        return job
    tables = [replace(table, samples=[]) for table in job.report.tables]
    return replace(job, report=replace(job.report, tables=tables))


async def show_generations(call: Call) -> Generations:
    """Return the generations and the latest jobs."""
    async with call.services.database.snapshot() as connection:
        statuses = await generations.statuses(connection)
        origins = await generations.origins(connection)
        newest = await samples.newest(connection)
        latest = await shown_jobs(connection, await jobs.page(connection, None, JOBS_SHOWN))
        unfinished = await shown_jobs(connection, await jobs.unfinished(connection), samples_too=True)
    lag_events = None if newest is None or newest[1] > STALE_S else newest[0].lag_events
    live = next(status for status in statuses if status.live)
    by_generation = {job.generation: job for job in unfinished}
    return Generations(
        [
            ShownGeneration(
                generation=status.generation,
                state=_state(status),
                position=status.position,
                lag_events=lag_events if status.position == live.position else None,
                created_at=origins[status.generation].created_at,
                follows_until=status.follows_until,
                is_previous=origins[status.generation].is_previous,
                job=by_generation.get(status.generation),
            )
            for status in statuses
        ],
        latest,
    )


def _state(status: GenerationStatus) -> str:
    return "live" if status.live and status.state == "following" else status.state


ENDPOINTS: Final = (
    Endpoint(
        "/generations",
        "operator_generations",
        "Which copies of the read model are there?",
        show_generations,
        Generations,
    ),
    Endpoint(
        "/jobs",
        "operator_jobs",
        "Which jobs run, wait or have ended?",
        list_jobs,
        Jobs,
        (parameters.before("jobs"), parameters.limit()),
    ),
    Endpoint(
        "/jobs/{job_id}",
        "operator_job",
        "How is this job?",
        show_job,
        JobSummary,
        (parameters.number("job_id", "The job's number."),),
        ("job_not_found",),
    ),
)
