"""A rate limit for each caller: headers on every answer of the listing, 429 beyond it, and nothing for other paths."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from projections.settings import RateLimit
from service import rate_limit
from service.rate_limit import CallerLimits
from tests.support.builders import campaign_id
from tests.support.processes import System
from tests.support.scenario import Scenario, another_api, bearer, code_of, path_of

REQUESTS = 6
POLICY = f'"caller";q={REQUESTS};w=3600'
LEFT = re.compile(r'"caller";r=(\d+);t=(\d+)')


@pytest.fixture
async def limited(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that accepts few requests an hour."""
    monkeypatch.setenv("MEMBERSHIP_RATE_LIMIT", f"{REQUESTS}/hour")
    async with another_api(system, tmp_path) as client:
        yield client


def left(reply: httpx.Response) -> int:
    """Return how many requests the caller has left."""
    assert reply.headers.get_list("ratelimit-policy") == [POLICY]
    match = LEFT.fullmatch(reply.headers["ratelimit"])
    assert match
    assert 1 <= int(match[2]) <= 3600
    return int(match[1])


async def test_every_kind_of_listing_is_counted_and_then_refused(
    scenario: Scenario, limited: httpx.AsyncClient
) -> None:
    customer = scenario.member_of(scenario.campaign("listed"))
    await scenario.publish_and_wait()
    token = bearer(1)
    path = path_of(customer)
    replies = [
        await limited.get(path, headers=token),
        await limited.get(path, headers=token),  # from memory
        await limited.get(path, headers=token | {"Origin": "https://app.example"}),  # routed
        await limited.head(path, headers=token),
        await limited.get(path, headers=token, params={"limit": 0}),
        await limited.get(path_of(999_999), headers=token),
    ]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 200, 422, 404]
    assert [left(reply) for reply in replies] == [5, 4, 3, 2, 1, 0]
    for headers in (token, token | {"Origin": "https://app.example"}):
        refused = await limited.get(path, headers=headers)
        assert code_of(refused) == (429, "rate_limited")
        assert left(refused) == 0
        assert 1 <= int(refused.headers["retry-after"]) <= 3600
        assert refused.json()["request_id"] == refused.headers["x-request-id"]
    assert left(await limited.get(path, headers=bearer(2))) == REQUESTS - 1, "another caller has its own"


async def test_a_history_is_counted_like_a_listing(scenario: Scenario, limited: httpx.AsyncClient) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    token = bearer(4)
    assert left(await limited.get(path_of(customer), headers=token)) == REQUESTS - 1
    path = f"{path_of(customer)}/{campaign_id(999_999)}/history"
    assert left(await limited.get(path, headers=token)) == REQUESTS - 2
    for _ in range(REQUESTS - 2):
        await limited.get(path, headers=token)
    assert code_of(await limited.get(path, headers=token)) == (429, "rate_limited")


async def test_other_paths_are_not_limited(scenario: Scenario, limited: httpx.AsyncClient) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"):
        for _ in range(REQUESTS + 1):
            reply = await limited.get(path, headers=bearer(3))
            assert (reply.status_code, "ratelimit-policy" in reply.headers) == (200, False)
    unknown = await limited.get(path_of(customer))
    assert code_of(unknown) == (401, "unauthenticated")
    assert unknown.headers["ratelimit-policy"] == POLICY
    assert "ratelimit" not in unknown.headers


async def test_without_the_setting_no_response_has_the_headers(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    for _ in range(2):
        reply = await scenario.ask(customer)
        assert (reply.status_code, "ratelimit-policy" in reply.headers) == (200, False)


class Clock:
    """The time in the middle of a period, which only the test changes."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def time(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate_limit, "time", clock)
    monkeypatch.setattr("limits.strategies.time", clock)
    return clock


def test_the_last_period_counts_in_proportion_to_what_is_left_of_it(clock: Clock) -> None:
    callers = CallerLimits(RateLimit(10, 100))
    assert sum(callers.spend("a").accepted for _ in range(15)) == 10
    clock.now_s += 100 + 50
    assert sum(callers.spend("a").accepted for _ in range(15)) == 5
    clock.now_s += 250
    assert sum(callers.spend("a").accepted for _ in range(15)) == 10


def test_the_number_of_remembered_callers_is_bounded(clock: Clock) -> None:
    callers = CallerLimits(RateLimit(1, 3600), callers_max=2)
    assert callers.spend("a").accepted
    assert not callers.spend("a").accepted
    assert callers.spend("b").accepted
    assert callers.spend("c").accepted
    assert not callers.spend("b").accepted
    assert callers.spend("a").accepted, "the caller that was silent longest is forgotten"
    assert clock.now_s == 1_000_000.0
