"""`membership jobs` and `membership audit`: what runs, what waits to be resumed, what was; and how to end a job."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import asyncpg
from rich.table import Table

from ops.actor import actor
from ops.rebuild.job import abandon
from ops.terminal import console, escaped, fail, format_time
from projections.maintenance import audit, jobs
from projections.maintenance.jobs import Job
from projections.store import database

CANCEL_WAIT_MAX_S = 30.0
POLL_S = 0.2
HISTORY_MAX = 100


def job_summary(job: Job, *, running: bool) -> dict[str, Any]:
    """Return what `status` and `jobs list` tell of a job."""
    share = f"{job.done / job.total:.0%}" if job.total else ""
    return {
        "job_id": job.job_id,
        "kind": job.kind,
        "state": _state(job, running=running),
        "phase": job.phase,
        "done": job.done,
        "total": job.total,
        "progress": share,
        "eta_s": job.eta_s if running else None,
        "generation": job.generation,
        "started_at": format_time(job.started_at),
        "ended_at": None if job.ended_at is None else format_time(job.ended_at),
        "started_by": job.started_by,
        "outcome": job.outcome,
    }


def _state(job: Job, *, running: bool) -> str:
    if job.state != "open":
        return job.state
    return "running" if running else "refused" if job.phase == "gate" and job.outcome else "interrupted"


async def list_jobs(connection: asyncpg.Connection, rows_max: int, *, as_json: bool) -> int:
    """Print all jobs, the newest first."""
    running = await jobs.is_running(connection)
    found = [job_summary(job, running=running) for job in await jobs.history(connection, rows_max)]
    if as_json:
        print(json.dumps(found))
        return 0
    if not found:
        print("No jobs yet. `membership rebuild` and `membership verify` are jobs.")
        return 0
    table = Table("job", "kind", "state", "phase", "progress", "started", "ended", "by", "outcome", box=None)
    for job in found:
        row = (job["job_id"], job["kind"], job["state"], job["phase"], job["progress"], job["started_at"])
        table.add_row(*map(str, row), job["ended_at"] or "", job["started_by"], escaped(job["outcome"] or ""))
    console().print(table)
    return 0


async def cancel(connection: asyncpg.Connection) -> int:
    """End the open job: ask the process that runs it, or clean up after one that died."""
    found = await jobs.unfinished(connection)
    if not found:
        return fail("There is no job to cancel. `membership jobs list` shows those that were.")
    job = found[0]
    if job.kind == "erase":
        return fail(
            f"Job {job.job_id} erases a customer, which cannot be taken back half-way: "
            "`membership erase` with the same customer finishes it."
        )
    if await jobs.is_running(connection):
        await jobs.request_cancel(connection, job)
        print(f"Asked job {job.job_id} to end; it looks between two steps.")
        if await _until_stopped(connection, job):
            return await _ended(connection, job)
        if await jobs.is_running(connection):
            return fail(
                f"Job {job.job_id} has not ended yet: a step takes its time, or it waits for an answer at its "
                "terminal. `membership jobs list` shows when it has."
            )
    await jobs.take_lock(connection)
    if not any(each.job_id == job.job_id for each in await jobs.unfinished(connection)):
        return await _ended(connection, job)
    await abandon(connection, job, actor())
    print(f"Cancelled job {job.job_id}; what it had made is dropped.")
    return 0


async def stopped_sentence(database_url: str, kind: str) -> str:
    """Say what Ctrl-C leaves of a job: it can be resumed only if its row was written."""
    unknown = "Stopped. If `membership jobs list` shows an open job, the same command goes on with it."
    try:
        connection = await database.connect(database_url, "membership-command")
        try:
            with database.closed_is_unavailable(connection):
                found = [job for job in await jobs.unfinished(connection) if job.kind == kind]
        finally:
            connection.terminate()
    except (*database.UNAVAILABLE, asyncpg.PostgresError):
        return unknown
    if not found:
        return "Stopped before the job began; there is nothing to go on with."
    return (
        f"Stopped. The same command goes on with job {found[0].job_id} where it was; "
        "`membership jobs cancel` gives it up."
    )


async def list_audit(connection: asyncpg.Connection, rows_max: int) -> int:
    """Print what operators did, the newest first."""
    table = Table("at", "by", "what", "position", "detail", box=None)
    for row in await audit.entries(connection, rows_max):
        position = "" if row["position"] is None else str(row["position"])
        table.add_row(format_time(row["at"]), row["actor"], row["action"], position, escaped(row["detail"]))
    console().print(table if table.row_count else "Nothing yet: no switch, repair, retry, discard, erasure or API key.")
    return 0


async def _ended(connection: asyncpg.Connection, job: Job) -> int:
    """Say how a job has ended; 1 unless it was cancelled."""
    found = next((each for each in await jobs.history(connection, HISTORY_MAX) if each.job_id == job.job_id), job)
    print(f"Job {job.job_id} has ended: {found.state}. {found.outcome or ''}".rstrip())
    return 0 if found.state == "cancelled" else 1


async def _until_stopped(connection: asyncpg.Connection, job: Job) -> bool:
    """Wait until the job has ended (True), or nobody works on it, or for as long as patience lasts (False)."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_WAIT_MAX_S):
            while any(each.job_id == job.job_id for each in await jobs.unfinished(connection)):
                if not await jobs.is_running(connection):
                    return False
                await asyncio.sleep(POLL_S)
            return True
    return False
