"""Tracks the live generation and its position, and lets a reader wait for a position.

Reads: the pointer and checkpoint, and the notices that every committed batch sends.
Writes: this process's cache, from which it removes what the notices report as changed.
Invariants: a wait ends only after the position was committed, so a read that follows sees it. The cache receives every
commit, in order, or is disabled because it may have missed one.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

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

SWITCHES_MAX: Final = 3
"""Retry limit for generation switches during one read."""
POLL_S: Final = 0.25
"""How often PostgreSQL is polled while readers wait, in case a notification is lost."""
LISTENER_CHECK_S: Final = 2.0
NOTICE_DELAY_MAX_S: Final = 1.0
"""If a commit's notice has not arrived after this time, the listening connection is replaced."""
NOTICES_QUEUED_MAX: Final = 1_000
"""Of at most 8,000 bytes each. Beyond this, emptying the cache is cheaper than reading the notices."""
LIVE_POSITION: Final = "SELECT position FROM control.live INNER JOIN control.checkpoint USING (generation)"
WAITERS_MAX: Final = 1_000
"""Readers that wait for a position at the same time; further ones get `position_not_reached` immediately."""
WAITERS_PER_CALLER_MAX: Final = WAITERS_MAX // 10
"""The share of one caller, so that it takes ten callers to occupy every place."""

Queue = asyncio.Queue[str | None]
"""Payloads of notices; None means that some may be missing and the listener must reconnect."""

Found = TypeVar("Found")

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class NotReady(Exception):
    """There is no generation to read from, because the database was never migrated."""


class ReadModelBehind(Exception):
    """The read model is behind what this process has stated: PostgreSQL lost commits, or was restored."""


class _Waiter(Struct, eq=False):
    position: int
    reached: asyncio.Future[None]


