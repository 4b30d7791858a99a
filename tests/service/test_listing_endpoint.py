"""A listing answered without routing equals the one that Litestar routes, whatever the request and the outcome."""

import pytest

from tests.support.scenario import Scenario, path_of

VOLATILE_HEADERS = {"server-timing", "x-request-id", "date"}
QUERIES = ("", "limit=2", "offset=1&include_aggregations=1", "sort_field=name", "q=x", "limit=0&q=%00", "cursor=none")
HEADERS: dict[str, dict[str, str]] = {
    "plain": {},
    "gzip": {"Accept-Encoding": "gzip"},
    "zstd": {"Accept-Encoding": "gzip, zstd"},
    "any tag": {"If-None-Match": "*"},
    "a position": {"Membership-Min-Position": "1", "Prefer": "wait=1"},
    "a position not reached": {"Membership-Min-Position": "9000000000", "Prefer": "wait=0"},
    "a bad position": {"Membership-Min-Position": "x"},
    "a bad token": {"Authorization": "Bearer x"},
    "a bad key": {"X-API-Key": "x"},
}


@pytest.mark.parametrize("kind", HEADERS)
async def test_both_ways_give_the_same_response(scenario: Scenario, kind: str) -> None:
    customer = scenario.member_of(*(scenario.campaign(name=f"x{number}") for number in range(5)))
    await scenario.publish_and_wait()
    for query in QUERIES:
        for path in (path_of(customer), path_of(999_999), "/customers/x/campaigns"):
            replies = [await _get(scenario, f"{path}?{query}", HEADERS[kind], routed=routed) for routed in (0, 1)]
            assert replies[0] == replies[1], (path, query)


async def _get(scenario: Scenario, path: str, headers: dict[str, str], *, routed: int) -> tuple[object, ...]:
    """Send a request that Litestar routes because it has an `Origin`, or one that it does not."""
    origin = {"Origin": "https://elsewhere.example"} if routed else {}
    reply = await scenario.client.get(path, headers=scenario.as_admin() | headers | origin)
    kept = sorted((name, value) for name, value in reply.headers.items() if name not in VOLATILE_HEADERS)
    body = reply.json() if reply.content else {}
    return reply.status_code, kept, {name: value for name, value in body.items() if name != "request_id"}
