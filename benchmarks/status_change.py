"""W3: a campaign with very many members changes its status while events of other campaigns arrive.

Visible: a member's answer shows the status. Propagated: every membership has it and no fan-out is pending.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import asyncpg
from msgspec.json import decode

from benchmarks.dataset import BUSY_CAMPAIGN, DataSet
from benchmarks.effort import Effort
from benchmarks.http import Caller, Endpoint
from benchmarks.progress import live
from benchmarks.rows import Row, Target, figure, percentile
from benchmarks.stack import Stack
from benchmarks.steady import publishing
from benchmarks.visibility import watching
from ops.publisher import Publication
from projections.model.membership import STATUS_ORDER
from projections.store.queries import Generation

EVENTS_A_SECOND = 100
AROUND_S = 1.0
"""How long other events are observed before and after each change."""
READ_EVERY_S = 0.005
CHECK_EVERY_S = 0.05
DEADLINE_S = 300.0
STATUSES = ("paused", "running", "done")


class Change(NamedTuple):
    """Seconds from the broker's ack."""

    visible_s: float
    propagated_s: float


async def measure(stack: Stack, data: DataSet, effort: Effort) -> list[Row]:
    """Change the status several times and report the slowest change."""
    member = data.customers[data.size.busy // 2]
    watched = [f"/customers/{customer}/campaigns?limit=1" for customer in data.customers[:10]]
    connection = await asyncpg.connect(stack.database_url)
    changes = []
    async with (
        watching(stack.endpoint, watched) as visibility,
        publishing(stack, _others(data), EVENTS_A_SECOND, visibility),
    ):
        for number in range(effort.status_changes):
            await asyncio.sleep(AROUND_S)
            changes.append(await _change(stack, data, connection, member, STATUSES[number % len(STATUSES)]))
        await asyncio.sleep(AROUND_S)
    await connection.close()
    what = f"status of the campaign with {data.size.busy:,} members changes"
    visible, propagated = (max(seconds) for seconds in zip(*changes, strict=True))
    beside = f"slowest of {len(changes)} changes"
    lags_ms = visibility.lags_ms
    others = f"{len(lags_ms):,} events at {EVENTS_A_SECOND}/s, median {statistics.median(lags_ms):.0f} ms"
    lag, limit = percentile(lags_ms, 0.99), Target(at_most=500, unit="ms")
    return [
        figure("W3", f"{what}: a member sees it", visible, beside, target=Target(at_most=1, unit="s"), digits=2),
        figure(
            "W3", f"{what}: all copies are updated", propagated, beside, target=Target(at_most=10, unit="s"), digits=2
        ),
        figure("W3", "meanwhile other events, ack → answer, p99", lag, others, target=limit),
    ]


def _others(data: DataSet) -> Iterator[Publication]:
    while True:
        for campaign in data.campaigns:
            yield from data.counter_events(campaign, 1)


async def _change(stack: Stack, data: DataSet, connection: asyncpg.Connection, member: str, status: str) -> Change:
    await stack.publish([data.status_event(BUSY_CAMPAIGN, status)])
    began = time.perf_counter()
    async with asyncio.timeout(DEADLINE_S):
        visible, propagated = await asyncio.gather(
            _visible(stack.endpoint, member, status), _propagated(connection, await live(connection), status)
        )
    return Change(visible - began, propagated - began)


async def _visible(endpoint: Endpoint, member: str, status: str) -> float:
    """Return when an answer shows the status."""
    async with Caller(endpoint) as caller:
        while True:
            answer: Any = decode((await caller.get(f"/customers/{member}/campaigns?limit=200")).body)
            shown = {item["id"]: item["status"] for item in answer["data"]}
            if shown[BUSY_CAMPAIGN] == status:
                return time.perf_counter()
            await asyncio.sleep(READ_EVERY_S)


async def _propagated(connection: asyncpg.Connection, name: Generation, status: str) -> float:
    """Return when every copy of the status is the new one and no fan-out is pending."""
    outdated = f"SELECT EXISTS (SELECT FROM {name}.membership WHERE campaign_id = $1 AND status IS DISTINCT FROM $2)"  # noqa: S608
    pending = "SELECT EXISTS (SELECT FROM control.fan_out WHERE generation = $1)"
    rank = STATUS_ORDER.index(status)
    while await connection.fetchval(pending, name) or await connection.fetchval(outdated, BUSY_CAMPAIGN, rank):  # noqa: ASYNC110 - rows send no notifications
        await asyncio.sleep(CHECK_EVERY_S)
    return time.perf_counter()
