"""The configured limits of a request: each is used in one place, and what exceeds it is refused with a stable code."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ops.token import sign
from tests.support.builders import owner_id
from tests.support.processes import JWT_SECRET, System
from tests.support.scenario import Scenario, another_api, code_of, locs, path_of

SMALL = {
    "MEMBERSHIP_HTTP_QUERY_BYTES_MAX": "256",
    "MEMBERSHIP_HTTP_HEAD_BYTES_MAX": "8192",
    "MEMBERSHIP_HTTP_CONTENT_BYTES_MAX": "10",
    "MEMBERSHIP_CREDENTIAL_BYTES_MAX": "300",
    "MEMBERSHIP_SEARCH_LENGTH_MAX": "5",
}


@pytest.fixture
async def small(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API whose limits are as small as they may be."""
    for name, value in SMALL.items():
        monkeypatch.setenv(name, value)
    async with another_api(system, tmp_path) as client:
        yield client


@pytest.fixture
async def path(scenario: Scenario) -> str:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    return path_of(customer)


async def test_each_limit_of_a_request_is_that_of_its_setting(
    scenario: Scenario, small: httpx.AsyncClient, path: str
) -> None:
    admin = scenario.as_admin()
    for query, status in (("x=" + "x" * 254, 200), ("x=" + "x" * 255, 414)):
        assert (await small.get(f"{path}?{query}", headers=admin)).status_code == status
    for size, status in ((2_000, 200), (20_000, 431)):
        assert (await small.get(path, headers=admin | {"X-Padding": "x" * size})).status_code == status
    for origin in ({}, {"Origin": "https://app.example"}):
        assert (await small.get(path, headers=admin | origin, params={"q": "ééééé"})).status_code == 200
        too_long = await small.get(path, headers=admin | origin, params={"q": "éééééé", "limit": "0"})
        assert locs(too_long) == [["query", "limit"], ["query", "q"]]
        violation = too_long.json()["detail"][1]
        assert violation["type"] == "string_too_long"
        assert violation["msg"] == "String should have at most 5 characters"


async def test_a_longer_credential_than_the_setting_allows_is_refused(
    scenario: Scenario, small: httpx.AsyncClient, path: str
) -> None:
    token = sign(JWT_SECRET, owner_id(1), admin=True, ttl_s=3600)
    header = f"Bearer {token}"
    assert len(header) <= 300
    assert (await small.get(path, headers={"Authorization": header})).status_code == 200
    padded = "Bearer" + " " * 300 + token
    assert code_of(await small.get(path, headers={"Authorization": padded})) == (401, "unauthenticated")
    assert (await scenario.client.get(path, headers={"Authorization": padded})).status_code == 200


async def test_content_is_never_read_and_refused_beyond_its_limit(
    scenario: Scenario, small: httpx.AsyncClient, path: str
) -> None:
    admin = scenario.as_admin()
    for target in (path, "/health/live"):
        assert (await small.request("GET", target, headers=admin, content=b"x" * 10)).status_code == 200
        refused = await small.request("GET", target, headers=admin, content=b"x" * 11)
        assert code_of(refused) == (413, "content_too_large")
        assert refused.headers["x-request-id"] == refused.json()["request_id"]
