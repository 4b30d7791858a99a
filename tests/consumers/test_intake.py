"""Reading in order from a real nats-server: complete, contiguous, and over at the first doubt."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from consumers import intake, stream
from consumers.client import ILL_FORMED_HEADERS, TolerantClient
from consumers.intake import Interrupted, OrderedSubscription, read_reply
from ops.devstack.servers.nats import NatsServer
from projections.model.events import Message, Position

START = Position(0)


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    client = TolerantClient()
    await client.connect(nats.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_quiet)  # type: ignore[arg-type]
    await stream.create(client, replicas=1)
    yield client
    await client.close()


async def _quiet(_problem: Exception) -> None:
    """What nats-py would print."""


async def publish(client: Client, *bodies: bytes) -> None:
    for body in bodies:
        await client.jetstream().publish("membership.test", body)


async def take(reading: OrderedSubscription, count: int, events_max: int = 100) -> list[Message]:
    taken: list[Message] = []
    while len(taken) < count:
        batch = await reading.next_batch(events_max, wait_s=5)
        assert batch, f"only {len(taken)} of {count} came"
        assert len(batch) <= events_max
        taken += batch
    return taken


async def test_every_message_after_a_position_comes_once_and_in_order(client: Client) -> None:
    await publish(client, *(b"%d" % n for n in range(1, 301)))
    async with OrderedSubscription(client, Position(100)) as reading:
        taken = await take(reading, 200)
    assert [message.position for message in taken] == list(range(101, 301))
    assert [message.body for message in taken] == [b"%d" % n for n in range(101, 301)]
    assert all(later.time_ns > earlier.time_ns for earlier, later in itertools.pairwise(taken))


async def test_credit_is_renewed_beyond_the_first_pulls(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PULL_EVENTS", 10)
    await publish(client, *(b"%d" % n for n in range(1, 96)))
    async with OrderedSubscription(client, START) as reading:
        taken = await take(reading, 95, events_max=7)
        assert reading.caught_up
    assert [message.position for message in taken] == list(range(1, 96))


async def test_a_pull_that_ends_by_bytes_is_followed_by_another(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "PULL_BYTES_MAX", 20_000)
    await publish(client, *(b"x" * 9_000 for _ in range(20)))
    async with OrderedSubscription(client, START) as reading:
        assert len(await take(reading, 20)) == 20


async def test_pulls_that_expire_are_renewed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PULL_EXPIRES_S", 2)
    async with OrderedSubscription(client, START) as reading:
        for _ in range(3):
            assert await reading.next_batch(10, wait_s=1.2) == []
            await asyncio.sleep(0)
        await publish(client, b"late")
        assert [message.body for message in await take(reading, 1)] == [b"late"]


async def test_a_lone_message_does_not_wait_for_company(client: Client) -> None:
    async with OrderedSubscription(client, START) as reading:
        waiting = asyncio.create_task(reading.next_batch(1000, wait_s=30))
        await publish(client, b"alone")
        async with asyncio.timeout(2):
            assert [message.body for message in await waiting] == [b"alone"]


async def test_gaps_that_a_purge_left_are_no_gaps_in_the_reading(client: Client) -> None:
    await publish(client, b"1")
    await client.jetstream().publish("membership.erased", b"2")
    await publish(client, b"3")
    await client.jetstream().purge_stream(stream.STREAM, subject="membership.erased")
    async with OrderedSubscription(client, START) as reading:
        assert [message.position for message in await take(reading, 2)] == [1, 3]


async def test_a_restarted_broker_interrupts_the_reading(client: Client, nats: NatsServer) -> None:
    await publish(client, b"1")
    async with OrderedSubscription(client, START) as reading:
        await take(reading, 1)
        nats.stop()
        nats.start()
        with pytest.raises(Interrupted):
            await _until_interrupted(reading)


async def test_a_deleted_consumer_interrupts_the_reading(client: Client) -> None:
    async with OrderedSubscription(client, START) as reading:
        await client.jetstream().delete_consumer(stream.STREAM, reading._consumer)
        with pytest.raises(Interrupted):
            await _until_interrupted(reading)


async def test_a_delivery_out_of_sequence_interrupts_after_what_is_certain(client: Client) -> None:
    await publish(client, b"1", b"2")
    async with OrderedSubscription(client, START) as reading:
        await take(reading, 2)
        reading._sequence += 1  # as if one delivery had been lost on the way
        await publish(client, b"3")
        with pytest.raises(Interrupted, match="came after"):
            await _until_interrupted(reading)


async def test_messages_that_are_pending_but_never_come_interrupt_the_reading(client: Client) -> None:
    async with OrderedSubscription(client, START) as reading:
        await asyncio.sleep(0.1)
        assert reading._subscription is not None
        client._subs.pop(reading._subscription._id)  # a silent subscription: the broker delivers, nobody hears
        await publish(client, b"unheard")
        with pytest.raises(Interrupted):
            await _until_interrupted(reading)


async def _until_interrupted(reading: OrderedSubscription) -> None:
    async with asyncio.timeout(20):
        while True:
            await reading.next_batch(10, wait_s=0.2)
            with contextlib.suppress(Exception):
                await reading.check_pending(0.2)


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.MEMBERSHIP.consumer.1.71.9.1767225600000000001.5",
        "$JS.ACK.hub.ACCOUNT.MEMBERSHIP.consumer.1.71.9.1767225600000000001.5",
        "$JS.ACK._.ACCOUNT.MEMBERSHIP.consumer.1.71.9.1767225600000000001.5.random",
    ],
)
def test_both_forms_of_the_ack_subject_are_read(reply: str) -> None:
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
async def test_no_subject_and_no_headers_stop_the_reading(client: Client, raw: bytes) -> None:
    async with OrderedSubscription(client, START) as reading:
        await client._send_command(raw)
        await client.flush()
        await publish(client, b"after")
        poison, after = await take(reading, 2)
    assert (poison.body, after.body) == (b"x", b"after")
    assert poison.subject.startswith("membership.")
    assert ILL_FORMED_HEADERS not in (after.headers or {})
