"""Connects to the primary when a URL names several servers, and never to a primary that another one has replaced.

A promotion begins a new timeline of the same system. So of two servers that both accept writes, the one on the higher
timeline is the primary; the other one came back after a failover and lacks what was written since.

Invariants: a process never connects to a lower timeline of a system than it has seen. A server that does not answer
delays a connection to another one by at most `COMPARE_S`.
Fails: `ReplacedPrimary`, and what asyncpg raises; all of them are `database.UNAVAILABLE`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import asyncpg

COMPARE_S: Final = 0.3
"""How long a server that accepts writes waits for the others to show theirs, before it is used."""
COMPARED_FOR_S: Final = 5.0
"""How long the result holds for further connections, so that a pool opens many after one comparison."""
_IDENTITY: Final = (
    "SELECT system_identifier::text AS system, "
    "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS timeline FROM pg_control_system()"
)
_NOT_SHOWN: Final = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.UndefinedFunctionError,
    asyncpg.ObjectNotInPrerequisiteStateError,
)
"""A server that does not show its timeline: a service that is compatible with PostgreSQL, or one in recovery."""

Connect = Callable[[str], Awaitable[asyncpg.Connection]]
"""Connects to the one server of a URL."""


class ReplacedPrimary(ConnectionError):
    """A server accepts writes, but another one was promoted in its place."""

    def __init__(self, timeline: int, newest: int) -> None:
        super().__init__(
            f"this server is on timeline {timeline}, but timeline {newest} was seen: it is a former primary, and must "
            "be stopped. If it was restored on purpose, restart this process"
        )


class Verified(NamedTuple):
    """A connection, and the timeline of its server; 0 if the server does not show it."""

    connection: asyncpg.Connection
    timeline: int


class Hosts:
    """What one process knows of the servers it connects to."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}
        """The highest timeline seen of each system."""
        self._chosen: dict[str, tuple[str, float]] = {}
        """The server chosen last for a URL with several, and until when that holds."""

    async def connect(self, url: str, connect: Connect) -> asyncpg.Connection:
        """Connect to the primary among the servers of a URL; `connect` must refuse a standby."""
        servers = servers_of(url)
        if len(servers) == 1:
            return (await self._verified(url, connect)).connection
        server, until = self._chosen.get(url, ("", 0.0))
        if time.monotonic() < until:
            try:
                return (await self._verified(server, connect)).connection
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self._chosen.pop(url, None)
        return await self._compared(url, servers, connect)

    async def _compared(self, url: str, servers: Sequence[str], connect: Connect) -> asyncpg.Connection:
        """Connect to all servers at once, and keep the connection to the one on the highest timeline."""
        attempts = {asyncio.ensure_future(self._verified(server, connect)): server for server in servers}
        try:
            pending = set(attempts)
            while pending and not any(_succeeded(attempt) for attempt in attempts):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                await asyncio.wait(pending, timeout=COMPARE_S)
            best = max((attempt for attempt in attempts if _succeeded(attempt)), key=_timeline, default=None)
            if best is None:
                raise _most_telling([attempt.exception() for attempt in attempts])
            # Taken from the attempts only now: until here, a cancellation closes this connection too.
            server = attempts.pop(best)
            self._chosen[url] = (server, time.monotonic() + COMPARED_FOR_S)
            return best.result().connection
        finally:
            for attempt in attempts:
                attempt.cancel()
                attempt.add_done_callback(_close)

    async def _verified(self, server: str, connect: Connect) -> Verified:
        connection = await connect(server)
        try:
            timeline = await self._require_newest(connection)
        except BaseException:
            connection.terminate()
            raise
        return Verified(connection, timeline)

    async def _require_newest(self, connection: asyncpg.Connection) -> int:
        try:
            row = await connection.fetchrow(_IDENTITY)
        except _NOT_SHOWN:
            return 0
        if row is None:
            return 0
        system, timeline = str(row["system"]), int(row["timeline"])
        newest = self._newest[system] = max(timeline, self._newest.get(system, 0))
        if timeline < newest:
            raise ReplacedPrimary(timeline, newest)
        return timeline


def servers_of(url: str) -> list[str]:
    """Return a URL for each server that a URL names before its path; in the form `?host=a,b` they stay together."""
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{credentials}{at}{host}").geturl() for host in hosts.split(",")]


def _succeeded(attempt: "asyncio.Future[Verified]") -> bool:
    return attempt.done() and not attempt.cancelled() and attempt.exception() is None


def _timeline(attempt: "asyncio.Future[Verified]") -> int:
    return attempt.result().timeline


def _most_telling(problems: Sequence[BaseException | None]) -> BaseException:
    """Return the error to raise if no server can be used: a server that answered says more than one that did not."""
    told = [problem for problem in problems if problem is not None]
    return next((problem for problem in told if isinstance(problem, (ReplacedPrimary, asyncpg.PostgresError))), told[0])


def _close(attempt: "asyncio.Future[Verified]") -> None:
    if _succeeded(attempt):
        attempt.result().connection.terminate()


HOSTS: Final = Hosts()
"""Shared by all connections of this process."""
