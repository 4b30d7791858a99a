"""`membership jobs` and `membership audit`: lists running, interrupted and past jobs, cancels one, prints the audit."""

import asyncio
import json
from contextlib import suppress
from typing import Any, NamedTuple

import asyncpg
import msgspec

from ops.actor import actor
from ops.rebuild.job import abandon
from ops.terminal import fail, format_time, print_table
from projections.errors import MembershipError
from projections.maintenance import audit, jobs, runner_presence
from projections.maintenance.job_summary import JobSummary, summary, without_advice
from projections.maintenance.jobs import Job
from projections.store import database

CANCEL_WAIT_MAX_S = 30.0
POLL_S = 0.2
HISTORY_MAX = 100
FIELDS = (
    "job_id", "kind", "state", "phase", "done", "total", "progress", "eta_s", "generation", "started_at", "ended_at",
    "started_by", "outcome",
)  # fmt: skip
NOTHING_YET = (
    "switch, rollback, cancelled job, repair, retry, discard, erasure, acknowledged loss, or created or revoked API key"
)


def job_fields(job: JobSummary) -> dict[str, Any]:
    """Return what `status --json` and `jobs list --json` print of a job."""
    fields = msgspec.structs.asdict(job)
    return {name: fields[name] for name in FIELDS} | {
        "started_at": format_time(job.started_at),
        "ended_at": None if job.ended_at is None else format_time(job.ended_at),
    }


async def list_jobs(connection: asyncpg.Connection, rows_max: int, *, as_json: bool) -> int:
    """Print the jobs, newest first."""
    running = await jobs.is_running(connection)
    summaries = [job_fields(summary(job, running=running)) for job in await jobs.history(connection, rows_max)]
    if as_json:
        print(json.dumps(summaries))
        return 0
    if not summaries:
        print("No jobs yet. `membership rebuild` and `membership verify` are jobs.")
        return 0
    fields = ("job_id", "kind", "state", "phase", "progress", "started_at", "ended_at", "started_by", "outcome")
    headings = ("job", "kind", "state", "phase", "progress", "started", "ended", "by", "outcome")
    rows = [[str(job[field] or "") for field in fields] for job in summaries]
    print_table(headings, rows, folded=("by", "outcome"))
    return 0


async def check_runner(connection: asyncpg.Connection) -> int:
    """Print whether a job runner is alive; return 1 if none is."""
    presence = await runner_presence.read(connection)
    if presence is None:
        return fail("No job runner has ever run. Start `membership jobs run`.")
    if not presence.alive:
        seen = format_time(presence.seen_at)
        return fail(f"No job runner is alive; {presence.name} was seen at {seen}. Start `membership jobs run`.")
    print(f"The job runner {presence.name} is alive, since {format_time(presence.started_at)}.")
    return 0


async def cancel(connection: asyncpg.Connection) -> int:
    """Cancel the open job: signal the process that runs it, or clean up after one that died."""
    unfinished = await jobs.unfinished(connection)
    if not unfinished:
        return fail("There is no job to cancel. `membership jobs list` shows past jobs.")
    job = unfinished[0]
    if job.kind == "erase":
        return fail(
            f"Job {job.job_id} erases a customer, which cannot be undone half-way: "
            "`membership erase` with the same customer finishes it."
        )
    if await jobs.is_running(connection):
        await jobs.request_cancel(connection, job)
        print(f"Requested cancellation of job {job.job_id}; it checks for requests between steps.")
    try:
        cancelled = await complete_cancel(connection, job, actor())
    except StillRunning as problem:
        return fail(str(problem))
    print(cancelled.sentence)
    return 0 if cancelled.done else 1


class StillRunning(MembershipError):
    """A job has not noticed yet that it was cancelled."""

    code = "job_still_running"

    def __init__(self, job: Job) -> None:
        super().__init__(
            f"Job {job.job_id} has not ended yet: a step takes long, or it waits for an answer at its "
            "terminal. `membership jobs list` shows when it has ended."
        )


class Cancelled(NamedTuple):
    """How a job that was to be cancelled ended."""

    sentence: str
    done: bool
    """False if it ended in another way first."""


async def complete_cancel(connection: asyncpg.Connection, job: Job, by: str) -> Cancelled:
    """Wait until a job that was asked to end has ended; clean up if no process runs it.

    Raises `StillRunning` after `CANCEL_WAIT_MAX_S`. The session keeps the jobs' lock if it had to clean up.
    """
    if await jobs.is_running(connection):
        if await _wait_until_ended(connection, job):
            return await _outcome(connection, job)
        if await jobs.is_running(connection):
            raise StillRunning(job)
    await jobs.take_lock(connection)
    if not await _is_unfinished(connection, job):
        return await _outcome(connection, job)
    await abandon(connection, job, by)
    return Cancelled(f"Cancelled job {job.job_id} and dropped its partial results.", done=True)


async def stopped_sentence(database_url: str, kind: str) -> str:
    """Return what to do after Ctrl-C: a job can be resumed only if its row was written."""
    unknown = "Stopped. If `membership jobs list` shows an open job, run the same command to resume it."
    try:
        connection = await database.connect(database_url, "membership-command")
        try:
            with database.closed_is_unavailable(connection):
                unfinished = [job for job in await jobs.unfinished(connection) if job.kind == kind]
        finally:
            connection.terminate()
    except (*database.UNAVAILABLE, asyncpg.PostgresError):
        return unknown
    if not unfinished:
        return "Stopped before the job began; there is nothing to resume."
    return (
        f"Stopped. Run the same command to resume job {unfinished[0].job_id}, or `membership jobs cancel` to cancel it."
    )


async def list_audit(connection: asyncpg.Connection, rows_max: int) -> int:
    """Print the actions of operators, newest first."""
    rows = [
        (
            format_time(row["at"]),
            row["actor"],
            row["action"],
            "" if row["position"] is None else str(row["position"]),
            row["detail"],
        )
        for row in await audit.entries(connection, rows_max)
    ]
    if rows:
        print_table(("at", "by", "what", "position", "detail"), rows, folded=("by", "detail"))
    else:
        print(f"Nothing yet: no {NOTHING_YET}.")
    return 0


async def _outcome(connection: asyncpg.Connection, job: Job) -> Cancelled:
    """Return how a job ended."""
    history = await jobs.history(connection, HISTORY_MAX)
    ended = next((past for past in history if past.job_id == job.job_id), job)
    outcome = without_advice(ended.outcome) if ended.state == "cancelled" else ended.outcome
    sentence = f"Job {job.job_id} has ended: {ended.state}. {outcome or ''}".rstrip()
    return Cancelled(sentence, ended.state == "cancelled")


async def _wait_until_ended(connection: asyncpg.Connection, job: Job) -> bool:
    """Return True once the job has ended; False if no process runs it, or after `CANCEL_WAIT_MAX_S`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_WAIT_MAX_S):
            while await _is_unfinished(connection, job):
                if not await jobs.is_running(connection):
                    return False
                await asyncio.sleep(POLL_S)
            return True
    return False


async def _is_unfinished(connection: asyncpg.Connection, job: Job) -> bool:
    return any(unfinished.job_id == job.job_id for unfinished in await jobs.unfinished(connection))
