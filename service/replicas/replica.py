"""One read replica: its connections, whether it may be read now, and how far behind the primary it is.

Reads: the replica's position and live generation, on a connection of its own.
Invariants: every connection to it is verified before its first use, so none reads another cluster or database; a read
that finds the replica silent or gone fails within a second and is repeated elsewhere.
"""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, Self

import asyncpg
import structlog

from projections import replica_urls
from projections.errors import MembershipError
from projections.settings import Settings
from projections.store import database
from projections.store.database import CUSTOM_PLANS, GENERIC_PLANS, ReadPool
from projections.store.queries import Generation, for_generation
from service import metrics
from service.freshness import Freshness
from service.metrics import ReplicaState
from service.read_model.admission import Admission
from service.read_model.liveness import PROBE_EVERY_S, answer_in_time
from service.read_model.query_batcher import GENERIC_PLAN_CONNECTIONS, QueryBatcher
from service.replicas import verification
from service.replicas.lag import Lag
from service.replicas.verification import Identity, ReplicaRefused

POLL_S: Final = 0.005
"""How often the position is queried while a request waits for it."""
REFUSED_PAUSE_S: Final = 3.0
"""How long after a refusal the server is verified again: only an operator changes the cause."""

POSITION: Final = """
SELECT pg_is_in_recovery() AS standby, live.generation, checkpoint.position
FROM control.live
INNER JOIN control.checkpoint USING (generation)
"""
READABLE: Final = """
SELECT FROM {generation}.customer, {generation}.campaign, {generation}.campaign_counters, {generation}.membership,
    {generation}.customer_summary, {generation}.parked_event, control.discarded_event, control.fan_out LIMIT 0
"""
"""Fails where a table that pages are read from is missing, or may not be read."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class PrimaryUnknown(MembershipError):
    """Replicas cannot be compared with a primary that this process has not reached yet."""

    code = "primary_unknown"

    def __init__(self) -> None:
        super().__init__("It is verified once the primary in MEMBERSHIP_DATABASE_URL has answered.")


class Surroundings(Protocol):
    """What a replica needs of its process."""

    hurry: asyncio.Event
    """Set while requests wait for a replica's position."""

    async def primary(self) -> Identity:
        """Return the primary's identity; raises `PrimaryUnknown`."""

    def on_observed(self) -> None:
        """Take note of a new position or state."""


