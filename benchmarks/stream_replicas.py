"""Publications into a stream with one replica and with three, in one run: `python -m benchmarks.stream_replicas`, 20 s.

Not part of the full run. All servers share this machine's cores and disk, so three replicas look worse here than on
three machines; both write each event to disk before they acknowledge it.
"""

import asyncio
import itertools
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from nats.aio.client import Client
from nats.js.client import JetStreamContext

from consumers import stream
from consumers.client import connect_once
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.nats_cluster import NatsCluster
from ops.publisher import Publication, publish_batch
from tests.support.builders import published

SECONDS: Final = 3.0
IN_FLIGHT: Final = (1, 200)
"""One publication at a time shows the time of an acknowledgement, many at a time the throughput."""
BATCH_EVENTS: Final = 500
"""Events of an atomic batch, which `membership publish` sends."""


class Measured(NamedTuple):
    """Acknowledged publications of one process."""

    replicas: int
    load: str
    rate: float
    """Acknowledged events a second."""
    p50_ms: float
    p99_ms: float


async def measure_all() -> list[Measured]:
    """Measure a single server with one replica, then three servers with three."""
    with TemporaryDirectory(prefix="membership-replicas-") as folder:
        single = NatsServer(Path(folder) / "single")
        single.start()
        measured = await _measure(single.url, 1)
        single.stop()
        cluster = NatsCluster([Path(folder) / f"n{number}" for number in (1, 2, 3)])
        cluster.start()
        measured += await _measure(cluster.url, 3)
        cluster.stop()
    return measured


async def _measure(url: str, replicas: int) -> list[Measured]:
    client = await connect_once(url, "benchmark")
    await stream.create(client, replicas)
    context = client.jetstream()
    numbers = itertools.count(1)
    measured = [await _load(context, numbers, replicas, in_flight) for in_flight in IN_FLIGHT]
    measured.append(await _batches(client, url, numbers, replicas))
    await client.close()
    return measured


async def _load(context: JetStreamContext, numbers: "itertools.count[int]", replicas: int, in_flight: int) -> Measured:
    times_ms: list[float] = []
    ends = time.perf_counter() + SECONDS

    async def publish() -> None:
        while (began := time.perf_counter()) < ends:
            await context.publish(*published("target.enrolled.v1", 1, customer=next(numbers)), timeout=10)
            times_ms.append((time.perf_counter() - began) * 1_000)

    await asyncio.gather(*(publish() for _ in range(in_flight)))
    return _row(replicas, f"{in_flight} in flight", len(times_ms), times_ms)


async def _batches(client: Client, url: str, numbers: "itertools.count[int]", replicas: int) -> Measured:
    times_ms: list[float] = []
    ends = time.perf_counter() + SECONDS
    while (began := time.perf_counter()) < ends:
        events = (published("target.enrolled.v1", 1, customer=next(numbers)) for _ in range(BATCH_EVENTS))
        batch = [Publication(subject, f"batch-{next(numbers)}", body) for subject, body in events]
        await publish_batch(client, url, batch)
        times_ms.append((time.perf_counter() - began) * 1_000)
    return _row(replicas, f"atomic batches of {BATCH_EVENTS}", BATCH_EVENTS * len(times_ms), times_ms)


def _row(replicas: int, load: str, events: int, times_ms: list[float]) -> Measured:
    percentiles = statistics.quantiles(times_ms, n=100)
    return Measured(replicas, load, events / SECONDS, percentiles[49], percentiles[98])


def main() -> None:
    """Print a table; the times are those of one acknowledgement, of a batch's last event for batches."""
    lines = ["| replicas | load | acknowledged events/s | p50 | p99 |", "|---|---|---|---|---|"]
    for row in asyncio.run(measure_all()):
        times = f"{row.p50_ms:.1f} ms | {row.p99_ms:.1f} ms"
        lines.append(f"| {row.replicas} | {row.load} | {row.rate:,.0f} | {times} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
