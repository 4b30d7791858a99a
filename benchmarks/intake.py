"""Catch-up: how fast a projector applies a stream that is there already, beside a bare reader of the same stream."""

import time

from nats.aio.client import Client

from benchmarks.rows import Row
from benchmarks.stack import Stack
from consumers.client import connect_briefly
from consumers.intake import Reading
from ops.dev.demo import demo_events
from ops.publishing import Publication
from projections.events import Position


async def measure(stack: Stack, events: int) -> Row:
    """Stop the projector, publish, start it, and time until the API answers from the last position."""
    stack.projector.stop()
    demo = list(demo_events())
    copies = [
        # The same facts under new ids: versions make them no-ops after the first round, as redeliveries are.
        Publication(each.subject, f"{each.msg_id}-{number}", each.body)
        for number in range(max(1, events // len(demo)))
        for each in demo
    ]
    began_at = stack.applied()
    last = await stack.publish(copies)
    bare = await _bare_rate(stack.nats_url, began_at, last)
    began = time.perf_counter()
    stack.projector.start()
    await stack.wait_for(last)
    rate = (last - began_at) / (time.perf_counter() - began)
    what = f"catch-up of {last - began_at:,} events, process start included"
    return Row(what, f"{rate:,.0f} events/s", f"bare reader {bare:,.0f}/s", f"{rate / bare:.2f}")


async def _bare_rate(nats_url: str, after: int, last: int) -> float:
    client: Client = await connect_briefly(nats_url, "membership-bench")
    began = time.perf_counter()
    async with Reading(client, Position(after)) as reading:
        while reading.position < last:
            await reading.next_batch(2000, 1.0)
    elapsed = time.perf_counter() - began
    await client.close()
    return (last - after) / elapsed
