"""Makes plans and runs them: a run is checked against what the plan acts on now, in the transaction that starts it.

Writes: control.plan, control.audit, and what the actions write that the API executes itself.
Invariants: of any number of simultaneous runs of a plan, one is accepted; the audit entry with the reason is written in
the transaction that accepts it. The secret of a new key is returned and stored nowhere.
Fails: the kinds of `PlanRefused`, each without any change.
"""

import time
from datetime import timedelta
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from projections import api_keys
from projections.api_keys import Scope
from projections.maintenance import audit, jobs, reviews, runner_presence, sentences
from projections.maintenance.reviews import Decision
from projections.maintenance.sentences import counted
from projections.plans import previews, records
from projections.plans.actions import (
    BY_RUNNER,
    CONFIRM_WORDS,
    PLANNED_BY_RUNNER,
    Action,
    Approve,
    Cancel,
    Erase,
    KeyCreate,
    KeyRevoke,
    ParkedDiscard,
    ParkedRetry,
    Refuse,
    Repair,
    has_control_character,
    name_of,
)
from projections.plans.records import Plan
from projections.plans.refusals import (
    BeyondCaller,
    NothingToPlan,
    PlanAlreadyRun,
    PlanChanged,
    PlanExpired,
    PlanNotReady,
    PlanUnknown,
    ReasonMissing,
    RunnerUnavailable,
    WordWrong,
)

REASON_MAX: Final = 500


class Caller(NamedTuple):
    """Who makes or runs a plan."""

    user_id: str
    is_admin: bool
    scopes: frozenset[Scope]
    expires_s: float | None = None
    """When the credentials expire, in seconds since 1970; None if they do not."""

    @property
    def actor(self) -> str:
        """The caller's name in the audit."""
        return f"console user {self.user_id}"


class Accepted(NamedTuple):
    """A plan that was run: queued, or already done."""

    plan: Plan
    secret: str | None = None
    """The API key that it created; it exists nowhere else."""


async def make(connection: asyncpg.Connection, action: Action, caller: Caller) -> Plan:
    """Make a plan; one of `PLANNED_BY_RUNNER` is then `planning`, and the job runner describes it."""
    await _require_allowed(connection, action, caller)
    name = name_of(action)
    if name in PLANNED_BY_RUNNER:
        await _require_runner(connection)
        preview = None
    else:
        preview = await previews.preview(connection, action)
    return await records.create(connection, action, caller.actor, CONFIRM_WORDS.get(name), preview)


async def run(
    connection: asyncpg.Connection, plan_id: str, caller: Caller, *, reason: str, confirm: str | None
) -> Accepted:
    """Run a plan, once: queue it for the job runner, or execute it. Owns the transaction."""
    reason = _checked_reason(reason)
    async with connection.transaction():
        plan = await records.get(connection, plan_id, lock=True)
        if plan is None:
            raise PlanUnknown
        _require_ready(plan)
        action = plan.what
        _require_unnamed(action, reason)
        if plan.confirm_word is not None and confirm != plan.confirm_word:
            raise WordWrong(plan.confirm_word)
        await _require_allowed(connection, action, caller)
        if plan.action not in PLANNED_BY_RUNNER:
            await require_unchanged(connection, plan, action)
        await audit.record(connection, caller.actor, "plan.run", _audit_detail(plan, action, reason))
        secret = await _start(connection, plan, action, caller, reason)
        started = await records.get(connection, plan_id)
        assert started is not None  # noqa: S101 - locked by this transaction
    return Accepted(started, secret)


def _checked_reason(reason: str) -> str:
    reason = " ".join(reason.split())
    if not 0 < len(reason) <= REASON_MAX:
        raise ReasonMissing(f"Give a reason of 1 to {REASON_MAX} characters; the audit keeps it.")
    if has_control_character(reason):  # the audit is printed on terminals
        raise ReasonMissing("Give a reason without control characters.")
    return reason


def _require_unnamed(action: Action, reason: str) -> None:
    """Raise `ReasonMissing` if the reason names the customer: the audit outlives an erasure."""
    customer: UUID | None = getattr(action, "customer_id", None)
    if customer is not None and customer.hex in reason.lower().replace("-", ""):
        raise ReasonMissing("Give a reason that does not name the customer: the audit outlives an erasure.")


def _require_ready(plan: Plan) -> None:
    if plan.state == "expired":
        raise PlanExpired
    if plan.run_at is not None:
        raise PlanAlreadyRun
    if plan.state != "ready":
        raise PlanNotReady


