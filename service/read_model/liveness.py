"""Detects within a second that PostgreSQL has stopped answering, and suspends reads until it answers again.

The connections to a server that is stopped, overloaded or unreachable stay open: without this, each read would wait for
its own timeout. The probe uses a separate connection, so that no read is needed to detect the failure.

Reads: nothing but `SELECT 1`.
Invariants: while reads are suspended, every read fails at once and the cache is not used.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import asyncpg
import structlog

from projections.store import database
from projections.store.database import Suspendable

PROBE_EVERY_S: Final = 0.3
"""With the next two values: 0.85 s until reads are suspended, within the second that the API promises."""
ANSWER_WITHIN_S: Final = 0.5
"""A server that needs longer for `SELECT 1` cannot answer reads in time either."""
LOOP_DELAY_S: Final = 0.05
"""Added because a busy event loop may not yet have read an answer that has arrived."""
GIVE_UP_AFTER_S: Final = 1.0
"""Then a new connection is opened: the old one may have been cut off without notice."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Liveness:
    """Whether PostgreSQL answers, as of the last probe."""

    def __init__(self, database_url: str, pools: Sequence[Suspendable]) -> None:
        self._database_url = database_url
        self._pools = pools
        self.answering = True

    def is_answering(self) -> bool:
        """Return whether PostgreSQL answers, as of the last probe."""
        return self.answering

    async def probe(self) -> None:
        """Probe until the connection fails; the caller restarts it."""
        connection: asyncpg.Connection | None = None
        try:
            connection = await self._watched(database.connect(self._database_url, "membership-api-probe"))
            while True:
                await self._watched(connection.fetchval("SELECT 1"))
                await asyncio.sleep(PROBE_EVERY_S)
        except TimeoutError:
            return  # no answer yet: reads stay suspended
        except (*database.UNAVAILABLE, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._resume()  # the server closed or refused the connection, so reads fail immediately anyway
        finally:
            if connection is not None:
                connection.terminate()

    async def _watched(self, operation: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - the operation's result
        """Await a result; suspend reads if it is late, raise TimeoutError if it does not arrive at all."""
        task = asyncio.ensure_future(operation)
        try:
            if not await _done(task, ANSWER_WITHIN_S) and not await _done(task, LOOP_DELAY_S):
                await self._suspend()
                if not await _done(task, GIVE_UP_AFTER_S):
                    raise TimeoutError
            result = task.result()
        finally:
            task.cancel()
        self._resume()
        return result

    async def _suspend(self) -> None:
        if self.answering:
            log.warning("database_unresponsive", answer_within_s=ANSWER_WITHIN_S)
        self.answering = False
        for pool in self._pools:
            await pool.suspend()

    def _resume(self) -> None:
        if not self.answering:
            log.warning("database_responsive")
        self.answering = True
        for pool in self._pools:
            pool.resume()


async def answer_in_time(operation: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - the operation's result
    """Await a result of a server; raises TimeoutError if the server does not answer as fast as a probe must."""
    task = asyncio.ensure_future(operation)
    try:
        if not await _done(task, ANSWER_WITHIN_S) and not await _done(task, LOOP_DELAY_S):
            raise TimeoutError(f"no answer within {ANSWER_WITHIN_S} s")
        return task.result()
    finally:
        task.cancel()


async def _done(task: asyncio.Task[Any], within_s: float) -> bool:
    return bool((await asyncio.wait({task}, timeout=within_s))[0])
