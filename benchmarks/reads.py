"""Reads a second: pages of customers, every one from PostgreSQL, beside a route that asks nobody."""

import asyncio
import time
from collections.abc import Sequence

from benchmarks.http import Caller
from benchmarks.rows import Row
from benchmarks.stack import Stack
from ops.dev.demo import BIG_CUSTOMER, demo_events

CONNECTIONS = 8


async def measure(stack: Stack, seconds: float) -> list[Row]:
    """Ask with a few connections for some seconds: ordinary customers, then the busy one's first and last page."""
    customers = sorted({each.subject.rsplit(".", 1)[1] for each in demo_events() if ".customer." in each.subject})
    ordinary = [f"/customers/{customer}/campaigns?include_deleted=true" for customer in customers]
    bound = await _rate(stack, ["/health/live"], seconds)
    busy = f"/customers/{BIG_CUSTOMER}/campaigns?limit=10"
    measured = {
        "pages of ordinary customers, 10 items": await _rate(stack, ordinary, seconds),
        "page 1 of the customer with 3,000 memberships": await _rate(stack, [busy], seconds),
        "its last page, by offset": await _rate(stack, [busy + "&offset=2600"], seconds),
        "a search in it": await _rate(stack, [busy + "&q=zurich"], seconds),
    }
    beside = f"/health/live {bound:,.0f}/s"
    return [Row(what, f"{rate:,.0f} req/s", beside, f"{rate / bound:.2f}") for what, rate in measured.items()]


async def _rate(stack: Stack, paths: Sequence[str], seconds: float) -> float:
    answered = 0
    ends = time.perf_counter() + seconds

    async def ask_on(start: int) -> None:
        nonlocal answered
        async with Caller(stack) as caller:
            turn = start
            while time.perf_counter() < ends:
                await caller.get(paths[turn % len(paths)])
                turn += CONNECTIONS
                answered += 1

    await asyncio.gather(*(ask_on(start) for start in range(CONNECTIONS)))
    return answered / seconds
