"""A job runner that is killed, stopped, cut off or paused in the middle of a plan: it is done once, in the end."""

import asyncio
import signal
from collections import Counter
from typing import Any

import asyncpg
import pytest

from projections.maintenance import jobs
from tests.support.builders import customer_id
from tests.support.command import membership
from tests.support.console import RUNNER, Console
from tests.support.known_outcome import Dataset
from tests.support.operations import assert_dataset_rows, live
from tests.support.processes import System, eventually

PARKED = 1_000
SLOW = 60
"""Events per second of a rebuild that takes some seconds."""


@pytest.fixture
async def console(own_system: System) -> Console:
    """A console with a job runner, and no events yet."""
    console = Console(own_system)
    await console.start_runner()
    return console


async def begin_discard(console: Console) -> dict[str, Any]:
    """Start to discard many parked events, and return when some of them are done."""
    last = await console.system.publish([("membership.nothing", b"{")] * PARKED)
    await console.system.wait_until_applied(last)
    plan = await console.plan("parked_discard")
    assert plan["count"] == PARKED
    await console.run(plan)
    await eventually(lambda: is_under_way(console, plan), "some events are discarded")
    return plan


async def is_under_way(console: Console, plan: dict[str, Any]) -> bool:
    done = (await console.get(f"/ops/plans/{plan['plan_id']}")).get("done", 0)
    assert done < PARKED, "the fault must come in the middle of the plan"
    return bool(done)


async def assert_discarded_once(console: Console, plan: dict[str, Any]) -> None:
    ended = await console.ended(plan)
    assert (ended["state"], ended["done"]) == ("done", PARKED), ended
    rows = await console.system.fetch("SELECT position FROM control.audit WHERE action = 'parked.discard'")
    assert Counter(row["position"] for row in rows) == dict.fromkeys(range(1, PARKED + 1), 1)
    assert await console.system.parked_positions() == set()


async def test_a_check_says_whether_a_runner_is_alive(console: Console) -> None:
    alive = await membership(console.system.environment, "jobs", "check")
    assert (alive.code, "is alive, since" in alive.out) == (0, True)
    console.system.kill(RUNNER, signal.SIGTERM)
    ended = await membership(console.system.environment, "jobs", "check")
    assert (ended.code, "No job runner is alive" in ended.err) == (1, True)


async def test_a_killed_runners_discard_is_continued_by_the_next_one(console: Console) -> None:
    plan = await begin_discard(console)
    console.system.kill(RUNNER)
    await console.start_runner("next")
    await assert_discarded_once(console, plan)


async def test_a_standby_takes_over_from_a_killed_runner(console: Console) -> None:
    console.system.launch("jobs", "standby", "run")
    await eventually(lambda: "standing_by" in console.system.log("standby"), "the second runner stands by")
    plan = await begin_discard(console)
    console.system.kill(RUNNER)
    await assert_discarded_once(console, plan)
    assert "runner_started" in console.system.log("standby")


async def test_sigterm_ends_the_runner_between_two_steps(console: Console) -> None:
    plan = await begin_discard(console)
    console.system.kill(RUNNER, signal.SIGTERM)
    assert console.system.children[RUNNER].returncode == 0
    left = await console.get(f"/ops/plans/{plan['plan_id']}")
    assert left["state"] == "running"
    rows = await console.system.fetch("SELECT count(*) FROM control.audit WHERE action = 'parked.discard'")
    assert rows[0]["count"] == left["done"]
    del console.system.children[RUNNER]
    await console.start_runner("next")
    await assert_discarded_once(console, plan)


async def test_a_runner_survives_the_loss_of_its_connections(console: Console) -> None:
    plan = await begin_discard(console)
    await console.system.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'membership-runner' "
        "AND datname = current_database()"
    )
    await assert_discarded_once(console, plan)
    assert console.system.children[RUNNER].poll() is None


async def test_a_paused_runner_writes_nothing_after_another_took_over(console: Console) -> None:
    plan = await begin_discard(console)
    console.system.kill(RUNNER, signal.SIGSTOP)
    try:
        await console.start_runner("next")
        await assert_discarded_once(console, plan)
    finally:
        console.system.kill(RUNNER, signal.SIGCONT)
    await eventually(lambda: "runner_interrupted" in console.system.log(RUNNER), "the first runner notices")
    await assert_discarded_once(console, plan)
    assert (await console.do("verify"))["outcome"].startswith("No row differs")


async def begin_rebuild(console: Console) -> dict[str, Any]:
    """Start a slow rebuild, and return when it has begun to fill its generation."""
    dataset = Dataset(3, customers=40, campaigns=12, memberships_each=6)
    await console.system.wait_until_applied(await console.system.publish(dataset.events()))
    plan = await console.plan("rebuild", max_rate=SLOW)
    await console.run(plan)

    async def filling() -> bool:
        found = await console.system.fetch("SELECT phase, done FROM control.job")
        assert not found or found[0]["phase"] == "fill", "the fault must come in the middle of the plan"
        return bool(found and found[0]["done"] > 0)

    await eventually(filling, "the new generation is being filled")
    await console.system.fetch("UPDATE control.plan SET parameters = '{}' WHERE plan_id = $1", plan["plan_id"])
    return plan | {"dataset": dataset}


