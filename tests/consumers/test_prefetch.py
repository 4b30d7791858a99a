"""Reading ahead of the one who writes: the same rows whatever the timing, and nothing skipped wherever it ends."""

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
    """Events of all types about few entities, with what is no event among them."""
    events = [
        published(rng.choice(ALL_TYPES), version, customer=rng.randint(1, 4), campaign=rng.randint(1, 4))
        for version in range(1, count + 1)
    ]
    return [(subject, b"no JSON" if rng.random() < 0.05 else body) for subject, body in events]


async def gathered(ahead: Prefetcher) -> BatchBuilder:
    found = await ahead.next_batch(5)
    assert found is not None, "nothing came"
    return found


async def until_it_stands_still(reading: OrderedSubscription) -> Position:
    """Return where the reading stands once it has handed out nothing more for a while."""
    async with asyncio.timeout(5):
        while True:
            position = reading.position
            await asyncio.sleep(0.1)
            if position == reading.position > 0:
                return position


@pytest.mark.parametrize("seed", range(8))
async def test_the_rows_are_the_same_whatever_the_timing_and_wherever_a_reading_ends(
    client: TolerantClient, connection: asyncpg.Connection, seed: int
) -> None:
    rng = Random(seed)
    events = history(rng)
    in_order = [message(position, *each) for position, each in enumerate(events, start=1)]
    await applied(connection, await empty(connection), in_order)
    wanted = await rows(connection)
    held = await empty(connection)

    def limits() -> BatchLimits:
        return BatchLimits(rng.randint(1, 60))

    async def follow() -> None:
        nonlocal held
        async with (
            OrderedSubscription(client, held.position) as reading,
            Prefetcher(reading, limits()) as ahead,
        ):
            for _ in range(rng.randint(1, 12)):  # then it is left with a batch in hand
                batch = await gathered(ahead)
                assert batch.after == held.position
                (held,) = (await apply_shared_batch(connection, [held], batch.batch(), CREATED)).checkpoints
                await asyncio.sleep(rng.choice([0, 0, 0.003]))
                if held.position == EVENTS:
                    return

    publishing = asyncio.create_task(publish(client, events))
    while held.position < EVENTS:
        await follow()
    await publishing
    assert await rows(connection) == wanted


async def test_a_follower_that_is_cancelled_anywhere_leaves_nothing_running_and_skips_nothing(
    client: TolerantClient, connection: asyncpg.Connection
) -> None:
    rng = Random(3)
    events = history(rng)
    await publish(client, events)

    async def follow() -> None:
        held = await checkpoints.take_over(connection, G1)
        async with OrderedSubscription(client, held.position) as reading, Prefetcher(reading, BatchLimits(7)) as ahead:
            opened.set()  # nats-py's own requests may lose a cancellation, so none comes before
            while True:
                batch = await gathered(ahead)
                assert batch.after == held.position
                (held,) = (await apply_shared_batch(connection, [held], batch.batch(), CREATED)).checkpoints

    for _ in range(60):
        opened = asyncio.Event()
        following = asyncio.create_task(follow())
        await opened.wait()
        await asyncio.sleep(rng.uniform(0, 0.03))
        following.cancel()
        await asyncio.wait([following])
        assert following.cancelled()
        assert not [task for task in asyncio.all_tasks() if "Prefetcher" in repr(task.get_coro())]
    held = await checkpoints.take_over(connection, G1)
    reached = await rows(connection)
    in_order = [message(position, *each) for position, each in enumerate(events, start=1)]
    assert held.position > 0
    await applied(connection, await empty(connection), in_order[: held.position])
    assert await rows(connection) == reached


