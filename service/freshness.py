"""Knows which generation is live and how far it is, and lets a reader wait until it has gone far enough.

Reads: the pointer and checkpoint, and the notices that leave with every committed batch.
Writes: this process's memory of answers, which forgets what the notices say has changed.
Invariants: a wait ends only after the position was committed, so a read that follows sees it. The memory hears of
every commit, in order, or is told that it may not have.
"""

import asyncio
from typing import Final

import asyncpg

from projections import database
from projections.notices import CHANNEL, read
from projections.queries import Generation
from projections.trouble import Trouble
from service import metrics, reads
from service.cache import Cache
from service.reads import Whereabouts, whereabouts

POLL_S: Final = 0.25
"""How often PostgreSQL is asked while readers wait, should a notification not come."""
RECONNECT_S: Final = 0.5
DOUBT_EVERY_S: Final = 2.0
NOTICE_TAKES_MAX_S: Final = 1.0
"""A commit that was not heard of for so long will not be: the listening connection is made anew."""
LIVE_POSITION: Final = "SELECT position FROM control.live INNER JOIN control.checkpoint USING (generation)"
WAITERS_MAX: Final = 1_000
"""Readers that wait for a position at once; more are answered at once that it is not there yet."""


class NotReady(Exception):
    """There is no generation to read from: the database was never migrated."""


class Freshness:
    """What this process knows of the read model's progress."""

    def __init__(self, database_url: str, pool: database.ReadPool, cache: Cache) -> None:
        self._database_url = database_url
        self._pool = pool
        self._cache = cache
        self._generation: Generation | None = None
        self._position = 0
        self._moved = asyncio.Condition()
        self._trouble = Trouble()
        self._waiting = 0
        self._failures = 0
        self._problem: Exception | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._notices: asyncio.Queue[str | None] = asyncio.Queue()

    async def start(self) -> None:
        """Begin listening, in the background: the database may be away."""
        self._tasks = [
            asyncio.create_task(self._listen_for_ever(), name="listen"),
            asyncio.create_task(self._poll_for_ever(), name="poll"),
        ]

    async def stop(self) -> None:
        """End listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
        """Wait at most `wait_s` until the live generation has applied `position`; False when it has not.

        Raises what the database raised, if it could not be asked meanwhile.
        """
        if self._position >= position:
            return True
        if self._waiting >= WAITERS_MAX:
            return False
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                return await self._wait_until(position)
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1

    def forget(self) -> None:
        """Believe the database again rather than what was heard: the read model went back."""
        self._position = 0

    async def _wait_until(self, position: int) -> bool:
        failures = self._failures
        async with self._moved:
            await self._moved.wait_for(lambda: self._position >= position or self._failures != failures)
        if self._position < position and self._problem is not None:
            raise self._problem
        return True

    async def _poll_for_ever(self) -> None:
        """Ask PostgreSQL on behalf of all who wait, should notifications not come; nobody asks for himself alone."""
        while True:
            await asyncio.sleep(POLL_S)
            if self._waiting:
                try:
                    await self.refresh()
                except (NotReady, *database.UNAVAILABLE) as problem:
                    await self._fail(problem)

    async def _fail(self, problem: Exception) -> None:
        async with self._moved:
            self._problem = problem
            self._failures += 1
            self._moved.notify_all()

    async def _learn(self, generation: Generation, position: int) -> None:
        # Two sources race: a read that began before a notice may end after it, and must not set the clock back.
        known = max(position, self._position) if generation == self._generation else position
        if (generation, known) == (self._generation, self._position):
            return
        async with self._moved:
            self._generation = generation
            self._position = known
            self._moved.notify_all()
        metrics.POSITION.set(known)

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                await self._listen()
            except (*database.UNAVAILABLE, asyncpg.PostgresError) as problem:
                self._trouble.tell("listening_lost", problem)
            except NotReady:
                self._trouble.tell("not_migrated", "Run `membership migrate`; reads answer 503 until then.")
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        connection = await database.connect(self._database_url, "membership-api-listener")
        notices = self._notices = asyncio.Queue()
        try:
            connection.add_termination_listener(lambda _: notices.put_nowait(None))
            with database.closed_is_unavailable(connection):
                await connection.add_listener(CHANNEL, lambda *notice: notices.put_nowait(notice[3]))
            # Asked after LISTEN: a commit is in this answer, or a notice of it comes.
            self._cache.listen_from((await self.refresh()).position)
            self._trouble.over()
            doubt = asyncio.create_task(self._doubt_for_ever(connection), name="doubt")
            try:
                while (payload := await notices.get()) is not None:
                    await self._hear(payload)
            finally:
                doubt.cancel()
            self._trouble.tell("listening_lost", "PostgreSQL ended the connection")
        finally:
            self._cache.deaf()
            connection.terminate()

    async def _doubt_for_ever(self, connection: asyncpg.Connection) -> None:
        """See that notices come: a connection may be cut off so that neither end hears of it.

        Asked on the very connection that listens, so that a dead one shows, and no read is pretended.
        """
        while True:
            await asyncio.sleep(DOUBT_EVERY_S)
            try:
                with database.closed_is_unavailable(connection):
                    committed = await connection.fetchval(LIVE_POSITION, timeout=NOTICE_TAKES_MAX_S)
            except (*database.UNAVAILABLE, asyncpg.PostgresError):
                committed = None
            await asyncio.sleep(NOTICE_TAKES_MAX_S)
            if committed is None or self._cache.heard < committed:
                self._notices.put_nowait(None)

    async def _hear(self, payload: str) -> None:
        notice = read(payload)
        if notice.generation != self._generation:
            await self.refresh()
            self._cache.listen_from(notice.position)
            return
        if notice.flush:
            self._cache.flush()
        self._cache.touched(notice.tags, notice.position)
        if not notice.more:
            self._cache.reached(notice.position)
            if notice.position > self._position:
                await self._learn(Generation(notice.generation), notice.position)
