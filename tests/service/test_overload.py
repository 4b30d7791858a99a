"""Beyond what PostgreSQL can answer, requests are refused, and one caller's flood does not keep others from reading.

Only counts and orders of magnitude are asserted, because the machine of the test may be busy.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.api_process import running
from tests.support.flood import distinct, flooding
from tests.support.processes import System, eventually
from tests.support.scenario import Scenario, bearer, client_of, code_of, path_of

CONNECTIONS = 400
ENOUGH = 400
READS = 5
QUERIES = {"pages": "limit=2", "searches": "q=listed"}
"""Reads that PostgreSQL answers many at a time, and reads that wait for a slot each."""


@pytest.fixture
async def few_places(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[System, httpx.AsyncClient]]:
    """An API with few waiting places and few slots."""
    monkeypatch.setenv("MEMBERSHIP_READS_WAITING_MAX", "64")
    monkeypatch.setenv("MEMBERSHIP_DATABASE_CONNECTIONS_MAX", "4")
    async with running(system, tmp_path) as api, client_of(api.api_url) as client:
        yield api, client


@pytest.fixture
async def path(scenario: Scenario) -> str:
    customer = scenario.member_of(*(scenario.campaign(f"listed {number}") for number in range(5)))
    await scenario.publish_and_wait()
    return path_of(customer)


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize("kind", QUERIES)
async def test_a_flood_is_refused_and_another_caller_is_answered(
    few_places: tuple[System, httpx.AsyncClient], path: str, kind: str
) -> None:
    api, client = few_places
    cached = {"headers": bearer(1), "params": {"cached": "1"}}
    assert (await client.get(path, **cached)).status_code == 200  # type: ignore[arg-type]
    async with flooding(api, api.admin_token, distinct(path, QUERIES[kind]), CONNECTIONS) as flood:
        await eventually(lambda: flood.statuses[503] >= ENOUGH and flood.statuses[200], "requests are refused")
        for number in range(READS):
            for query in QUERIES.values():
                reply = await client.get(f"{path}?{query}&other={number}", headers=bearer(1))
                assert reply.status_code == 200
            assert (await client.get(path, **cached)).status_code == 200  # type: ignore[arg-type]
            assert (await client.get("/health/ready")).status_code == 200
    assert set(flood.statuses) == {200, 503}
    assert flood.without_retry_after == 0


@pytest.mark.usefixtures("many_descriptors")
async def test_a_refusal_says_that_the_service_is_overloaded(
    few_places: tuple[System, httpx.AsyncClient], path: str
) -> None:
    api, client = few_places
    admin = {"Authorization": f"Bearer {api.admin_token}"}
    paths = distinct(path, "q=listed&mine=1")
    async with flooding(api, api.admin_token, distinct(path, "q=listed"), CONNECTIONS) as flood:
        await eventually(lambda: flood.statuses[503] >= ENOUGH, "requests are refused")

        async def refused() -> httpx.Response | None:
            """Request a page that no cache knows; return the refusal."""
            reply = await client.get(next(paths), headers=admin | {"X-Request-ID": "mine"})
            return reply if reply.status_code == 503 else None

        reply = await eventually(refused, "a request of the same caller is refused")
    assert code_of(reply) == (503, "overloaded")
    assert reply.headers["retry-after"] == "1"
    assert reply.json()["request_id"] == reply.headers["x-request-id"] == "mine"


@pytest.mark.usefixtures("many_descriptors")
async def test_the_default_places_suffice_for_hundreds_of_connections(
    scenario: Scenario, system: System, path: str
) -> None:
    async with flooding(system, system.admin_token, distinct(path, "limit=2"), CONNECTIONS) as flood:
        await eventually(lambda: flood.statuses.total() >= 2 * CONNECTIONS, "every connection was answered twice")
        assert (await scenario.client.get(path, headers=bearer(1))).status_code == 200
    assert set(flood.statuses) == {200}
