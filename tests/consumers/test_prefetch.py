"""Prefetching: the same rows whatever the timing, and no message skipped wherever it stops."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import asyncpg
import pytest

from consumers import stream
from consumers.batch_limits import BatchLimits
from consumers.client import TolerantClient
from consumers.intake import Interrupted, OrderedSubscription
from consumers.prefetch import Prefetcher
from ops.devstack.servers.nats import NatsServer
from projections.errors import Fenced
from projections.model.batch import BatchBuilder
from projections.model.events import Position
from projections.store import checkpoint as checkpoints
from projections.store.checkpoint import Checkpoint
from projections.store.projector import apply_shared_batch
from tests.support.builders import ALL_TYPES, message, published
from tests.support.read_model import CREATED, G1, applied, empty, rows

EVENTS = 300
START = Position(0)


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[TolerantClient]:
    client = TolerantClient()
    await client.connect(nats.url)
    await stream.create(client, replicas=1)
    yield client
    await client.close()


async def publish(client: TolerantClient, events: list[tuple[str, bytes]]) -> None:
    for subject, body in events:
        await client.publish(subject, body)
    await client.flush()


def history(rng: Random, count: int = EVENTS) -> list[tuple[str, bytes]]:
    """Return events of all types about a few entities, some of them invalid."""
    events = [
        published(rng.choice(ALL_TYPES), version, customer=rng.randint(1, 4), campaign=rng.randint(1, 4))
        for version in range(1, count + 1)
    ]
    return [(subject, b"no JSON" if rng.random() < 0.05 else body) for subject, body in events]


async def next_batch(prefetcher: Prefetcher) -> BatchBuilder:
    batch = await prefetcher.next_batch(5)
    assert batch is not None, "no message arrived"
    return batch


async def wait_until_idle(subscription: OrderedSubscription) -> Position:
    """Return the subscription's position once it has not changed for a while."""
    async with asyncio.timeout(5):
        while True:
            position = subscription.position
            await asyncio.sleep(0.1)
            if position == subscription.position > 0:
                return position


@pytest.mark.parametrize("seed", range(8))
async def test_rows_do_not_depend_on_timing_or_resubscriptions(
    client: TolerantClient, connection: asyncpg.Connection, seed: int
) -> None:
    rng = Random(seed)
    events = history(rng)
    in_order = [message(position, *event) for position, event in enumerate(events, start=1)]
    await applied(connection, await empty(connection), in_order)
    expected = await rows(connection)
    checkpoint = await empty(connection)

    def limits() -> BatchLimits:
        return BatchLimits(rng.randint(1, 60))

    async def follow() -> None:
        nonlocal checkpoint
        async with (
            OrderedSubscription(client, checkpoint.position) as subscription,
            Prefetcher(subscription, limits()) as prefetcher,
        ):
            for _ in range(rng.randint(1, 12)):  # then the prefetcher is closed with a batch not taken
                batch = await next_batch(prefetcher)
                assert batch.after == checkpoint.position
                checkpoint = await applied_after(connection, checkpoint, batch)
                await asyncio.sleep(rng.choice([0, 0, 0.003]))
                if checkpoint.position == EVENTS:
                    return

    publishing = asyncio.create_task(publish(client, events))
    while checkpoint.position < EVENTS:
        await follow()
    await publishing
    assert await rows(connection) == expected


async def applied_after(connection: asyncpg.Connection, checkpoint: Checkpoint, batch: BatchBuilder) -> Checkpoint:
    (moved,) = (await apply_shared_batch(connection, [checkpoint], batch.batch(), CREATED)).checkpoints
    return moved


async def test_cancelling_at_any_point_leaks_no_task_and_skips_no_message(
    client: TolerantClient, connection: asyncpg.Connection
) -> None:
    rng = Random(3)
    events = history(rng)
    await publish(client, events)

    async def follow() -> None:
        checkpoint = await checkpoints.take_over(connection, G1)
        async with (
            OrderedSubscription(client, checkpoint.position) as subscription,
            Prefetcher(subscription, BatchLimits(7)) as prefetcher,
        ):
            opened.set()  # nats-py's own requests may lose a cancellation, so none is sent before this
            while True:
                batch = await next_batch(prefetcher)
                assert batch.after == checkpoint.position
                checkpoint = await applied_after(connection, checkpoint, batch)
                moved.set()

    moved = asyncio.Event()
    for remaining in reversed(range(60)):
        opened = asyncio.Event()
        following = asyncio.create_task(follow())
        await opened.wait()
        await asyncio.sleep(rng.uniform(0, 0.03))
        if not remaining:  # however slow the machine is, something was applied
            async with asyncio.timeout(10):
                await moved.wait()
        following.cancel()
        await asyncio.wait([following])
        assert following.cancelled()
        assert not [task for task in asyncio.all_tasks() if "Prefetcher" in repr(task.get_coro())]
    checkpoint = await checkpoints.take_over(connection, G1)
    actual = await rows(connection)
    in_order = [message(position, *event) for position, event in enumerate(events, start=1)]
    assert checkpoint.position > 0
    await applied(connection, await empty(connection), in_order[: checkpoint.position])
    assert await rows(connection) == actual


