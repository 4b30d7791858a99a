"""Opens connections to PostgreSQL, the only module that does: session settings and timeouts for each role."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context
from types import MappingProxyType
from typing import Any, Final, Protocol, cast
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from asyncpg.pool import PoolConnectionProxy

from projections.store.hosts import HOSTS

CONNECT_TIMEOUT_S: Final = 5.0
ACQUIRE_TIMEOUT_S: Final = 0.8
"""How long a read waits for a free connection, unless configured; the API promises its 503 within a second."""
ANSWER_GRACE_S: Final = 0.9
"""How much longer than its statement a read may take, including the wait for a connection; the API promises 1 s."""
LEADER_SILENCE_MAX_S: Final = 5
"""How long the leader may be silent before PostgreSQL ends its session and so releases its lock."""

LEADER_STATEMENT_MAX_S: Final = 120
"""Longer than the fan-out of a campaign with millions of members; a server silent for so long is unreachable."""

UNAVAILABLE: Final = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.TargetServerAttributeNotMatched,
)
"""Errors of an unreachable, restarting, full or overloaded database. Transient: retry, never park."""

CONNECTION_BROKEN: Final = "the connection to PostgreSQL broke in the middle of an answer"
PRIMARY: Final = SessionAttribute.primary
"""PostgreSQL's `target_session_attrs`: a server that is not a standby."""

ANY_SERVER: Final = SessionAttribute.any
"""For the URL of one replica: whether it is a standby is verified, so that a wrong server is named in a message."""

_SESSION: Final = {"timezone": "UTC", "jit": "off"}


CUSTOM_PLANS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_custom_plan",
    "enable_memoize": "off",
    "work_mem": "16384",
}
"""Customers with ten and with thousands of memberships need different plans; planning costs less than a bad plan.

A customer is in a campaign once, so no lookup by campaign repeats; the planner expects repetition, and with Memoize it
would look up 100,000 campaigns one by one. The memory, in kB, is for hash tables over 100,000 campaigns; only as many
expensive reads as `Admission` allows run at a time.
"""
GENERIC_PLANS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_generic_plan",
    **dict.fromkeys(
        ("enable_bitmapscan", "enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_sort"), "off"
    ),
}
"""Planned once, for statements that scan an index in its order for every customer: a plan made for ten memberships
would sort them, which takes a second for a hundred thousand."""

LOOKUP_PLANS: Final[Mapping[str, str]] = dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off")
"""For statements that look a batch's rows up by key: with the statistics of a table that was small when it was last
analyzed, the planner would read all of it for each batch."""
PLAN_LOOKUPS: Final = "; ".join(f"SET LOCAL {name} = {value}" for name, value in LOOKUP_PLANS.items())
"""The same for one transaction of a session that also compares whole tables."""


async def _keep_session(_connection: Any) -> None:  # noqa: ANN401 - asyncpg's proxy type is private
    """Avoid the reset round trip on release; no user of the pool may SET, LISTEN or take session locks."""


@contextmanager
def closed_is_unavailable(connection: asyncpg.Connection | PoolConnectionProxy) -> Iterator[None]:
    """Distinguish a lost connection from a wrong call: asyncpg raises InterfaceError for both."""
    try:
        yield
    except asyncpg.InterfaceError as problem:
        if connection.is_closed():
            raise asyncpg.ConnectionDoesNotExistError(str(problem)) from problem
        raise
    except asyncpg.InternalClientError as problem:
        # asyncpg's protocol state is invalid after the server died in the middle of an answer: discard the connection.
        # The message ("cannot switch to state 12") names an internal state, so it stays in the cause only.
        connection.terminate()
        raise asyncpg.ConnectionDoesNotExistError(CONNECTION_BROKEN) from problem


_Rows = asyncio.Future[list[asyncpg.Record]]


class DatabaseUnresponsive(ConnectionError):
    """PostgreSQL is connected but does not answer; reads are refused until it does."""


class Suspendable(Protocol):
    """Connections that are not used while PostgreSQL does not answer."""

    async def suspend(self) -> None:
        """Fail everything that uses them, until `resume`."""

    def resume(self) -> None:
        """Use them again."""