class Freshness:
    """The read model's progress as this process last learned it."""

    def __init__(
        self, database_url: str, pool: database.ReadPool, cache: Cache, *, follows_pointer: bool = False
    ) -> None:
        self._database_url = database_url
        self._pool = pool
        self._cache = cache
        self._may_cache = database.reads_from_primary(database_url)
        self._generation: Generation | None = None
        self._position = 0
        self._stated = 0
        """The highest position of a notice or an answer. It never goes back, whatever happens to the database."""
        self._behind = False
        """Whether the last answer was refused because its position was lower."""
        self._floor = 0
        self.listening = False
        """Whether the primary's notices arrive."""
        self.sessions = 0
        """How often listening has begun: each time, the primary may be another server."""
        self._follows_pointer = follows_pointer
        """Whether replicas are read: then the version of the pointer's row is queried after each change of it."""
        self._pointer: str | None = None
        """The live generation and the version of the pointer's row, as last notified; None until it is queried again,
        and meanwhile no replica is read."""
        self._log_once = LogOnce()
        self._unreadable = RateLimitedLog("notice_unreadable")
        self._waiters: set[_Waiter] = set()
        self._waiting_by_caller: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start listening, in the background because the database may be unavailable."""
        self._tasks = [
            asyncio.create_task(supervise("listen", self._listen_and_log), name="listen"),
            asyncio.create_task(supervise("poll", self._poll), name="poll"),
        ]

    async def stop(self) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def position(self) -> int:
        """The last position that the primary is known to have applied."""
        return self._position

    @property
    def floor(self) -> int:
        """The position before which no replica may answer: what had been stated when listening began.

        A primary that was promoted may lack commits, and then so may its replicas.
        """
        return self._floor

    @property
    def known_generation(self) -> Generation | None:
        """The live generation as last known; None before it was queried."""
        return self._generation

    def accepts(self, pointer: str) -> bool:
        """Return whether a replica's answer with this pointer has every change outside a batch that was notified.

        While no notices arrive, such a change cannot be known: then its generation must be the last known one.
        """
        if self._pointer is None:
            return False
        return pointer == self._pointer or (not self.listening and pointer.partition(".")[0] == self._generation)

    async def generation(self) -> Generation:
        """Return the last known live generation, queried if none is known; raises `NotReady` if there is none."""
        return self._generation or (await self.refresh()).generation

    async def refresh(self) -> LivePosition:
        """Query the live generation and its position; raises `NotReady` if there is none."""
        try:
            live = await live_position(self._pool)
        except reads.GENERATION_GONE:
            live = None
        if live is None:
            raise NotReady
        self._set_position(live.generation, live.position)
        return live

    async def read_live(self, read: Callable[[Generation], Awaitable[Found | None]]) -> Found:
        """Return what `read` finds in the live generation; raises `NotReady`.

        Repeats the read after a switch: when `read` returns None, or a table of the generation is gone.
        """
        name = await self.generation()
        for _ in range(SWITCHES_MAX):
            with suppress(*reads.GENERATION_GONE):
                found = await read(name)
                if found is not None:
                    return found
            name = (await self.refresh()).generation
        raise NotReady

    async def wait_within(self, position: int, wait_s: float, caller: str, deadline: asyncio.Timeout) -> bool:
        """Wait for a position like `wait_for_position`, and extend the request's deadline by the time that it took."""
        with extended(deadline, wait_s):
            return await self.wait_for_position(position, wait_s, caller)

    async def wait_for_position(self, position: int, wait_s: float, caller: str) -> bool:
        """Wait at most `wait_s` until the live generation has applied `position`; return whether it has.

        The wait uses the `caller`'s share of the waiting places. Raises the database's error if polling fails
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

    @property
    def stated(self) -> int:
        """The position before which no read that begins now may be answered; see `state`."""
        return self._stated if self._may_cache else 0

    def state(self, position: int, stated: int) -> None:
        """State the position of an answer; `stated` is the value of that property when its read began.

        Raises `ReadModelBehind` if it is lower: PostgreSQL lost commits that notices or earlier answers have stated.
        """
        if position >= stated:
            self._stated = max(position, self._stated)
            if self._behind and position >= self._stated:
                self._behind = False
                log.info("read_model_caught_up", position=position)
            return
        if not self._behind:
            self._behind = True
            log.warning("read_model_behind", position=position, stated=stated)
        raise ReadModelBehind

    def reset_position(self) -> None:
        """Reset the known position: the read model was restored or replaced, and its position went back."""
        self._position = 0

    async def _poll(self) -> None:
        """Query the position regularly while readers wait, in case notifications are lost; one query serves all."""
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
        if generation != self._generation:
            self._cache.flush()  # a read may see the switch before its notice arrives: never combine two generations
        # Two sources race: a query that began before a notice may end after it, and must not lower the position.
        latest = max(position, self._position) if generation == self._generation else position
        self._generation = generation
        self._position = latest
        self._stated = max(latest, self._stated)
        for waiter in self._waiters:
            if waiter.position <= latest and not waiter.reached.done():
                waiter.reached.set_result(None)
        metrics.POSITION.set(latest)

    async def _listen_and_log(self) -> None:
        try:
            await self._listen()
        except (*database.UNAVAILABLE, asyncpg.PostgresError) as problem:
            self._log_once.warning("listener_disconnected", problem)
        except NotReady:
            self._log_once.warning("not_migrated", "Run `membership migrate`; reads answer 503 until then.")

    async def _listen(self) -> None:
        connection = await database.connect(self._database_url, "membership-api-listener")
        notices: Queue = asyncio.Queue(NOTICES_QUEUED_MAX)
        check: asyncio.Task[None] | None = None
        try:
            connection.add_termination_listener(lambda _: _queue(notices, None))
            with database.closed_is_unavailable(connection):
                await connection.add_listener(CHANNEL, lambda *notice: _queue(notices, notice[3]))
            # Queried after LISTEN, so every commit is either in this result or reported by a notice.
            await self._begin_again()
            self.listening = True
            self.sessions += 1
            self._log_once.reset()
            check = asyncio.create_task(self._check_listener(connection), name="check listener")
            check.add_done_callback(lambda _: _queue(notices, None))
            while (payload := await notices.get()) is not None:
                await self._on_notification(payload)
            if check.done():
                check.result()
            self._log_once.warning("listener_disconnected", "PostgreSQL ended the connection, or notices were missing")
        finally:
            self.listening = False
            self._cache.disable()
            connection.terminate()
            if check is not None:
                check.cancel()

    async def _check_listener(self, connection: asyncpg.Connection) -> None:
        """Return when notices are missing: a connection can be cut off without either end noticing.

        The query uses the listening connection itself, so that a dead one is detected without a test read.
        """
        while True:
            await asyncio.sleep(LISTENER_CHECK_S)
            try:
                with database.closed_is_unavailable(connection):
                    committed = await connection.fetchval(LIVE_POSITION, timeout=NOTICE_DELAY_MAX_S)
            except (*database.UNAVAILABLE, asyncpg.PostgresError):
                return
            await asyncio.sleep(NOTICE_DELAY_MAX_S)
            if self._may_cache and (committed is None or self._cache.applied_through < committed):
                return

    async def _on_notification(self, payload: str) -> None:
        notice = decode_notice(payload)
        if notice is None:
            self._unreadable.warning(detail="All answers kept in memory are dropped; a newer release may be running.")
        if notice is None or notice.generation != self._generation:
            self._pointer = None
            await self._begin_again()
            return
        # Such a change states a position that was notified before; a batch that changed very much, a new one.
        outside_a_batch = notice.flush and notice.position <= self._cache.applied_through
        self._apply(notice)
        if outside_a_batch and self._follows_pointer:
            self._pointer = None
            await self._learn_pointer()

    async def _begin_again(self) -> None:
        """Start caching from the position that a query returns."""
        self._enable_cache((await self._learn_pointer()).position)
        self._floor = self._stated

    async def _learn_pointer(self) -> LivePosition:
        """Query the pointer. Only the listener does, in the order of the notices, so no older one replaces a newer."""
        live = await self.refresh()
        self._pointer = live.versioned_pointer
        return live

    def _apply(self, notice: Notice) -> None:
        if notice.flush:
            self._cache.flush(notice.position)
        self._cache.invalidate(notice.tags, notice.position)
        if not notice.more:
            self._cache.advance(notice.position)
            if notice.position > self._position:
                self._set_position(Generation(notice.generation), notice.position)

    def _enable_cache(self, position: int) -> None:
        """Start caching, unless reads may come from a standby: there, no position proves that a response is current."""
        if self._may_cache:
            self._cache.enable(position)


@contextmanager
def extended(deadline: asyncio.Timeout, wait_s: float) -> Iterator[None]:
    """Extend a request's deadline by the time that the block takes, which is at most `wait_s`."""
    began = asyncio.get_running_loop().time()
    ends = deadline.when() or began
    deadline.reschedule(ends + wait_s)
    try:
        yield
    finally:
        deadline.reschedule(ends + asyncio.get_running_loop().time() - began)


def _queue(notices: Queue, payload: str | None) -> None:
    """Queue a payload; when the queue is full, replace its content by None, so that the listener reconnects."""
    if notices.full():
        while not notices.empty():
            notices.get_nowait()
        payload = None
    notices.put_nowait(payload)
