"""Asks PostgreSQL on behalf of requests: alone, or together with others that wait at the same moment.

One round trip for many pages costs PostgreSQL and this process little more than one for a single page. A request is not
held back to be batched: an idle worker takes what waits, and while all are busy the next batch gathers by itself.

Invariants: while a request waits, a worker is running, because a worker gives up its place in the same step in which it
finds nothing waiting. Whatever happens to a statement, every request of its batch is answered.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import structlog

from projections.store.database import ReadPool
from service.read_model.admission import Admission, caller

BATCH_CONNECTIONS: Final = 2
"""Statements for many requests that are under way at once; more would be smaller ones."""
GENERIC_PLAN_CONNECTIONS: Final = 2 * BATCH_CONNECTIONS
"""With those for large offsets, which take a moment and are asked alone."""
BATCH_REQUESTS_MAX: Final = 32
"""Requests in one statement: some milliseconds."""

Values = tuple[Any, ...]
Waiting = tuple[Values, asyncio.Future[asyncpg.Record]]

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class QueryBatcher:
    """Two ways to PostgreSQL: `steady` plans a statement once, for all; `careful` plans it anew for its values."""

    def __init__(self, careful: ReadPool, steady: ReadPool, admission: Admission | None = None) -> None:
        self._custom_plans = careful
        self._generic_plans = steady
        self._admission = admission or Admission(GENERIC_PLAN_CONNECTIONS)
        self._waiting: dict[str, list[Waiting]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._working = 0

    async def fetch_one(self, statement: str, values: Values, *, steady: bool = False) -> list[asyncpg.Record]:
        """Return the rows; raises what `ReadPool.fetch` does, and `Overloaded`."""
        if steady:
            return await self._generic_plans.fetch(statement, *values)
        async with self._admission.slot(caller.get()):
            return await self._custom_plans.fetch(statement, *values)

    async def lookup(self, statement: str, values: Values) -> asyncpg.Record | None:
        """Return the row of a key, cheap enough to need no admission; raises what `ReadPool.fetchrow` does."""
        return await self._custom_plans.fetchrow(statement, *values)

    async def fetch_batched(self, statement: str, values: Values) -> asyncpg.Record:
        """Return the row of these values, from a statement that takes an array of each and numbers its rows.

        Raises what `ReadPool.fetch` does, and UndefinedTableError where there is no row: nothing is in that place.
        """
        future: asyncio.Future[asyncpg.Record] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(statement, []).append((values, future))
        self._start_worker()
        return await future

    def _start_worker(self) -> None:
        if self._working >= BATCH_CONNECTIONS:
            return
        self._working += 1
        worker = asyncio.create_task(self._drain(), name="read together")
        self._workers.add(worker)  # the event loop itself holds tasks weakly
        worker.add_done_callback(self._ended)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and worker.exception() is not None:
            log.error("background_task_failed", task=worker.get_name(), exc_info=worker.exception())
            if self._waiting:
                self._start_worker()

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._run_batch(*self._next_batch())
        finally:
            self._working -= 1

    def _next_batch(self) -> tuple[str, list[Waiting]]:
        """Take the longest-waiting statement's requests; a remainder queues again, behind other statements."""
        statement = next(iter(self._waiting))
        waiting = self._waiting.pop(statement)
        taken, left = waiting[:BATCH_REQUESTS_MAX], waiting[BATCH_REQUESTS_MAX:]
        if left:
            self._waiting[statement] = left
        return statement, [each for each in taken if not each[1].done()]  # the others gave up

    async def _run_batch(self, statement: str, taken: Sequence[Waiting]) -> None:
        if not taken:
            return
        columns = map(list, zip(*(values for values, _ in taken), strict=True))
        try:
            rows = {row["number"]: row for row in await self._generic_plans.fetch(statement, *columns)}
        except TimeoutError as problem:  # the server is silent: those that wait would only find out the same, later
            _fail([*taken, *(each for waiting in self._waiting.values() for each in waiting)], problem)
            self._waiting.clear()
        except Exception as problem:  # noqa: BLE001 - it is raised where the answer is waited for
            _fail(taken, problem)
        else:
            _answer(taken, rows)


def _answer(taken: Sequence[Waiting], rows: dict[int, asyncpg.Record]) -> None:
    for number, (_, future) in enumerate(taken, start=1):
        if future.done():
            continue
        if number in rows:
            future.set_result(rows[number])
        else:
            future.set_exception(asyncpg.UndefinedTableError("the generation has no checkpoint any more"))


def _fail(taken: Sequence[Waiting], problem: Exception) -> None:
    for _, future in taken:
        if not future.done():
            future.set_exception(problem)
