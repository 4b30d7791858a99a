"""Asks PostgreSQL on behalf of requests: alone, or together with others that wait at the same moment.

One round trip for many pages costs PostgreSQL and this process little more than one for a single page. Nobody waits
for company: a free connection takes whatever waits, and while all are busy the next statement gathers by itself.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from projections.database import ReadPool

CONNECTIONS_TOGETHER: Final = 2
"""Statements for many requests that are under way at once; more would be smaller ones."""
CONNECTIONS_STEADY: Final = 2 * CONNECTIONS_TOGETHER
"""With those for large offsets, which take a moment and are asked alone."""
TOGETHER_MAX: Final = 32
"""Requests in one statement: some milliseconds."""

Values = tuple[Any, ...]


class Reader:
    """Two ways to PostgreSQL: `steady` plans a statement once, for all; `careful` plans it anew for its values."""

    def __init__(self, careful: ReadPool, steady: ReadPool) -> None:
        self._careful = careful
        self._steady = steady
        self._waiting: dict[str, list[tuple[Values, asyncio.Future[asyncpg.Record]]]] = {}
        self._lanes: set[asyncio.Task[None]] = set()

    async def alone(self, statement: str, values: Values, *, steady: bool = False) -> asyncpg.Record | None:
        """Return the first row; raises what `ReadPool.fetchrow` does."""
        return await (self._steady if steady else self._careful).fetchrow(statement, *values)

    async def together(self, statement: str, values: Values) -> asyncpg.Record:
        """Return the row of these values, from a statement that takes an array of each and numbers its rows.

        Raises what `ReadPool.fetch` does, and UndefinedTableError where there is no row: nothing is in that place.
        """
        future: asyncio.Future[asyncpg.Record] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(statement, []).append((values, future))
        if len(self._lanes) < CONNECTIONS_TOGETHER:
            lane = asyncio.create_task(self._work_off(), name="read together")
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        return await future

    async def _work_off(self) -> None:
        while self._waiting:
            statement = next(iter(self._waiting))  # first come, first served; what is left over queues again
            waiting = self._waiting.pop(statement)
            taken, left = waiting[:TOGETHER_MAX], waiting[TOGETHER_MAX:]
            if left:
                self._waiting[statement] = left
            # Who has hung up meanwhile is not asked for.
            await self._ask(statement, [each for each in taken if not each[1].done()])

    async def _ask(self, statement: str, taken: Sequence[tuple[Values, asyncio.Future[asyncpg.Record]]]) -> None:
        if not taken:
            return
        columns = map(list, zip(*(values for values, _ in taken), strict=True))
        try:
            rows = {row["number"]: row for row in await self._steady.fetch(statement, *columns)}
        except Exception as problem:  # noqa: BLE001 - it is raised where the answer is waited for
            for _, future in taken:
                if not future.done():
                    future.set_exception(problem)
            return
        for number, (_, future) in enumerate(taken, start=1):
            if future.done():
                continue
            if number in rows:
                future.set_result(rows[number])
            else:
                future.set_exception(asyncpg.UndefinedTableError("the generation has no checkpoint any more"))
