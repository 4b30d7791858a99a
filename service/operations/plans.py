"""`/ops/plans`: an operator's action is described first, then run once, with a reason.

A plan whose action depends on the stream is described by the job runner, because this process needs no broker: the
request waits for it, and answers `planning` if it takes longer.
Writes: control.plan, control.audit, and what the actions write that need no job runner.
"""

import asyncio
import time
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from projections.model.events import Instant
from projections.plans import acceptance, records, refusals
from projections.plans.acceptance import REASON_MAX, Caller
from projections.plans.actions import Action
from projections.plans.records import Plan, State
from service.operations import parameters
from service.operations.endpoint import Call, Endpoint
from service.operations.refusals import InvalidRequest, Refused
from service.parameters import Violation

PLANNING_WAIT_S: Final = 4.0
"""How long a request waits for the job runner to describe a plan; less than a request may take."""
PLANNING_POLL_S: Final = 0.1

_AS_CONTENT: Final = {"reason_missing": "reason", "confirm_wrong": "confirm", "plan_invalid": "action"}
"""Refusals of the content, with the field to which each belongs; they are 422."""
_REFUSED: Final = (
    "beyond_caller",
    "nothing_to_plan",
    "plan_already_run",
    "plan_changed",
    "plan_expired",
    "plan_not_found",
    "plan_not_ready",
    "runner_unavailable",
)


class PlanAnswer(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A plan. What is not known yet is absent."""

    plan_id: str
    action: str
    parameters: dict[str, Any]
    state: State
    created_by: str
    created_at: Instant
    expires_at: Instant
    """Until when it may be run."""
    count: int | None = None
    """How much it acts on, exactly."""
    unit: str | None = None
    """What `count` counts, in the singular."""
    sample: list[dict[str, Any]] = []
    """At most 20 of these."""
    sentence: str | None = None
    """The consequence."""
    details: list[str] = []
    confirm_word: str | None = None
    """The word to type to run it."""
    reason: str | None = None
    run_by: str | None = None
    run_at: Instant | None = None
    ended_at: Instant | None = None
    done: int = 0
    """How many of `count` are done so far, where the action works through them."""
    job_id: int | None = None
    outcome: str | None = None
    """What it did, or why it failed."""
    outcome_code: str | None = None
    """Of a plan that has failed."""
    secret: str | None = None
    """Of a new API key, in the response to the run only; it is stored nowhere."""


class PlanList(Struct, frozen=True, omit_defaults=True):
    """Plans, newest first."""

    plans: list[PlanAnswer]
    next_cursor: int | None = None


class RunContent(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a plan is run, and the word that was typed."""

    reason: Annotated[str, Meta(max_length=REASON_MAX, description="Kept in the audit.")] = ""
    confirm: Annotated[str, Meta(max_length=64)] | None = None


async def make_plan(call: Call) -> PlanAnswer:
    """Describe an action, and return the plan."""
    action: Action = call.content
    deadline = time.monotonic() + PLANNING_WAIT_S
    try:
        async with call.services.database.session() as connection:
            plan = await acceptance.make(connection, action, _caller(call))
    except refusals.PlanRefused as problem:
        raise _refused(problem) from None
    while plan.state == "planning" and time.monotonic() < deadline:
        await asyncio.sleep(PLANNING_POLL_S)  # without a connection, of which there are few
        plan = await _get(call, plan.plan_id)
    return _answer(plan)


async def run_plan(call: Call) -> PlanAnswer:
    """Run a plan, once."""
    content: RunContent = call.content
    try:
        async with call.services.database.session() as connection:
            accepted = await acceptance.run(
                connection,
                call.values["plan_id"],
                _caller(call),
                reason=content.reason,
                confirm=content.confirm,
            )
    except refusals.PlanRefused as problem:
        raise _refused(problem) from None
    return msgspec.structs.replace(_answer(accepted.plan), secret=accepted.secret)


async def show_plan(call: Call) -> PlanAnswer:
    """Return one plan."""
    return _answer(await _get(call, call.values["plan_id"]))


async def list_plans(call: Call) -> PlanList:
    """Return plans, newest first."""
    limit: int = call.values["limit"]
    async with call.services.database.session() as connection:
        plans = await records.newest(connection, call.values["before"], limit + 1)
    next_cursor = plans[limit - 1].number if len(plans) > limit else None
    return PlanList([_answer(plan) for plan in plans[:limit]], next_cursor)


async def _get(call: Call, plan_id: str) -> Plan:
    async with call.services.database.session() as connection:
        plan = await records.get(connection, plan_id)
    if plan is None:
        raise _refused(refusals.PlanUnknown())
    return plan


def _caller(call: Call) -> Caller:
    principal = call.principal
    return Caller(principal.user_id, principal.is_admin, principal.scopes, principal.expires_s)


def _answer(plan: Plan) -> PlanAnswer:
    fields = msgspec.structs.asdict(plan)
    return PlanAnswer(**{name: fields[name] for name in PlanAnswer.__struct_fields__ if name != "secret"})


def _refused(problem: refusals.PlanRefused) -> Refused | InvalidRequest:
    if field := _AS_CONTENT.get(problem.code):
        return InvalidRequest(Violation(("body", field), str(problem), problem.code))
    counts: dict[str, int] = {}
    if isinstance(problem, refusals.PlanChanged):
        counts = {"planned_count": problem.planned, "current_count": problem.current}
    return Refused(problem.code, str(problem), **counts)


PLAN_ID: Final = parameters.identity("plan_id", "The id of a plan.")
ENDPOINTS: Final = (
    Endpoint(
        "/plans",
        "make_plan",
        "What would this action do?",
        make_plan,
        PlanAnswer,
        problems=("beyond_caller", "nothing_to_plan", "runner_unavailable"),
        method="POST",
        content=Action,
        status=201,
    ),
    Endpoint(
        "/plans",
        "list_plans",
        "Which plans were made?",
        list_plans,
        PlanList,
        (parameters.before("plans"), parameters.limit()),
    ),
    Endpoint(
        "/plans/{plan_id}", "show_plan", "How far is this plan?", show_plan, PlanAnswer, (PLAN_ID,), ("plan_not_found",)
    ),
    Endpoint(
        "/plans/{plan_id}/run",
        "run_plan",
        "Do it, once.",
        run_plan,
        PlanAnswer,
        (PLAN_ID,),
        _REFUSED,
        method="POST",
        content=RunContent,
        status=202,
    ),
)