class Replica:
    """One host of the read URL."""

    def __init__(self, url: str, settings: Settings, freshness: Freshness, surroundings: Surroundings) -> None:
        self.place = replica_urls.place(url)
        self.state: ReplicaState = "unreachable"
        self.position = 0
        """The last position that it is known to have; an answer states its own."""
        self.generation: Generation | None = None
        """Its live generation."""
        self.lag = Lag(settings.read_lag_max)
        self._url = url
        self._freshness = freshness
        self._surroundings = surroundings
        self._identity: Identity | None = None
        """The primary's, once this server was verified against it."""
        self._verified_in = 0
        """The session of the listener in which it was."""
        self._reason = ""
        self._pools: tuple[ReadPool, ReadPool]
        self.batcher: QueryBatcher
        """Its reads; those of the default order are batched apart from other servers'."""

    async def open(self, settings: Settings, admission: Admission) -> Self:
        """Open its pools, which connect at the first read."""
        open_pool = partial(
            database.open_pool,
            self._url,
            statement_timeout_s=settings.read_timeout_s,
            acquire_timeout_s=settings.database_acquire_timeout_s,
            name="membership-api",
            verify=self._verify_connection,
        )
        custom = await open_pool(
            connections_max=settings.database_connections_max,
            planner=CUSTOM_PLANS,
            waited=metrics.POOL_WAIT.labels("custom").observe,
        )
        generic = await open_pool(
            connections_max=GENERIC_PLAN_CONNECTIONS,
            planner=GENERIC_PLANS,
            waited=metrics.POOL_WAIT.labels("generic").observe,
        )
        self._pools = custom, generic
        self.batcher = QueryBatcher(custom, generic, admission, settings.reads_waiting_max)
        return self

    async def close(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.close()

    def note(self, position: int) -> None:
        """Record the position of an answer."""
        self.position = max(self.position, position)

    def fail(self, problem: Exception) -> None:
        """Leave the replica out after a failed read, until it is observed again."""
        self._set_state("unreachable", problem)

    async def watch(self) -> None:
        """Verify the server, then observe it until it fails; the caller repeats this."""
        connection: asyncpg.Connection | None = None
        try:
            connection = await answer_in_time(database.connect_replica(self._url, "membership-api-replica"))
            await self._verify(connection)
            for pool in self._pools:
                pool.resume()
            while True:
                await answer_in_time(self._observe(connection))
                await self._pause()
        except (ReplicaRefused, *_UNREADABLE) as problem:
            refusal = problem if isinstance(problem, ReplicaRefused) else verification.not_readable(self.place, problem)
            await self._leave_out("refused", refusal)
            await asyncio.sleep(REFUSED_PAUSE_S)
        except (PrimaryUnknown, *database.UNAVAILABLE, asyncpg.PostgresError, asyncpg.InterfaceError) as problem:
            await self._leave_out("unreachable", problem)
        finally:
            if connection is not None:
                connection.terminate()

    async def _verify(self, connection: asyncpg.Connection) -> None:
        session = self._freshness.sessions
        primary = await self._surroundings.primary()
        verification.require_replica(self.place, await answer_in_time(verification.identity_of(connection)), primary)
        self._identity, self._verified_in = primary, session

    async def _verify_connection(self, connection: asyncpg.Connection) -> None:
        """Verify a connection of the pools: behind one name, there may be several servers."""
        if self._identity is None:
            raise PrimaryUnknown
        verification.require_replica(self.place, await verification.identity_of(connection), self._identity)

    async def _observe(self, connection: asyncpg.Connection) -> None:
        with database.closed_is_unavailable(connection):
            if self._verified_in != self._freshness.sessions:
                await self._verify(connection)
            row = await connection.fetchrow(POSITION)
            if row is not None and row["generation"] != self.generation:
                await connection.execute(for_generation(READABLE, row["generation"]))
        if row is None:
            raise asyncpg.UndefinedTableError("the database has no generation")
        if not row["standby"]:
            raise verification.primary_named(self.place)
        self.generation, self.position = row["generation"], row["position"]
        self.lag.observe(self.position, self._freshness.position, primary_is_heard=self._freshness.listening)
        self._judge()
        self._surroundings.on_observed()

    def _judge(self) -> None:
        live = self._freshness.known_generation
        if self.generation != live:
            self._set_state("behind", verification.another_generation(self.place, self.generation, live))
        elif not self.lag.is_near:
            self._set_state("behind", f"{self.place} is further behind the primary than MEMBERSHIP_READ_LAG_MAX allows")
        else:
            self._set_state("in_use", "")

    async def _leave_out(self, state: ReplicaState, problem: Exception) -> None:
        self._set_state(state, problem)
        self.generation = None  # its tables are checked again when it comes back
        for pool in self._pools:
            await pool.suspend()

    def _set_state(self, state: ReplicaState, reason: Exception | str) -> None:
        text = str(reason) or type(reason).__name__
        if state != self.state or (state == "refused" and text != self._reason):
            if state == "in_use":
                log.info("replica_in_use", replica=self.place, position=self.position)
            else:
                log.warning("replica_left_out", replica=self.place, state=state, detail=text)
            self._reason = text
        elif state != "in_use" and not self._reason:  # the first attempt failed
            log.warning("replica_left_out", replica=self.place, state=state, detail=text)
            self._reason = text
        self.state = state
        self._surroundings.on_observed()

    async def _pause(self) -> None:
        """Wait until the next observation: briefly if a request waits for a position."""
        hurry = self._surroundings.hurry
        if hurry.is_set():
            await asyncio.sleep(POLL_S)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), PROBE_EVERY_S)


_UNREADABLE: Final = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
"""Errors that only an operator can end: no access, no such database, no tables of this project."""