async def test_a_fenced_write_forgets_what_was_read_ahead(
    client: TolerantClient, connection: asyncpg.Connection
) -> None:
    await publish(client, [published("customer.upserted.v1", n, customer=n) for n in range(1, 31)])
    former = await checkpoints.take_over(connection, G1)
    async with OrderedSubscription(client, START) as reading, Prefetcher(reading, BatchLimits(10)) as ahead:
        batch = await gathered(ahead)
        assert await until_it_stands_still(reading) > batch.position
        successor = await checkpoints.take_over(connection, G1)
        with pytest.raises(Fenced):
            await apply_shared_batch(connection, [former], batch.batch(), CREATED)
    assert (await rows(connection))["customer"] == []
    async with (
        OrderedSubscription(client, successor.position) as reading,
        Prefetcher(reading, BatchLimits(10)) as ahead,
    ):
        await all_applied(connection, successor, ahead, 30)
    assert len((await rows(connection))["customer"]) == 30


async def all_applied(connection: asyncpg.Connection, held: Checkpoint, ahead: Prefetcher, last: int) -> None:
    while held.position < last:
        (held,) = (await apply_shared_batch(connection, [held], (await gathered(ahead)).batch(), CREATED)).checkpoints


async def test_what_was_certain_before_a_doubt_is_handed_out_and_then_the_doubt_raised(client: TolerantClient) -> None:
    await publish(client, history(Random(1), 25))
    async with OrderedSubscription(client, START) as reading, Prefetcher(reading, BatchLimits(10)) as ahead:
        first = await gathered(ahead)
        assert await until_it_stands_still(reading) == first.position + 10
        reading.interrupt("as if a delivery had been lost")
        taken = [first.position]
        with pytest.raises(Interrupted, match="as if"):  # noqa: PT012 - the loop is what raises
            while True:
                batch = await gathered(ahead)
                assert batch.after == taken[-1]
                taken.append(batch.position)
    assert taken[-1] == 25


async def test_a_batch_in_hand_when_the_reading_has_ended_is_handed_out_before_the_doubt(
    client: TolerantClient,
) -> None:
    await publish(client, history(Random(4), 3))
    async with OrderedSubscription(client, START) as reading, Prefetcher(reading, BatchLimits(100)) as ahead:
        assert (await gathered(ahead)).position == 3
        await publish(client, history(Random(4), 4))
        assert await until_it_stands_still(reading) == 7
        reading.interrupt("as if a delivery had been lost")
        assert ahead._task is not None
        await asyncio.wait([ahead._task])
        assert (await gathered(ahead)).position == 7
        with pytest.raises(Interrupted, match="as if"):
            await ahead.next_batch(5)


async def test_one_batch_is_read_ahead_and_no_more(client: TolerantClient) -> None:
    await publish(client, history(Random(2), 100))
    async with OrderedSubscription(client, START) as reading, Prefetcher(reading, BatchLimits(10)) as ahead:
        batches = [await gathered(ahead)]  # what was at hand: ten, or fewer of them
        assert await until_it_stands_still(reading) == batches[0].position + 10
        while batches[-1].position < 100:
            batches.append(await gathered(ahead))
        assert [each.after for each in batches] == [0, *(each.position for each in batches[:-1])]
        assert all(1 <= each.events <= 10 for each in batches)
        assert await ahead.next_batch(0.05) is None


async def test_huge_bodies_make_a_batch_smaller(client: TolerantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.prefetch.SLICE_EVENTS", 1)
    await publish(client, [("membership.customer.x", b"x" * 20_000)] * 9)
    async with OrderedSubscription(client, START) as reading, Prefetcher(reading, BatchLimits(100, 50_000)) as ahead:
        first = await gathered(ahead)
        await until_it_stands_still(reading)
        second = await gathered(ahead)
    assert max(first.events, second.events) == 3


async def test_a_lone_message_is_handed_out_at_once(client: TolerantClient) -> None:
    async with OrderedSubscription(client, START) as reading, Prefetcher(reading, BatchLimits(1000)) as ahead:
        waiting = asyncio.create_task(ahead.next_batch(30))
        await asyncio.sleep(0.05)
        await publish(client, [published("customer.upserted.v1", 1)])
        async with asyncio.timeout(2):
            alone = await waiting
    assert alone is not None
    assert (alone.events, alone.position) == (1, 1)
