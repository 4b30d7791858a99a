"""W1: how fast a backlog of live events is applied, beside a bare reader of the same events and the peer.

The peer applies a smaller set first, to tables filled from ours at the position where that set begins; its answers are
compared with ours once both have applied it.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.bare import bare_rate
from benchmarks.dataset import BUSY_CUSTOMER, LESS_BUSY, DataSet
from benchmarks.effort import Effort
from benchmarks.peer_processes import fastapi, faststream
from benchmarks.peers import durables, load
from benchmarks.peers.same_answers import same_answers
from benchmarks.progress import applying_rate
from benchmarks.rows import Row, Target, figure, judged
from benchmarks.stack import Stack
from ops.publisher import Publication

POLL_S = 0.05
DEADLINE_S = 600.0
COMPARED = 200
"""Customers whose answers are compared."""


class CatchUp(NamedTuple):
    """The rows of W1, and events per second by system."""

    rows: list[Row]
    rates: dict[str, float]


async def measure(stack: Stack, data: DataSet, effort: Effort) -> CatchUp:
    """Let the peer apply its events first, then our projector apply its own."""
    peers = await _peer_rate(stack, data, effort)
    rate, bare = await caught_up(stack, data.live_events(effort.live_events))
    editing, bare_editing = await caught_up(stack, data.editing_events(effort.live_events // 2))
    what = f"catch-up of {effort.live_events:,} mixed events"
    shown = f"{rate:,.0f} events/s"
    peer_text = f"FastStream + SQLAlchemy: {peers:,.0f} events/s, {effort.peer_events:,} of such events"
    rows = [
        figure("W1", what, rate, target=Target(at_least=60_000, unit="events/s")),
        judged("W1", what, shown, peer_text, ratio=rate / peers, target=Target(at_least=30)),
        judged(
            "W1",
            what,
            shown,
            f"nats-py merely reads them: {bare:,.0f} events/s",
            ratio=rate / bare,
            target=Target(at_least=0.6),
        ),
        Row(
            "",
            f"catch-up of {effort.live_events // 2:,} events, a tenth of which change campaigns, of 100,000 campaigns",
            f"{editing:,.0f} events/s",
            f"nats-py merely reads them: {bare_editing:,.0f} events/s",
            f"{editing / bare_editing:.2f} ×",
        ),
    ]
    return CatchUp(rows, {"nats-py merely reads": bare, "ours": rate, "FastStream": peers})


async def caught_up(stack: Stack, events: Iterable[Publication]) -> tuple[float, float]:
    """Return events per second of ours, and of a reader that does nothing with them."""
    stack.projector.stop()
    began_at = stack.applied()
    last = await stack.publish(events)
    bare = await bare_rate(stack.nats_url, began_at, last)
    stack.projector.start()
    rate = await applying_rate(stack.database_url, began_at, last)
    await stack.wait_for(last)
    return rate, bare


async def _peer_rate(stack: Stack, data: DataSet, effort: Effort) -> float:
    began_at = stack.applied()
    await load.load(stack.database_url)
    await durables.begin_after(stack.nats_url, began_at)
    last = await stack.publish(data.live_events(effort.peer_events))
    await stack.wait_for(last)
    async with faststream(stack):
        rate = await _rate(stack.nats_url, last - began_at)
    await durables.delete(stack.nats_url)
    customers = [BUSY_CUSTOMER, *LESS_BUSY.values(), *data.customers[:COMPARED]]
    await compare(stack, customers, effort.same_answers)
    return rate


async def compare(stack: Stack, customers: Sequence[str], requests: int) -> None:
    """Check that the peers' tables give the same answers as ours; raises `Different`."""
    async with fastapi(stack) as peer:
        token = stack.endpoint.token
        await asyncio.to_thread(same_answers, stack.endpoint.url, peer.url, token, customers, requests)


async def _rate(nats_url: str, events: int) -> float:
    """Return events per second from the first event observed as applied to the last."""
    first: tuple[float, int] | None = None
    async with asyncio.timeout(DEADLINE_S):
        while remaining := await durables.remaining(nats_url):
            if first is None and remaining < events:
                first = time.perf_counter(), remaining
            await asyncio.sleep(POLL_S)
    if first is None:
        raise RuntimeError(f"the peer applied {events} events before the first measurement")
    return first[1] / (time.perf_counter() - first[0])
