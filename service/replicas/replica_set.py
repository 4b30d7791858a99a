"""Chooses the server of each read: a replica that has what was notified, otherwise the primary.

The primary's notices say which tags changed at which position. An answer of a replica states the replica's position, so
it is used only if it contains every change of what it shows that had been notified when it was requested.

Invariants: no answer is returned that is older than a notice of its tags, or that lacks a change outside a batch that
was notified; a failing replica costs its callers time, never an error: they are answered by the primary.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol, TypeVar

import asyncpg
from msgspec import Struct

from projections import replica_urls
from projections.settings import Settings
from projections.store.database import UNAVAILABLE, ReadPool
from projections.store.queries import Generation
from service import metrics
from service.cache import Cache
from service.freshness import WAITERS_MAX, Freshness, extended
from service.page_budget import PageMemoryBusy
from service.read_model.admission import Admission, Overloaded
from service.read_model.liveness import PROBE_EVERY_S
from service.read_model.query_batcher import QueryBatcher
from service.replicas.replica import PrimaryUnknown, Replica
from service.replicas.verification import Identity, ReplicaRefused, identity_of
from service.supervision import supervise

CATCH_UP_MAX_S: Final = 0.03
"""How long a read waits for a replica to apply a change that was just notified; then the primary answers."""
FAILED: Final = (*UNAVAILABLE, asyncpg.PostgresError, ReplicaRefused, PrimaryUnknown)
"""What a read of a replica may raise; the primary is read instead."""
BUSY: Final = (Overloaded, PageMemoryBusy, asyncpg.QueryCanceledError)
"""What it may raise because it, or this process, has too much to do: the primary is not asked to do the same."""


class Answer(Protocol):
    """What is read: a page, or cards."""

    @property
    def live_generation(self) -> str:
        """The pointer with the version of its row."""

    @property
    def position(self) -> int:
        """The position of the snapshot."""


Found = TypeVar("Found", bound=Answer)
Read = Callable[[QueryBatcher, Generation], Awaitable[Found]]


_FROM_REPLICA: Final = metrics.READS.labels("replica")
_FROM_PRIMARY: Final = metrics.READS.labels("primary")


def _nothing(_found: object) -> Iterable[str]:
    return ()


class _Waiter(Struct, eq=False):
    position: int
    reached: asyncio.Future[None]


class ReplicaSet:
    """The read replicas of one process."""

    def __init__(self, primary: ReadPool, freshness: Freshness, cache: Cache, settings: Settings) -> None:
        self.hurry = asyncio.Event()
        """Set while requests wait for a position."""
        self._primary_pool = primary
        self._freshness = freshness
        self._cache = cache
        self._may_answer_positions = settings.read_min_position_from == "replica"
        self._primary: Identity | None = None
        self._replicas: list[Replica] = []
        self._next = 0
        self._waiters: set[_Waiter] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, settings: Settings, admission: Admission) -> None:
        """Open and watch the replicas of the settings, in the background."""
        for url in replica_urls.split(settings.read_database_url):
            replica = await Replica(url, settings, self._freshness, self).open(settings, admission)
            self._replicas.append(replica)
            name = f"watch replica {replica.place}"
            self._tasks.append(asyncio.create_task(supervise(name, replica.watch, PROBE_EVERY_S), name=name))
        self._report()

    async def close(self) -> None:
        """Stop watching, and close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for replica in self._replicas:
            await replica.close()

    async def primary(self) -> Identity:
        """Return the primary's identity, the last known one if it does not answer; raises `PrimaryUnknown`."""
        try:
            self._primary = await identity_of(self._primary_pool)
        except (*UNAVAILABLE, asyncpg.PostgresError):
            if self._primary is None:
                raise PrimaryUnknown from None
        return self._primary

    @property
    def answer_positions(self) -> bool:
        """Whether a replica answers requests that name a position, as configured; false while none is in use."""
        return self._may_answer_positions and bool(self._in_use(0))

    def furthest(self) -> Replica | None:
        """Return the replica in use with the highest position; None if none is in use."""
        return max(self._in_use(0), key=lambda replica: replica.position, default=None)

    async def read(
        self,
        read: Read[Found],
        tags: Iterable[str],
        *,
        min_position: int = 0,
        shown: Callable[[Found], Iterable[str]] = _nothing,
    ) -> Found | None:
        """Return what `read` finds on a replica; None if the primary must be read.

        It contains every change of `tags` notified before, and every change of the tags `shown`, which are only known
        once it is read, that is notified until then; it is of `min_position` or later.
        """
        needed = max(self._cache.last_change(tags), self._freshness.floor, min_position)
        replica = await self._choose(needed)
        found = None if replica is None else await self._read_from(replica, read)
        if found is not None and found.position >= max(needed, self._cache.last_change(shown(found))):
            _FROM_REPLICA.inc()
            return found
        _FROM_PRIMARY.inc()
        return None

    def nearest_position(self) -> int:
        """Return the position that a replica is known to have; 0 while none is in use."""
        return max((replica.position for replica in self._in_use(0)), default=0)

    async def wait_within(self, position: int, wait_s: float, deadline: asyncio.Timeout) -> bool:
        """Wait at most `wait_s` until a replica has applied `position`, and extend the request's deadline by that time.

        Returns true as well if no replica is in use any more: then the primary answers.
        """
        with extended(deadline, wait_s):
            return await self._wait_for(position, wait_s) or not self._in_use(0)

    def on_observed(self) -> None:
        """End the waits for positions that were reached, and report the replicas' states."""
        for waiter in self._waiters:
            if not waiter.reached.done() and self._in_use(waiter.position):
                waiter.reached.set_result(None)
        self._report()

    async def _read_from(self, replica: Replica, read: Read[Found]) -> Found | None:
        """Return an answer that has every notified change outside a batch; None if there is none."""
        name = replica.generation
        if name is None:
            return None
        try:
            found = await read(replica.batcher, name)
        except BUSY:
            raise
        except FAILED as problem:
            if isinstance(problem, _LOST):
                replica.fail(problem)
            return None
        replica.note(found.position)
        generation = found.live_generation.partition(".")[0]
        return found if generation == name and self._freshness.accepts(found.live_generation) else None

    async def _choose(self, needed: int) -> Replica | None:
        """Return a replica at `needed` or later, in turn; waits briefly for one that is about to apply it."""
        if not self._in_use(0):
            return None
        if not self._in_use(needed):
            await self._wait_for(needed, CATCH_UP_MAX_S)
        candidates = self._in_use(needed)
        if not candidates:
            return None
        self._next += 1
        return candidates[self._next % len(candidates)]

    async def _wait_for(self, position: int, wait_s: float) -> bool:
        if self._in_use(position):
            return True
        if len(self._waiters) >= WAITERS_MAX:
            return False
        waiter = _Waiter(position, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        self.hurry.set()
        try:
            await asyncio.wait({waiter.reached}, timeout=wait_s)
            return waiter.reached.done()
        finally:
            self._waiters.discard(waiter)
            if not self._waiters:
                self.hurry.clear()

    def _in_use(self, position: int) -> list[Replica]:
        """Return the replicas in use that are known to have a position."""
        return [replica for replica in self._replicas if replica.state == "in_use" and replica.position >= position]

    def _report(self) -> None:
        states = [replica.state for replica in self._replicas]
        for state in metrics.REPLICA_STATES:
            metrics.REPLICAS.labels(state).set(states.count(state))
        metrics.REPLICA_LAG_EVENTS.set(_greatest(replica.lag.events for replica in self._replicas))
        metrics.REPLICA_LAG_SECONDS.set(_greatest(replica.lag.seconds for replica in self._replicas))


_LOST: Final = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)
"""Errors of a server that is gone or silent, not of one statement on it."""


def _greatest(values: Iterable[float]) -> float:
    return max(values, default=0.0)
