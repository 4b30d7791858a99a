"""What happens to the read model when its parts die, sleep, restart or lie: a moment's lag, or a refusal; no wrong row.

The expectation is the generator's own, by way of the reference, never a second fold of what was delivered.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import nats as nats_py
import pytest

from consumers import stream
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.postgres import PostgresServer
from projections.store import database as databases
from projections.store.migrations import migrate
from tests.support.api_fuzz import questions
from tests.support.builders import customer_id, published
from tests.support.differential import Telling, asking, demand_none, differing
from tests.support.processes import System, eventually
from tests.support.random_history import History

KILLS = int(os.environ.get("MEMBERSHIP_TEST_KILLS", "5"))
QUESTIONS = 300
LATE_VERSION = 2**62


async def tell_while(system: System, seed: int, disturb: asyncio.Task[None]) -> None:
    """Deliver a scrambled world while something disturbs, then hold every table and answer against the reference."""
    world = History(seed)
    telling = Telling(system)
    await telling.tell(world.scrambled(seed))
    await disturb
    await system.settled(max(telling.told))
    assert telling.reference.model == world.final()
    async with asking(system) as asker:
        found = await differing(asker, telling.reference, questions(world, seed, QUESTIONS))
    demand_none(await telling.parked_otherwise() + found, f"world {seed}")


async def test_kill_9_of_the_projector_at_random_points_changes_nothing(own_system: System) -> None:
    rng = Random(7)

    async def kill_again_and_again() -> None:
        for _ in range(KILLS):
            await asyncio.sleep(rng.uniform(0.05, 1.0))
            own_system.kill("project")
            own_system.launch("project")

    await tell_while(own_system, 7, asyncio.create_task(kill_again_and_again()))


async def test_a_broker_that_dies_and_comes_back_in_mid_load_loses_nothing(own_system: System) -> None:
    position = await own_system.publish([published("target.enrolled.v1", 1, customer=n) for n in range(1, 500)])
    os.kill(own_system.broker.pid, signal.SIGKILL)
    own_system.broker.stop()
    own_system.broker.start()
    position = await own_system.publish([published("campaign.upserted.v1", 1)])
    await own_system.settled(position)
    assert (await own_system.fetch("SELECT sum(memberships)::int AS n FROM g1.customer_summary"))[0]["n"] == 499


@pytest.fixture
async def on_own_server(nats: NatsServer, tmp_path: Path) -> AsyncIterator[tuple[System, PostgresServer]]:
    """Projector and API on a PostgreSQL server that the test may restart."""
    server = PostgresServer(tmp_path / "postgres")
    server.start()
    connection = await databases.connect(server.url, "test")
    await migrate(connection)
    await connection.close()
    system = System(server.url, nats, tmp_path)
    try:
        await system.start()
        yield system, server
    finally:
        await system.stop()
        server.stop()


async def restarted(server: PostgresServer) -> None:
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)


async def test_a_database_that_restarts_in_mid_load_loses_nothing(
    on_own_server: tuple[System, PostgresServer],
) -> None:
    system, server = on_own_server

    async def restart_twice() -> None:
        for _ in range(2):
            await asyncio.sleep(0.4)
            await restarted(server)

    await tell_while(system, 8, asyncio.create_task(restart_twice()))


async def test_a_standby_stands_by_through_a_database_restart(on_own_server: tuple[System, PostgresServer]) -> None:
    system, server = on_own_server
    system.launch("project", "standby")
    await eventually(lambda: "standing_by" in system.log("standby"), "the standby stands by")
    await restarted(server)
    await system.settled(await system.publish([published("customer.upserted.v1", 1)]))
    assert [system.children[name].poll() for name in ("project", "standby")] == [None, None]


async def test_a_standby_takes_over_from_a_leader_that_is_killed(own_system: System) -> None:
    own_system.launch("project", "standby")
    await eventually(lambda: "standing_by" in own_system.log("standby"), "the standby stands by")
    own_system.kill("project")
    position = await own_system.publish([published("customer.upserted.v1", 1)])
    await own_system.settled(position)
    assert "leading" in own_system.log("standby")


async def test_a_leader_that_slept_through_a_take_over_commits_nothing(own_system: System) -> None:
    await own_system.settled(await own_system.publish([published("customer.upserted.v1", 1)]))
    own_system.launch("project", "standby")
    await eventually(lambda: "standing_by" in own_system.log("standby"), "the standby stands by")
    own_system.kill("project", signal.SIGSTOP)
    messages = [published("customer.upserted.v1", n) for n in range(2, 400)]
    await own_system.settled(await own_system.publish(messages))
    epoch = await own_system.fetch("SELECT epoch, position FROM control.checkpoint")

    own_system.kill("project", signal.SIGCONT)
    await eventually(lambda: own_system.log("project").count("standing_by") == 1, "the sleeper stands by")
    assert await own_system.fetch("SELECT epoch, position FROM control.checkpoint") == epoch
    assert own_system.log("project").count("leading") == 1
    await own_system.settled(await own_system.publish([published("customer.upserted.v1", LATE_VERSION)]))
    assert (await own_system.fetch("SELECT version FROM g1.customer"))[0]["version"] == LATE_VERSION


@pytest.mark.parametrize("refilled", [False, True])
async def test_a_stream_that_was_deleted_or_created_again_is_refused_loudly(own_system: System, refilled: bool) -> None:
    await own_system.settled(await own_system.publish([published("customer.upserted.v1", 1)]))
    client = await nats_py.connect(own_system.nats_url)
    await client.jetstream().delete_stream(stream.STREAM)
    if refilled:
        await stream.create(client, replicas=1)
        for version in range(2, 9):
            await client.jetstream().publish(*published("customer.upserted.v1", version))
    await client.close()
    code = await eventually(own_system.children["project"].poll, "the projector ends")
    assert code == 1
    wanted = "It is another stream under the same name" if refilled else "does not exist"
    assert wanted in own_system.log("project")
    assert (await own_system.fetch("SELECT version FROM g1.customer"))[0]["version"] == 1


async def test_sigterm_ends_a_projector_whose_database_and_broker_die_with_it(
    on_own_server: tuple[System, PostgresServer],
) -> None:
    system, server = on_own_server
    server.kill()
    system.broker.kill()
    system.kill("project", signal.SIGTERM)
    assert system.children["project"].returncode == 0


async def test_sigterm_ends_the_projector_cleanly(own_system: System) -> None:
    own_system.kill("project", signal.SIGTERM)
    assert own_system.children["project"].returncode == 0
    assert "Traceback" not in own_system.log("project")


async def test_a_position_is_not_reached_any_more_once_the_read_model_went_back(own_system: System) -> None:
    position = await own_system.publish([published("customer.upserted.v1", n) for n in range(1, 20)])
    await own_system.settled(position)
    own_system.kill("project")
    path = f"/customers/{customer_id(1)}/campaigns"
    wanted = {"Membership-Min-Position": str(position), "Prefer": "wait=0"}
    assert (await own_system.get(path, headers=wanted)).status_code == 200
    await own_system.fetch("UPDATE control.checkpoint SET position = 5")
    for _ in range(2):
        reply = await own_system.get(path, headers=wanted)
        assert (reply.status_code, reply.json()["code"]) == (503, "position_not_reached")


async def test_the_metrics_tell_the_position_that_answers_tell(own_system: System) -> None:
    position = await own_system.publish([published("customer.upserted.v1", n) for n in range(1, 4)])
    await own_system.settled(position)
    text = (await own_system.get("/metrics")).text
    assert f"membership_position {float(position)}" in text