async def require_unchanged(connection: asyncpg.Connection, plan: Plan, action: Action) -> None:
    """Raise `PlanChanged` unless the plan acts on what it acted on when it was made; in the caller's transaction."""
    try:
        count, fingerprint = await previews.current(connection, action)
    except NothingToPlan as problem:
        raise PlanChanged(plan.count or 0, 0, plan.unit or "", str(problem)) from None
    if (count, fingerprint) != (plan.count, plan.fingerprint):
        raise PlanChanged(plan.count or 0, count, plan.unit or "")


async def _require_allowed(connection: asyncpg.Connection, action: Action, caller: Caller) -> None:
    """Raise `BeyondCaller` if a caller that is no admin would give, or take from others, more than it has."""
    if caller.is_admin or not isinstance(action, KeyCreate | KeyRevoke):
        return
    if isinstance(action, KeyCreate):
        within = (
            not action.is_admin
            and set(action.scopes) <= caller.scopes
            and str(action.user_id) == caller.user_id
            and _expires_no_later(action, caller)
        )
    else:
        keys = {key.key_id: key for key in await api_keys.listed(connection)}
        key = keys.get(action.key_id)
        within = key is not None and key.user_id == caller.user_id and not key.is_admin
    if not within:
        raise BeyondCaller


def _expires_no_later(action: KeyCreate, caller: Caller) -> bool:
    if caller.expires_s is None:
        return True
    return action.ttl_s is not None and time.time() + action.ttl_s <= caller.expires_s


async def _require_runner(connection: asyncpg.Connection) -> None:
    presence = await runner_presence.read(connection)
    if presence is None or not presence.alive:
        raise RunnerUnavailable


async def _start(connection: asyncpg.Connection, plan: Plan, action: Action, caller: Caller, reason: str) -> str | None:
    """Queue the plan, or execute it; return the secret of a key that it created."""
    if plan.action in BY_RUNNER:
        await _require_runner(connection)
        if isinstance(action, Cancel):
            await _request_cancel(connection, action.job_id)
        await records.queue(connection, plan, reason, caller.actor)
        return None
    await records.queue(connection, plan, reason, caller.actor)
    outcome, secret = await _execute(connection, plan, action, caller)
    await records.finish(connection, plan, outcome)
    return secret


async def _request_cancel(connection: asyncpg.Connection, job_id: int) -> None:
    for job in await jobs.unfinished(connection):
        if job.job_id == job_id:
            await jobs.request_cancel(connection, job)


async def _execute(
    connection: asyncpg.Connection, plan: Plan, action: Action, caller: Caller
) -> tuple[str, str | None]:
    """Execute an action of a few rows; return the outcome and the secret of a key that it created."""
    if isinstance(action, Approve | Refuse):
        decision: Decision = "approve" if isinstance(action, Approve) else "refuse"
        if not await reviews.decide(connection, action.job_id, decision, caller.actor):
            raise PlanChanged(plan.count or 0, 0, plan.unit or "")
        what = "it switches to its generation" if decision == "approve" else "it ends without a switch"
        return f"The decision about job {action.job_id} is recorded: {what}.", None
    if isinstance(action, KeyCreate):
        key = await api_keys.create(
            connection,
            str(action.user_id),
            is_admin=action.is_admin,
            label=action.name,
            actor=caller.actor,
            scopes=action.scopes,
            ttl=None if action.ttl_s is None else timedelta(seconds=action.ttl_s),
        )
        return sentences.key_created(str(api_keys.key_id_of(key))), key
    if isinstance(action, KeyRevoke):
        await api_keys.revoke(connection, action.key_id, actor=caller.actor)
        return sentences.key_revoked(action.key_id), None
    raise TypeError(f"{name_of(action)} is executed by the job runner")


def _audit_detail(plan: Plan, action: Action, reason: str) -> str:
    """Return what was run and why. It names a campaign, a job or a key, never a customer."""
    named = ""
    if isinstance(action, Approve | Refuse | Cancel):
        named = f" of job {action.job_id}"
    elif isinstance(action, KeyRevoke):
        named = f" of key {action.key_id}"
    elif isinstance(action, Repair):
        named = f" of campaign {action.campaign_id}" if action.campaign_id else " of one customer"
    elif isinstance(action, Erase):
        named = " of one customer"
    elif isinstance(action, ParkedRetry | ParkedDiscard) and action.positions is None:
        chosen = {"reason": action.reason, "type": action.type, "source": action.source}
        filters = ", ".join(f"{name} {value!r}" for name, value in chosen.items() if value is not None)
        named = f" of all events with {filters}" if filters else " of all events"
    return f"{plan.action}{named}, {counted(plan.count or 0, plan.unit or '')}: {reason} (plan {plan.plan_id})"
