"""Knows which generation is live and how far it is, and lets a reader wait until it has gone far enough.

Reads: the pointer and checkpoint, and the notices that leave with every committed batch.
Writes: this process's memory of answers, which forgets what the notices say has changed.
Invariants: a wait ends only after the position was committed, so a read that follows sees it. The memory is told of
every commit, in order, or that it may have missed one.
"""

import asyncio
from collections import Counter
from typing import Final

import asyncpg
import structlog
from msgspec import Struct

from projections.log_once import LogOnce
from projections.store import database
from projections.store.notices import CHANNEL, Notice, decode_notice
from projections.store.queries import Generation
from service import metrics
from service.cache import Cache
from service.rate_limited_log import RateLimitedLog
from service.read_model import reads
from service.read_model.reads import LivePosition, live_position
from service.supervision import supervise

POLL_S: Final = 0.25
"""How often PostgreSQL is asked while readers wait, should a notification not come."""
LISTENER_CHECK_S: Final = 2.0
NOTICE_DELAY_MAX_S: Final = 1.0
"""A commit whose notice did not arrive for so long: the listening connection is made anew."""
NOTICES_QUEUED_MAX: Final = 1_000
"""Of at most 8,000 bytes each. Beyond, forgetting all answers is cheaper than reading the notices."""
LIVE_POSITION: Final = "SELECT position FROM control.live INNER JOIN control.checkpoint USING (generation)"
WAITERS_MAX: Final = 1_000
"""Readers that wait for a position at once; more are answered at once that it is not there yet."""
WAITERS_PER_CALLER_MAX: Final = WAITERS_MAX // 10
"""Of these, those of one caller: ten callers are needed to take all places."""

