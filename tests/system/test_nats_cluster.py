"""A stream with three replicas survives the loss of a server under load, and each state of it is said in a sentence."""

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from consumers import stream
from consumers.client import connect_once
from consumers.replicas import QuorumLost, Replication
from ops.devstack.servers.nats_cluster import NatsCluster, NatsNode
from projections.errors import ReplicasRefused, StreamWentBack
from projections.model.events import Position
from projections.store.checkpoint import Checkpoint
from projections.store.queries import Generation
from tests.support.builders import customer_id, published
from tests.support.command import membership
from tests.support.processes import System, eventually
from tests.support.publish_load import PublishLoad

RESUMED_S = 20.0
"""From a new leader's first acknowledgement until its event is applied; twice what is promised, for a busy machine."""
EVENTS_BEFORE = 200


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[NatsCluster]:
    """Three nodes for a test, which may kill or freeze them."""
    cluster = NatsCluster([tmp_path / f"nats-{number}" for number in (1, 2, 3)])
    cluster.start()
    yield cluster
    for node in cluster.nodes:
        if node.running:
            os.kill(node.pid, signal.SIGCONT)
    cluster.stop()


@asynccontextmanager
async def running(cluster: NatsCluster, database_url: str, folder: Path) -> AsyncIterator[System]:
    """Run projector and API on the cluster, with three replicas."""
    system = System(database_url, cluster.nodes[0], folder)
    system.nats_url = cluster.url
    system.settings["MEMBERSHIP_STREAM_REPLICAS"] = "3"
    try:
        await system.start()
        yield system
    finally:
        await system.stop()


async def replication(url: str) -> Replication:
    """Return how the stream is replicated, as the broker reports it."""
    client = await connect_once(url, "test")
    try:
        state = await stream.fetch_state(client)
    finally:
        await client.close()
    assert state is not None
    return state.replication


async def leader_of(cluster: NatsCluster, url: str = "") -> NatsNode:
    """Wait until three replicas are current; return the node that leads them."""

    async def current() -> Replication | None:
        found = await replication(url or cluster.url)
        return found if [replica.current for replica in found.replicas] == [True] * 3 else None

    found = await eventually(current, "three replicas are current", 20)
    return cluster.node(found.replicas[0].name)


async def applied_customers(system: System) -> set[str]:
    return {row["customer_id"] for row in await system.fetch("SELECT customer_id::text FROM g1.customer")}


async def assert_nothing_is_lost(system: System, load: PublishLoad) -> None:
    """Assert that every acknowledged event is in the stream at its position, and applied."""
    assert await load.lost() == []
    await system.wait_until_applied(max(load.acknowledged.values()))
    assert {customer_id(number) for number in load.acknowledged} <= await applied_customers(system)


@pytest.mark.parametrize(
    ("connected_to", "number"), [("leader", signal.SIGKILL), ("leader", signal.SIGSTOP), ("follower", signal.SIGSTOP)]
)
async def test_a_lost_leader_costs_no_acknowledged_event(
    cluster: NatsCluster, database_url: str, tmp_path: Path, connected_to: str, number: signal.Signals
) -> None:
    async with running(cluster, database_url, tmp_path) as system:
        leader = await leader_of(cluster)
        follower = next(node for node in cluster.nodes if node is not leader)
        await restart_projector(system, (leader if connected_to == "leader" else follower).url)
        load = PublishLoad(cluster.url)
        async with load.running():
            await eventually(lambda: len(load.acknowledged) > EVENTS_BEFORE, "events are acknowledged")
            os.kill(leader.pid, number)
            position = await load.next_acknowledgement()
            await eventually(lambda: has_applied(system, position), "the projector resumes", RESUMED_S)
        if number == signal.SIGSTOP:
            os.kill(leader.pid, signal.SIGCONT)
        await assert_nothing_is_lost(system, load)
        assert system.children["project"].poll() is None, system.log("project")


async def restart_projector(system: System, url: str) -> None:
    """Start the projector again, connected to one node; it learns of the others from that."""
    system.kill("project")
    system.settings["MEMBERSHIP_NATS_URL"] = url
    system.launch("project")
    await eventually(lambda: system.log("project").count("caught_up") == 2, "the projector reads again")


