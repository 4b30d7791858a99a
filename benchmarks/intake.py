"""Catch-up: how fast a projector applies a stream that is there already, beside a bare reader of the same stream."""

import time

from benchmarks.bare import bare_rate
from benchmarks.rows import Row
from benchmarks.stack import Stack
from ops.dev.demo import demo_events
from ops.publishing import Publication


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
    bare = await bare_rate(stack.nats_url, began_at, last)
    began = time.perf_counter()
    stack.projector.start()
    await stack.wait_for(last)
    rate = (last - began_at) / (time.perf_counter() - began)
    what = f"catch-up of {last - began_at:,} events, process start included"
    return Row(what, f"{rate:,.0f} events/s", f"bare reader {bare:,.0f}/s", f"{rate / bare:.2f}")
