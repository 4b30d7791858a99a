"""Publishing to a real broker: receipts in order, no duplicates, and no loss when the broker dies."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats as nats_py
import pytest
from nats.aio.client import Client

from campaign_membership_client import batches
from consumers import stream
from consumers.client import BrokerUnavailable
from ops import publisher
from ops.devstack.servers import nats as embedded
from ops.devstack.servers.nats import NatsServer
from ops.publisher import (
    JetStreamOff,
    Publication,
    PublishRefused,
    Receipt,
    StreamNotCreated,
    publish_events,
)


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    client = await nats_py.connect(nats.url, error_cb=_quiet)
    await stream.create(client, replicas=1)
    yield client
    await client.close()


async def _quiet(_problem: Exception) -> None:
    """Suppress what nats-py prints while the broker is down."""


def events(first: int, last: int) -> list[Publication]:
    return [Publication(f"membership.test.{n % 7}", f"id-{n}", b"body %d" % n) for n in range(first, last + 1)]


async def published(nats: NatsServer, publications: list[Publication]) -> list[Receipt]:
    return [receipt async for receipt in publish_events(nats.url, publications)]


async def stored(client: Client) -> int:
    return (await client.jetstream().stream_info(stream.STREAM)).state.messages


@pytest.mark.parametrize("count", [1, 2, 999, 1000, 1001, 2500])
async def test_receipts_are_in_order_with_the_events_positions(client: Client, nats: NatsServer, count: int) -> None:
    receipts = await published(nats, events(1, count))
    assert receipts == [Receipt(f"id-{n}", n, duplicate=False) for n in range(1, count + 1)]
    message = await client.jetstream().get_msg(stream.STREAM, seq=count)
    assert (message.data, message.headers) == (b"body %d" % count, message.headers)
    assert (message.headers or {})["Nats-Msg-Id"] == f"id-{count}"


async def test_stored_events_are_duplicates_at_their_first_position(client: Client, nats: NatsServer) -> None:
    await published(nats, events(1, 300))
    receipts = await published(nats, events(200, 400))
    assert [receipt.duplicate for receipt in receipts] == [True] * 101 + [False] * 100
    assert receipts[0].position == 200
    assert await stored(client) == 400


@pytest.mark.usefixtures("client")
async def test_a_duplicate_with_other_content_is_reported(nats: NatsServer) -> None:
    await published(nats, [*events(1, 300), Publication("membership.test.1", "id-json", b'{"a": 1, "b": [2]}')])
    changed = events(200, 200)[0]._replace(body=b"another body")
    reformatted = Publication("membership.test.1", "id-json", b'{"b":[2],"a":1}')
    receipts = await published(nats, [*events(1, 199), changed, *events(201, 301), reformatted])
    assert [receipt.msg_id for receipt in receipts if receipt.differs] == ["id-200"]
    assert [receipt.duplicate for receipt in receipts] == [True] * 300 + [False, True]


async def test_a_duplicate_whose_event_is_gone_cannot_be_compared(client: Client, nats: NatsServer) -> None:
    receipts = [receipt._replace(duplicate=True) for receipt in await published(nats, events(1, 3))]
    await client.jetstream().purge_stream(stream.STREAM, seq=3)
    compared = await batches._Comparison(client, stream.STREAM, frozenset()).compare(events(1, 3), receipts)
    assert [receipt.differs for receipt in compared] == [None, None, False]


async def test_a_repeated_id_in_one_batch_is_stored_once(client: Client, nats: NatsServer) -> None:
    receipts = await published(nats, events(1, 3) + events(2, 2))
    assert [receipt.duplicate for receipt in receipts] == [False, False, False, True]
    assert await stored(client) == 3


async def test_a_batch_whose_ack_was_lost_is_retried_as_duplicates(
    client: Client, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_atomic = batches.publish_atomic
    attempts = 0

    async def lose_the_first_ack(*arguments: object) -> list[Receipt] | None:
        nonlocal attempts
        attempts += 1
        receipts = await publish_atomic(*arguments)  # type: ignore[arg-type]
        if attempts == 1:
            raise nats_py.errors.TimeoutError
        return receipts

    monkeypatch.setattr(batches, "publish_atomic", lose_the_first_ack)
    receipts = await published(nats, events(1, 500))
    assert [receipt.position for receipt in receipts] == list(range(1, 501))
    assert all(receipt.duplicate for receipt in receipts)
    assert await stored(client) == 500


async def test_a_broker_that_dies_while_publishing_loses_and_repeats_nothing(client: Client, nats: NatsServer) -> None:
    receipts = []
    async for receipt in publish_events(nats.url, events(1, 6000)):
        receipts.append(receipt)
        if receipt.position == 2500:
            await asyncio.to_thread(nats.stop)
            await asyncio.to_thread(nats.start)
    assert [receipt.msg_id for receipt in receipts] == [f"id-{n}" for n in range(1, 6001)]
    assert await stored(client) == 6000


async def test_a_missing_stream_names_the_command_that_creates_it(nats: NatsServer) -> None:
    with pytest.raises(StreamNotCreated, match="membership project"):
        await published(nats, events(1, 2))
    with pytest.raises(StreamNotCreated):
        await published(nats, events(1, 1))


async def test_a_broker_without_jetstream_is_not_a_missing_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "RETRY_DEADLINE_S", 0.5)
    monkeypatch.setattr(embedded, "_CONFIGURATION", "host: 127.0.0.1\nport: {port}\n")
    server = NatsServer(tmp_path / "nats")
    await asyncio.to_thread(server.start)
    try:
        with pytest.raises(JetStreamOff, match=f"127.0.0.1:{server.port} runs without JetStream"):
            await published(server, events(1, 2))
    finally:
        await asyncio.to_thread(server.stop)


async def test_a_batch_abandoned_by_another_connection_has_no_effect(client: Client, nats: NatsServer) -> None:
    headers = {"Nats-Msg-Id": "id-1", "Nats-Batch-Id": "abandoned", "Nats-Batch-Sequence": "1"}
    await client.publish("membership.test.1", b"body 1", headers=headers)
    await client.flush()
    receipts = await published(nats, events(1, 3))
    assert receipts == [Receipt(f"id-{n}", n, duplicate=False) for n in range(1, 4)]
    assert await stored(client) == 3


async def test_a_batch_that_lost_its_beginning_is_published_one_by_one(client: Client, nats: NatsServer) -> None:
    """As after a reconnect within a batch: the broker has discarded the batch and refuses its commit."""

    class LossyClient(Client):
        """Loses messages published without a reply subject, like a breaking connection."""

        async def publish(self, *args: Any, **kwargs: Any) -> None:
            if "reply" in kwargs or len(args) > 2:
                await super().publish(*args, **kwargs)

    lossy = LossyClient()
    await lossy.connect(nats.url)
    try:
        receipts = await publisher.publish_batch(lossy, nats.url, events(1, 3))
    finally:
        await lossy.close()
    assert receipts == [Receipt(f"id-{n}", n, duplicate=False) for n in range(1, 4)]
    assert await stored(client) == 3


async def test_an_unreachable_broker_is_named_without_its_password() -> None:
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1 does not answer") as caught:
        _ = [receipt async for receipt in publish_events("nats://me:hunter2@127.0.0.1:1", events(1, 1))]
    assert "hunter2" not in str(caught.value)


def test_wrong_credentials_are_not_reported_as_no_answer() -> None:
    for error in (nats_py.errors.AuthorizationError(), nats_py.errors.Error("nats: 'Authorization Violation'")):
        text = str(BrokerUnavailable(error, "nats://me:hunter2@broker:4222"))
        assert text.startswith("The broker at broker:4222 rejects the user and password, or the token")
        assert "hunter2" not in text


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError(), nats_py.errors.Error()])
def test_an_unavailable_broker_always_has_a_reason(error: Exception) -> None:
    assert ": ." not in str(BrokerUnavailable(error, "nats://broker:4222"))
    assert ": ." not in str(BrokerUnavailable(error))


@pytest.mark.usefixtures("client")
async def test_an_event_larger_than_the_broker_accepts_is_refused(nats: NatsServer) -> None:
    big = Publication("membership.test", "big", b"x" * (2 * 1024 * 1024))
    for publications in ([big], [*events(1, 3), big]):
        with pytest.raises(PublishRefused, match=r"event big on membership\.test"):
            await published(nats, publications)
