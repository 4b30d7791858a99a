"""R4: the cost of deep, sorted and searched pages of a large customer, relative to that customer's page 1.

Requests run one after another on one connection, each unique by an ignored parameter, the kinds in turn; medians are
compared.
"""

import itertools
import statistics
import time
from collections.abc import Mapping
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
    middle_page, last_page = f"&offset={busy // 2}", f"&offset={busy - LIMIT}"
    cursor = await _cursor(stack.endpoint, BUSY_CUSTOMER, busy // 2)
    number, words = await _searched(stack.endpoint)
    searches = {f"q={number}, which few match": f"&q={number}", f"q={words}, which many match": f"&q={words}"}
    sorts = {f"page 1 by {field}": f"&sort_field={field}" for field in SORT_FIELDS if field != "enrolled_at"}
    pages = {"page 1": PAGE_1, f"offset {busy // 2:,}": middle_page, f"offset {busy - LIMIT:,}": last_page}
    ours = await _took_ms(
        stack.endpoint, BUSY_CUSTOMER, pages | {"a cursor in the middle": cursor} | searches | sorts, samples
    )
    theirs = await _took_ms(peer, BUSY_CUSTOMER, pages | searches | sorts, max(3, samples // 6))
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
    return DeepPages(rows, await _growth(stack.endpoint, peer, busy, samples))


async def _growth(ours: Endpoint, peer: Endpoint, busy: int, samples: int) -> list[Growth]:
    growth: dict[str, Growth] = {}
    for divisor, customer in sorted((LESS_BUSY | {1: BUSY_CUSTOMER}).items(), reverse=True):
        memberships = busy // divisor
        pages = {"page 1": PAGE_1, "last page": f"&offset={memberships - LIMIT}"}
        cursor = {"by cursor": await _cursor(ours, customer, memberships // 2)}
        samples_ms = {
            "ours": await _took_ms(ours, customer, pages | cursor, samples),
            "FastAPI": await _took_ms(peer, customer, pages, samples // 3),
        }
        for system, kinds in samples_ms.items():
            for kind, took_ms in kinds.items():
                what = f"{system}, {kind}"
                growth.setdefault(what, Growth(what, {})).points[memberships] = statistics.median(took_ms)
    return list(growth.values())


async def _took_ms(endpoint: Endpoint, customer: str, kinds: Mapping[str, str], samples: int) -> dict[str, list[float]]:
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


async def _cursor(endpoint: Endpoint, customer: str, offset: int) -> str:
    """Return the query for the page at `offset`, by cursor."""
    answer = await _answer(endpoint, customer, f"&offset={offset - LIMIT}")
    return f"&cursor={answer['meta']['next_cursor']}"


async def _searched(endpoint: Endpoint) -> tuple[str, str]:
    """Return the number and a word from a campaign's name."""
    answer = await _answer(endpoint, BUSY_CUSTOMER, PAGE_1)
    words = answer["data"][0]["name"].split(" ")
    return words[-1], next(word for word in words if word.isascii())


def _path(customer: str, query: str) -> str:
    return f"/customers/{customer}/campaigns?limit={LIMIT}&cold={next(_numbers)}{query}"
