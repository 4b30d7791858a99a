"""Processes and servers that are killed, paused, restarted or replaced cause lag or a refusal, but no wrong row.

The expected rows come from the generator through the reference, never from a second fold of the delivered messages.
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
from tests.support.api_fuzz import request_cases
from tests.support.builders import customer_id, published
from tests.support.differential import DifferentialRun, api_client, assert_no_differences, response_differences
from tests.support.processes import System, eventually
from tests.support.random_history import History

KILLS = int(os.environ.get("MEMBERSHIP_TEST_KILLS", "5"))
REQUESTS = 300
LATE_VERSION = 2**62


async def publish_during(system: System, seed: int, fault: asyncio.Task[None]) -> None:
    """Publish a random history during a fault, then compare parked events and responses with the reference."""
    history = History(seed)
    run = DifferentialRun(system)
    await run.publish(history.delivery(seed))
    await fault
    await system.wait_until_applied(max(run.published))
    assert run.reference.model == history.final()
    async with api_client(system) as api:
        differences = await response_differences(api, run.reference, request_cases(history, seed, REQUESTS))
    assert_no_differences(await run.parking_differences() + differences, f"history {seed}")


async def test_kill_9_of_the_projector_at_random_points_changes_nothing(own_system: System) -> None:
    rng = Random(7)

    async def kill_repeatedly() -> None:
        for _ in range(KILLS):
            await asyncio.sleep(rng.uniform(0.05, 1.0))
            own_system.kill("project")
            own_system.launch("project")

    await publish_during(own_system, 7, asyncio.create_task(kill_repeatedly()))


async def test_a_broker_killed_and_restarted_under_load_loses_nothing(own_system: System) -> None:
    position = await own_system.publish([published("target.enrolled.v1", 1, customer=n) for n in range(1, 500)])
    os.kill(own_system.broker.pid, signal.SIGKILL)
    own_system.broker.stop()
    own_system.broker.start()
    position = await own_system.publish([published("campaign.upserted.v1", 1)])
    await own_system.wait_until_applied(position)
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


async def test_a_database_restarted_under_load_loses_nothing(
    on_own_server: tuple[System, PostgresServer],
) -> None:
    system, server = on_own_server

    async def restart_twice() -> None:
        for _ in range(2):
            await asyncio.sleep(0.4)
            await restarted(server)

    await publish_during(system, 8, asyncio.create_task(restart_twice()))


async def test_a_standby_survives_a_database_restart(on_own_server: tuple[System, PostgresServer]) -> None:
    system, server = on_own_server
    system.launch("project", "standby")
    await eventually(lambda: "standing_by" in system.log("standby"), "the standby stands by")
    await restarted(server)
    await system.wait_until_applied(await system.publish([published("customer.upserted.v1", 1)]))
    assert [system.children[name].poll() for name in ("project", "standby")] == [None, None]


async def test_a_standby_takes_over_from_a_killed_leader(own_system: System) -> None:
    own_system.launch("project", "standby")
    await eventually(lambda: "standing_by" in own_system.log("standby"), "the standby stands by")
    own_system.kill("project")
    position = await own_system.publish([published("customer.upserted.v1", 1)])
    await own_system.wait_until_applied(position)
    assert "leadership_acquired" in own_system.log("standby")


async def test_a_leader_paused_during_a_takeover_commits_nothing(own_system: System) -> None:
    await own_system.wait_until_applied(await own_system.publish([published("customer.upserted.v1", 1)]))
    own_system.launch("project", "standby")
    await eventually(lambda: "standing_by" in own_system.log("standby"), "the standby stands by")
    own_system.kill("project", signal.SIGSTOP)
    messages = [published("customer.upserted.v1", n) for n in range(2, 400)]
    await own_system.wait_until_applied(await own_system.publish(messages))
    epoch = await own_system.fetch("SELECT epoch, position FROM control.checkpoint")

    own_system.kill("project", signal.SIGCONT)
    await eventually(lambda: own_system.log("project").count("standing_by") == 1, "the former leader stands by")
    assert await own_system.fetch("SELECT epoch, position FROM control.checkpoint") == epoch
    assert own_system.log("project").count("leadership_acquired") == 1
    await own_system.wait_until_applied(await own_system.publish([published("customer.upserted.v1", LATE_VERSION)]))
    assert (await own_system.fetch("SELECT version FROM g1.customer"))[0]["version"] == LATE_VERSION


@pytest.mark.parametrize("refilled", [False, True])
async def test_a_deleted_or_recreated_stream_ends_the_projector(own_system: System, refilled: bool) -> None:
    await own_system.wait_until_applied(await own_system.publish([published("customer.upserted.v1", 1)]))
    client = await nats_py.connect(own_system.nats_url)
    await client.jetstream().delete_stream(stream.STREAM)
    if refilled:
        await stream.create(client, replicas=1)
        for version in range(2, 9):
            await client.jetstream().publish(*published("customer.upserted.v1", version))
    await client.close()
    code = await eventually(own_system.children["project"].poll, "the projector ends")
    assert code == 1
    reason = "It is another stream under the same name" if refilled else "does not exist"
    assert reason in own_system.log("project")
    assert (await own_system.fetch("SELECT version FROM g1.customer"))[0]["version"] == 1


async def test_sigterm_ends_a_projector_without_database_and_broker(
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


async def test_a_restored_read_model_no_longer_reaches_a_later_position(own_system: System) -> None:
    position = await own_system.publish([published("customer.upserted.v1", n) for n in range(1, 20)])
    await own_system.wait_until_applied(position)
    own_system.kill("project")
    path = f"/customers/{customer_id(1)}/campaigns"
    headers = {"Membership-Min-Position": str(position), "Prefer": "wait=0"}
    assert (await own_system.get(path, headers=headers)).status_code == 200
    await own_system.fetch("UPDATE control.checkpoint SET position = 5")
    for _ in range(2):
        reply = await own_system.get(path, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (503, "position_not_reached")


async def test_the_metrics_show_the_position_of_the_responses(own_system: System) -> None:
    position = await own_system.publish([published("customer.upserted.v1", n) for n in range(1, 4)])
    await own_system.wait_until_applied(position)
    text = (await own_system.get("/metrics")).text
    assert f"membership_position {float(position)}" in text
