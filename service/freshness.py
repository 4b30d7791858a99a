"""Knows which generation is live and how far it is, and lets a reader wait until it has gone far enough.

Reads: the pointer and checkpoint, and the notifications that leave with every committed batch.
Invariants: a wait ends only after the position was committed, so a read that follows sees it.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog

from projections import database
from projections.queries import Generation
from service import reads
from service.reads import Whereabouts, whereabouts

CHANNEL: Final = "membership_applied"
POLL_S: Final = 0.25
"""How often a waiting reader asks PostgreSQL itself, should a notification not come."""
RECONNECT_S: Final = 0.5

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class NotReady(Exception):
    """There is no generation to read from: the database was never migrated."""


class Freshness:
    """What this process knows of the read model's progress."""

    def __init__(self, database_url: str, pool: database.ReadPool) -> None:
        self._database_url = database_url
        self._pool = pool
        self._generation: Generation | None = None
        self._position = 0
        self._moved = asyncio.Condition()
        self._listener: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin listening, in the background: the database may be away."""
        self._listener = asyncio.create_task(self._listen_for_ever(), name="freshness")

    async def stop(self) -> None:
        """End listening."""
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener

    async def generation(self) -> Generation:
        """Return the generation to read from, as far as known here; raises `NotReady` without one."""
        return self._generation or (await self.refresh()).generation

    async def refresh(self) -> Whereabouts:
        """Ask PostgreSQL where the read model stands; raises `NotReady` when nowhere."""
        try:
            found = await whereabouts(self._pool)
        except reads.GENERATION_GONE:
            found = None
        if found is None:
            raise NotReady
        await self._learn(found.generation, found.position)
        return found

    async def reached(self, position: int, wait_s: float) -> bool:
        """Wait at most `wait_s` until the live generation has applied `position`; False when it has not."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while self._position < position and (await self.refresh()).position < position:
            left = deadline - loop.time()
            if left <= 0:
                return False
            async with self._moved:
                # The predicate is looked at under the lock, so a notice that came since the refresh is not missed.
                with suppress(TimeoutError):
                    heard = self._moved.wait_for(lambda: self._position >= position)
                    await asyncio.wait_for(heard, min(left, POLL_S))
        return True

    async def _learn(self, generation: Generation, position: int) -> None:
        async with self._moved:
            # Two sources race: a read that began before a notice may end after it, and must not set the clock back.
            self._position = max(position, self._position) if generation == self._generation else position
            self._generation = generation
            self._moved.notify_all()

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                await self._listen()
            except database.UNAVAILABLE as problem:
                log.warning("listening_lost", detail=str(problem) or type(problem).__name__)
            except NotReady:
                log.warning("not_migrated", detail="Run `membership migrate`; reads answer 503 until then.")
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        connection = await database.connect(self._database_url, "membership-api-listener")
        notices: asyncio.Queue[str | None] = asyncio.Queue()
        try:
            connection.add_termination_listener(lambda _: notices.put_nowait(None))
            await connection.add_listener(CHANNEL, lambda *notice: notices.put_nowait(notice[3]))
            await self.refresh()
            while (payload := await notices.get()) is not None:
                await self._hear(payload)
            log.warning("listening_lost", detail="PostgreSQL ended the connection")
        finally:
            connection.terminate()

    async def _hear(self, payload: str) -> None:
        notice: dict[str, Any] = msgspec.json.decode(payload)
        if notice["generation"] == self._generation and notice["position"] > self._position:
            await self._learn(Generation(notice["generation"]), notice["position"])
