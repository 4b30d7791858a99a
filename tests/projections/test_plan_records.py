"""A plan moves one way only, and only the runner of the present epoch moves it."""

from datetime import timedelta

import asyncpg
import msgspec
import pytest

from projections.maintenance import runner_presence
from projections.plans import records
from projections.plans.actions import LANES, Action, ParkedRetry, Rollback, name_of
from projections.plans.records import Plan, PlanReplaced, Preview

CONTROLS = next(lane.actions for lane in LANES if lane.name == "controls")
PREVIEW = Preview(1, "generation", "digest", "Readers are switched.")


async def queued(connection: asyncpg.Connection) -> Plan:
    plan = await records.create(connection, Rollback(), "tester", "rollback", PREVIEW)
    await records.queue(connection, plan, "a reason", "tester")
    return plan


async def state_of(connection: asyncpg.Connection, plan: Plan) -> str:
    found = await records.get(connection, plan.plan_id)
    assert found is not None
    return found.state


async def test_a_replaced_runner_can_neither_claim_nor_write(connection: asyncpg.Connection) -> None:
    plan = await queued(connection)
    old = await runner_presence.begin(connection, "old")
    claimed = await records.claim(connection, CONTROLS, old)
    assert claimed is not None
    assert (claimed[0].plan_id, claimed[1]) == (plan.plan_id, False)
    new = await runner_presence.begin(connection, "new")
    resumed = await records.claim(connection, CONTROLS, new)
    assert resumed is not None
    assert (resumed[0].plan_id, resumed[1]) == (plan.plan_id, True)
    for write in (records.end(connection, plan, old, "done"), records.require_epoch(connection, plan, old)):
        with pytest.raises(PlanReplaced):
            await write
    later = await queued(connection)
    assert await records.claim(connection, CONTROLS, old) is None
    assert await state_of(connection, later) == "queued"
    await records.end(connection, plan, new, "done")
    assert await state_of(connection, plan) == "done"
    with pytest.raises(PlanReplaced):
        await records.end(connection, plan, new, "twice")


async def test_an_interrupted_plan_comes_before_those_in_the_queue(connection: asyncpg.Connection) -> None:
    first, second = await queued(connection), await queued(connection)
    claimed = await records.claim(connection, CONTROLS, await runner_presence.begin(connection, "old"))
    assert claimed is not None
    assert claimed[0].plan_id == first.plan_id
    epoch = await runner_presence.begin(connection, "new")
    order = [await records.claim(connection, CONTROLS, epoch) for _ in range(3)]
    assert [found and (found[0].plan_id, found[1]) for found in order] == [
        (first.plan_id, True),
        (second.plan_id, False),
        None,
    ]


async def test_a_preview_that_comes_too_late_is_dropped(connection: asyncpg.Connection) -> None:
    plan = await records.create(connection, Rollback(), "tester", None, None)
    assert plan.state == "planning"
    await records.reject(connection, plan.plan_id, "nothing_to_plan", "There is nothing.")
    assert await records.set_preview(connection, plan.plan_id, PREVIEW) is None
    assert await state_of(connection, plan) == "failed"


async def test_old_plans_are_deleted_and_forgotten_ones_given_up(connection: asyncpg.Connection) -> None:
    unused, run, waiting = [await records.create(connection, Rollback(), "t", None, PREVIEW) for _ in range(3)]
    await records.queue(connection, run, "a reason", "tester")
    await records.finish(connection, run, "done")
    await records.queue(connection, waiting, "a reason", "tester")

    async def age(column: str, plan: Plan, by: timedelta) -> None:
        statement = f"UPDATE control.plan SET {column} = {column} - $2::interval WHERE plan_id = $1"  # noqa: S608
        await connection.execute(statement, plan.plan_id, by)

    await age("run_at", waiting, timedelta(hours=1, minutes=1))
    await records.tidy(connection)
    assert [await state_of(connection, plan) for plan in (unused, run, waiting)] == ["ready", "done", "failed"]
    await age("expires_at", unused, timedelta(days=1, minutes=16))
    await age("ended_at", run, timedelta(days=91))
    await records.tidy(connection)
    assert [plan.plan_id for plan in await records.newest(connection, None, 10)] == [waiting.plan_id]


def test_an_action_is_stored_as_it_was_sent() -> None:
    body = b'{"action": "parked_retry", "reason": "invalid_json", "source": ""}'
    action = msgspec.json.decode(body, type=Action)
    assert isinstance(action, ParkedRetry)
    assert (action.selection.reason, action.selection.type, action.selection.source) == ("invalid_json", None, "")
    assert name_of(action) == "parked_retry"
