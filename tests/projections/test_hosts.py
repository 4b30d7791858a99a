"""With several servers in the URL, connections go to the newest primary, whatever the others do."""

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest

from projections.store import database
from projections.store.hosts import Hosts, ReplacedPrimary
from tests.support.postgres_pair import PostgresPair


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[PostgresPair]:
    """A primary and a standby; the tests of this module run in order, and the last ones have promoted it."""
    with TemporaryDirectory(prefix="membership-pair-") as folder:
        pair = PostgresPair(Path(folder))
        await pair.start(synchronous=False)
        yield pair
        pair.stop()


async def port_of(hosts: Hosts, url: str) -> int:
    """Connect, and return the port of the server."""
    connection = await hosts.connect(url, one)
    port = await connection.fetchval("SELECT current_setting('port')::int")
    await connection.close()
    return int(port)


async def one(server: str) -> asyncpg.Connection:
    return await asyncpg.connect(server, timeout=database.CONNECT_TIMEOUT_S)


async def test_the_primary_is_chosen_whatever_its_place(pair: PostgresPair) -> None:
    assert await port_of(Hosts(), pair.url) == pair.primary.port
    head, _, tail = pair.url.partition(f"127.0.0.1:{pair.primary.port},")
    swapped = f"{head}{tail.replace('/', f',127.0.0.1:{pair.primary.port}/', 1)}"
    assert await port_of(Hosts(), swapped) == pair.primary.port


async def test_a_role_without_privileges_can_connect(pair: PostgresPair) -> None:
    await pair.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    plain = pair.url.replace(pair.url.partition("//")[2].partition("@")[0], "plain:plain")
    assert await port_of(Hosts(), plain) == pair.primary.port


async def test_a_silent_first_server_does_not_prevent_a_connection(pair: PostgresPair) -> None:
    pair.standby.promote()
    os.kill(pair.primary.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert await port_of(Hosts(), pair.url) == pair.standby.port
        assert time.monotonic() - began < database.CONNECT_TIMEOUT_S
    finally:
        os.kill(pair.primary.pid, signal.SIGCONT)


async def test_a_former_primary_that_accepts_writes_is_not_used(pair: PostgresPair) -> None:
    hosts = Hosts()
    assert [await port_of(hosts, pair.url) for _ in range(3)] == [pair.standby.port] * 3
    with pytest.raises(ReplacedPrimary, match="this server is on timeline 1, but timeline 2 was seen"):
        await port_of(hosts, pair.primary.url)
    assert await port_of(Hosts(), pair.primary.url) == pair.primary.port, "a new process without the newer host"


async def test_pools_and_listeners_use_the_newest_primary(pair: PostgresPair) -> None:
    pool = await database.open_pool(
        pair.url, connections_max=3, statement_timeout_s=5, name="test", planner=database.CUSTOM_PLANS
    )
    row = await pool.fetchrow("SELECT current_setting('port')::int AS port")
    assert row is not None
    assert row["port"] == pair.standby.port
    await pool.close()
    connection = await database.connect(pair.url, "test")
    assert await connection.fetchval("SELECT current_setting('port')::int") == pair.standby.port
    await connection.close()


async def test_without_any_primary_the_error_is_one_that_is_waited_for(pair: PostgresPair) -> None:
    pair.standby.stop()
    pair.primary.stop()
    with pytest.raises(database.UNAVAILABLE):
        await port_of(Hosts(), pair.url)
