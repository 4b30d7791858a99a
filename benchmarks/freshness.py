"""How long a single event takes from the broker's ack to the API's answer, on an otherwise idle stack."""

import asyncio
import statistics
import time

import msgspec
import nats

from benchmarks.dataset import OWNERS, DataSet
from benchmarks.http import Caller
from benchmarks.rows import Row, middle
from benchmarks.stack import Stack
from projections.model.events import CustomerUpserted, subject_of

PAUSE_S = 0.05


async def measure(stack: Stack, data: DataSet, samples: int) -> Row:
    """Publish one event at a time and request an answer at its position."""
    client = await nats.connect(stack.nats_url)
    path = f"/customers/{data.customers[0]}/campaigns?limit=1"
    took_ms, plain_ms = [], []
    async with Caller(stack.endpoint) as caller:
        for _ in range(samples):
            ack = await client.jetstream().publish(*_event(data.customers[0]))
            began = time.perf_counter()
            await caller.get(path, f"Membership-Min-Position: {ack.seq}\r\nPrefer: wait=5\r\n")
            took_ms.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            await caller.get(path)
            plain_ms.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(PAUSE_S)
    await client.close()
    median, plain = statistics.median(took_ms), statistics.median(plain_ms)
    beside = f"the read alone: median {plain:.1f} ms"
    return Row("", "a lone event, broker's ack → answer", middle(took_ms), beside, f"{median / plain:.1f} ×")


def _event(customer: str) -> tuple[str, bytes]:
    version = time.time_ns()
    event = CustomerUpserted(customer, version, OWNERS[0])  # type: ignore[arg-type]
    envelope = {
        "specversion": "1.0",
        "id": f"bench-{version}",
        "source": "benchmarks",
        "type": "customer.upserted.v1",
        "time": "2026-01-01T00:00:00Z",
        "data": msgspec.to_builtins(event),
    }
    return subject_of(event), msgspec.json.encode(envelope)
