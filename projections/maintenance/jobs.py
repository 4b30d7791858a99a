"""Jobs: long-running operations, one at a time, one row each, resumable after any crash and kept as history.

Writes: control.job, control.audit.
Invariants: the process that runs a job holds the jobs' advisory lock in the session that writes, so PostgreSQL's locks
show whether a job is running; a job ends in the transaction of its last change.
Fails: `JobRefused` when another process is running a job.
"""

from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import asyncpg
from msgspec import Struct

from projections.errors import JobCancelled, JobRefused
from projections.fold_version import FOLD_VERSION
from projections.store.queries import Generation

Kind = Literal["rebuild", "verify", "erase"]
End = Literal["done", "failed", "cancelled"]
OpenState = Literal["running", "interrupted", "refused"]
"""What an open job does: `refused` waits for an operator's approval at the gate, `interrupted` to be resumed."""
LOCK_CLASS: Final = 0x4D454D42  # "MEMB"
LOCK_ID: Final = 0x4A4F4253  # "JOBS"
HELPERS_LOCK_ID: Final = 0x48454C50  # "HELP"


class Job(Struct, frozen=True):
    """One job, unfinished or ended."""

    job_id: int
    kind: Kind
    state: Literal["open", "done", "failed", "cancelled"]
    phase: str
    done: int
    total: int
    eta_s: float | None
    generation: str | None
    release: str
    erased_customer: UUID | None
    cancel_requested: bool
    started_by: str
    started_at: datetime
    updated_at: datetime
    ended_at: datetime | None
    outcome: str | None


async def take_lock(connection: asyncpg.Connection) -> None:
    """Become the only process that runs a job, until this session ends; raises `JobRefused`."""
    if await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_CLASS, LOCK_ID):
        return
    job = next(iter(await unfinished(connection)), None)
    state = f"Job {job.job_id}, a {job.kind}, is in phase {job.phase}" if job else "Another job is running"
    raise JobRefused(
        f"{state}; one job runs at a time. `membership jobs list` shows its progress; wait for it, "
        "or end it with `membership jobs cancel`."
    )


async def take_helpers_lock(connection: asyncpg.Connection) -> None:
    """Wait until the sessions that helped a crashed job have ended, and take their lock."""
    await connection.execute("SELECT pg_advisory_lock($1, $2)", LOCK_CLASS, HELPERS_LOCK_ID)


async def is_running(connection: asyncpg.Connection) -> bool:
    """Return whether a process is running a job now."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid::bigint = $1 "
            "AND objid::bigint = $2 AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
            LOCK_CLASS,
            LOCK_ID,
        )
    )


def open_state(job: Job, *, running: bool) -> OpenState:
    """Return what an open job does; `running`: whether a process runs it."""
    return "running" if running else "refused" if job.phase == "gate" and job.outcome else "interrupted"


async def open_or_resume(connection: asyncpg.Connection, kind: Kind, phase: str, actor: str) -> Job:
    """Return the open job of a kind, or create one; the caller holds the lock."""
    row = await connection.fetchrow("SELECT * FROM control.job WHERE kind = $1 AND state = 'open'", kind)
    if row is None:
        row = await connection.fetchrow(
            "INSERT INTO control.job (kind, phase, started_by, release) VALUES ($1, $2, $3, $4) RETURNING *",
            kind,
            phase,
            actor,
            FOLD_VERSION,
        )
    assert row is not None  # noqa: S101 - RETURNING
    return Job(**row)


async def unfinished(connection: asyncpg.Connection) -> list[Job]:
    """Return the jobs that are running or wait to be resumed, latest change first."""
    rows = await connection.fetch("SELECT * FROM control.job WHERE state = 'open' ORDER BY updated_at DESC")
    return [Job(**row) for row in rows]


async def history(connection: asyncpg.Connection, rows_max: int) -> list[Job]:
    """Return the latest `rows_max` jobs, newest first."""
    rows = await connection.fetch("SELECT * FROM control.job ORDER BY job_id DESC LIMIT $1", rows_max)
    return [Job(**row) for row in rows]


async def page(connection: asyncpg.Connection, before: int | None, rows_max: int) -> list[Job]:
    """Return jobs before another one, newest first."""
    rows = await connection.fetch(
        "SELECT * FROM control.job WHERE $1::bigint IS NULL OR job_id < $1 ORDER BY job_id DESC LIMIT $2",
        before,
        rows_max,
    )
    return [Job(**row) for row in rows]


async def get(connection: asyncpg.Connection, job_id: int) -> Job | None:
    """Return a job; None if there is none of this number."""
    row = await connection.fetchrow("SELECT * FROM control.job WHERE job_id = $1", job_id)
    return None if row is None else Job(**row)


async def enter(connection: asyncpg.Connection, job: Job, phase: str) -> None:
    """Record the start of a phase."""
    await connection.execute(
        "UPDATE control.job SET phase = $2, done = 0, total = 0, eta_s = NULL, updated_at = now() WHERE job_id = $1",
        job.job_id,
        phase,
    )


async def report(connection: asyncpg.Connection, job: Job, done: int, total: int, eta_s: float | None) -> None:
    """Record progress; raises `JobCancelled` when an operator has cancelled the job."""
    cancelled = await connection.fetchval(
        "UPDATE control.job SET done = $2, total = $3, eta_s = $4, updated_at = now() WHERE job_id = $1 "
        "RETURNING cancel_requested",
        job.job_id,
        done,
        total,
        eta_s,
    )
    if cancelled:
        raise JobCancelled(f"Job {job.job_id} was cancelled.")


async def assign_generation(connection: asyncpg.Connection, job: Job, name: Generation) -> None:
    """Record the generation that a job fills, and the fold version, in the transaction that creates it."""
    await connection.execute(
        "UPDATE control.job SET generation = $2, release = $3, outcome = NULL WHERE job_id = $1",
        job.job_id,
        name,
        FOLD_VERSION,
    )


async def finish(connection: asyncpg.Connection, job: Job, end: End, outcome: str) -> None:
    """End a job, in the caller's transaction."""
    await connection.execute(
        "UPDATE control.job SET state = $2, "
        "outcome = concat_ws('; ', $3::text, CASE WHEN $2 <> 'done' THEN outcome END), "
        "ended_at = now(), updated_at = now(), eta_s = NULL, "
        "erased_customer = NULL WHERE job_id = $1",
        job.job_id,
        end,
        outcome,
    )


async def set_blocked_reason(connection: asyncpg.Connection, job: Job, reason: str) -> None:
    """Record why an open job is blocked."""
    await connection.execute(
        "UPDATE control.job SET outcome = $2, updated_at = now() WHERE job_id = $1", job.job_id, reason
    )


async def request_cancel(connection: asyncpg.Connection, job: Job) -> None:
    """Request that the process running a job ends it."""
    await connection.execute("UPDATE control.job SET cancel_requested = true WHERE job_id = $1", job.job_id)
