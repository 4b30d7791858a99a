"""An upgrade from the last release: its generation serves until a rebuild replaces it, and a rollback returns to it."""

import json
from collections.abc import Sequence

import asyncpg

from projections.store.queries import Generation
from tests.support.api_fuzz import ApiClient, RequestCase, request_cases
from tests.support.command import CompletedCommand, membership
from tests.support.differential import DifferentialRun, api_client, assert_no_differences, response_differences
from tests.support.older_shape import MIGRATION, give_older_shape
from tests.support.operations import live
from tests.support.processes import System
from tests.support.random_history import History

SEED = 2_500
REQUESTS = 150


async def operate(system: System, *arguments: str) -> CompletedCommand:
    completed = await membership(system.environment, *arguments)
    assert completed.code == 0, completed.err + completed.out
    return completed


async def stop_with_the_last_releases_data(system: System) -> None:
    """End all processes and leave the database as the last release would have left it."""
    await system.stop()
    system.children.clear()
    connection = await asyncpg.connect(system.database_url)
    await give_older_shape(connection, Generation("g1"))
    await connection.close()


async def assert_equals_reference(
    api: ApiClient, run: DifferentialRun, requests: Sequence[RequestCase], when: str
) -> None:
    assert_no_differences(await response_differences(api, run.reference, requests), when)


async def test_an_upgrade_serves_exact_answers_before_and_after_its_rebuild(own_system: System) -> None:
    history = History(SEED)
    requests = request_cases(history, SEED, REQUESTS)
    delivery = history.delivery(SEED)
    quarter = len(delivery) // 4
    run = DifferentialRun(own_system)
    await run.publish(delivery[:quarter])
    await stop_with_the_last_releases_data(own_system)
    assert MIGRATION in (await operate(own_system, "migrate")).out
    await own_system.start()
    async with api_client(own_system) as api:
        await assert_equals_reference(api, run, requests, "after the upgrade")
        await run.publish(delivery[quarter : 2 * quarter])
        await assert_equals_reference(api, run, requests, "events written in the last release's shape")
        assert json.loads((await operate(own_system, "verify", "--json")).out.splitlines()[-1])["differences"] == 0
        repaired = await operate(own_system, "repair", "--campaign", history.campaigns[0], "--dry-run")
        assert "matches the stream" in repaired.out
        await operate(own_system, "rebuild")
        assert await live(own_system) == "g3"
        await assert_equals_reference(api, run, requests, "after the rebuild")
        await run.publish(delivery[2 * quarter : 3 * quarter])
        await assert_equals_reference(api, run, requests, "events written to both")
        await operate(own_system, "rollback")
        assert await live(own_system) == "g1"
        await run.publish(delivery[3 * quarter :])
        await assert_equals_reference(api, run, requests, "after the rollback")
        await operate(own_system, "rollback")
        assert await live(own_system) == "g3"
        await assert_equals_reference(api, run, requests, "in the new shape again")
    await operate(own_system, "erase", "--customer", history.customers[0], "--yes")
    for name in ("g1", "g3"):
        rows = await own_system.fetch(
            f"SELECT FROM {name}.membership WHERE customer_id = $1",
            history.customers[0],
        )
        assert not rows
