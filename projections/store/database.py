"""Opens PostgreSQL, the one place that does: what a connection of each role is told, and when it gives up."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from asyncpg.pool import PoolConnectionProxy

CONNECT_TIMEOUT_S: Final = 5.0
ACQUIRE_TIMEOUT_S: Final = 0.8
"""How long a read waits for a free connection; the API promises its 503 within a second."""
ANSWER_GRACE_S: Final = 0.9
"""How much longer than its statement a read may take, the wait for a connection included; a second is promised."""
LEADER_SILENCE_MAX_S: Final = 5
"""How long the leader may say nothing before PostgreSQL ends its session, and with it its lock."""

LEADER_STATEMENT_MAX_S: Final = 120
"""Longer than the fan-out of a campaign with millions of members; a server that says nothing so long is gone."""

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
"""What an unreachable, restarting, full or overloaded database raises. It parks nothing: whoever meets it waits."""

CONNECTION_BROKEN: Final = "the connection to PostgreSQL broke in the middle of an answer"
PRIMARY: Final = SessionAttribute.primary
"""PostgreSQL's `target_session_attrs`: the server that is no standby."""

_SESSION: Final = {"timezone": "UTC", "jit": "off"}


CUSTOM_PLANS: Final[Mapping[str, str]] = {"plan_cache_mode": "force_custom_plan"}
"""A customer with ten memberships and one with thousands want different plans; planning costs less than a bad one."""
GENERIC_PLANS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_generic_plan",
    **dict.fromkeys(
        ("enable_bitmapscan", "enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_sort"), "off"
    ),
}
"""Planned once, for statements that walk an index in its order, whoever is asked for: a plan made for ten memberships
would sort them, and take a second for a hundred thousand."""


async def _keep_session(_connection: Any) -> None:  # noqa: ANN401 - asyncpg's proxy type is private
    """Spare the reset round trip on release; nothing on the pool may SET, LISTEN or lock."""


@contextmanager
def closed_is_unavailable(connection: asyncpg.Connection | PoolConnectionProxy) -> Iterator[None]:
    """Tell a connection that is gone from a call that is wrong: asyncpg raises InterfaceError for both."""
    try:
        yield
    except asyncpg.InterfaceError as problem:
        if connection.is_closed():
            raise asyncpg.ConnectionDoesNotExistError(str(problem)) from problem
        raise
    except asyncpg.InternalClientError as problem:
        # Its protocol lost count when the server died in the middle of an answer: this connection is of no use.
        # Its own words ("cannot switch to state 12") name a state of its code, so they stay in the cause.
        connection.terminate()
        raise asyncpg.ConnectionDoesNotExistError(CONNECTION_BROKEN) from problem


_Rows = asyncio.Future[list[asyncpg.Record]]


class DatabaseUnresponsive(ConnectionError):
    """PostgreSQL is connected and does not answer; reads are refused until it does."""


