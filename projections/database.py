"""Opens PostgreSQL, the one place that does: what a connection of each role is told, and when it gives up."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

CONNECT_TIMEOUT_S: Final = 5.0
ACQUIRE_TIMEOUT_S: Final = 0.8
"""How long a read waits for a free connection; the API promises its 503 within a second."""
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
)
"""What an unreachable, restarting, full or overloaded database raises. It parks nothing: whoever meets it waits."""

CONNECTION_BROKEN: Final = "the connection to PostgreSQL broke in the middle of an answer"

_SESSION: Final = {"timezone": "UTC", "jit": "off"}


CAREFUL: Final[Mapping[str, str]] = {"plan_cache_mode": "force_custom_plan"}
"""A customer with ten memberships and one with thousands want different plans; planning costs less than a bad one."""
STEADY: Final[Mapping[str, str]] = {
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


class ReadPool:
    """The connections that reads are answered from: made as they are needed, and never waited for without a limit.

    Every read is one statement, so it may be asked again: a connection that died while it lay idle (PostgreSQL was
    restarted) costs the caller a second try and no error.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        """Return the first row; raises `UNAVAILABLE`, or `QueryCanceledError` for one that took too long."""
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Return all rows; raises the same."""
        try:
            return await self._fetch(query, args)
        except (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, ConnectionError):
            return await self._fetch(query, args)

    async def close(self) -> None:
        """End all connections at once; a reader that is still waiting gets an error."""
        self._pool.terminate()

    async def _fetch(self, query: str, args: tuple[object, ...]) -> list[asyncpg.Record]:
        async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            with closed_is_unavailable(connection):
                found: list[asyncpg.Record] = await connection.fetch(query, *args)
                return found


async def open_pool(
    url: str, *, connections_max: int, statement_timeout_s: float, name: str, planner: Mapping[str, str]
) -> ReadPool:
    """Open a pool that reads are answered from; PostgreSQL may be away. `planner` is CAREFUL or STEADY.

    A statement that outlasts `statement_timeout_s` is cancelled by the server and raises `QueryCanceledError`.
    """
    pool = await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=connections_max,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=statement_timeout_s + 1,  # the client's own limit, for a server that does not even answer
        reset=_keep_session,
        server_settings={
            **_SESSION,
            **planner,
            "application_name": name,
            "statement_timeout": f"{int(statement_timeout_s * 1000)}ms",
        },
    )
    return ReadPool(pool)


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