async def test_a_fenced_write_discards_the_prefetched_batch(
    client: TolerantClient, connection: asyncpg.Connection
) -> None:
    await publish(client, [published("customer.upserted.v1", n, customer=n) for n in range(1, 31)])
    former = await checkpoints.take_over(connection, G1)
    async with (
        OrderedSubscription(client, START) as subscription,
        Prefetcher(subscription, BatchLimits(10)) as prefetcher,
    ):
        batch = await next_batch(prefetcher)
        assert await wait_until_idle(subscription) > batch.position
        successor = await checkpoints.take_over(connection, G1)
        with pytest.raises(Fenced):
            await apply_shared_batch(connection, [former], batch.batch(), CREATED)
    assert (await rows(connection))["customer"] == []
    async with (
        OrderedSubscription(client, successor.position) as subscription,
        Prefetcher(subscription, BatchLimits(10)) as prefetcher,
    ):
        await apply_all(connection, successor, prefetcher, 30)
    assert len((await rows(connection))["customer"]) == 30


async def apply_all(connection: asyncpg.Connection, checkpoint: Checkpoint, prefetcher: Prefetcher, last: int) -> None:
    while checkpoint.position < last:
        checkpoint = await applied_after(connection, checkpoint, await next_batch(prefetcher))


async def test_messages_before_an_interruption_are_returned_first(client: TolerantClient) -> None:
    await publish(client, history(Random(1), 25))
    async with (
        OrderedSubscription(client, START) as subscription,
        Prefetcher(subscription, BatchLimits(10)) as prefetcher,
    ):
        first = await next_batch(prefetcher)
        assert await wait_until_idle(subscription) == first.position + 10
        subscription.interrupt("simulated loss of a delivery")
        positions = [first.position]
        with pytest.raises(Interrupted, match="simulated"):  # noqa: PT012 - the loop is what raises
            while True:
                batch = await next_batch(prefetcher)
                assert batch.after == positions[-1]
                positions.append(batch.position)
    assert positions[-1] == 25


async def test_a_prefetched_batch_is_returned_after_an_interruption(client: TolerantClient) -> None:
    await publish(client, history(Random(4), 3))
    async with (
        OrderedSubscription(client, START) as subscription,
        Prefetcher(subscription, BatchLimits(100)) as prefetcher,
    ):
        assert (await next_batch(prefetcher)).position == 3
        await publish(client, history(Random(4), 4))
        assert await wait_until_idle(subscription) == 7
        subscription.interrupt("simulated loss of a delivery")
        assert prefetcher._task is not None
        await asyncio.wait([prefetcher._task])
        assert (await next_batch(prefetcher)).position == 7
        with pytest.raises(Interrupted, match="simulated"):
            await prefetcher.next_batch(5)


async def test_at_most_one_batch_is_prefetched(client: TolerantClient) -> None:
    await publish(client, history(Random(2), 100))
    async with (
        OrderedSubscription(client, START) as subscription,
        Prefetcher(subscription, BatchLimits(10)) as prefetcher,
    ):
        batches = [await next_batch(prefetcher)]  # what had arrived: up to ten
        assert await wait_until_idle(subscription) == batches[0].position + 10
        while batches[-1].position < 100:
            batches.append(await next_batch(prefetcher))
        assert [batch.after for batch in batches] == [0, *(batch.position for batch in batches[:-1])]
        assert all(1 <= batch.events <= 10 for batch in batches)
        assert await prefetcher.next_batch(0.05) is None


async def test_a_full_batch_waits_with_its_columns_made(client: TolerantClient) -> None:
    await publish(client, history(Random(4), 100))
    async with (
        OrderedSubscription(client, START) as subscription,
        Prefetcher(subscription, BatchLimits(10)) as prefetcher,
    ):
        await next_batch(prefetcher)
        await wait_until_idle(subscription)
        prefetched = await next_batch(prefetcher)
        assert prefetched.events == 10
        assert prefetched.made is not None, "the columns are made while the batch waits"
        assert prefetched.batch().position == prefetched.position


async def test_huge_bodies_make_a_batch_smaller(client: TolerantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.prefetch.SLICE_EVENTS", 1)
    await publish(client, [("membership.customer.x", b"x" * 20_000)] * 9)
    async with (
        OrderedSubscription(client, START) as subscription,
        Prefetcher(subscription, BatchLimits(100, 50_000)) as prefetcher,
    ):
        first = await next_batch(prefetcher)
        await wait_until_idle(subscription)
        second = await next_batch(prefetcher)
    assert max(first.events, second.events) == 3


async def test_a_single_message_is_returned_at_once(client: TolerantClient) -> None:
    async with (
        OrderedSubscription(client, START) as subscription,
        Prefetcher(subscription, BatchLimits(1000)) as prefetcher,
    ):
        waiting = asyncio.create_task(prefetcher.next_batch(30))
        await asyncio.sleep(0.05)
        await publish(client, [published("customer.upserted.v1", 1)])
        async with asyncio.timeout(2):
            batch = await waiting
    assert batch is not None
    assert (batch.events, batch.position) == (1, 1)


async def test_a_full_batch_grows_at_once_when_the_limits_do(client: TolerantClient) -> None:
    await publish(client, history(Random(1), 40))
    limits = BatchLimits(32)
    limits.events_max = 2
    async with OrderedSubscription(client, START) as subscription, Prefetcher(subscription, limits) as prefetcher:
        assert (await next_batch(prefetcher)).events == 2
        await wait_until_idle(subscription)
        limits.events_max = 32
        assert (await next_batch(prefetcher)).events > 2