async def has_applied(system: System, position: int) -> bool:
    return bool((await system.fetch("SELECT position FROM control.checkpoint"))[0]["position"] >= position)


async def status(system: System) -> tuple[int, Any, str]:
    command = await membership(system.environment, "status", "--json")
    return command.code, json.loads(command.out), command.err


async def test_status_shows_the_replicas_and_says_when_the_quorum_is_lost(
    cluster: NatsCluster, database_url: str, tmp_path: Path
) -> None:
    async with running(cluster, database_url, tmp_path) as system:
        await system.wait_until_applied(await system.publish([published("customer.upserted.v1", 1)]))
        leader = await leader_of(cluster)
        code, shown, problem = await status(system)
        assert (code, problem) == (0, "")
        assert [(r["leader"], r["current"], r["lag"]) for r in shown["stream_replicas"]] == [
            (True, True, 0),
            (False, True, 0),
            (False, True, 0),
        ]

        system.settings["MEMBERSHIP_NATS_URL"] = leader.url
        first, second = (node for node in cluster.nodes if node is not leader)
        first.kill()
        await eventually(lambda: says(system, f"the leader hears nothing from {first.routes.name}"), "one is missing")
        await system.wait_until_applied(await system.publish([published("customer.upserted.v1", 2)]))

        second.kill()
        await eventually(lambda: says(system, "has lost its quorum"), "the quorum is lost")
        await eventually(lambda: "has lost its quorum" in system.log("project"), "the projector says so", 30)
        assert (await status(system))[0] == 1
        first.start()
        await eventually(lambda: says(system, f"the leader hears nothing from {second.routes.name}"), "it has a quorum")
        await system.wait_until_applied(await system.publish([published("customer.upserted.v1", 3)]))


async def says(system: System, sentence: str) -> bool:
    return sentence in (await status(system))[2]


async def test_a_leader_without_a_majority_is_not_taken_for_a_loss(cluster: NatsCluster) -> None:
    client = await connect_once(cluster.url, "test")
    state = await stream.create(client, 3)
    await client.jetstream().publish(*published("customer.upserted.v1", 1))
    leader = await leader_of(cluster)
    await client.close()
    client = await connect_once(leader.url, "test")
    ahead = Checkpoint(Generation("g1"), Position(2), 1, state.created, 1)
    with pytest.raises(StreamWentBack, match="its last position is 1"):
        await stream.identify(client, ahead)
    for node in cluster.nodes:
        if node is not leader:
            os.kill(node.pid, signal.SIGSTOP)

    async def is_unsure() -> bool:
        try:
            await stream.identify(client, ahead)
        except QuorumLost:
            return True
        except StreamWentBack:
            return False
        return False

    await eventually(is_unsure, "the loss of the quorum is noticed", 15)
    await client.close()


async def test_the_setting_raises_the_replicas_and_never_lowers_them(
    cluster: NatsCluster, database_url: str, tmp_path: Path
) -> None:
    client = await connect_once(cluster.url, "test")
    await stream.create(client, 1)
    async with running(cluster, database_url, tmp_path) as system:
        await eventually(lambda: "stream_replicas_raised" in system.log("project"), "the projector raises them")
        await leader_of(cluster)
        await system.wait_until_applied(await system.publish([published("customer.upserted.v1", 1)]))
        system.settings["MEMBERSHIP_STREAM_REPLICAS"] = "1"
        system.kill("project")
        system.launch("project")
        await system.wait_until_applied(await system.publish([published("customer.upserted.v1", 2)]))
        assert (await replication(cluster.url)).wanted == 3

        system.settings["MEMBERSHIP_STREAM_REPLICAS"] = "5"
        system.kill("project")
        system.launch("project")
        await eventually(lambda: "cannot keep 5 replicas" in system.log("project"), "it says that it cannot")
        await system.wait_until_applied(await system.publish([published("customer.upserted.v1", 3)]))
        code, _, problem = await status(system)
        assert (code, "has 3 replicas instead of the 5 of MEMBERSHIP_STREAM_REPLICAS" in problem) == (1, True), problem
    with pytest.raises(ReplicasRefused, match="MEMBERSHIP_STREAM_REPLICAS"):
        await stream.raise_replicas(client, 5)
    await client.close()