class ReadPool:
    """The connections for reads: opened on demand, and every wait for one has a limit.

    Every read is one statement, so it can be retried: when an idle connection was lost (PostgreSQL was restarted), the
    read is repeated, and the caller gets no error. Each statement runs in its own task, so a caller that gives up
    does not wait until the connection is usable again.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        timeout_s: float,
        waited: Callable[[float], None] = lambda _seconds: None,
        acquire_timeout_s: float = ACQUIRE_TIMEOUT_S,
    ) -> None:
        self._pool = pool
        self._waited = waited
        """Called with the seconds that each statement waited for its connection, also if it got none in time."""
        self._timeout_s = timeout_s
        self._acquire_timeout_s = acquire_timeout_s
        self._waiting: set[_Rows] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._in_use: set[PoolConnectionProxy] = set()
        self._suspended = False

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        """Return the first row; raises `UNAVAILABLE`, or `QueryCanceledError` on a statement timeout."""
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Return all rows; raises the same errors."""
        if self._suspended:
            raise DatabaseUnresponsive
        result: _Rows = asyncio.get_running_loop().create_future()
        # The task may open a connection that later requests use, so it must not keep this request's context.
        task = asyncio.create_task(self._run(result, query, args), name="read", context=Context())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        self._waiting.add(result)
        try:
            return await result
        finally:
            self._waiting.discard(result)

    async def suspend(self) -> None:
        """Fail all reads, including running ones, until `resume`; close all connections."""
        self._suspended = True
        for result in self._waiting:
            if not result.done():
                result.set_exception(DatabaseUnresponsive())
        for connection in self._in_use:
            connection.terminate()
        await self._pool.expire_connections()  # the idle ones may be cut off as well

    def resume(self) -> None:
        """Accept reads again."""
        self._suspended = False

    async def close(self) -> None:
        """Close all connections at once; waiting readers get an error."""
        await self.suspend()
        self._pool.terminate()

    async def _run(self, result: _Rows, query: str, args: tuple[object, ...]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                rows = await self._fetch_with_retry(result, query, args)
        except Exception as problem:  # noqa: BLE001 - raised again in the waiting caller
            if not result.done():
                result.set_exception(problem)
        else:
            if not result.done():
                result.set_result(rows)

    async def _fetch_with_retry(self, result: _Rows, query: str, args: tuple[object, ...]) -> list[asyncpg.Record]:
        try:
            return await self._fetch(result, query, args)
        except (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, ConnectionError):
            if self._suspended:
                raise
            return await self._fetch(result, query, args)

    async def _fetch(self, result: _Rows, query: str, args: tuple[object, ...]) -> list[asyncpg.Record]:
        requested = time.perf_counter()
        try:
            connection = await self._pool.acquire(timeout=self._acquire_timeout_s)
        finally:
            self._waited(time.perf_counter() - requested)
        self._in_use.add(connection)
        completed = False
        try:
            rows: list[asyncpg.Record] = []
            if not result.done():  # the caller may have given up or failed while this waited for a connection
                with closed_is_unavailable(connection):
                    rows = await connection.fetch(query, *args)
            completed = True
        except asyncpg.PostgresError:
            completed = True
            raise
        else:
            return rows
        finally:
            self._in_use.discard(connection)
            if not completed:
                # asyncpg would ask the server to cancel the statement and wait for it, but the server may be silent.
                connection.terminate()
            await self._pool.release(connection)


class SessionPool:
    """A few connections for requests of several statements; each is used by one request at a time."""

    def __init__(self, pool: asyncpg.Pool, acquire_timeout_s: float) -> None:
        self._pool = pool
        self._acquire_timeout_s = acquire_timeout_s
        self._in_use: set[PoolConnectionProxy] = set()
        self._suspended = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield a connection; raises `UNAVAILABLE`. After an error it is not used again."""
        if self._suspended:
            raise DatabaseUnresponsive
        connection = await self._pool.acquire(timeout=self._acquire_timeout_s)
        self._in_use.add(connection)
        completed = False
        try:
            with closed_is_unavailable(connection):
                yield cast("asyncpg.Connection", connection)
            completed = True
        finally:
            self._in_use.discard(connection)
            if not completed:
                connection.terminate()  # see `ReadPool`: a server that is silent must not delay the answer
            await self._pool.release(connection)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield a connection on which all statements read the same state, and none writes."""
        async with self.session() as connection:
            # Not connection.transaction(), which would wait for a silent server to roll back.
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield connection
            await connection.execute("COMMIT")

    async def suspend(self) -> None:
        """Fail all requests, including running ones, until `resume`; close all connections."""
        self._suspended = True
        for connection in self._in_use:
            connection.terminate()
        await self._pool.expire_connections()

    def resume(self) -> None:
        """Accept requests again."""
        self._suspended = False

    async def close(self) -> None:
        """Close all connections at once."""
        await self.suspend()
        self._pool.terminate()


async def open_session_pool(
    url: str, *, connections_max: int, statement_timeout_s: float, name: str, acquire_timeout_s: float
) -> SessionPool:
    """Open a pool for requests of several statements; PostgreSQL may be unavailable."""
    pool = await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=connections_max,
        timeout=CONNECT_TIMEOUT_S,
        target_session_attrs=_session_attributes(url),
        server_settings={
            **_SESSION,
            "application_name": name,
            "statement_timeout": f"{int(statement_timeout_s * 1000)}ms",
            "lock_timeout": f"{int(statement_timeout_s * 1000)}ms",
        },
    )
    return SessionPool(pool, acquire_timeout_s)


