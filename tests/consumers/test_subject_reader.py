"""Reading one subject at a time: complete up to a position, or an error, and a new connection when one is lost."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from random import Random

import pytest

from consumers import newest_messages, stream, subject_reader
from consumers.client import TolerantClient, connect_once
from consumers.subject_reader import SubjectReader
from ops.devstack.servers.nats import NatsServer
from projections.model.events import Position
from projections.store.checkpoint import Checkpoint
from projections.store.membership_history import HistoryUnavailable
from projections.store.queries import Generation
from tests.support.processes import eventually

EVENTS = 30
UNREAD_BYTES = 32 * 1024 * 1024
"""More than the kernel buffers for a broker that reads nothing."""
EVEN, ODD = "membership.test.even", "membership.test.odd"


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[TolerantClient]:
    """A client, on a stream of `EVENTS` messages on two subjects in turn."""
    client = await connect_once(nats.url, "test")
    await stream.create(client, replicas=1)
    for position in range(1, EVENTS + 1):
        await client.jetstream().publish(ODD if position % 2 else EVEN, b"%d" % position)
    yield client
    await client.close()


@pytest.fixture
async def reader(client: TolerantClient) -> AsyncIterator[SubjectReader]:
    """A reader of that stream."""
    assert client.connected_url is not None
    reader = SubjectReader(client.connected_url.geturl(), "test")
    yield reader
    await reader.close()


async def checkpoint_at(client: TolerantClient, position: int) -> Checkpoint:
    state = await stream.fetch_state(client)
    assert state is not None
    time_ns = await stream.next_message_time_ns(client, position - 1)
    return Checkpoint(Generation("g1"), Position(position), time_ns, state.created, 1)


async def read(
    reader: SubjectReader, subject: str, through: int = EVENTS, count: int = 0, slice_events: int = 100
) -> list[int]:
    async with aclosing(reader.messages(subject, count, Position(through), slice_events)) as slices:
        return [message.position async for messages in slices for message in messages]


async def has_no_consumer(client: TolerantClient) -> bool:
    reply = await client.request("$JS.API.CONSUMER.NAMES.MEMBERSHIP", b"{}")
    return not json.loads(reply.data)["consumers"]


async def test_a_subject_is_read_in_order_up_to_a_position(reader: SubjectReader) -> None:
    assert await read(reader, EVEN) == list(range(2, EVENTS + 1, 2))
    assert await read(reader, EVEN, through=9) == [2, 4, 6, 8]
    assert await read(reader, EVEN, through=10, slice_events=3) == [2, 4, 6, 8, 10]
    assert await read(reader, "membership.test.*", through=4) == [1, 2, 3, 4]
    assert await read(reader, "membership.test.none") == []


async def test_the_messages_of_each_subject_are_counted(reader: SubjectReader, client: TolerantClient) -> None:
    applied = await checkpoint_at(client, EVENTS)
    assert await reader.count([EVEN, "membership.test.none", ODD], applied) == [EVENTS // 2, 0, EVENTS // 2]


async def test_fewer_messages_than_counted_are_an_error(reader: SubjectReader) -> None:
    assert len(await read(reader, EVEN, count=EVENTS // 2)) == EVENTS // 2
    with pytest.raises(HistoryUnavailable, match="1 of the 16 messages"):
        await read(reader, EVEN, through=EVENTS + 1, count=EVENTS // 2 + 1)


async def test_ill_formed_headers_and_forged_positions_are_harmless(
    reader: SubjectReader, client: TolerantClient
) -> None:
    await client.publish("membership.test.odd", b"forged", headers={"Nats-Sequence": "3", "Nats-Subject": "x"})
    await client.flush()
    assert (await read(reader, ODD, through=EVENTS + 1))[-1] == EVENTS + 1


async def test_another_stream_and_one_that_went_back_are_refused(reader: SubjectReader, client: TolerantClient) -> None:
    applied = await checkpoint_at(client, EVENTS)
    other = Checkpoint(applied.generation, applied.position, applied.message_time_ns, "2020-01-01T00:00:00Z", 1)
    ahead = Checkpoint(applied.generation, Position(EVENTS + 1), 1, applied.stream_created, 1)
    for wrong in (other, ahead):
        with pytest.raises(HistoryUnavailable):
            await reader.count([EVEN], wrong)


async def test_a_lost_connection_is_replaced_by_the_next_read(reader: SubjectReader, nats: NatsServer) -> None:
    assert await read(reader, EVEN, through=4) == [2, 4]
    await asyncio.to_thread(nats.stop)
    with pytest.raises(HistoryUnavailable, match="does not answer"):
        await read(reader, EVEN)
    await asyncio.to_thread(nats.start)
    assert await read(reader, EVEN, through=4) == [2, 4]


async def test_simultaneous_reads_share_one_connection(reader: SubjectReader, client: TolerantClient) -> None:
    results = await asyncio.gather(*(read(reader, subject) for subject in (EVEN, ODD) * 8))
    assert [len(result) for result in results] == [EVENTS // 2] * 16
    await eventually(lambda: has_no_consumer(client), "every consumer is deleted")


async def test_a_reader_left_early_leaves_no_consumer(reader: SubjectReader, client: TolerantClient) -> None:
    async with aclosing(reader.messages(EVEN, 0, Position(EVENTS), 2)) as slices:
        async for messages in slices:
            assert len(messages) == 2
            break
    assert await read(reader, EVEN, through=4) == [2, 4]
    await eventually(lambda: has_no_consumer(client), "every consumer is deleted")


async def test_messages_larger_than_a_pull_are_read_one_by_one(
    reader: SubjectReader, client: TolerantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_reader, "PULL_BYTES_MAX", 2_000)
    for size in (10, 5_000, 900, 900, 900, 70_000, 10):
        await client.jetstream().publish(EVEN, b"x" * size)
    assert await read(reader, EVEN, through=EVENTS + 7) == [*range(2, EVENTS + 1, 2), *range(EVENTS + 1, EVENTS + 8)]


async def test_a_step_that_times_out_closes_no_newer_connection(client: TolerantClient) -> None:
    assert client.connected_url is not None
    reader = SubjectReader(client.connected_url.geturl(), "test")
    older = await reader._connected()
    reader._abandon(older)
    newer = await reader._connected()
    reader._silence_max_s = 0.01
    with pytest.raises(HistoryUnavailable):
        await reader._in_time(asyncio.Event().wait(), older)
    await asyncio.wait(reader._ending)
    assert older.is_closed
    assert (newer.is_connected, await reader._connect()) == (True, newer)
    await reader.close()
    assert newer.is_closed


async def test_a_failed_read_does_not_wait_until_its_connection_is_closed(
    reader: SubjectReader, nats: NatsServer
) -> None:
    assert await read(reader, EVEN, through=4) == [2, 4]
    cut_off = await reader._connected()
    assert nats.pid is not None
    os.kill(nats.pid, signal.SIGSTOP)
    try:
        assert cut_off._transport is not None
        cut_off._transport.write(bytes(UNREAD_BYTES))
        with pytest.raises(HistoryUnavailable, match="does not answer"):
            await read(reader, EVEN)
        assert reader._client is None
        assert reader._ending, "the connection is still being closed"
        await reader.close()
        assert not reader._ending
    finally:
        os.kill(nats.pid, signal.SIGCONT)
    assert await read(reader, EVEN, through=4) == [2, 4]


async def positions_of_newest(reader: SubjectReader, subject: str, before: int | None, limit: int) -> list[int]:
    return [message.position for message in await reader.newest(subject, before, limit)]


async def test_the_newest_messages_come_newest_first_and_page_by_page(reader: SubjectReader) -> None:
    assert await positions_of_newest(reader, EVEN, None, 3) == [30, 28, 26]
    assert await positions_of_newest(reader, EVEN, 26, 3) == [24, 22, 20]
    assert await positions_of_newest(reader, "membership.>", 3, 5) == [2, 1]
    assert await positions_of_newest(reader, EVEN, 1, 5) == []
    assert await positions_of_newest(reader, "membership.none", None, 5) == []
    assert await positions_of_newest(reader, ODD, 10_000, 2) == [29, 27]
    (newest,) = await reader.newest("membership.>", None, 1)
    assert (newest.subject, newest.body) == (EVEN, b"30")


async def test_a_stream_without_messages_has_no_newest_ones(nats: NatsServer) -> None:
    client = await connect_once(nats.url, "test")
    await stream.create(client, replicas=1)
    reader = SubjectReader(nats.url, "test")

    assert await reader.newest("membership.>", None, 10) == []

    await reader.close()
    await client.close()


async def test_the_newest_messages_of_a_sparse_subject_are_found(client: TolerantClient, reader: SubjectReader) -> None:
    random = Random(7)
    on_subject: dict[str, list[int]] = {}
    for _ in range(2_000):
        subject = f"membership.sparse.{'rare' if random.random() < 0.01 else random.choice('abc')}"
        ack = await client.jetstream().publish(subject, b"x")
        on_subject.setdefault(subject, []).append(ack.seq)
    for subject, all_positions in on_subject.items():
        for _ in range(5):
            before, limit = random.randint(1, EVENTS + 2_001), random.choice([1, 7, 50])
            expected = [position for position in all_positions if position < before][-limit:][::-1]
            assert await positions_of_newest(reader, subject, before, limit) == expected, (subject, before, limit)


async def test_the_newest_messages_are_found_behind_a_gap_that_follows_many(
    client: TolerantClient, reader: SubjectReader
) -> None:
    for subject, messages in (("membership.burst", 500), ("membership.later", 700)):
        for _ in range(messages):
            await client.jetstream().publish(subject, b"x")
    assert await positions_of_newest(reader, "membership.burst", None, 3) == [530, 529, 528]
    assert await positions_of_newest(reader, "membership.burst", None, 1) == [530]
    assert await positions_of_newest(reader, "membership.burst", 100, 3) == [99, 98, 97]


async def test_the_newest_messages_stay_within_a_limit_of_bytes(
    client: TolerantClient, reader: SubjectReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest_messages, "BYTES_MAX", 3_500)
    for _ in range(10):
        await client.jetstream().publish("membership.large", bytes(1_000))
    assert await positions_of_newest(reader, "membership.large", None, 10) == [40, 39, 38]


async def test_the_last_message_of_a_subject_is_found_at_once(reader: SubjectReader) -> None:
    last = await reader.last(ODD)
    assert last is not None
    assert (last.position, last.body, last.subject) == (29, b"29", ODD)
    assert await reader.last("membership.none") is None


async def test_the_newest_messages_of_a_stopped_broker_are_unavailable(nats: NatsServer, reader: SubjectReader) -> None:
    assert await positions_of_newest(reader, EVEN, None, 1) == [30]
    nats.stop()
    with pytest.raises(HistoryUnavailable):
        await reader.newest(EVEN, None, 1)
    with pytest.raises(HistoryUnavailable):
        await reader.last(EVEN)
