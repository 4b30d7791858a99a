"""A rebuild replaces a live generation with unreadable tables, and reports what it could not compare."""

import json

import asyncpg
import pytest

from tests.support.builders import campaign_id, customer_id, published
from tests.support.command import CompletedCommand, membership
from tests.support.known_outcome import Dataset
from tests.support.processes import System, eventually


async def operate(system: System, *arguments: str) -> CompletedCommand:
    return await membership(system.environment, *arguments)


@pytest.fixture
async def dataset(own_system: System) -> Dataset:
    """A dataset whose events are all applied."""
    dataset = Dataset(3, customers=10, campaigns=6, memberships_each=3)
    await own_system.wait_until_applied(await own_system.publish(dataset.events()))
    return dataset


async def execute(system: System, statement: str) -> None:
    connection = await asyncpg.connect(system.database_url)
    await connection.execute(statement)
    await connection.close()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("ALTER TABLE g1.campaign RENAME COLUMN created_at TO oops", 'column "created_at" does not exist'),
        ("DROP TABLE g1.parked_event", 'relation "g1.parked_event" does not exist'),
    ],
    ids=["column renamed", "table dropped"],
)
@pytest.mark.usefixtures("dataset")
async def test_an_unreadable_live_generation_is_replaced(own_system: System, damage: str, problem: str) -> None:
    await execute(own_system, damage)
    sentence = f"The live generation g1 cannot be compared: {problem}."
    verified = await operate(own_system, "verify", "--no-throttle")
    assert (verified.code, sentence in verified.err, "No row differs" in verified.out) == (1, True, False), verified
    refused = await operate(own_system, "rebuild", "--no-throttle")
    assert (refused.code, sentence in refused.err, "membership rebuild --yes" in refused.err) == (1, True, True), (
        refused
    )
    replaced = await operate(own_system, "rebuild", "--yes", "--no-throttle")
    assert replaced.code == 0, replaced
    assert replaced.out.splitlines()[-1] == (
        "g3 is live. g1 is broken and no longer follows, so a rollback cannot return to it; "
        "it is dropped after 24 hours."
    )
    rollback = await operate(own_system, "rollback")
    assert (rollback.code, "Generation g1, which was live before, is broken" in rollback.err) == (1, True), rollback
    assert problem in (await operate(own_system, "audit")).out
    await own_system.wait_until_applied(
        await own_system.publish([published("customer.upserted.v1", 10**9, customer=1)])
    )
    reply = await own_system.get(f"/customers/{customer_id(1)}/campaigns", params={"include_deleted": True})
    assert reply.status_code == 200, reply.text
    verified = await operate(own_system, "verify", "--no-throttle", "--json")
    report = json.loads(verified.out.splitlines()[-1])
    assert (verified.code, report["differences"], report["not_compared"]) == (0, 0, None)


@pytest.mark.usefixtures("dataset")
async def test_a_broken_generation_with_a_fan_out_left_over_is_replaced(own_system: System) -> None:
    await execute(own_system, "ALTER TABLE g1.customer RENAME COLUMN owner_id TO oops")
    await own_system.publish([published("customer.upserted.v1", 10**9, customer=1)])

    async def broken() -> bool:
        return bool(
            await own_system.fetch("SELECT FROM control.generation WHERE generation = 'g1' AND state = 'broken'")
        )

    await eventually(broken, "g1 is broken")
    await execute(
        own_system,
        "INSERT INTO control.fan_out (generation, campaign_id, resumes_at) "  # noqa: S608 - the tests' own ids
        f"VALUES ('g1', '{campaign_id(1)}', '{customer_id(1)}')",
    )
    replaced = await operate(own_system, "rebuild", "--yes", "--no-throttle")
    assert (replaced.code, "g1 is broken and no longer follows" in replaced.out) == (0, True), replaced
    position = await own_system.publish([published("customer.upserted.v1", 10**9 + 1, customer=1)])
    await own_system.wait_until_applied(position)
