"""The reads that wait for PostgreSQL in one process: a bounded number, taken from their callers in turn.

A caller that sends many requests delays its own: the requests of the others are taken as often as its requests, however
many it has waiting.

Invariants: at most `places` reads wait. If none is free, a read of a caller with fewer waiting reads takes the place of
the newest read of the caller with the most; all other reads are refused.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import asyncpg

from service import metrics
from service.read_model.admission import Overloaded

Values = tuple[Any, ...]


class Waiting(NamedTuple):
    """A read that waits."""

    values: Values
    future: asyncio.Future[asyncpg.Record]


Line = dict[str, deque[Waiting]]
"""The waiting reads of one statement by caller; the first caller's turn is next."""


class WaitingReads:
    """The waiting reads of all statements."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._lines: dict[str, Line] = {}
        self._counts: Counter[str] = Counter()
        self._total = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    @property
    def is_full(self) -> bool:
        """Whether no place is free."""
        return self._total >= self._places

    def is_full_for(self, owner: str) -> bool:
        """Return whether a read of this caller would be refused now."""
        return self._total >= self._places and self._counts[owner] >= self._share()

    def add(self, statement: str, values: Values, owner: str) -> asyncio.Future[asyncpg.Record]:
        """Add a read and return the future of its row; raises `Overloaded`."""
        if self._total >= self._places:
            self._make_room(owner)
        future: asyncio.Future[asyncpg.Record] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(statement, {}).setdefault(owner, deque()).append(Waiting(values, future))
        self._counts[owner] += 1
        self._total += 1
        return future

    def take(self, reads_max: int) -> tuple[str, list[Waiting]]:
        """Take reads of the statement whose turn it is, one of each caller in turn; skips those given up."""
        statement = next(iter(self._lines))
        line = self._lines.pop(statement)
        batch: list[Waiting] = []
        while line and len(batch) < reads_max:
            owner = next(iter(line))
            reads = line.pop(owner)
            number = 1 if line else min(len(reads), reads_max - len(batch))  # alone, a caller's turn is always next
            batch += [reads.popleft() for _ in range(number)]
            self._forget(owner, number)
            if reads:
                line[owner] = reads
        if line:
            self._lines[statement] = line
        return statement, [read for read in batch if not read.future.done()]

    def take_all(self) -> list[Waiting]:
        """Take every waiting read."""
        reads = list(self)
        self._lines.clear()
        self._counts.clear()
        self._total = 0
        return reads

    def __iter__(self) -> Iterator[Waiting]:
        return (read for line in self._lines.values() for reads in line.values() for read in reads)

    def _share(self) -> int:
        """Return the number of waiting reads from which a caller finds no place once all are taken."""
        return max(1, self._places // (len(self._counts) + 1))

    def _make_room(self, owner: str) -> None:
        """Refuse the newest read of the caller with the most; raises `Overloaded` if `owner` has its share."""
        metrics.shed("queue_full")  # this read, or the one that makes room
        if self._counts[owner] >= self._share():
            raise Overloaded
        longest = max(self._counts, key=self._counts.__getitem__)
        if self._counts[longest] <= self._counts[owner] + 1:
            raise Overloaded
        read = self._drop_newest(longest)
        if not read.future.done():
            read.future.set_exception(Overloaded())

    def _drop_newest(self, owner: str) -> Waiting:
        statement, line = next((name, line) for name, line in reversed(self._lines.items()) if owner in line)
        read = line[owner].pop()
        if not line[owner]:
            del line[owner]
        if not line:
            del self._lines[statement]
        self._forget(owner, 1)
        return read

    def _forget(self, owner: str, number: int) -> None:
        self._total -= number
        self._counts[owner] -= number
        if not self._counts[owner]:
            del self._counts[owner]
