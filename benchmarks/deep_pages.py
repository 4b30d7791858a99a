"""R4: the cost of deep, sorted and searched pages of a large customer, relative to that customer's page 1.

Requests run one after another on one connection, each unique by an ignored parameter, the kinds in turn; medians are
compared.
"""

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.json import decode

from benchmarks.dataset import BUSY_CUSTOMER, LESS_BUSY, DataSet
from benchmarks.effort import Effort
from benchmarks.http import Caller, Endpoint
from benchmarks.peers.same_answers import SORT_FIELDS
from benchmarks.rows import Row, Target, judged, middle
from benchmarks.stack import Stack

LIMIT = 10
PAGE_1 = ""
OTHER_MS_MAX = 100
"""The most that any order or search of the busy customer may take."""
_numbers = itertools.count()


class Growth(NamedTuple):
    """Milliseconds of one kind of page, by the number of memberships of its customer."""

    what: str
    points: dict[int, float]


class DeepPages(NamedTuple):
    """The rows of R4, and the cost of growth for us and the peer."""

    rows: list[Row]
    growth: list[Growth]


async def measure(stack: Stack, peer: Endpoint, data: DataSet, effort: Effort) -> DeepPages:
    """Send the same requests to the service and the peer; the peer has no cursors."""
    busy, samples = data.size.busy, effort.latency_samples
    pages = {
        "page 1": PAGE_1,
        f"offset {busy // 2:,}": f"&offset={busy // 2}",
        f"offset {busy - LIMIT:,}": f"&offset={busy - LIMIT}",
        "a cursor in the middle": await _cursor(stack.endpoint, BUSY_CUSTOMER, busy // 2),
    }
    ours = await times_ms(stack.endpoint, BUSY_CUSTOMER, pages, samples)
    peers = {what: query for what, query in pages.items() if "cursor" not in what}
    theirs = await times_ms(peer, BUSY_CUSTOMER, peers, max(3, samples // 6))
    targets = {f"offset {busy - LIMIT:,}": Target(at_most=3), "a cursor in the middle": Target(at_most=1.5)}
    first = statistics.median(ours["page 1"])
    rows = []
    for what, took_ms in ours.items():
        ratio = statistics.median(took_ms) / first
        beside = f"FastAPI + SQLAlchemy: median {statistics.median(theirs[what]):.1f} ms" if what in theirs else ""
        named = f"{busy:,} memberships, {what}"
        if what in targets:
            rows.append(judged("R4", named, middle(took_ms), beside, ratio=ratio, target=targets[what]))
        else:
            rows.append(Row("R4", named, middle(took_ms), beside, f"{ratio:.2f} ×"))
    rows += [await _other(stack.endpoint, peer, busy, other, effort) for other in await _others(stack.endpoint)]
    return DeepPages(rows, await _growth(stack.endpoint, peer, busy, samples))


class Other(NamedTuple):
    """Requests in another order than the default one, or with a search: one or several queries of the same kind."""

    what: str
    queries: Sequence[str]


async def _others(endpoint: Endpoint) -> list[Other]:
    number, word = await _searched(endpoint)
    dates = "&date_from=2025-02-01&date_to=2026-02-01"
    return [
        *(
            Other(f"by {field}, both directions", [f"&sort_field={field}&sort_dir={way}" for way in ("asc", "desc")])
            for field in SORT_FIELDS
        ),
        Other(f"q={number}, which few match", [f"&q={number}"]),
        Other(f"q={word}, which many match", [f"&q={word}"]),
        Other("q=a and q=au", ["&q=a", "&q=au"]),
        Other(f"q={word} within a year", [f"&q={word}{dates}"]),
        Other(f"q={word} by progress", [f"&q={word}&sort_field=progress"]),
        Other("within a year, by name", [f"{dates}&sort_field=name"]),
    ]


async def _other(ours: Endpoint, peer: Endpoint, busy: int, other: Other, effort: Effort) -> Row:
    """Return the row of one order or search: the slowest of its queries at page 1, in the middle, and by cursor."""
    slowest: dict[str, float] = {}
    peers: dict[str, float] = {}
    samples = max(3, effort.latency_samples // 4)
    for query in other.queries:
        total = (await _answer(ours, BUSY_CUSTOMER, query))["meta"]["total"]
        middle_offset = max(total // 2, LIMIT)
        pages = {"page 1": query, "middle": f"{query}&offset={middle_offset}"}
        by_cursor = (
            {"cursor": query + await _cursor(ours, BUSY_CUSTOMER, middle_offset, query)} if total > LIMIT else {}
        )
        _take_slowest(slowest, await times_ms(ours, BUSY_CUSTOMER, pages | by_cursor, samples))
        _take_slowest(peers, await times_ms(peer, BUSY_CUSTOMER, pages, max(3, samples // 2)))
    met = all(ms <= OTHER_MS_MAX for ms in slowest.values()) and all(slowest[what] < ms for what, ms in peers.items())
    ratio = max(slowest[what] / ms for what, ms in peers.items())
    return Row(
        "R4",
        f"{busy:,} memberships, {other.what}",
        _times(slowest),
        f"FastAPI + SQLAlchemy: {_times(peers)}",
        f"{ratio:.2f} ×",
        f"≤ {OTHER_MS_MAX} ms, < 1 ×",
        met,
    )


def _take_slowest(slowest: dict[str, float], took_ms: Mapping[str, Sequence[float]]) -> None:
    for what, samples in took_ms.items():
        slowest[what] = max(slowest.get(what, 0.0), statistics.median(samples))


def _times(medians_ms: Mapping[str, float]) -> str:
    return ", ".join(f"{what} {ms:.1f} ms" for what, ms in medians_ms.items())


async def _growth(ours: Endpoint, peer: Endpoint, busy: int, samples: int) -> list[Growth]:
    growth: dict[str, Growth] = {}
    for divisor, customer in sorted((LESS_BUSY | {1: BUSY_CUSTOMER}).items(), reverse=True):
        memberships = busy // divisor
        pages = {"page 1": PAGE_1, "last page": f"&offset={memberships - LIMIT}"}
        cursor = {"by cursor": await _cursor(ours, customer, memberships // 2)}
        samples_ms = {
            "ours": await times_ms(ours, customer, pages | cursor, samples),
            "FastAPI": await times_ms(peer, customer, pages, max(3, samples // 3)),
        }
        for system, kinds in samples_ms.items():
            for kind, took_ms in kinds.items():
                what = f"{system}, {kind}"
                growth.setdefault(what, Growth(what, {})).points[memberships] = statistics.median(took_ms)
    return list(growth.values())


async def times_ms(endpoint: Endpoint, customer: str, kinds: Mapping[str, str], samples: int) -> dict[str, list[float]]:
    """Return the milliseconds of each kind; the first request of each kind is not counted."""
    took_ms: dict[str, list[float]] = {what: [] for what in kinds}
    async with Caller(endpoint) as caller:
        for sample in range(samples + 1):
            for what, query in kinds.items():
                began = time.perf_counter()
                await caller.get(_path(customer, query))
                if sample:
                    took_ms[what].append((time.perf_counter() - began) * 1000)
    return took_ms


async def _answer(endpoint: Endpoint, customer: str, query: str) -> Any:  # noqa: ANN401 - decoded JSON
    async with Caller(endpoint) as caller:
        return decode((await caller.get(_path(customer, query))).body)


async def _cursor(endpoint: Endpoint, customer: str, offset: int, query: str = "") -> str:
    """Return the parameter for the page at `offset` of a query, by cursor."""
    answer = await _answer(endpoint, customer, f"{query}&offset={offset - LIMIT}")
    return f"&cursor={answer['meta']['next_cursor']}"


async def _searched(endpoint: Endpoint) -> tuple[str, str]:
    """Return the number and a word from a campaign's name."""
    answer = await _answer(endpoint, BUSY_CUSTOMER, PAGE_1)
    words = answer["data"][0]["name"].split(" ")
    return words[-1], next(word for word in words if word.isascii())


def _path(customer: str, query: str) -> str:
    return f"/customers/{customer}/campaigns?limit={LIMIT}&cold={next(_numbers)}{query}"
