"""A flood: many connections that repeat requests as fast as they are answered, whatever the answer is."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

from tests.support.api_process import connect, response_on
from tests.support.processes import System

CONNECT_TOGETHER_MAX = 100


class Flood:
    """What the connections were answered."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.without_retry_after = 0
        self.refused_within_s: list[float] = []
        """How long each 503 took."""

    def record(self, status: int, head: bytes, took_s: float) -> None:
        """Count a response."""
        self.statuses[status] += 1
        if status == 503:
            self.refused_within_s.append(took_s)
            self.without_retry_after += b"\r\nretry-after: " not in head.lower()


@asynccontextmanager
async def flooding(system: System, token: str, paths: Iterator[str], connections: int) -> AsyncIterator[Flood]:
    """Repeat requests on many connections as one caller; each path is requested once."""
    flood = Flood()
    tasks: list[asyncio.Task[None]] = []
    for _ in range(-(-connections // CONNECT_TOGETHER_MAX)):
        tasks += [asyncio.create_task(_repeat(system, token, paths, flood)) for _ in range(CONNECT_TOGETHER_MAX)]
        await asyncio.sleep(0)
    try:
        yield flood
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {asyncio.CancelledError}, "a connection was broken"


def distinct(path: str, query: str) -> Iterator[str]:
    """Yield paths of one page that no cache knows."""
    return (f"{path}?{query}&flood={number}" for number in itertools.count())


async def _repeat(system: System, token: str, paths: Iterator[str], flood: Flood) -> None:
    reader, writer = await connect(system)
    try:
        for path in paths:
            began_s = time.monotonic()
            writer.write(f"GET {path} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            status, head = await response_on(reader)
            flood.record(status, head, time.monotonic() - began_s)
    finally:
        with suppress(ConnectionError):
            writer.close()
