"""Cached responses equal those of the full path, byte for byte, and are never older than their stated position."""

import asyncio
import os
from functools import partial
from random import Random
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.builders import campaign_id, customer_id, owner_id, published
from tests.support.command import membership
from tests.support.processes import System, eventually

SECONDS = float(os.environ.get("MEMBERSHIP_TEST_HOT_SECONDS", "6"))
CUSTOMERS, CAMPAIGNS = 5, 8
VOLATILE_HEADERS = {"server-timing", "x-request-id", "date", "membership-position"}


async def hits(system: System) -> float:
    text = (await system.get("/metrics")).text
    lines = [
        line
        for line in text.splitlines()
        if line.startswith('membership_cache_requests_total{kind="answer",outcome="hit"}')
    ]
    return float(lines[0].split()[1]) if lines else 0.0


class GrowingHistory:
    """Events whose effects only grow, so that an outdated response can be recognised."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._version = 1
        self.published: list[tuple[int, str, Any]] = []
        """(position, what grows, its value) in order of position"""
        self._values: dict[str, int] = {}

    def next(self) -> tuple[tuple[str, bytes], str, Any]:
        """Return an event, what it makes grow, and the new value."""
        rng = self._rng
        self._version += 1
        customer, campaign = rng.randint(1, CUSTOMERS), rng.randint(1, CAMPAIGNS)
        kind = rng.choice(["counters", "counters", "name", "status", "enrol", "enrol"])
        if kind == "counters":
            event = published(
                "campaign.counters_changed.v1", self._version, campaign=campaign, contacts_total=self._version
            )
            return event, f"contacts_total {campaign_id(campaign)}", self._version
        if kind == "name":
            name = f"{self._version:09}"
            event = published("campaign.upserted.v1", self._version, campaign=campaign, name=name)
            return event, f"name {campaign_id(campaign)}", name
        if kind == "status":
            status = rng.choice(["draft", "running", "paused", "done"])
            return published("campaign.status_changed.v1", self._version, campaign=campaign, status=status), "", 0
        campaign += 100 * rng.randint(0, 3)
        event = published("target.enrolled.v1", self._version, customer=customer, campaign=campaign)
        return event, f"enrolled {customer_id(customer)}", campaign

    def expected(self, position: int) -> tuple[dict[str, Any], dict[str, set[Any]]]:
        """Return the values and the enrolments of everything published up to a position."""
        values: dict[str, Any] = {}
        enrolled: dict[str, set[Any]] = {}
        for event_position, what, value in self.published:
            if event_position > position:
                break
            if what.startswith("enrolled"):
                enrolled.setdefault(what, set()).add(value)
            elif what:
                values[what] = value
        return values, enrolled


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_response_is_older_than_its_stated_position(own_system: System, seed: int) -> None:
    checked = await read_while_events_arrive(own_system, seed)
    assert checked > 100
    assert await hits(own_system) > checked / 20


async def read_while_events_arrive(own_system: System, seed: int) -> int:
    """Compare responses with what was published up to their positions; return how many."""
    history = GrowingHistory(seed)
    first = [
        published("campaign.upserted.v1", 1, campaign=n + 100 * turn)
        for n in range(1, CAMPAIGNS + 1)
        for turn in range(4)
    ]
    await own_system.wait_until_applied(await own_system.publish(first))
    over = asyncio.Event()
    checked = 0

    async def publish() -> None:
        while not over.is_set():
            batch = [history.next() for _ in range(Random(seed).randint(1, 6))]
            last = await own_system.publish([event for event, _, _ in batch])
            for position, (_, what, value) in enumerate(batch, start=last - len(batch) + 1):
                history.published.append((position, what, value))
            await asyncio.sleep(0.005)

    async def read(number: int) -> None:
        nonlocal checked
        rng = Random(number)
        headers = {"Authorization": f"Bearer {own_system.admin_token}"}
        async with httpx.AsyncClient(base_url=own_system.api_url, headers=headers, timeout=15) as client:
            while not over.is_set():
                customer = customer_id(rng.randint(1, CUSTOMERS))
                order = rng.choice(["enrolled_at", "status", "name", "contacts_total"])
                query = f"?limit=200&sort_field={order}" + rng.choice(["", "&include_deleted=true"])
                min_position = history.published[-1][0] if history.published else 0
                wait = {"Membership-Min-Position": str(min_position)} if rng.random() < 0.3 else {}
                reply = await client.get(f"/customers/{customer}/campaigns{query}", headers=wait)
                if reply.status_code == 404:
                    continue
                assert reply.status_code == 200, reply.text
                position = int(reply.headers["Membership-Position"])
                assert not wait or position >= min_position
                assert_not_older(history, customer, reply.json(), position)
                checked += 1

    tasks = [asyncio.create_task(publish()), *(asyncio.create_task(read(number)) for number in range(4))]
    await asyncio.sleep(SECONDS)
    over.set()
    await asyncio.gather(*tasks)
    return checked


def assert_not_older(history: GrowingHistory, customer: str, body: dict[str, Any], position: int) -> None:
    values, enrolled = history.expected(position)
    listed = {item["id"] for item in body["data"]}
    assert {campaign_id(n) for n in enrolled.get(f"enrolled {customer}", set())} <= listed
    assert body["meta"]["total"] == len(listed)
    for item in body["data"]:
        for field in ("contacts_total", "name"):
            expected = values.get(f"{field} {item['id']}")
            assert expected is None or item[field] >= expected, (field, item["id"], position)


async def test_a_cached_response_equals_the_full_paths_response(own_system: System) -> None:
    events = [published("customer.upserted.v1", 1, customer=1, owner_id=owner_id(1))]
    events += [published("campaign.upserted.v1", 1, campaign=n) for n in range(1, 30)]
    events += [published("target.enrolled.v1", 1, customer=1, campaign=n) for n in range(1, 30)]
    await own_system.wait_until_applied(await own_system.publish(events))
    for query in (
        *("", "?limit=3", "?offset=5&limit=5", "?include_aggregations=1", "?sort_field=status&sort_dir=asc"),
        *("?sort_field=name&limit=4", "?sort_field=progress", "?q=a", "?date_from=2020-01-01&q=a&sort_field=name"),
    ):
        for accepted, coding in {"identity": None, "gzip": "gzip", "gzip, deflate, br, zstd": "zstd"}.items():
            path, headers = f"/customers/{customer_id(1)}/campaigns{query}", {"Accept-Encoding": accepted}
            full_path = await own_system.get(path, headers=headers | {"Prefer": "wait=1"})  # bypasses the fast path
            await own_system.get(path, headers=headers)
            before = await hits(own_system)
            cached = await own_system.get(path, headers=headers)
            assert await hits(own_system) == before + 1
            assert cached.headers.get("content-encoding") == coding
            assert cached.content == full_path.content
            assert stable_headers(cached) == stable_headers(full_path)
            conditional = headers | {"If-None-Match": cached.headers["etag"]}
            not_modified = await own_system.get(path, headers=conditional)
            assert (not_modified.status_code, not_modified.content) == (304, b"")
            full_path = await own_system.get(path, headers=conditional | {"Prefer": "wait=1"})
            assert stable_headers(not_modified) == stable_headers(full_path)


def stable_headers(reply: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name not in VOLATILE_HEADERS}


async def test_the_cache_never_serves_another_callers_response(own_system: System) -> None:
    from ops.token import sign  # noqa: PLC0415

    events = [published("customer.upserted.v1", 1, owner_id=owner_id(1)), published("campaign.upserted.v1", 1)]
    await own_system.wait_until_applied(await own_system.publish([*events, published("target.enrolled.v1", 1)]))
    path = f"/customers/{customer_id(1)}/campaigns"
    mine, other = (sign(own_system.jwt_secret, owner_id(n), admin=False, ttl_s=60) for n in (1, 2))
    for _ in range(3):
        assert (await own_system.get(path)).status_code == 200
        assert (await own_system.get(path, token=mine)).status_code == 200
        assert (await own_system.get(path, token=other)).status_code == 404
        assert (await own_system.get(path, token="nonsense")).status_code == 401
    short = sign(own_system.jwt_secret, owner_id(1), admin=False, ttl_s=4)
    assert (await own_system.get(path, token=short)).status_code == 200

    async def expired() -> bool:
        return (await own_system.get(path, token=short)).status_code == 401

    await eventually(expired, "the token has expired for the cached response too", deadline_s=10)


async def test_a_repair_and_a_lost_listener_invalidate_the_cache(own_system: System) -> None:
    events = [published("campaign.upserted.v1", 1), published("target.enrolled.v1", 1)]
    await own_system.wait_until_applied(await own_system.publish(events))
    path = f"/customers/{customer_id(1)}/campaigns"
    original = (await own_system.get(path)).json()
    connection = await asyncpg.connect(own_system.database_url)
    await connection.execute("DELETE FROM g1.customer_summary")
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'membership-api-listener' "
        "AND datname = current_database()"
    )
    await connection.close()

    async def shows(total: int) -> bool:
        return bool((await own_system.get(path)).json()["meta"]["total"] == total)

    await eventually(lambda: shows(0), "the cache is emptied when the listener is lost", deadline_s=5)
    await eventually(lambda: shows(0), "the response is cached again", deadline_s=5)
    assert (await membership(own_system.environment, "repair", "--customer", customer_id(1))).code == 0
    await eventually(lambda: shows(1), "the repair invalidates the response", deadline_s=2)
    assert (await own_system.get(path)).json() == original


ORDERS = {
    "sort_field=name": {"name": "0 first"},
    "sort_field=created_at&sort_dir=asc": {"created_at": "1970-01-01T00:00:00Z"},
    "q=zebra": {"name": "zebra"},
}


@pytest.mark.parametrize("query", ORDERS)
async def test_cached_orders_and_searches_follow_all_campaigns(own_system: System, query: str) -> None:
    """With a limit of 1 the page shows another campaign than the one whose change alters it."""
    events = [published("customer.upserted.v1", 1, customer=1, owner_id=owner_id(1))]
    events += [published("campaign.upserted.v1", 1, campaign=n, name=f"z{n}") for n in range(1, 6)]
    events += [published("target.enrolled.v1", 1, customer=1, campaign=n) for n in range(1, 6)]
    await own_system.wait_until_applied(await own_system.publish(events))
    path = f"/customers/{customer_id(1)}/campaigns?limit=1&{query}" + ("&sort_dir=asc" if "name" in query else "")
    before = [(await own_system.get(path)).json() for _ in range(3)]
    assert before[0] == before[2]
    for campaign in range(1, 6):
        event = published("campaign.upserted.v1", 1 + campaign, campaign=campaign, **ORDERS[query])
        position = await own_system.publish([event])
        await eventually(partial(_has_position, own_system, path, position), "the change is applied")
        after = (await own_system.get(path)).json()
        expected = await own_system.get(path, headers={"Prefer": "wait=1", "Membership-Min-Position": str(position)})
        assert after == expected.json()
    assert after != before[0]


async def _has_position(system: System, path: str, position: int) -> bool:
    return int((await system.get(path)).headers["membership-position"]) >= position
