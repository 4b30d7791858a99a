"""Large pages are either sent in full, within the process's memory bound, or rejected with a clear error."""

import asyncio
import hashlib
from collections import Counter
from pathlib import Path

import asyncpg
import httpx
import msgspec
import pytest

from service.cache import Cache
from service.page_budget import PageBudget, PageTooLarge
from tests.support.builders import customer_id, owner_id
from tests.support.processes import System
from tests.support.scenario import bearer, client_of, path_of

RSS_BYTES_MAX = 300 * 1024 * 1024
CARDS = 200
CARD_TEXT_BYTES = 240_000
CALLERS = 16
ROUNDS = 2
SLOW_S = 60


@pytest.fixture
async def large(own_system: System) -> System:
    """A customer in 200 campaigns whose goals are 240 KB each and do not compress."""
    connection = await asyncpg.connect(own_system.database_url)
    await connection.execute(
        f"""
        INSERT INTO g1.campaign (
            campaign_id, definition_version, owner_id, name_key, display_json, status_version, status
        )
        SELECT ('ca000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1, '{owner_id(1)}', 'campaign ' || n,
            '"name":"x","goal":"' || (
                SELECT string_agg(md5(n::text || '-' || i::text), '')
                FROM generate_series(1, {CARD_TEXT_BYTES // 32}) AS i
            ) || '"', 1, n % 4
        FROM generate_series(1, {CARDS}) AS n;
        INSERT INTO g1.membership (
            customer_id, campaign_id, enrolment_version, enrolled_at, presence_version, present, owner_id, status,
            campaign_deleted
        )
        SELECT '{customer_id(1)}', campaign_id, 1, now(), 1, true, owner_id, status, false FROM g1.campaign;
        INSERT INTO g1.customer_summary (customer_id, owner_id, status, deleted, memberships)
        SELECT customer_id, owner_id, status, deleted, count(*) FROM g1.membership GROUP BY 1, 2, 3, 4;
        INSERT INTO g1.customer (customer_id, version, owner_id) VALUES ('{customer_id(1)}', 1, '{owner_id(1)}');
        """  # noqa: S608
    )
    await connection.close()
    return own_system


def resident_bytes(system: System) -> int:
    """Return the peak memory of the API process so far."""
    status = Path(f"/proc/{system.children['serve'].pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


async def test_many_simultaneous_large_pages_stay_within_the_memory_bound(large: System) -> None:
    seen: Counter[tuple[int, str]] = Counter()

    async def call(encoding: str) -> None:
        async with client_of(large.api_url) as client:
            client.timeout = httpx.Timeout(SLOW_S)
            for _ in range(ROUNDS):
                headers = bearer(1, admin=True) | {"Accept-Encoding": encoding}
                url = f"{path_of(1)}?limit={CARDS}"
                async with client.stream("GET", url, headers=headers) as reply:
                    received = sum([len(part) async for part in reply.aiter_bytes()])
                whole = reply.status_code == 200 and received > CARDS * CARD_TEXT_BYTES
                seen[reply.status_code, "whole" if whole else "rejected"] += 1

    await asyncio.gather(*(call(("identity", "gzip")[n % 2]) for n in range(CALLERS)))
    assert resident_bytes(large) <= RSS_BYTES_MAX
    assert seen.keys() <= {(200, "whole"), (503, "rejected")}
    assert seen[200, "whole"] > 0


async def test_a_large_page_is_the_same_page_in_every_representation(large: System) -> None:
    async with client_of(large.api_url) as client:
        client.timeout = httpx.Timeout(SLOW_S)
        admin = bearer(1, admin=True)
        plain = await client.get(f"{path_of(1)}?limit=20", headers=admin)
        assert plain.status_code == 200
        assert int(plain.headers["content-length"]) == len(plain.content) > 20 * CARD_TEXT_BYTES
        small = [(await client.get(f"{path_of(1)}?limit=1&offset={n}", headers=admin)).json() for n in range(20)]
        assert msgspec.json.decode(plain.content)["data"] == [page["data"][0] for page in small]
        assert plain.headers["etag"] == f'"{hashlib.blake2b(plain.content, digest_size=16).hexdigest()}"'
        zipped = await client.get(f"{path_of(1)}?limit=20", headers=admin | {"Accept-Encoding": "gzip"})
        assert zipped.headers["content-encoding"] == "gzip"
        assert zipped.content == plain.content
        conditional = admin | {"If-None-Match": plain.headers["etag"]}
        assert (await client.get(f"{path_of(1)}?limit=20", headers=conditional)).status_code == 304
        assert (await client.get(f"{path_of(1)}?limit=20&sort_field=name", headers=admin)).status_code == 200


async def test_reservations_are_granted_in_order_within_the_budget() -> None:
    budget = PageBudget(Cache(), bytes_max=1_000)
    first = await budget.reserve(400, 1)
    waiting = [asyncio.create_task(budget.reserve(size, 10)) for size in (600, 100)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting), "the small reservation does not overtake"
    first.release()
    first.release()
    assert [reservation._size for reservation in await asyncio.gather(*waiting)] == [750, 125]
    assert budget.bytes_reserved == 875


async def test_a_page_beyond_the_budget_or_the_wait_is_rejected() -> None:
    budget = PageBudget(Cache(), bytes_max=1_000)
    with pytest.raises(PageTooLarge):
        await budget.reserve(900, 10)
    reservation = await budget.reserve(700, 1)
    with pytest.raises(PageTooLarge):
        await budget.reserve(700, 0.01)
    cancelled = asyncio.create_task(budget.reserve(700, 10))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    reservation.release()
    assert budget.bytes_reserved == 0
    assert not budget._queue