Queue = asyncio.Queue[str | None]
"""Payloads of notices; None: listen anew, for some may be missing."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class NotReady(Exception):
    """There is no generation to read from: the database was never migrated."""


class _Waiter(Struct, eq=False):
    position: int
    reached: asyncio.Future[None]


class Freshness:
    """What this process knows of the read model's progress."""

    def __init__(self, database_url: str, pool: database.ReadPool, cache: Cache) -> None:
        self._database_url = database_url
        self._pool = pool
        self._cache = cache
        self._remembers = database.reads_from_primary(database_url)
        self._generation: Generation | None = None
        self._position = 0
        self._log_once = LogOnce()
        self._unreadable = RateLimitedLog("notice_unreadable")
        self._waiters: set[_Waiter] = set()
        self._waiting_by_caller: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin listening, in the background: the database may be away."""
        self._tasks = [
            asyncio.create_task(supervise("listen", self._listen_again), name="listen"),
            asyncio.create_task(supervise("poll", self._poll), name="poll"),
        ]

    async def stop(self) -> None:
        """End listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def generation(self) -> Generation:
        """Return the generation to read from, as far as known here; raises `NotReady` without one."""
        return self._generation or (await self.refresh()).generation

    async def refresh(self) -> LivePosition:
        """Ask PostgreSQL where the read model stands; raises `NotReady` when nowhere."""
        try:
            found = await live_position(self._pool)
        except reads.GENERATION_GONE:
            found = None
        if found is None:
            raise NotReady
        self._set_position(found.generation, found.position)
        return found

    async def wait_for_position(self, position: int, wait_s: float, caller: str) -> bool:
        """Wait at most `wait_s` until the live generation has applied `position`; False when it has not.

        `caller` is whose share of the waiting places is used. Raises what the database raised, if it could not be asked
        meanwhile.
        """
        if self._position >= position:
            return True
        if len(self._waiters) >= WAITERS_MAX or self._waiting_by_caller[caller] >= WAITERS_PER_CALLER_MAX:
            return False
        waiter = _Waiter(position, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        self._waiting_by_caller[caller] += 1
        try:
            await asyncio.wait({waiter.reached}, timeout=wait_s)
            if waiter.reached.done():
                waiter.reached.result()
            return waiter.reached.done()
        finally:
            self._waiters.discard(waiter)
            self._waiting_by_caller[caller] -= 1
            if not self._waiting_by_caller[caller]:
                del self._waiting_by_caller[caller]

    def reset_position(self) -> None:
        """Believe the database again rather than what was heard: the read model went back."""
        self._position = 0

    async def _poll(self) -> None:
        """Ask PostgreSQL once on behalf of all who wait, should notifications not come."""
        while True:
            await asyncio.sleep(POLL_S)
            if self._waiters:
                try:
                    await self.refresh()
                except (NotReady, *database.UNAVAILABLE, asyncpg.PostgresError) as problem:
                    self._fail(problem)

    def _fail(self, problem: Exception) -> None:
        for waiter in self._waiters:
            if not waiter.reached.done():
                waiter.reached.set_exception(problem)

    def _set_position(self, generation: Generation, position: int) -> None:
        # Two sources race: a read that began before a notice may end after it, and must not set the clock back.
        known = max(position, self._position) if generation == self._generation else position
        self._generation = generation
        self._position = known
        for waiter in self._waiters:
            if waiter.position <= known and not waiter.reached.done():
                waiter.reached.set_result(None)
        metrics.POSITION.set(known)

    async def _listen_again(self) -> None:
        try:
            await self._listen()
        except (*database.UNAVAILABLE, asyncpg.PostgresError) as problem:
            self._log_once.warning("listening_lost", problem)
        except NotReady:
            self._log_once.warning("not_migrated", "Run `membership migrate`; reads answer 503 until then.")

    async def _listen(self) -> None:
        connection = await database.connect(self._database_url, "membership-api-listener")
        notices: Queue = asyncio.Queue(NOTICES_QUEUED_MAX)
        doubt: asyncio.Task[None] | None = None
        try:
            connection.add_termination_listener(lambda _: _queue(notices, None))
            with database.closed_is_unavailable(connection):
                await connection.add_listener(CHANNEL, lambda *notice: _queue(notices, notice[3]))
            # Asked after LISTEN: a commit is in this answer, or a notice of it comes.
            self._remember_from((await self.refresh()).position)
            self._log_once.reset()
            doubt = asyncio.create_task(self._doubt(connection), name="doubt")
            doubt.add_done_callback(lambda _: _queue(notices, None))
            while (payload := await notices.get()) is not None:
                await self._on_notification(payload)
            if doubt.done():
                doubt.result()
            self._log_once.warning("listening_lost", "PostgreSQL ended the connection, or notices were missing")
        finally:
            self._cache.disable()
            connection.terminate()
            if doubt is not None:
                doubt.cancel()

    async def _doubt(self, connection: asyncpg.Connection) -> None:
        """Return when notices are missing: a connection may be cut off so that neither end notices.

        Asked on the very connection that listens, so that a dead one shows, and no read is pretended.
        """
        while True:
            await asyncio.sleep(LISTENER_CHECK_S)
            try:
                with database.closed_is_unavailable(connection):
                    committed = await connection.fetchval(LIVE_POSITION, timeout=NOTICE_DELAY_MAX_S)
            except (*database.UNAVAILABLE, asyncpg.PostgresError):
                return
            await asyncio.sleep(NOTICE_DELAY_MAX_S)
            if self._remembers and (committed is None or self._cache.applied_through < committed):
                return

    async def _on_notification(self, payload: str) -> None:
        notice = decode_notice(payload)
        if notice is None:
            self._unreadable.warning(detail="All answers kept in memory are dropped; a newer release may be running.")
        if notice is None or notice.generation != self._generation:
            self._remember_from((await self.refresh()).position)
            return
        self._apply(notice)

    def _apply(self, notice: Notice) -> None:
        if notice.flush:
            self._cache.flush(notice.position)
        self._cache.invalidate(notice.tags, notice.position)
        if not notice.more:
            self._cache.advance(notice.position)
            if notice.position > self._position:
                self._set_position(Generation(notice.generation), notice.position)

    def _remember_from(self, position: int) -> None:
        """Begin to remember answers. Where reads may come from a standby, no position says that one is current."""
        if self._remembers:
            self._cache.enable(position)


def _queue(notices: Queue, payload: str | None) -> None:
    """Queue a payload; when the queue is full, all of it gives way to the sign to listen anew."""
    if notices.full():
        while not notices.empty():
            notices.get_nowait()
        payload = None
    notices.put_nowait(payload)
