"""The batch workers answer every request; all requests that wait for an unresponsive server fail together."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from projections.store import database
from projections.store.database import DatabaseUnresponsive, ReadPool
from service.read_model import query_batcher
from service.read_model.admission import caller
from service.read_model.query_batcher import BATCH_REQUESTS_MAX, QueryBatcher

NUMBERS = "SELECT value, number FROM unnest($1::bigint[]) WITH ORDINALITY AS request (value, number)"
BURST = 4
BURSTS = 3_000
DEADLINE_S = 10
TIMEOUT_S = 0.3
AT_ONCE_S = 0.1


async def pool_of(url: str, timeout_s: float = 15, connections_max: int = 4) -> ReadPool:
    return await database.open_pool(
        url,
        connections_max=connections_max,
        statement_timeout_s=timeout_s,
        name="test-batcher",
        planner=database.GENERIC_PLANS,
    )


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[ReadPool]:
    pool = await pool_of(database_url)
    yield pool
    await pool.close()


async def echo(batcher: QueryBatcher, number: int) -> int:
    """Return the number that PostgreSQL returns for a number."""
    return int((await batcher.fetch_batched(NUMBERS, (number,)))["value"])


async def test_a_request_sent_immediately_after_a_result_is_answered(
    pool: ReadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_batcher, "BATCH_CONNECTIONS", 1)
    batcher = QueryBatcher(pool, pool)
    async with asyncio.timeout(DEADLINE_S):
        assert [await echo(batcher, number) for number in range(50)] == list(range(50))


async def test_thousands_of_bursts_leave_no_request_unanswered(pool: ReadPool) -> None:
    batcher = QueryBatcher(pool, pool)
    async with asyncio.timeout(6 * DEADLINE_S):
        for _ in range(BURSTS):
            assert await asyncio.gather(*(echo(batcher, n) for n in range(BURST))) == list(range(BURST))
    assert batcher._working == 0
    assert not batcher._waiting


async def test_all_waiting_requests_fail_when_one_statement_times_out(database_url: str) -> None:
    pool = await pool_of(database_url, TIMEOUT_S)
    batcher = QueryBatcher(pool, pool)
    assert await echo(batcher, 1) == 1
    backend = (await pool.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"]
    os.kill(backend, signal.SIGSTOP)
    try:
        began = time.monotonic()
        results = await asyncio.gather(
            *(echo(batcher, n) for n in range(20 * BATCH_REQUESTS_MAX)), return_exceptions=True
        )
        took_s = time.monotonic() - began
    finally:
        os.kill(backend, signal.SIGCONT)
        await pool.close()
    assert {type(result) for result in results} <= {TimeoutError, int}
    assert TimeoutError in {type(result) for result in results}
    assert took_s <= TIMEOUT_S + database.ANSWER_GRACE_S + AT_ONCE_S * 5


async def test_suspending_a_pool_fails_its_reads_until_it_is_resumed(database_url: str) -> None:
    pool = await pool_of(database_url, connections_max=2)
    slow = [asyncio.create_task(pool.fetch("SELECT pg_sleep(20)")) for _ in range(5)]
    await until_running(database_url, 2)
    began = time.monotonic()
    await pool.suspend()
    results = await asyncio.gather(*slow, return_exceptions=True)
    assert time.monotonic() - began <= AT_ONCE_S
    assert [type(result) for result in results] == [DatabaseUnresponsive] * 5
    with pytest.raises(DatabaseUnresponsive):
        await pool.fetch("SELECT 1")
    pool.resume()
    assert (await pool.fetch("SELECT 1 AS one"))[0]["one"] == 1
    await pool.close()


async def test_a_worker_does_not_inherit_the_context_of_a_request(pool: ReadPool) -> None:
    seen: list[str] = []

    class RecordingPool(ReadPool):
        async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
            seen.append(caller.get())
            return await super().fetch(query, *args)

        async def _run(self, *args: Any) -> None:
            seen.append(caller.get())
            await super()._run(*args)

    recording = RecordingPool(pool._pool, TIMEOUT_S)
    token = caller.set("the caller of the first request")
    try:
        assert await echo(QueryBatcher(recording, recording), 1) == 1
    finally:
        caller.reset(token)
    assert seen == ["", ""]


async def until_running(url: str, statements: int) -> None:
    connection = await asyncpg.connect(url)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if statements == await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active' "
                "AND datname = current_database()"
            ):
                break
            await asyncio.sleep(0.01)
    await connection.close()