async def open_pool(
    url: str,
    *,
    connections_max: int,
    statement_timeout_s: float,
    name: str,
    planner: Mapping[str, str],
    waited: Callable[[float], None] = lambda _seconds: None,
    acquire_timeout_s: float = ACQUIRE_TIMEOUT_S,
    verify: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
) -> ReadPool:
    """Open a pool for reads; PostgreSQL may be unavailable. `planner` is CUSTOM_PLANS or GENERIC_PLANS.

    `waited` is called with the seconds that each statement waited for its connection.

    With `verify`, the URL is that of one replica: it is called with each new connection before its first use, and
    raises what makes the server unusable.

    A statement that exceeds `statement_timeout_s` is cancelled by the server and raises `QueryCanceledError`; if the
    server does not cancel it, TimeoutError is raised `ANSWER_GRACE_S` later.
    """
    pool = await asyncpg.create_pool(
        url,
        connect=_connect_primary if verify is None and reads_from_primary(url) else None,  # type: ignore[arg-type] # typed by keywords
        min_size=0,
        max_size=connections_max,
        timeout=CONNECT_TIMEOUT_S,
        reset=_keep_session,
        init=verify,
        target_session_attrs=ANY_SERVER if verify else _session_attributes(url),
        server_settings={
            **_SESSION,
            **planner,
            "application_name": name,
            "statement_timeout": f"{int(statement_timeout_s * 1000)}ms",
        },
    )
    return ReadPool(pool, statement_timeout_s + ANSWER_GRACE_S, waited, acquire_timeout_s)


async def _connect_primary(url: str, **options: Any) -> asyncpg.Connection:  # noqa: ANN401 - asyncpg's options
    """Connect like asyncpg, but to the newest primary among several hosts, whichever of them answers."""

    async def connect_one(server: str) -> asyncpg.Connection:
        return await asyncpg.connect(server, **options)

    return await HOSTS.connect(url, connect_one)


def reads_from_primary(url: str) -> bool:
    """Return whether connections go to the primary only: the default, unless the URL or the environment overrides it.

    A standby lags, so data read there must not be cached as the newest.
    """
    return _configured_attributes(url) in {None, "primary", "read-write"}


def _session_attributes(url: str) -> SessionAttribute | None:
    """Return asyncpg's host selection: the primary unless configured; asyncpg's own default is any host."""
    return None if _configured_attributes(url) else PRIMARY


def _configured_attributes(url: str) -> str | None:
    configured = parse_qs(urlsplit(url).query).get("target_session_attrs")
    return configured[-1] if configured else os.environ.get("PGTARGETSESSIONATTRS")


async def connect(
    url: str,
    name: str,
    *,
    command_timeout_s: float | None = None,
    planner: Mapping[str, str] = MappingProxyType({}),
    **settings: str,
) -> asyncpg.Connection:
    """Open one connection for a command, a listener or a migration."""
    return await (_connect_primary if reads_from_primary(url) else asyncpg.connect)(
        url,
        timeout=CONNECT_TIMEOUT_S,
        target_session_attrs=_session_attributes(url),
        command_timeout=command_timeout_s,
        server_settings={**_SESSION, **planner, "application_name": name, **settings},
    )


async def connect_replica(url: str, name: str) -> asyncpg.Connection:
    """Open one connection to a server that should be a standby; the caller verifies that it is."""
    return await asyncpg.connect(
        url,
        timeout=CONNECT_TIMEOUT_S,
        target_session_attrs=ANY_SERVER,
        server_settings={**_SESSION, "application_name": name},
    )


async def connect_leader(url: str) -> asyncpg.Connection:
    """Open the connection of a projector: it holds the leader's lock and also writes.

    When a leader is stopped or cut off, PostgreSQL ends its idle session, including its open transaction and its lock,
    so a standby takes over without any process having to decide that the leader is dead.
    """
    limit = f"{LEADER_SILENCE_MAX_S}s"
    return await connect(
        url,
        "membership-projector",
        command_timeout_s=LEADER_STATEMENT_MAX_S,
        planner=LOOKUP_PLANS,
        idle_session_timeout=limit,
        idle_in_transaction_session_timeout=limit,
        lock_timeout=limit,
        tcp_keepalives_idle="5",
        tcp_keepalives_interval="5",
        tcp_keepalives_count="2",
    )
