"""How fast the client publishes many events, beside bare nats-py with the same events, already encoded.

The broker is one of its own with an empty stream, so that no projector and no stored events take part.
"""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import nats
from nats.aio.client import Client

from benchmarks.dataset import DataSet
from benchmarks.rows import Row
from campaign_membership_client import Event, Publication, Publisher, events, prepare
from campaign_membership_client.batches import BATCH_EVENTS_MAX, publish_atomic
from consumers import stream
from ops.devstack.servers.nats import NatsServer
from ops.devstack.supervisor import in_steps

AWAITED_SHARE: Final = 20
"""Publishing one event after the other is slow, so only one in so many is published that way."""
PENDING_MAX: Final = 4_000
ACK_S: Final = 60.0
AT: Final = datetime(2026, 1, 5, tzinfo=UTC)


async def measure(data: DataSet, count: int) -> Row:
    """Publish `count` enrolments in each way, interleaved with nothing, and return the row."""
    with tempfile.TemporaryDirectory(prefix="membership-bench-") as folder:
        server = NatsServer(Path(folder) / "nats")
        await in_steps(server.starting())
        try:
            return await _measured(server.url, data, count)
        finally:
            server.stop()


async def _measured(url: str, data: DataSet, count: int) -> Row:
    client = await nats.connect(url)
    await stream.create(client, replicas=1)
    ours = await _publish_many(url, _enrolments(data, 1, count))
    atomic = await _rate(client, _encoded(data, 2, count), _atomically)
    concurrent = await _rate(client, _encoded(data, 3, count), _concurrently)
    awaited = await _rate(client, _encoded(data, 4, count // AWAITED_SHARE), _one_by_one)
    await client.close()
    beside = (
        f"bare nats-py, encoded events: atomic batches {atomic:,.0f}/s, "
        f"publish_async {concurrent:,.0f}/s, publish {awaited:,.0f}/s"
    )
    what = f"publish_many: {count:,} enrolments, encoded, validated, acknowledged"
    return Row("", what, f"{ours:,.0f} events/s", beside, f"{ours / atomic:.2f} ×")


def _enrolments(data: DataSet, version: int, count: int) -> Iterator[Event]:
    pairs = itertools.product(data.campaigns, data.customers)
    for campaign, customer in itertools.islice(pairs, count):
        yield events.enrolled(customer, campaign, version=version, at=AT, source="benchmark")


def _encoded(data: DataSet, version: int, count: int) -> list[Publication]:
    return [prepare(event, "benchmark") for event in _enrolments(data, version, count)]


async def _publish_many(url: str, many: Iterator[Event]) -> float:
    async with Publisher(url, source="benchmark") as publisher:
        began = time.perf_counter()
        receipts = [receipt async for receipt in publisher.publish_many(many)]
        return len(receipts) / (time.perf_counter() - began)


async def _rate(
    client: Client,
    publications: Sequence[Publication],
    publish: Callable[[Client, Sequence[Publication]], Awaitable[None]],
) -> float:
    began = time.perf_counter()
    await publish(client, publications)
    return len(publications) / (time.perf_counter() - began)


async def _atomically(client: Client, publications: Sequence[Publication]) -> None:
    for start in range(0, len(publications), BATCH_EVENTS_MAX):
        if await publish_atomic(client, publications[start : start + BATCH_EVENTS_MAX], ACK_S) is None:
            raise RuntimeError("the broker refused a batch")


async def _concurrently(client: Client, publications: Sequence[Publication]) -> None:
    jetstream = client.jetstream(publish_async_max_pending=PENDING_MAX, timeout=ACK_S)
    acks = [
        await jetstream.publish_async(e.subject, e.body, wait_stall=ACK_S, headers={"Nats-Msg-Id": e.msg_id})
        for e in publications
    ]
    await asyncio.gather(*acks)


async def _one_by_one(client: Client, publications: Sequence[Publication]) -> None:
    jetstream = client.jetstream()
    for event in publications:
        await jetstream.publish(event.subject, event.body, timeout=ACK_S, headers={"Nats-Msg-Id": event.msg_id})
