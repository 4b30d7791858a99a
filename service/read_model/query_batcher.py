"""Queries PostgreSQL for requests: one at a time, or many that wait at the same moment in one batch.

One round trip for many pages costs PostgreSQL and this process little more than one for a single page. No request is
delayed to form a batch: an idle worker takes the waiting requests at once, and batches form while all workers are busy.

A bounded number of requests may wait, and batches take them from their callers in turn (`waiting.py`).

Invariants: while a request waits, a worker is running, because a worker stops in the same event-loop step in which it
finds the queue empty. Whether a statement succeeds or fails, every request of its batch gets a result or an error.
"""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Final

import asyncpg
import structlog

from projections.store.database import ReadPool
from service.read_model.admission import Admission, caller
from service.read_model.waiting import Values, Waiting, WaitingReads

BATCH_CONNECTIONS: Final = 2
"""Batched statements in progress at once; more connections would only make the batches smaller."""
GENERIC_PLAN_CONNECTIONS: Final = 2 * BATCH_CONNECTIONS
"""Including connections for large offsets, which are slower and are fetched one at a time."""
BATCH_REQUESTS_MAX: Final = 32
"""Requests in one statement, which then takes some milliseconds."""
WAITING_MAX: Final = 1_024
"""Requests that wait for a batch, unless configured: a third of a second's work on two cores."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class QueryBatcher:
    """Runs queries on two pools: one plans a statement once, for all values; the other plans it for each execution."""

    def __init__(
        self,
        custom_plans: ReadPool,
        generic_plans: ReadPool,
        admission: Admission | None = None,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._custom_plans = custom_plans
        self._generic_plans = generic_plans
        self._admission = admission or Admission(GENERIC_PLAN_CONNECTIONS)
        self._waiting = WaitingReads(waiting_max)
        self._workers: set[asyncio.Task[None]] = set()
        self._working = 0

    async def fetch_one(self, statement: str, values: Values, *, generic_plan: bool = False) -> list[asyncpg.Record]:
        """Return the rows; raises what `ReadPool.fetch` does, and `Overloaded`."""
        if generic_plan:
            return await self._generic_plans.fetch(statement, *values)
        async with self._admission.slot(caller.get()):
            return await self._custom_plans.fetch(statement, *values)

    async def lookup(self, statement: str, values: Values) -> asyncpg.Record | None:
        """Return the row of a key, cheap enough to need no admission; raises what `ReadPool.fetchrow` does."""
        return await self._custom_plans.fetchrow(statement, *values)

    async def fetch_batched(self, statement: str, values: Values) -> asyncpg.Record:
        """Return the row for these values; the statement takes an array of each value and numbers its rows.

        Raises what `ReadPool.fetch` does, `Overloaded` if too many requests wait, and UndefinedTableError if there is
        no row, because then the generation is gone.
        """
        future = self._waiting.add(statement, values, caller.get())
        self._start_worker()
        return await future

    @property
    def is_full(self) -> bool:
        """Whether no waiting place is free."""
        return self._waiting.is_full

    def is_full_for(self, owner: str) -> bool:
        """Return whether `fetch_batched` would refuse this caller now."""
        return self._waiting.is_full_for(owner)

    def _start_worker(self) -> None:
        if self._working >= BATCH_CONNECTIONS:
            return
        self._working += 1
        context = Context()  # a worker serves many requests: it must not log with the id of the first
        worker = asyncio.create_task(self._drain(), name="query batch worker", context=context)
        self._workers.add(worker)  # the event loop keeps only weak references to tasks
        worker.add_done_callback(self._on_worker_end, context=context)

    def _on_worker_end(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and worker.exception() is not None:
            log.error("background_task_failed", task=worker.get_name(), exc_info=worker.exception())
            if self._waiting:
                self._start_worker()

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._run_batch(*self._waiting.take(BATCH_REQUESTS_MAX))
        finally:
            self._working -= 1

    async def _run_batch(self, statement: str, batch: Sequence[Waiting]) -> None:
        if not batch:
            return
        columns = map(list, zip(*(values for values, _ in batch), strict=True))
        try:
            rows = {row["number"]: row for row in await self._generic_plans.fetch(statement, *columns)}
        except TimeoutError as problem:  # the server does not answer: waiting requests would time out as well, later
            _fail([*batch, *self._waiting.take_all()], problem)
        except Exception as problem:  # noqa: BLE001 - raised again where the result is awaited
            _fail(batch, problem)
        else:
            _set_results(batch, rows)


def _set_results(batch: Sequence[Waiting], rows: dict[int, asyncpg.Record]) -> None:
    for number, (_, future) in enumerate(batch, start=1):
        if future.done():
            continue
        if number in rows:
            future.set_result(rows[number])
        else:
            future.set_exception(asyncpg.UndefinedTableError("the generation no longer has a checkpoint"))


def _fail(batch: Sequence[Waiting], problem: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(problem)