async def assert_rebuilt_once(console: Console, plan: dict[str, Any]) -> None:
    ended = await console.ended(plan)
    assert ended["state"] == "done", ended
    assert await live(console.system) == "g2"
    found = await console.system.fetch("SELECT job_id, state FROM control.job")
    assert [(job["job_id"], job["state"]) for job in found] == [(ended["job_id"], "done")]
    assert len(await console.audit("switch")) == 1
    await assert_dataset_rows(console.system, plan["dataset"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_interrupted_rebuild_is_continued_by_the_next_runner(console: Console, number: int) -> None:
    plan = await begin_rebuild(console)
    console.system.kill(RUNNER, number)
    assert (await console.get(f"/ops/plans/{plan['plan_id']}"))["state"] == "running"
    await console.start_runner("next")
    await assert_rebuilt_once(console, plan)


async def test_a_plan_is_continued_only_when_no_process_runs_its_job(console: Console) -> None:
    plan = await begin_rebuild(console)
    console.system.kill(RUNNER)
    holder = await asyncpg.connect(console.system.database_url)
    await holder.execute("SELECT pg_advisory_lock($1, $2)", jobs.LOCK_CLASS, jobs.LOCK_ID)
    await console.start_runner("next")

    async def waits() -> bool:
        asks = "SELECT FROM pg_stat_activity WHERE application_name = 'membership-runner' AND query LIKE '%pg_locks%'"
        return bool(await console.system.fetch(asks))

    await eventually(waits, "the next runner waits for the job's lock")
    await holder.close()
    await assert_rebuilt_once(console, plan)


async def test_a_rebuild_whose_end_was_not_recorded_is_not_repeated(console: Console) -> None:
    plan = await begin_rebuild(console)
    holder = await asyncpg.connect(console.system.database_url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT FROM control.plan WHERE plan_id = $1 FOR UPDATE", plan["plan_id"])

    async def switched() -> bool:
        return await live(console.system) == "g2"

    await eventually(switched, "the job has switched, and waits to record that the plan is done")
    console.system.kill(RUNNER)
    await transaction.rollback()
    await holder.close()
    await console.start_runner("next")
    await assert_rebuilt_once(console, plan)


async def test_an_erasure_killed_between_stream_and_rows_is_finished(console: Console) -> None:
    system = console.system
    dataset = Dataset(3, customers=10, campaigns=6, memberships_each=3)
    await system.wait_until_applied(await system.publish(dataset.events()))
    plan = await console.plan("erase", customer_id=customer_id(1))
    holder = await asyncpg.connect(system.database_url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT FROM control.checkpoint FOR UPDATE")
    await console.run(plan)

    async def in_rows() -> bool:
        return bool(await system.fetch("SELECT FROM control.job WHERE phase = 'rows'"))

    await eventually(in_rows, "the messages are purged, and the rows wait for the checkpoint")
    system.kill(RUNNER)
    await transaction.rollback()
    await holder.close()
    await console.start_runner("next")
    assert (await console.ended(plan))["state"] == "done"
    assert not await system.fetch("SELECT FROM g1.membership WHERE customer_id = $1", customer_id(1))
    assert (await console.do("verify"))["outcome"].startswith("No row differs")


async def test_an_erasure_whose_end_was_not_recorded_is_not_repeated(console: Console) -> None:
    system = console.system
    dataset = Dataset(3, customers=10, campaigns=6, memberships_each=3)
    await system.wait_until_applied(await system.publish(dataset.events()))
    plan = await console.plan("erase", customer_id=customer_id(1))
    await console.run(plan)
    ended = await console.ended(plan)
    system.kill(RUNNER)
    await system.fetch(
        "UPDATE control.plan SET state = 'running', outcome = NULL, ended_at = NULL WHERE plan_id = $1", plan["plan_id"]
    )
    await console.start_runner("next")
    again = await console.ended(plan)
    assert (again["state"], again["job_id"]) == ("done", ended["job_id"]), again
    assert [action for _, action in await system.fetch("SELECT 1, action FROM control.audit")].count("erase") == 1


async def test_a_repair_waits_for_a_broker_that_is_away(console: Console) -> None:
    system = console.system
    dataset = Dataset(3, customers=10, campaigns=6, memberships_each=3)
    await system.wait_until_applied(await system.publish(dataset.events()))
    await system.fetch("UPDATE g1.membership SET status = (status + 1) % 4 WHERE customer_id = $1", customer_id(1))
    plan = await console.plan("repair", customer_id=customer_id(1))
    system.broker.stop()
    await console.run(plan)
    await eventually(lambda: "waiting_for_broker" in system.log(RUNNER), "the plan waits for the broker")
    await asyncio.to_thread(system.broker.start)
    assert (await console.ended(plan))["state"] == "done"


async def test_a_stale_rollback_fails_without_switching(console: Console) -> None:
    system = console.system
    dataset = Dataset(3, customers=5, campaigns=3, memberships_each=2)
    await system.wait_until_applied(await system.publish(dataset.events()))
    await console.do("rebuild")
    plan = await console.plan("rollback")
    holder = await asyncpg.connect(system.database_url)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT FROM control.checkpoint FOR UPDATE")  # the runner waits with the rollback
    await console.run(plan)
    await holder.execute("UPDATE control.live SET generation = 'g1', previous = 'g2'")  # another operator is quicker
    await transaction.commit()
    await holder.close()
    ended = await console.ended(plan)
    assert (ended["state"], ended["outcome_code"]) == ("failed", "plan_changed")
    assert await live(system) == "g1"
