"""Replaying a range of the stream: complete, in order, up to its end, and across a restart of the broker."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pytest

from consumers import replay as replays
from consumers import stream
from consumers.client import TolerantClient
from consumers.replay import replay
from ops.devstack.servers.nats import NatsServer
from projections.model.events import Message, Position
from tests.support.builders import published

START = Position(0)
EVENTS = 30


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[TolerantClient]:
    """A client that reconnects, on a stream of `EVENTS` messages on two subjects in turn."""
    client = TolerantClient()
    await client.connect(nats.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_quiet)  # type: ignore[arg-type]
    await stream.create(client, replicas=1)
    for position in range(1, EVENTS + 1):
        await client.jetstream().publish(f"membership.test.{position % 2}", b"%d" % position)
    yield client
    await client.close()


async def _quiet(_problem: Exception) -> None:
    """Discard what nats-py would print."""


async def replayed(
    client: TolerantClient, after: int, through: int, events_max: int = 100, subject: str = ""
) -> list[Sequence[Message]]:
    return [
        batch.messages
        async for batch in replay(client, Position(after), Position(through), events_max=events_max, subject=subject)
    ]


def positions(batches: list[Sequence[Message]]) -> list[int]:
    return [message.position for batch in batches for message in batch]


async def test_a_replay_yields_every_message_of_the_range_in_order(client: TolerantClient) -> None:
    batches = await replayed(client, 3, 20, events_max=4)
    assert positions(batches) == list(range(4, 21))
    assert [message.body for batch in batches for message in batch] == [b"%d" % n for n in range(4, 21)]
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 1]


async def test_an_empty_range_yields_nothing(client: TolerantClient) -> None:
    assert await replayed(client, 7, 7) == []


async def test_a_replay_selects_one_subject_and_ends_without_reaching_the_end(client: TolerantClient) -> None:
    assert positions(await replayed(client, 0, EVENTS - 1, subject="membership.test.0")) == list(range(2, EVENTS, 2))
    assert await replayed(client, 0, EVENTS, subject="membership.absent") == []


async def test_a_purged_end_position_ends_the_replay(client: TolerantClient) -> None:
    await stream.purge(client, "membership.test.0")
    assert positions(await replayed(client, 20, EVENTS)) == list(range(21, EVENTS, 2))


async def test_large_bodies_make_the_batches_shorter(client: TolerantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "BATCH_BYTES_MAX", 10)
    monkeypatch.setattr("consumers.intake.SLICE_BYTES", 5)
    assert max([len(batch) for batch in await replayed(client, 9, EVENTS)]) == 6  # of 2 bytes each


async def test_texts_made_of_the_bodies_make_the_batches_shorter(
    client: TolerantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "\ufdfa" * 5_000
    bodies = [published("campaign.upserted.v1", 1, campaign=number, name=name) for number in range(20)]
    for subject, body in bodies:
        await client.jetstream().publish(subject, body)
    monkeypatch.setattr(replays, "BATCH_BYTES_MAX", 10 * len(bodies[0][1]))
    monkeypatch.setattr("consumers.intake.SLICE_BYTES", 1)
    batches = await replayed(client, EVENTS, EVENTS + len(bodies))
    assert positions(batches) == list(range(EVENTS + 1, EVENTS + len(bodies) + 1))
    assert max([len(batch) for batch in batches]) <= 2


async def test_a_replay_continues_after_a_broker_restart(
    client: TolerantClient, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small pulls: most of the range is still at the broker when it restarts.
    monkeypatch.setattr("consumers.intake.PULL_EVENTS", 2)
    batches: list[Sequence[Message]] = []
    async with aclosing(replay(client, START, Position(EVENTS), events_max=3)) as replaying:
        async for batch in replaying:
            batches.append(batch.messages)
            if len(batches) == 2:
                nats.stop()
                nats.start()
    assert positions(batches) == list(range(1, EVENTS + 1))
