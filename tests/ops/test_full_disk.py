"""A broker that cannot write is reported by commands and restarted by the dev stack; it never recovers by itself."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers import stream
from consumers.client import BrokerUnavailable, TolerantClient, connect_once
from ops.devstack import supervisor as supervisors
from ops.devstack.servers import nats as nats_module
from ops.devstack.servers.nats import NatsServer
from ops.devstack.supervisor import Supervisor
from ops.publisher import JetStreamOff, Publication, publish_events
from tests.support.builders import published
from tests.support.processes import eventually

FILE_BYTES_MAX = 200_000
STORED = b'"seq"'


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[TolerantClient]:
    client = await connect_once(nats.url, "test")
    await stream.create(client, replicas=1)
    yield client
    await client.close()


async def fail_a_write(server: NatsServer, client: TolerantClient) -> None:
    """Make writes of the server fail as on a full disk, until one has failed; then allow them again."""
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, hard))
    with suppress(NatsError):
        for number in range(100):
            await client.request(f"membership.full.{number}", b"x" * 20_000, timeout=1)
        pytest.fail("the server stored more than its limit")
    with suppress(ProcessLookupError):  # already restarted
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))


async def publish_one(server: NatsServer) -> None:
    subject, body = published("customer.upserted.v1", 1)
    async for _ in publish_events(server.url, [Publication(subject, "one", body)]):
        pass


async def test_publishing_reports_a_broker_that_stores_nothing(
    nats: NatsServer, client: TolerantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nats.health_problem() == ""
    await fail_a_write(nats, client)
    assert "write error" in nats.health_problem()
    with pytest.raises(NatsTimeoutError):
        await client.request("membership.full.again", b"x", timeout=1)
    monkeypatch.setattr("ops.publisher.RETRY_DEADLINE_S", 0.0)
    with pytest.raises(BrokerUnavailable, match=r"it answers, but stores nothing\. .* after a restart"):
        await publish_one(nats)


async def test_a_broker_without_jetstream_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "host: 127.0.0.1\nport: {port}\n# {store_dir}{monitoring_port}\n"
    monkeypatch.setattr(nats_module, "_CONFIGURATION", text)
    server = NatsServer(tmp_path / "nats")
    await asyncio.to_thread(server.start)
    try:
        client = await connect_once(server.url, "test")
        with pytest.raises(NatsError) as raised:
            await stream.fetch_state(client)
        await client.close()
        monkeypatch.setattr("ops.publisher.RETRY_DEADLINE_S", 0.0)
        with pytest.raises(JetStreamOff, match="runs without JetStream: it is not enabled"):
            await publish_one(server)
    finally:
        await asyncio.to_thread(server.stop)
    assert stream.explain(raised.value).startswith("nothing answers for JetStream on the broker: it is disabled")


async def test_the_supervisor_restarts_a_broker_that_stays_unhealthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisors, "HEALTH_EVERY_S", 0.1)
    monkeypatch.setattr(supervisors, "UNHEALTHY_MAX_S", 0.3)
    restarted = asyncio.Event()
    supervisor = Supervisor(restarted.set)
    server = NatsServer(tmp_path / "nats")
    await supervisor.start(server)
    try:
        client = await connect_once(server.url, "test")
        await stream.create(client, replicas=1)
        pid, began = server.pid, time.monotonic()
        await fail_a_write(server, client)
        await client.close()
        async with asyncio.timeout(30):
            await restarted.wait()
        assert server.pid != pid
        assert time.monotonic() - began > supervisors.UNHEALTHY_MAX_S
        assert "stayed unhealthy" in capsys.readouterr().err
        client = await connect_once(server.url, "test")

        async def stored() -> bool:
            return STORED in (await client.request("membership.full.again", b"x", timeout=5)).data

        await eventually(stored, "the restarted server stores again")
        await client.close()
    finally:
        await supervisor.stop()
