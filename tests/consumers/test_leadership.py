"""Leadership: one leader at a time, and a standby takes over when the leader's session ends."""

import asyncio
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from consumers.leadership import STANDBY_POLL_S, leadership
from projections.store import database
from tests.support.processes import eventually

PID = "SELECT pg_backend_pid()"
TAKEOVER_MAX_S = 5

Logs = list[MutableMapping[str, Any]]


@pytest.fixture
def logs() -> Iterator[Logs]:
    with capture_logs() as entries:
        yield entries


async def _lead(database_url: str) -> int:
    """Lead once and return the backend pid of the session."""
    async with leadership(database_url) as connection:
        return int(await connection.fetchval(PID))


@asynccontextmanager
async def standby(database_url: str, logs: Logs) -> AsyncIterator[asyncio.Task[int]]:
    """Run a second candidate until it stands by; its task ends once it has led."""
    task = asyncio.create_task(_lead(database_url))
    try:
        await eventually(lambda: any(entry["event"] == "standing_by" for entry in logs), "the candidate stands by")
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_only_one_candidate_leads_at_a_time(database_url: str, logs: Logs) -> None:
    async with leadership(database_url) as leader, standby(database_url, logs) as candidate:
        await asyncio.sleep(3 * STANDBY_POLL_S)
        assert not candidate.done()
        assert await leader.fetchval("SELECT 1") == 1
    assert [entry["event"] for entry in logs] == ["leadership_acquired", "standing_by"]


async def test_a_standby_takes_over_when_the_leaders_session_ends(
    database_url: str, connection: asyncpg.Connection, logs: Logs
) -> None:
    async with leadership(database_url) as leader:
        leader_pid = await leader.fetchval(PID)
        async with standby(database_url, logs) as candidate:
            await connection.execute("SELECT pg_terminate_backend($1)", leader_pid)
            async with asyncio.timeout(TAKEOVER_MAX_S):
                assert await candidate != leader_pid
    assert [entry["event"] for entry in logs] == ["leadership_acquired", "standing_by", "leadership_acquired"]


async def test_a_finished_leader_releases_the_lock(database_url: str) -> None:
    async with asyncio.timeout(TAKEOVER_MAX_S):
        assert await _lead(database_url) != await _lead(database_url)


async def test_a_lost_session_makes_the_next_write_fail(database_url: str, connection: asyncpg.Connection) -> None:
    async def write_after_loss() -> None:
        async with leadership(database_url) as leader:
            await connection.execute("SELECT pg_terminate_backend($1)", await leader.fetchval(PID))
            await leader.execute("CREATE TABLE public.written ()")

    with pytest.raises(database.UNAVAILABLE):
        await write_after_loss()
    assert await connection.fetchval("SELECT to_regclass('public.written')") is None
