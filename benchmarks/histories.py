"""R5: how long the history of a membership takes, found in the whole stream by its subjects."""

import time

from benchmarks.dataset import DataSet
from benchmarks.http import Caller, Refused
from benchmarks.rows import Row, Target, figure, middle, percentile
from benchmarks.stack import Stack

TARGET_MS = 300.0


async def measure(stack: Stack, data: DataSet, samples: int) -> Row:
    """Request the histories of different memberships, one after another."""
    took_ms = []
    refused = 0
    async with Caller(stack.endpoint) as caller:
        for customer, campaign in data.memberships(samples):
            began = time.perf_counter()
            try:
                await caller.get(f"/customers/{customer}/campaigns/{campaign}/history")
            except Refused:  # the broker did not answer within a second
                refused += 1
            took_ms.append((time.perf_counter() - began) * 1000)
    what = f"history of a membership, in a stream of {stack.applied():,} messages, p99"
    target = Target(at_most=TARGET_MS, unit="ms")
    return figure(
        "R5",
        what,
        percentile(took_ms, 0.99),
        f"{middle(took_ms)}, {refused} of {samples} answered 503",
        target=target,
        digits=1,
    )
