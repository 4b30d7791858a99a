"""The stream is the one the checkpoint was taken from, or it is refused with a specific error."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client

from consumers import stream
from consumers.client import TolerantClient
from ops.devstack.servers.nats import NatsServer
from projections.errors import StreamMissing, StreamRecreated, StreamUnsafe, StreamWentBack
from projections.model.events import Position
from projections.store.checkpoint import Checkpoint
from projections.store.queries import Generation


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    client = TolerantClient()
    await client.connect(nats.url)
    yield client
    await client.close()


def at(position: int, time_ns: int | None = None, created: str | None = None) -> Checkpoint:
    return Checkpoint(Generation("g1"), Position(position), time_ns, created, 1)


async def published(client: Client, count: int) -> Checkpoint:
    """Publish, and return the checkpoint of a projector that applied everything."""
    state = await stream.verify(client, at(0), replicas=1)
    for n in range(count):
        await client.jetstream().publish(f"membership.test.{n}", b"x")
    time_ns = await stream._stored_time_ns(client, {"seq": count})
    return at(count, time_ns, state.created)


async def test_a_missing_stream_is_created_with_the_documented_settings(client: Client) -> None:
    await stream.verify(client, at(0), replicas=1)
    reply = await client.request("$JS.API.STREAM.INFO.MEMBERSHIP")
    config: dict[str, Any] = msgspec.json.decode(reply.data)["config"]
    expected = stream.configuration(1)
    assert {name: config.get(name) for name in expected} == expected
    assert (config["max_age"], config["max_msgs"], config["max_bytes"]) == (0, -1, -1)


async def test_the_same_stream_is_accepted_before_and_after_a_restart(client: Client, nats: NatsServer) -> None:
    checkpoint = await published(client, 3)
    assert (await stream.verify(client, checkpoint, replicas=1)).last_position == 3
    nats.stop()
    nats.start()
    again = TolerantClient()
    await again.connect(nats.url)
    assert (await stream.verify(again, checkpoint, replicas=1)).created == checkpoint.stream_created
    await again.close()


async def test_a_deleted_stream_is_refused(client: Client) -> None:
    with pytest.raises(StreamMissing, match="position 3"):
        await stream.verify(client, at(3, 1, "x"), replicas=1)


async def test_a_stream_created_at_another_time_is_refused(client: Client) -> None:
    checkpoint = await published(client, 3)
    await client.jetstream().delete_stream(stream.STREAM)
    await published(client, 5)
    with pytest.raises(StreamRecreated):
        await stream.verify(client, checkpoint, replicas=1)


async def test_a_stream_that_ends_before_the_checkpoint_is_refused(client: Client) -> None:
    checkpoint = await published(client, 3)
    beyond = at(4, checkpoint.message_time_ns, checkpoint.stream_created)
    with pytest.raises(StreamWentBack, match="last position is 3"):
        await stream.verify(client, beyond, replicas=1)


async def test_another_message_at_the_checkpoint_is_refused(client: Client) -> None:
    checkpoint = await published(client, 3)
    other = at(3, (checkpoint.message_time_ns or 0) - 1, checkpoint.stream_created)
    with pytest.raises(StreamWentBack, match="another message"):
        await stream.verify(client, other, replicas=1)


async def test_a_purged_message_at_the_checkpoint_is_not_a_loss(client: Client) -> None:
    checkpoint = await published(client, 3)
    await client.jetstream().purge_stream(stream.STREAM, subject="membership.test.2")
    await stream.verify(client, checkpoint, replicas=1)


async def test_refusing_an_unsafe_stream_names_each_unsafe_setting(client: Client) -> None:
    unsafe = stream.configuration(1) | {"max_msgs": 1000, "storage": "memory"}
    await client.request("$JS.API.STREAM.CREATE.MEMBERSHIP", msgspec.json.encode(unsafe))
    with pytest.raises(StreamUnsafe, match=r"storage is 'memory'.*max_msgs is 1000"):
        await stream.verify(client, at(0), replicas=1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("allow_direct", False), ("deny_delete", False), ("allow_rollup_hdrs", True), ("allow_msg_ttl", True)],
)
async def test_a_stream_that_can_hide_or_remove_messages_is_refused(client: Client, setting: str, value: bool) -> None:
    unsafe = stream.configuration(1) | {setting: value}
    reply = await client.request("$JS.API.STREAM.CREATE.MEMBERSHIP", msgspec.json.encode(unsafe))
    assert "error" not in msgspec.json.decode(reply.data)
    with pytest.raises(StreamUnsafe, match=f"{setting} is {value}"):
        await stream.verify(client, at(0), replicas=1)


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2026-11-23T07:27:33.530097143Z", 1_795_418_853_530_097_143),
    ],
)
def test_the_brokers_times_keep_their_nanoseconds(text: str, expected_ns: int) -> None:
    assert stream.nanoseconds(text) == expected_ns
