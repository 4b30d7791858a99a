"""Foreign notices, a full queue and waiting callers neither stop the listener nor block other callers."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import asyncpg
import pytest

from projections.store import database, generations
from projections.store.notices import (
    CHANNEL,
    Notice,
    campaign_tag,
    customer_tag,
    decode_notice,
    definition_tag,
    encode_notices,
)
from projections.store.queries import Generation
from service import freshness as freshnesses
from service.cache import Cache
from service.freshness import WAITERS_PER_CALLER_MAX, Freshness
from tests.support.builders import campaign_id, customer_id
from tests.support.processes import eventually

SOON_S = 5.0
G1 = Generation("g1")
FOREIGN = (
    "",
    "hello",
    "[]",
    "null",
    '{"generation":"g1"}',
    '{"generation":"g1","position":"7"}',
    '{"generation":"g1","position":-1}',
    '{"generation":"public; --","position":7}',
    '{"generation":"g1","position":7,"added_by_a_newer_release":true}',
    '{"generation":"g1","position":99999999999999999999999}',
)


@pytest.fixture
async def cache() -> Cache:
    return Cache()


@pytest.fixture
async def fresh(database_url: str, cache: Cache) -> AsyncIterator[Freshness]:
    pool = await database.open_pool(
        database_url, connections_max=2, statement_timeout_s=5, name="test-fresh", planner=database.CUSTOM_PLANS
    )
    fresh = Freshness(database_url, pool, cache)
    await fresh.start()
    await eventually(lambda: cache.begin_read() is not None, "the listener is connected", SOON_S)
    yield fresh
    await fresh.stop()
    await pool.close()


async def notify(connection: asyncpg.Connection, *payloads: str) -> None:
    async with connection.transaction():
        for payload in payloads:
            await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload)


async def advance(connection: asyncpg.Connection, position: int) -> None:
    async with connection.transaction():
        await connection.execute(
            "UPDATE control.checkpoint SET position = $1, message_time_ns = 1, stream_created = 'now'", position
        )
        await notify(connection, *encode_notices(G1, position, ["c" + "0" * 12]))


@pytest.mark.parametrize("payload", FOREIGN)
def test_a_payload_of_another_program_or_release_is_unreadable(payload: str) -> None:
    assert decode_notice(payload) is None


def test_a_payload_of_this_release_is_decoded() -> None:
    tags = [customer_tag(customer_id(1)), campaign_tag(campaign_id(2)), definition_tag(campaign_id(3))]
    (payload,) = encode_notices(G1, 7, tags)
    notice = decode_notice(payload)
    assert notice is not None
    assert (notice.generation, notice.position, sorted(notice.tags)) == ("g1", 7, sorted(tags))


def test_a_notice_of_an_older_projector_may_mean_a_changed_definition() -> None:
    notice = Notice("g1", 7, "".join((customer_tag(customer_id(1)), campaign_tag(campaign_id(2)))))
    assert definition_tag(campaign_id(2)) in notice.tags


def _is_flushed(cache: Cache, before: int | None) -> bool:
    return cache.begin_read() != before


def _has_applied(cache: Cache, position: int) -> bool:
    return cache.applied_through == position


@pytest.mark.usefixtures("fresh")
async def test_foreign_notices_flush_the_cache_and_listening_continues(
    connection: asyncpg.Connection, cache: Cache
) -> None:
    for number, payload in enumerate(FOREIGN, start=1):
        before = cache.begin_read()
        await notify(connection, payload)
        await eventually(partial(_is_flushed, cache, before), "the cache is flushed", SOON_S)
        await advance(connection, number)
        await eventually(partial(_has_applied, cache, number), "the next notice is applied", SOON_S)
    assert cache.begin_read() is not None


@pytest.mark.usefixtures("fresh")
async def test_overflowing_the_notice_queue_flushes_the_cache(
    connection: asyncpg.Connection, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshnesses, "NOTICES_QUEUED_MAX", 10)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'membership-api-listener' "
        "AND datname = current_database()"
    )
    await eventually(lambda: cache.begin_read() is None, "the connection is lost", SOON_S)
    await eventually(lambda: cache.begin_read() is not None, "the listener has reconnected", SOON_S)
    before = cache.begin_read()
    await notify(
        connection, *(json.dumps({"generation": "g1", "position": 0, "touched": f"c{n:012}"}) for n in range(99))
    )
    await eventually(lambda: cache.begin_read() not in {before, None}, "the listener has reconnected", SOON_S)
    await advance(connection, 5)
    await eventually(lambda: cache.applied_through == 5, "the next notice is applied", SOON_S)


async def test_a_task_that_fails_unexpectedly_is_restarted(
    connection: asyncpg.Connection, fresh: Freshness, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = fresh._apply

    def failing(notice: Notice) -> None:
        monkeypatch.setattr(fresh, "_apply", apply)
        raise RuntimeError(notice)

    monkeypatch.setattr(fresh, "_apply", failing)
    await advance(connection, 3)
    await eventually(
        lambda: cache.applied_through == 3 and cache.begin_read() is not None, "the listener has reconnected", SOON_S
    )
    await advance(connection, 4)
    await eventually(lambda: cache.applied_through == 4, "the next notice is applied", SOON_S)


async def test_one_caller_cannot_take_all_waiting_places(connection: asyncpg.Connection, fresh: Freshness) -> None:
    waiting = [asyncio.create_task(fresh.wait_for_position(9, 60, "greedy")) for _ in range(WAITERS_PER_CALLER_MAX)]
    await eventually(lambda: len(fresh._waiters) == WAITERS_PER_CALLER_MAX, "all wait", SOON_S)
    assert not await fresh.wait_for_position(9, 60, "greedy")
    other = asyncio.create_task(fresh.wait_for_position(9, 60, "other"))
    await asyncio.sleep(0)
    assert not other.done()
    await advance(connection, 9)
    async with asyncio.timeout(SOON_S):
        assert all(await asyncio.gather(other, *waiting))
    assert not fresh._waiters
    assert not fresh._waiting_by_caller


async def test_a_wait_that_ended_or_was_cancelled_leaves_no_state(fresh: Freshness) -> None:
    cancelled = asyncio.create_task(fresh.wait_for_position(9, 60, "someone"))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert not await fresh.wait_for_position(9, 0.01, "someone")
    remaining: list[Any] = [fresh._waiters, fresh._waiting_by_caller]
    assert not any(remaining)


async def test_a_read_whose_generation_is_dropped_meanwhile_is_repeated(
    connection: asyncpg.Connection, fresh: Freshness
) -> None:
    await generations.create(connection, Generation("g2"))
    names: list[str] = []

    async def read(name: Generation) -> int | None:
        names.append(name)
        if name == G1:
            await connection.execute("UPDATE control.live SET generation = 'g2'")
            await connection.execute("DROP SCHEMA g1 CASCADE")
        count: int | None = await connection.fetchval(f"SELECT count(*) FROM {name}.membership")  # noqa: S608 - our name
        return count

    assert await fresh.read_live(read) == 0
    assert names == ["g1", "g2"]


async def test_a_read_that_sees_a_switch_empties_the_cache() -> None:
    """Before the switch's own notice arrives: otherwise a page could combine the cards of two generations."""
    cache = Cache()
    freshness = Freshness("postgresql://unused", cast("database.ReadPool", None), cache)
    freshness._set_position(G1, 5)
    cache.enable(5)
    token = cache.begin_read()
    freshness._set_position(G1, 6)
    assert cache.begin_read() == token
    freshness._set_position(Generation("g2"), 6)
    assert cache.begin_read() != token
