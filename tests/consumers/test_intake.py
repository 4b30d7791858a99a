"""Reading in order from a real nats-server: complete, contiguous, and interrupted at the first uncertainty."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator

import pytest

from consumers import intake, stream
from consumers.client import ILL_FORMED_HEADERS, TolerantClient
from consumers.intake import Interrupted, OrderedSubscription, read_reply
from ops.devstack.servers.nats import NatsServer
from projections.model.events import Message, Position
from tests.support.processes import eventually

START = Position(0)


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[TolerantClient]:
    client = TolerantClient()
    await client.connect(nats.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_quiet)  # type: ignore[arg-type]
    await stream.create(client, replicas=1)
    yield client
    await client.close()


async def _quiet(_problem: Exception) -> None:
    """Discard what nats-py would print."""


async def publish(client: TolerantClient, *bodies: bytes) -> None:
    for body in bodies:
        await client.jetstream().publish("membership.test", body)


async def receive(subscription: OrderedSubscription, count: int, events_max: int = 100) -> list[Message]:
    messages: list[Message] = []
    while len(messages) < count:
        batch = await subscription.next_batch(events_max, wait_s=5)
        assert batch, f"only {len(messages)} of {count} arrived"
        assert len(batch) <= events_max
        messages += batch
    return messages


async def test_messages_after_a_position_arrive_once_and_in_order(client: TolerantClient) -> None:
    await publish(client, *(b"%d" % n for n in range(1, 301)))
    async with OrderedSubscription(client, Position(100)) as subscription:
        messages = await receive(subscription, 200)
    assert [message.position for message in messages] == list(range(101, 301))
    assert [message.body for message in messages] == [b"%d" % n for n in range(101, 301)]
    assert all(later.time_ns > earlier.time_ns for earlier, later in itertools.pairwise(messages))


async def test_credit_is_renewed_after_the_first_pulls(client: TolerantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PULL_EVENTS", 10)
    await publish(client, *(b"%d" % n for n in range(1, 96)))
    async with OrderedSubscription(client, START) as subscription:
        messages = await receive(subscription, 95, events_max=7)
        assert subscription.caught_up
    assert [message.position for message in messages] == list(range(1, 96))


async def test_a_pull_that_ends_by_bytes_is_followed_by_another(
    client: TolerantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "PULL_BYTES_MAX", 20_000)
    await publish(client, *(b"x" * 9_000 for _ in range(20)))
    async with OrderedSubscription(client, START) as subscription:
        assert len(await receive(subscription, 20)) == 20


async def test_a_message_larger_than_a_pull_arrives(client: TolerantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PULL_BYTES_MAX", 20_000)
    monkeypatch.setattr(intake, "BUFFER_BYTES_MAX", 40_000)
    sizes = [10, 900_000, 10, 19_900, 30_000, client.max_payload, 10]
    await publish(client, *(b"x" * size for size in sizes))
    async with OrderedSubscription(client, START) as subscription, asyncio.timeout(2.5):
        assert [len(message.body) for message in await receive(subscription, len(sizes))] == sizes
        await publish(client, b"x" * 800_000)  # while a pull is open
        await receive(subscription, 1)


async def test_a_pull_whose_bytes_are_used_up_is_followed_by_another(
    client: TolerantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(client, *(b"x" * 1_000 for _ in range(9)))
    async with OrderedSubscription(client, START) as subscription:
        await receive(subscription, 9)
        consumer = subscription._consumer
    ack_subject = f"$JS.ACK.{stream.STREAM}.{consumer}.1.1.1.{time.time_ns()}.1"
    monkeypatch.setattr(intake, "PULL_BYTES_MAX", 3 * (1_000 + len("membership.test") + len(ack_subject)))
    async with OrderedSubscription(client, START) as subscription, asyncio.timeout(2.5):
        await receive(subscription, 9)


async def test_the_buffer_is_bounded_while_a_caller_reads_slowly(
    client: TolerantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "PULL_BYTES_MAX", 100_000)
    monkeypatch.setattr(intake, "BUFFER_BYTES_MAX", 200_000)
    monkeypatch.setattr(intake, "SLICE_BYTES", 1)
    await publish(client, *(b"x" * 9_000 for _ in range(100)))
    async with OrderedSubscription(client, START) as subscription:
        buffered_bytes = 0
        for _ in range(100):
            await receive(subscription, 1, events_max=1)
            await client.flush()  # after what the broker delivered for the last pull
            await client.flush()
            buffered_bytes = max(buffered_bytes, sum(len(message.body) for message in subscription._buffer))
    assert 90_000 <= buffered_bytes <= 200_000


async def test_a_batch_of_large_messages_ends_early(client: TolerantClient) -> None:
    await publish(client, *(b"x" * 30_000 for _ in range(6)))
    await client.jetstream().publish("membership.test", b"", headers={"large": "x" * 65_000})
    await client.jetstream().publish("membership.test", b"x" * 1_000)
    await publish(client, b"last")
    async with OrderedSubscription(client, START) as subscription:
        await eventually(lambda: len(subscription._buffer) == 9, "the arrival of all messages")
        sizes = [len(await subscription.next_batch(100, wait_s=5)) for _ in range(4)]
    assert sizes == [3, 3, 2, 1]


async def test_pulls_that_expire_are_renewed(client: TolerantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PULL_EXPIRES_S", 2)
    async with OrderedSubscription(client, START) as subscription:
        for _ in range(3):
            assert await subscription.next_batch(10, wait_s=1.2) == []
            await asyncio.sleep(0)
        await publish(client, b"late")
        assert [message.body for message in await receive(subscription, 1)] == [b"late"]


async def test_a_single_message_is_returned_at_once(client: TolerantClient) -> None:
    async with OrderedSubscription(client, START) as subscription:
        waiting = asyncio.create_task(subscription.next_batch(1000, wait_s=30))
        await publish(client, b"alone")
        async with asyncio.timeout(2):
            assert [message.body for message in await waiting] == [b"alone"]


async def test_positions_removed_by_a_purge_do_not_interrupt(client: TolerantClient) -> None:
    await publish(client, b"1")
    await client.jetstream().publish("membership.erased", b"2")
    await publish(client, b"3")
    await client.jetstream().purge_stream(stream.STREAM, subject="membership.erased")
    async with OrderedSubscription(client, START) as subscription:
        assert [message.position for message in await receive(subscription, 2)] == [1, 3]


async def test_a_broker_restart_interrupts_the_subscription(client: TolerantClient, nats: NatsServer) -> None:
    await publish(client, b"1")
    async with OrderedSubscription(client, START) as subscription:
        await receive(subscription, 1)
        nats.stop()
        nats.start()
        with pytest.raises(Interrupted):
            await _until_interrupted(subscription)


async def test_a_deleted_consumer_interrupts_the_subscription(client: TolerantClient) -> None:
    async with OrderedSubscription(client, START) as subscription:
        await client.jetstream().delete_consumer(stream.STREAM, subscription._consumer)
        with pytest.raises(Interrupted):
            await _until_interrupted(subscription)


async def test_a_delivery_out_of_sequence_interrupts_the_subscription(client: TolerantClient) -> None:
    await publish(client, b"1", b"2")
    async with OrderedSubscription(client, START) as subscription:
        await receive(subscription, 2)
        subscription._sequence += 1  # simulates a delivery lost in transit
        await publish(client, b"3")
        with pytest.raises(Interrupted, match="arrived after"):
            await _until_interrupted(subscription)


async def test_pending_messages_that_never_arrive_interrupt(client: TolerantClient) -> None:
    async with OrderedSubscription(client, START) as subscription:
        await asyncio.sleep(0.1)
        assert subscription._subscription is not None
        client._subs.pop(subscription._subscription._id)  # simulates deliveries that the client drops
        await publish(client, b"dropped")
        with pytest.raises(Interrupted):
            await _until_interrupted(subscription)


async def _until_interrupted(subscription: OrderedSubscription) -> None:
    async with asyncio.timeout(20):
        while True:
            await subscription.next_batch(10, wait_s=0.2)
            with contextlib.suppress(Exception):
                await subscription.check_pending(0.2)


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.MEMBERSHIP.consumer.1.71.9.1767225600000000001.5",
        "$JS.ACK.hub.ACCOUNT.MEMBERSHIP.consumer.1.71.9.1767225600000000001.5",
        "$JS.ACK._.ACCOUNT.MEMBERSHIP.consumer.1.71.9.1767225600000000001.5.random",
    ],
)
def test_both_forms_of_the_ack_subject_are_parsed(reply: str) -> None:
    assert read_reply(reply.encode()) == (71, 9, 1767225600000000001, 5)


def with_headers(headers: bytes) -> bytes:
    return b"HPUB membership.a %d %d\r\n%sx\r\n" % (len(headers), len(headers) + 1, headers)


ILL_FORMED = [
    b"PUB membership.\xff\xfe 1\r\nx\r\n",
    with_headers(b"NATS/1.0\r\nk\xff: \xfe\x00\r\n\r\n"),
    with_headers(b"NATS/1.0\r\nno colon\r\n\r\n"),
    with_headers(b"NATS/1.0 \xff\xfe\r\n\r\n"),
    with_headers(b"NATS/1.0 503\r\nStatus: 409\r\n\r\n"),
]


@pytest.mark.parametrize("raw", ILL_FORMED)
async def test_an_ill_formed_message_does_not_stop_the_subscription(client: TolerantClient, raw: bytes) -> None:
    async with OrderedSubscription(client, START) as subscription:
        await client._send_command(raw)
        await client.flush()
        await publish(client, b"after")
        ill_formed, after = await receive(subscription, 2)
    assert (ill_formed.body, after.body) == (b"x", b"after")
    assert ill_formed.subject.startswith("membership.")
    assert ILL_FORMED_HEADERS not in (after.headers or {})
