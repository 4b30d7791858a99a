"""The rows of plans: how they are created, claimed by a runner, continued by another, and ended.

Reads and writes: control.plan.
Invariants: a plan goes from planning to ready, queued, running, and done or failed, never back; only the caller that
moves it from ready to queued runs it. A runner writes under its epoch only, so one that was replaced writes nothing.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal

import asyncpg
import msgspec
from msgspec import Struct

from projections.errors import MembershipError
from projections.plans.actions import Action, ActionName, from_record, name_of, parameters_of

State = Literal["planning", "ready", "queued", "running", "done", "failed", "expired"]
PLAN_TTL_S: Final = 900.0
"""How long a plan may be run; what it was made from is older than an operator remembers afterwards."""
QUEUED_MAX_S: Final = 3600.0
"""A plan that no runner has begun for so long is failed: an operator no longer expects it to happen."""
UNUSED_KEPT_S: Final = 86_400.0
"""How long plans are kept that were never run."""
SAMPLE_MAX: Final = 20
"""How many of the things that a plan acts on it shows."""
KEPT_DAYS: Final = 90
"""How long plans are kept that were run; the audit keeps what they did."""


class PlanReplaced(MembershipError):
    """Another runner has taken over a plan, so this one must not write."""

    code = "plan_replaced"


class Preview(Struct, frozen=True):
    """What an action would act on, and what follows."""

    count: int
    unit: str
    """What `count` counts, in the singular."""
    fingerprint: str
    """A digest of what the action acts on."""
    sentence: str
    """The consequence."""
    sample: Sequence[dict[str, Any]] = ()
    details: Sequence[str] = ()
    positions: list[int] | None = None


class Plan(Struct, frozen=True):
    """One plan."""

    plan_id: str
    number: int
    action: ActionName
    parameters: dict[str, Any]
    state: State
    count: int | None
    unit: str | None
    fingerprint: str | None
    sample: list[dict[str, Any]]
    sentence: str | None
    details: list[str]
    confirm_word: str | None
    created_by: str
    created_at: datetime
    expires_at: datetime
    reason: str | None
    run_by: str | None
    run_at: datetime | None
    ended_at: datetime | None
    done: int
    job_id: int | None
    outcome: str | None
    outcome_code: str | None

    @property
    def what(self) -> Action:
        """The action with its parameters."""
        return from_record(self.action, msgspec.json.encode(self.parameters).decode())


_COLUMNS: Final = (
    "plan_id::text, number, action, parameters, "
    "CASE WHEN state IN ('planning', 'ready') AND expires_at <= clock_timestamp() THEN 'expired' ELSE state END "
    "AS state, "
    "count, unit, fingerprint, sample, sentence, details, confirm_word, created_by, created_at, expires_at, reason, "
    "run_by, run_at, ended_at, done, job_id, outcome, outcome_code"
)
_JSON: Final = ("parameters", "sample", "details")


def _plan(row: asyncpg.Record) -> Plan:
    return Plan(**{**dict(row), **{name: msgspec.json.decode(row[name]) for name in _JSON}})


def _json(value: Any) -> str:  # noqa: ANN401 - any JSON
    return msgspec.json.encode(value).decode()


async def create(
    connection: asyncpg.Connection, action: Action, by: str, confirm_word: str | None, preview: Preview | None
) -> Plan:
    """Create a plan: ready with `preview`; without one, a runner makes it."""
    async with connection.transaction():  # a runner must not see a plan that has its preview already
        row = await connection.fetchrow(
            "INSERT INTO control.plan (action, parameters, state, confirm_word, created_by, expires_at) "  # noqa: S608 - constants
            "VALUES ($1, $2, 'planning', $3, $4, now() + make_interval(secs => $5)) "
            f"RETURNING {_COLUMNS}",
            name_of(action),
            _json(parameters_of(action)),
            confirm_word,
            by,
            PLAN_TTL_S,
        )
        assert row is not None  # noqa: S101 - RETURNING
        plan = _plan(row)
        return plan if preview is None else await set_preview(connection, plan.plan_id, preview) or plan


async def set_preview(connection: asyncpg.Connection, plan_id: str, preview: Preview) -> Plan | None:
    """Make a plan ready; None if it is no longer being planned."""
    row = await connection.fetchrow(
        "UPDATE control.plan SET state = 'ready', count = $2, unit = $3, fingerprint = $4, sentence = $5, sample = $6, "  # noqa: S608 - constants
        "details = $7, positions = $8, expires_at = now() + make_interval(secs => $9) "
        f"WHERE plan_id = $1 AND state = 'planning' RETURNING {_COLUMNS}",
        plan_id,
        preview.count,
        preview.unit,
        preview.fingerprint,
        preview.sentence,
        _json(preview.sample),
        _json(preview.details),
        preview.positions,
        PLAN_TTL_S,
    )
    return None if row is None else _plan(row)


async def get(connection: asyncpg.Connection, plan_id: str, *, lock: bool = False) -> Plan | None:
    """Return a plan; with `lock`, nobody else changes it until the caller's transaction ends."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM control.plan WHERE plan_id = $1 {'FOR UPDATE' if lock else ''}",  # noqa: S608 - constants
        plan_id,
    )
    return None if row is None else _plan(row)


