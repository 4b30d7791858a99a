"""Describes each action from what PostgreSQL holds: what it acts on, and what follows.

`current` is what a plan is compared with before it is run, so both come from the same functions.
Reads: control tables, the live generation. Fails: `NothingToPlan`, `PlanInvalid`.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import asyncpg
import msgspec

from projections import api_keys
from projections.errors import NothingToRollBackTo
from projections.maintenance import jobs, reviews
from projections.maintenance.jobs import Job
from projections.maintenance.reviews import Report, Review
from projections.maintenance.sentences import differing, key_was_revoked, no_such_key
from projections.plans import parked_preview
from projections.plans.actions import (
    Action,
    Approve,
    Cancel,
    Erase,
    KeyCreate,
    KeyRevoke,
    ParkedDiscard,
    ParkedRetry,
    Rebuild,
    Refuse,
    Repair,
    Rollback,
    Verify,
    has_control_character,
)
from projections.plans.records import SAMPLE_MAX, Preview
from projections.plans.refusals import NothingToPlan, PlanInvalid
from projections.store import checkpoint as checkpoints
from projections.store import generations


async def preview(connection: asyncpg.Connection, action: Action) -> Preview:
    """Describe an action that needs PostgreSQL alone."""
    return await _PREVIEWS[type(action)](connection, action)


async def current(connection: asyncpg.Connection, action: Action) -> tuple[int, str]:
    """Return how much an action acts on now, and the fingerprint; raises `NothingToPlan` if it acts on nothing."""
    if isinstance(action, ParkedRetry | ParkedDiscard):
        positions = await parked_preview.selected(connection, action)
        return len(positions), parked_preview.fingerprint(positions)
    found = await preview(connection, action)
    return found.count, found.fingerprint


def digest(*parts: object) -> str:
    """Return a digest of what an action acts on."""
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


async def _verify(connection: asyncpg.Connection, _action: Verify) -> Preview:
    live, position, job = await _job_of_kind(connection, "verify")
    sentence = (
        f"Folds the stream again, up to position {position:,} at least, into a new generation, compares the rows of "
        f"{live} with it, and drops it. Changes nothing that readers see."
    )
    return Preview(1, "job", digest("verify", live, job), sentence, details=_resumes(job))


async def _rebuild(connection: asyncpg.Connection, action: Rebuild) -> Preview:
    live, position, job = await _job_of_kind(connection, "rebuild")
    if action.from_generation not in {None, live}:
        raise NothingToPlan(f"{live} is the live generation, not {action.from_generation}. Nothing was planned.")
    sentence = (
        f"Fills a new generation from the stream, up to position {position:,} at least, compares it with {live}, and "
        "makes it the live one. If rows differ, the job waits until an operator approves or refuses the switch."
    )
    details = [
        *_resumes(job),
        "Readers are not affected; the previous generation follows, so that a rollback is possible.",
    ]
    return Preview(1, "generation", digest("rebuild", live, job), sentence, details=details)


async def _job_of_kind(connection: asyncpg.Connection, kind: str) -> tuple[str, int, int | None]:
    """Return the live generation, its position, and the open job of a kind; refuse while another job is open."""
    live = await checkpoints.live_generation(connection)
    position = (await checkpoints.read(connection, live)).position
    running = await jobs.is_running(connection)
    found = None
    for job in await jobs.unfinished(connection):
        if running or job.kind == "erase":
            state = "runs" if running else "is unfinished"
            raise NothingToPlan(f"Job {job.job_id} ({job.kind}) {state}; one job runs at a time. Nothing was planned.")
        if job.kind == kind:
            found = job.job_id
    return live, position, found


def _resumes(job_id: int | None) -> list[str]:
    return [] if job_id is None else [f"Continues job {job_id}, which was interrupted or refused."]


async def _decision(connection: asyncpg.Connection, action: Approve | Refuse) -> Preview:
    job, review = await _waiting(connection, action.job_id)
    report = review.report
    sample = [msgspec.to_builtins(sample) for table in report.tables for sample in table.samples][:SAMPLE_MAX]
    if isinstance(action, Approve):
        although = "the live generation could not be compared" if report.not_compared else _differ(report)
        sentence = f"Job {job.job_id} switches readers to {job.generation}, although {although}."
    else:
        sentence = (
            f"Job {job.job_id} ends without a switch. {job.generation} is kept: a rebuild compares it again, a cancel "
            "drops it."
        )
    fingerprint = digest(job.job_id, msgspec.json.encode(report).decode())
    return Preview(report.differing_rows, "row", fingerprint, sentence, sample, report.sentences)


def _differ(report: Report) -> str:
    return f"{differing(report.differing_rows)} from the live one"


async def _waiting(connection: asyncpg.Connection, job_id: int) -> tuple[Job, Review]:
    """Return a job that waits for a decision; raises `NothingToPlan` for any other."""
    review = (await reviews.of(connection, [job_id])).get(job_id)
    job = next((job for job in await jobs.unfinished(connection) if job.job_id == job_id), None)
    if job is None or review is None or not review.awaits_approval:
        raise NothingToPlan(
            f"Job {job_id} does not wait for a decision. If it was refused or its time to wait has passed, start a "
            "rebuild: it continues the job, compares again, and waits again."
        )
    return job, review


async def _cancel(connection: asyncpg.Connection, action: Cancel) -> Preview:
    job = next((job for job in await jobs.unfinished(connection) if job.job_id == action.job_id), None)
    if job is None:
        raise NothingToPlan(f"Job {action.job_id} is not open, so there is nothing to cancel.")
    if job.kind == "erase":
        raise NothingToPlan(
            f"Job {job.job_id} erases a customer, which cannot be undone half-way; another plan to erase the same "
            "customer finishes it."
        )
    dropped = f" and drops its generation {job.generation}" if job.generation else ""
    sentence = f"Ends job {job.job_id} ({job.kind}){dropped}. The live generation does not change."
    return Preview(1, "job", digest("cancel", job.job_id), sentence, details=[f"The job is in phase {job.phase}."])


async def _rollback(connection: asyncpg.Connection, _action: Rollback) -> Preview:
    live = await checkpoints.live_generation(connection)
    try:
        to = await generations.previous(connection)
    except NothingToRollBackTo as problem:
        raise NothingToPlan(str(problem)) from None
    sentence = f"Readers are switched from {live} back to {to}, which has followed the stream, so no event is lost."
    details = [f"{live} keeps following: another rollback returns to it."]
    return Preview(1, "generation", digest("rollback", live, to), sentence, details=details)


async def _key_create(_connection: asyncpg.Connection, action: KeyCreate) -> Preview:
    if has_control_character(action.name):
        raise PlanInvalid("A name has no control characters.")
    admin = ", as an admin, who sees everything" if action.is_admin else ""
    until = "until it is revoked" if action.ttl_s is None else f"for {action.ttl_s:,} s"
    scopes = " and ".join(sorted(set(action.scopes)))
    sentence = f"Creates a key of user {action.user_id}{admin}, with {scopes}, valid {until}."
    return Preview(1, "key", digest("key_create"), sentence, details=["The key is shown once and stored nowhere."])


async def _key_revoke(connection: asyncpg.Connection, action: KeyRevoke) -> Preview:
    key = next((key for key in await api_keys.listed(connection) if key.key_id == action.key_id), None)
    if key is None:
        raise NothingToPlan(no_such_key(action.key_id))
    if key.revoked_at is not None:
        raise NothingToPlan(key_was_revoked(key.key_id, key.revoked_at.isoformat(timespec="seconds")))
    named = f" ({key.label})" if key.label else ""
    sentence = f"Key {key.key_id}{named} of user {key.user_id} is refused within 5 seconds, for good."
    sample: list[dict[str, Any]] = [{"key_id": key.key_id, "name": key.label, "user_id": key.user_id}]
    return Preview(1, "key", digest("key_revoke", key.key_id), sentence, sample)


async def _by_runner(_connection: asyncpg.Connection, action: Action) -> Preview:
    raise TypeError(f"{type(action).__name__} is described by the job runner, from the stream")


_Previewer = Callable[[asyncpg.Connection, Any], Awaitable[Preview]]
_PREVIEWS: Final[dict[type[Any], _Previewer]] = {
    Verify: cast("_Previewer", _verify),
    Rebuild: cast("_Previewer", _rebuild),
    Approve: cast("_Previewer", _decision),
    Refuse: cast("_Previewer", _decision),
    Cancel: cast("_Previewer", _cancel),
    Rollback: cast("_Previewer", _rollback),
    ParkedRetry: cast("_Previewer", parked_preview.preview),
    ParkedDiscard: cast("_Previewer", parked_preview.preview),
    Repair: cast("_Previewer", _by_runner),
    Erase: cast("_Previewer", _by_runner),
    KeyCreate: cast("_Previewer", _key_create),
    KeyRevoke: cast("_Previewer", _key_revoke),
}
