"""Notices within a second that PostgreSQL has stopped answering, and suspends reads until it answers again.

A server that is stopped, overloaded or cut off keeps its connections open: without this, each read would wait for its
own timeout. The probe has a connection of its own, so that no read has to be risked to find out.

Reads: nothing but `SELECT 1`.
Invariants: while reads are suspended every read fails at once, and the answers kept in memory are not used.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import asyncpg
import structlog

from projections.store import database
from projections.store.database import ReadPool

PROBE_EVERY_S: Final = 0.3
"""With the next value: 0.85 s from the moment the server stops answering, within the second that the API promises."""
ANSWER_WITHIN_S: Final = 0.5
"""A server that needs longer for `SELECT 1` cannot answer reads in time either."""
LOOP_DELAY_S: Final = 0.05
"""Granted in addition: if this process was busy, the answer may have arrived without having been read yet."""
GIVE_UP_AFTER_S: Final = 1.0
"""Then a new connection is tried: the old one may have been cut off without notice."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Liveness:
    """Whether PostgreSQL answers, as of the last probe."""

    def __init__(self, database_url: str, pools: Sequence[ReadPool]) -> None:
        self._database_url = database_url
        self._pools = pools
        self.answering = True

    async def probe(self) -> None:
        """Probe until the connection fails; the caller starts it again."""
        connection: asyncpg.Connection | None = None
        try:
            connection = await self._watched(database.connect(self._database_url, "membership-api-probe"))
            while True:
                await self._watched(connection.fetchval("SELECT 1"))
                await asyncio.sleep(PROBE_EVERY_S)
        except TimeoutError:
            return  # still silent: reads stay suspended
        except (*database.UNAVAILABLE, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._resume()  # the server is gone rather than silent: a read fails at once by itself
        finally:
            if connection is not None:
                connection.terminate()

    async def _watched(self, question: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever was asked
        """Await an answer; suspend reads when it is late, raise TimeoutError when it does not come at all."""
        task = asyncio.ensure_future(question)
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


async def _done(task: asyncio.Task[Any], within_s: float) -> bool:
    return bool((await asyncio.wait({task}, timeout=within_s))[0])
