"""How long a lone event takes from the broker's ack to the API's answer, on an otherwise idle stack."""

import asyncio
import statistics
import time

import msgspec
import nats

from benchmarks.http import Caller
from benchmarks.rows import Row, percentile
from benchmarks.stack import Stack
from ops.dev.demo import DEMO_CUSTOMER, DEMO_OWNER
from projections.events import CustomerUpserted, subject_of

PAUSE_S = 0.05


async def measure(stack: Stack, samples: int) -> Row:
    """Publish one event at a time and ask for the answer that has applied its position."""
    client = await nats.connect(stack.nats_url)
    path = f"/customers/{DEMO_CUSTOMER}/campaigns?limit=1"
    took_ms, plain_ms = [], []
    async with Caller(stack) as caller:
        for _ in range(samples):
            ack = await client.jetstream().publish(*_event())
            began = time.perf_counter()
            await caller.get(path, f"Membership-Min-Position: {ack.seq}\r\nPrefer: wait=5\r\n")
            took_ms.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            await caller.get(path)
            plain_ms.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(PAUSE_S)
    await client.close()
    median, plain = statistics.median(took_ms), statistics.median(plain_ms)
    measured = f"median {median:.1f} ms, p99 {percentile(took_ms, 0.99):.1f} ms"
    return Row("a lone event, ack to answer", measured, f"the read alone {plain:.1f} ms", f"{median / plain:.1f}")


def _event() -> tuple[str, bytes]:
    version = time.time_ns()
    event = CustomerUpserted(DEMO_CUSTOMER, version, DEMO_OWNER)  # type: ignore[arg-type]
    envelope = {
        "specversion": "1.0",
        "id": f"bench-{version}",
        "source": "benchmarks",
        "type": "customer.upserted.v1",
        "time": "2026-01-01T00:00:00Z",
        "data": msgspec.to_builtins(event),
    }
    return subject_of(event), msgspec.json.encode(envelope)