async def newest(connection: asyncpg.Connection, before: int | None, rows_max: int) -> list[Plan]:
    """Return plans, newest first, that are older than the one numbered `before`."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM control.plan WHERE $1::bigint IS NULL OR number < $1 ORDER BY number DESC LIMIT $2",  # noqa: S608 - constants
        before,
        rows_max,
    )
    return [_plan(row) for row in rows]


async def queue(connection: asyncpg.Connection, plan: Plan, reason: str, by: str) -> None:
    """Queue a ready plan, in the caller's transaction, which has locked it."""
    await connection.execute(
        "UPDATE control.plan SET state = 'queued', reason = $2, run_by = $3, run_at = now() WHERE plan_id = $1",
        plan.plan_id,
        reason,
        by,
    )


async def finish(connection: asyncpg.Connection, plan: Plan, outcome: str) -> None:
    """End a plan that the API has executed, in the transaction of its action, which has locked it."""
    await connection.execute(
        "UPDATE control.plan SET state = 'done', outcome = $2, done = count, ended_at = now(), positions = NULL "
        "WHERE plan_id = $1",
        plan.plan_id,
        outcome,
    )


async def positions_of(connection: asyncpg.Connection, plan_id: str) -> list[int]:
    """Return the positions of parked events that a plan acts on."""
    return await connection.fetchval("SELECT positions FROM control.plan WHERE plan_id = $1", plan_id) or []


async def planning(connection: asyncpg.Connection) -> Plan | None:
    """Return the oldest plan that a runner must preview."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM control.plan WHERE state = 'planning' AND expires_at > clock_timestamp() "  # noqa: S608 - constants
        "ORDER BY number LIMIT 1"
    )
    return None if row is None else _plan(row)


async def reject(connection: asyncpg.Connection, plan_id: str, code: str, sentence: str) -> None:
    """End a plan that could not be previewed."""
    await connection.execute(
        "UPDATE control.plan SET state = 'failed', outcome = $2, outcome_code = $3, ended_at = now() "
        "WHERE plan_id = $1 AND state = 'planning'",
        plan_id,
        sentence,
        code,
    )


async def claim(connection: asyncpg.Connection, actions: Sequence[ActionName], epoch: int) -> tuple[Plan, bool] | None:
    """Claim the next plan of these actions: one that an earlier runner began (then True), or the first in the queue."""
    row = await connection.fetchrow(
        "UPDATE control.plan AS plan SET state = 'running', epoch = $2, started_at = coalesce(plan.started_at, now()) "
        "FROM (SELECT plan_id, state AS was FROM control.plan WHERE action = any($1::text[]) "
        "AND (state = 'queued' OR (state = 'running' AND epoch < $2)) "
        "AND EXISTS (SELECT FROM control.runner WHERE runner.epoch = $2) "
        "ORDER BY state = 'queued', run_at, number LIMIT 1 FOR UPDATE) AS next "
        "WHERE plan.plan_id = next.plan_id RETURNING plan.plan_id::text, next.was",
        list(actions),
        epoch,
    )
    if row is None:
        return None
    plan = await get(connection, row["plan_id"])
    assert plan is not None  # noqa: S101 - just updated
    return plan, row["was"] == "running"


async def require_epoch(connection: asyncpg.Connection, plan: Plan, epoch: int) -> None:
    """Lock a running plan until the caller's transaction ends; raise `PlanReplaced` if another runner has it."""
    found = await connection.fetchval(
        "SELECT true FROM control.plan WHERE plan_id = $1 AND state = 'running' AND epoch = $2 FOR UPDATE",
        plan.plan_id,
        epoch,
    )
    if not found:
        raise PlanReplaced(f"Plan {plan.plan_id} is executed by another runner; nothing was written.")


async def advance(connection: asyncpg.Connection, plan: Plan, done: int) -> None:
    """Record how many positions are done, in the transaction that did them."""
    await connection.execute("UPDATE control.plan SET done = $2 WHERE plan_id = $1", plan.plan_id, done)


async def set_job(connection: asyncpg.Connection, plan: Plan, epoch: int, job_id: int) -> None:
    """Record the job that executes a plan."""
    async with connection.transaction():
        await require_epoch(connection, plan, epoch)
        await connection.execute("UPDATE control.plan SET job_id = $2 WHERE plan_id = $1", plan.plan_id, job_id)


async def end(connection: asyncpg.Connection, plan: Plan, epoch: int, outcome: str, code: str | None = None) -> None:
    """End a running plan, in the caller's transaction or alone: done, or failed with a code."""
    async with connection.transaction():
        await require_epoch(connection, plan, epoch)
        await connection.execute(
            "UPDATE control.plan SET state = CASE WHEN $3::text IS NULL THEN 'done' ELSE 'failed' END, outcome = $2, "
            "outcome_code = $3, done = CASE WHEN $3 IS NULL THEN count ELSE done END, ended_at = now(), "
            "positions = NULL WHERE plan_id = $1",
            plan.plan_id,
            outcome,
            code,
        )


async def tidy(connection: asyncpg.Connection) -> None:
    """Fail plans that have waited too long, and delete old ones."""
    await connection.execute(
        "UPDATE control.plan SET state = 'failed', outcome_code = 'not_started', positions = NULL, ended_at = now(), "
        "outcome = 'No job runner began this plan for an hour, so it was given up. Nothing was changed.' "
        "WHERE state = 'queued' AND run_at < now() - make_interval(secs => $1)",
        QUEUED_MAX_S,
    )
    await connection.execute(
        "DELETE FROM control.plan WHERE run_at IS NULL AND expires_at < now() - make_interval(secs => $1)",
        UNUSED_KEPT_S,
    )
    await connection.execute("DELETE FROM control.plan WHERE ended_at < now() - make_interval(days => $1)", KEPT_DAYS)
