"""R1 and R3: typical reads, alone and while events are applied.

Customers are drawn by Zipf's law. The bound is a bare granian that returns one of these answers: no Python HTTP server
measured here is faster. The peer gets the same requests.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from benchmarks import zipf
from benchmarks.dataset import DataSet
from benchmarks.effort import Effort
from benchmarks.http import Caller, Endpoint
from benchmarks.load import CONNECTIONS, GENERATOR, Load, turn_by_turn, under_load
from benchmarks.peer_processes import granian
from benchmarks.rows import Row, Target, figure, judged, percentile
from benchmarks.stack import Stack
from benchmarks.steady import publishing
from benchmarks.visibility import watching
from ops.devstack.programs import http_get

DRAWS = 100_000
EVENTS_A_SECOND = 2_000
BEFORE_S = 1.0
WATCHED = 50
_COUNTED: Final = re.compile(r'^membership_cache_requests_total\{kind="answer",outcome="(\w+)"\} (\S+)$', re.MULTILINE)


class HotReads(NamedTuple):
    """The rows of R1, the loads behind them by system, and the requested paths."""

    rows: list[Row]
    loads: dict[str, Load]
    paths: Sequence[str]


async def measure(stack: Stack, peer: Endpoint, data: DataSet, effort: Effort) -> HotReads:
    """Request pages of ten, first without compression, then with gzip, which most HTTP clients send."""
    paths = [_path(customer) for customer in zipf.drawn(data.customers, DRAWS)]
    plain = await _against_bare(stack, paths, effort, {"FastAPI": peer})
    zipped = await _against_bare(stack, paths, effort, {}, encoding="gzip")
    what = f"hot reads, Zipf over {len(data.customers):,} customers; {GENERATOR}, {CONNECTIONS} connections"
    peers = plain.loads["FastAPI"]
    bound = Target(at_least=0.6)
    rows = [
        judged("R1", what, plain.shown, plain.bare, ratio=plain.ratio, target=bound),
        judged("R1", f"{what}, gzip", zipped.shown, zipped.bare, ratio=zipped.ratio, target=bound),
        judged(
            "R1",
            what,
            plain.shown,
            f"FastAPI + SQLAlchemy: {peers.rate:,.0f} req/s, p99 {peers.p99_ms:.0f} ms",
            ratio=plain.loads["ours"].rate / peers.rate,
            target=Target(at_least=15),
        ),
    ]
    return HotReads(rows, plain.loads, paths)


class _AgainstBare(NamedTuple):
    """The loads by system, the size of the answer, and the share of listings from the cache."""

    loads: dict[str, Load]
    answer_bytes: int
    cached: float

    @property
    def shown(self) -> str:
        ours = self.loads["ours"]
        return f"{ours.rate:,.0f} req/s, p99 {ours.p99_ms:.1f} ms, {self.cached:.0%} from memory"

    @property
    def bare(self) -> str:
        return f"bare granian, the same {self.answer_bytes:,} bytes: {self.loads['bare granian'].rate:,.0f} req/s"

    @property
    def ratio(self) -> float:
        return self.loads["ours"].rate / self.loads["bare granian"].rate


async def _against_bare(
    stack: Stack, paths: Sequence[str], effort: Effort, peers: Mapping[str, Endpoint], encoding: str = ""
) -> _AgainstBare:
    """Send the same requests to ours, to a bare granian with one of the answers, and to the peers, in turn."""
    ours = stack.endpoint._replace(accept_encoding=encoding)
    async with Caller(ours) as caller:
        answer = (await caller.get(paths[0])).body
    async with granian(stack, answer, encoding) as bare:
        systems = {"bare granian": bare, "ours": ours, **peers}
        for name, endpoint in systems.items():
            await under_load(endpoint, paths, effort.warm_up_s if name == "ours" else 1)
        before = _cache_outcomes(stack.endpoint)
        loads = await turn_by_turn(systems, [paths] * effort.rounds, effort.read_s)
    return _AgainstBare(loads, len(answer), _share(before, _cache_outcomes(stack.endpoint)))


async def measure_while_applying(stack: Stack, data: DataSet, effort: Effort, hot: HotReads) -> list[Row]:
    """Send the same requests while events arrive."""
    seconds = effort.read_s * effort.rounds
    events = data.live_events(int(EVENTS_A_SECOND * (seconds + 60)))
    async with (
        watching(stack.endpoint, hot.paths[:WATCHED]) as visibility,
        publishing(stack, events, EVENTS_A_SECOND, visibility) as steady,
    ):
        await asyncio.sleep(BEFORE_S)
        load = await under_load(stack.endpoint, hot.paths, seconds)
    alone = hot.loads["ours"]
    what = f"hot reads while {steady.rate:,.0f} mixed events/s are applied"
    return [
        judged(
            "R3",
            what,
            f"{load.rate:,.0f} req/s, p99 {load.p99_ms:.1f} ms",
            f"R1: {alone.rate:,.0f} req/s",
            ratio=load.rate / alone.rate,
            target=Target(at_least=0.6),
        ),
        figure(
            "R3",
            "broker's ack → first answer that has applied it, p99",
            percentile(visibility.lags_ms, 0.99),
            f"{len(visibility.lags_ms):,} batches",
            target=Target(at_most=100, unit="ms"),
        ),
    ]


def _cache_outcomes(endpoint: Endpoint) -> dict[str, float]:
    """Return how many listings the cache answered (`hit`) and did not (`miss`) so far."""
    response = http_get(endpoint.port, "/metrics")
    metrics = response[1].decode() if response else ""
    return {name: float(count) for name, count in _COUNTED.findall(metrics)}


def _share(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Return the share of listings between two samples that the cache answered."""
    outcomes = {name: count - before.get(name, 0.0) for name, count in after.items()}
    return outcomes.get("hit", 0.0) / max(1.0, sum(outcomes.values()))


def _path(customer: str) -> str:
    return f"/customers/{customer}/campaigns"