class ReadPool:
    """The connections that reads are answered from: made as they are needed, and never waited for without a limit.

    Every read is one statement, so it may be asked again: a connection that died while it lay idle (PostgreSQL was
    restarted) costs the caller a second try and no error. A statement runs in a task of its own: a caller that gives up
    does not wait until the connection is clean again.
    """

    def __init__(self, pool: asyncpg.Pool, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._waiting: set[_Rows] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._in_use: set[PoolConnectionProxy] = set()
        self._suspended = False

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        """Return the first row; raises `UNAVAILABLE`, or `QueryCanceledError` for one that took too long."""
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Return all rows; raises the same."""
        if self._suspended:
            raise DatabaseUnresponsive
        found: _Rows = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._run(found, query, args), name="read")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        self._waiting.add(found)
        try:
            return await found
        finally:
            self._waiting.discard(found)

    async def suspend(self) -> None:
        """Fail all reads, those under way included, until `resume`; drop all connections."""
        self._suspended = True
        for found in self._waiting:
            if not found.done():
                found.set_exception(DatabaseUnresponsive())
        for connection in self._in_use:
            connection.terminate()
        await self._pool.expire_connections()  # the idle ones may have been cut off as well

    def resume(self) -> None:
        """Take reads again."""
        self._suspended = False

    async def close(self) -> None:
        """End all connections at once; a reader that is still waiting gets an error."""
        await self.suspend()
        self._pool.terminate()

    async def _run(self, found: _Rows, query: str, args: tuple[object, ...]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                rows = await self._fetch_again(found, query, args)
        except Exception as problem:  # noqa: BLE001 - it is raised where the answer is waited for
            if not found.done():
                found.set_exception(problem)
        else:
            if not found.done():
                found.set_result(rows)

    async def _fetch_again(self, found: _Rows, query: str, args: tuple[object, ...]) -> list[asyncpg.Record]:
        try:
            return await self._fetch(found, query, args)
        except (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, ConnectionError):
            if self._suspended:
                raise
            return await self._fetch(found, query, args)

    async def _fetch(self, found: _Rows, query: str, args: tuple[object, ...]) -> list[asyncpg.Record]:
        connection = await self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S)
        self._in_use.add(connection)
        answered = False
        try:
            rows: list[asyncpg.Record] = []
            if not found.done():  # the caller may have given up, or was refused, while this waited for a connection
                with closed_is_unavailable(connection):
                    rows = await connection.fetch(query, *args)
            answered = True
        except asyncpg.PostgresError:
            answered = True
            raise
        else:
            return rows
        finally:
            self._in_use.discard(connection)
            if not answered:
                # asyncpg would ask the server to cancel the statement, and wait for it: it may be silent.
                connection.terminate()
            await self._pool.release(connection)


async def open_pool(
    url: str, *, connections_max: int, statement_timeout_s: float, name: str, planner: Mapping[str, str]
) -> ReadPool:
    """Open a pool that reads are answered from; PostgreSQL may be away. `planner` is CAREFUL or STEADY.

    A statement that outlasts `statement_timeout_s` is cancelled by the server and raises `QueryCanceledError`; if the
    server does not even do that, TimeoutError is raised `ANSWER_GRACE_S` later.
    """
    pool = await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=connections_max,
        timeout=CONNECT_TIMEOUT_S,
        reset=_keep_session,
        target_session_attrs=_session_attributes(url),
        server_settings={
            **_SESSION,
            **planner,
            "application_name": name,
            "statement_timeout": f"{int(statement_timeout_s * 1000)}ms",
        },
    )
    return ReadPool(pool, statement_timeout_s + ANSWER_GRACE_S)


def reads_from_primary(url: str) -> bool:
    """Say whether connections go to the primary only, as they do unless the URL or the environment chooses otherwise.

    A standby lags: what is read there must not be remembered as the newest.
    """
    return _chosen_attributes(url) in {None, "primary", "read-write"}


def _session_attributes(url: str) -> SessionAttribute | None:
    """Return what asyncpg is told of several hosts, whose own default is any of them."""
    return None if _chosen_attributes(url) else PRIMARY


def _chosen_attributes(url: str) -> str | None:
    chosen = parse_qs(urlsplit(url).query).get("target_session_attrs")
    return chosen[-1] if chosen else os.environ.get("PGTARGETSESSIONATTRS")


async def connect(
    url: str,
    name: str,
    *,
    command_timeout_s: float | None = None,
    planner: Mapping[str, str] = MappingProxyType({}),
    **settings: str,
) -> asyncpg.Connection:
    """Open one connection for a command, a listener or a migration."""
    return await asyncpg.connect(
        url,
        timeout=CONNECT_TIMEOUT_S,
        target_session_attrs=_session_attributes(url),
        command_timeout=command_timeout_s,
        server_settings={**_SESSION, **planner, "application_name": name, **settings},
    )


async def connect_leader(url: str) -> asyncpg.Connection:
    """Open the connection of a projector: it both holds the leader's lock and writes.

    A leader that is stopped or cut off says nothing; PostgreSQL then ends its session by itself, open transaction
    and lock included, so that a standby takes over without anyone having to decide that the leader is dead.
    """
    limit = f"{LEADER_SILENCE_MAX_S}s"
    return await connect(
        url,
        "membership-projector",
        command_timeout_s=LEADER_STATEMENT_MAX_S,
        idle_session_timeout=limit,
        idle_in_transaction_session_timeout=limit,
        lock_timeout=limit,
        tcp_keepalives_idle="5",
        tcp_keepalives_interval="5",
        tcp_keepalives_count="2",
    )
