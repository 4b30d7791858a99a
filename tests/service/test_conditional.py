"""Entity tags, revalidation and compression: callers never keep changed pages, nor receive ones they already have."""

import gzip
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import zstandard

from tests.support.builders import owner_id
from tests.support.scenario import Scenario, bearer, code_of, new_number, path_of

STRONG = re.compile(r'"[\x21\x23-\x7e]+"')
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": zstandard.ZstdDecompressor().decompress,
}
BODY_WORTH_COMPRESSING = 30
"""Campaigns that make a page far longer than a network packet."""


async def tag_of(scenario: Scenario, customer: int, headers: dict[str, str] | None = None, /, **params: Any) -> str:
    """Return the entity tag of a page."""
    reply = await scenario.ask(customer, headers, **params)
    assert reply.status_code == 200
    tag: str = reply.headers["etag"]
    assert STRONG.fullmatch(tag), tag
    return tag


async def raw(scenario: Scenario, customer: int, **headers: str) -> tuple[httpx.Headers, bytes]:
    """Return headers and bytes of a page as received, still encoded."""
    request = scenario.client.build_request("GET", path_of(customer), headers=scenario.as_admin(**headers))
    request.url = request.url.copy_with(params={"limit": "200"})
    reply = await scenario.client.send(request, stream=True)
    try:
        assert reply.status_code == 200
        return reply.headers, b"".join([part async for part in reply.aiter_raw()])
    finally:
        await reply.aclose()


def a_long_list(scenario: Scenario) -> int:
    """Add a customer whose page is worth compressing."""
    return scenario.member_of(*(scenario.campaign(f"campaign number {n}") for n in range(BODY_WORTH_COMPRESSING)))


# --- Entity tags -----------------------------------------------------------------------------------------------------


async def test_every_change_of_the_body_changes_the_tag(scenario: Scenario) -> None:
    campaign = scenario.campaign("first")
    other = scenario.campaign("second", owner_id=owner_id(2))
    customer = scenario.member_of(campaign)
    await scenario.publish_and_wait()
    tags = {await tag_of(scenario, customer)}
    changes: list[tuple[str, dict[str, Any]]] = [
        ("campaign.upserted.v1", {"campaign": campaign, "name": "renamed"}),
        ("campaign.status_changed.v1", {"campaign": campaign, "status": "done"}),
        ("campaign.counters_changed.v1", {"campaign": campaign}),
        ("target.enrolled.v1", {"customer": customer, "campaign": other}),
        ("target.removed.v1", {"customer": customer, "campaign": campaign}),
        ("campaign.deleted.v1", {"campaign": other}),
    ]
    for number, (event_type, fields) in enumerate(changes, start=2):
        scenario.add_event(event_type, **fields)
        await scenario.publish_and_wait()
        tags.add(await tag_of(scenario, customer))
        assert len(tags) == number, f"{event_type} did not change the tag"


async def test_requests_that_are_echoed_differently_have_different_tags(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign("one"), scenario.campaign("two", owner_id=owner_id(2)))
    await scenario.publish_and_wait()
    requests: list[dict[str, Any]] = [
        {},
        {"limit": 9},
        {"limit": 1},
        {"offset": 1},
        {"q": "one"},
        {"sort_field": "name"},
        {"sort_dir": "asc"},
        {"include_deleted": True},
        {"include_aggregations": True},
        {"date_to": "2030-01-01"},
    ]
    tags = [await tag_of(scenario, customer, **params) for params in requests]
    tags.append(await tag_of(scenario, customer, bearer(1)))
    assert len(set(tags)) == len(tags)


async def test_the_tag_is_unchanged_while_the_body_is(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign())
    await scenario.publish_and_wait()
    before = await scenario.ask(customer)
    scenario.add_event("customer.upserted.v1", customer=customer)
    scenario.add_event("campaign.counters_changed.v1", campaign=scenario.campaign())
    position = await scenario.publish_and_wait()
    after = await scenario.ask(customer)
    assert after.content == before.content
    assert after.headers["etag"] == before.headers["etag"]
    assert int(after.headers["membership-position"]) >= position > int(before.headers["membership-position"])
    same_request = await scenario.ask(customer, limit=10, include_deleted="off", q=" ")
    assert same_request.headers["etag"] == before.headers["etag"]


@pytest.mark.parametrize(
    "if_none_match",
    ["{tag}", "W/{tag}", '"other", {tag}', '{tag},"other"', '"other" , W/{tag} , "more"', "*", '"", {tag}'],
)
async def test_a_caller_with_the_current_tag_gets_304_and_no_body(scenario: Scenario, if_none_match: str) -> None:
    customer = scenario.member_of(scenario.campaign())
    position = await scenario.publish_and_wait()
    tag = await tag_of(scenario, customer)
    reply = await scenario.ask(customer, scenario.as_admin(**{"If-None-Match": if_none_match.format(tag=tag)}))
    assert (reply.status_code, reply.content) == (304, b"")
    assert reply.headers["etag"] == tag
    assert int(reply.headers["membership-position"]) >= position
    assert reply.headers["cache-control"] == "private, no-cache"
    assert _varies_on(reply.headers) >= {"authorization", "x-api-key", "accept-encoding"}


async def test_a_304_has_the_content_length_of_the_200_or_none(scenario: Scenario) -> None:
    # RFC 9110, 8.6: a 304's Content-Length equals that of the corresponding 200, or is absent.
    customer = scenario.member_of(scenario.campaign())
    await scenario.publish_and_wait()
    whole = await scenario.ask(customer)
    reply = await scenario.ask(customer, scenario.as_admin(**{"If-None-Match": "*"}))
    assert reply.headers.get("content-length", str(len(whole.content))) == str(len(whole.content))


@pytest.mark.parametrize(
    "if_none_match", ['"other"', 'W/"other"', '"other", "more"', "{bare}", '"*"', "", ",", '"', "W/*", "é"]
)
async def test_a_caller_with_another_tag_gets_the_page(scenario: Scenario, if_none_match: str) -> None:
    customer = scenario.member_of(scenario.campaign())
    await scenario.publish_and_wait()
    tag = await tag_of(scenario, customer)
    headers = scenario.as_admin() | {"If-None-Match": if_none_match.format(bare=tag.strip('"'))}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    reply = await scenario.client.get(path_of(customer), headers=encoded)
    assert reply.status_code == 200
    assert reply.headers["etag"] == tag


async def test_tags_in_several_header_lines_form_one_list(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign())
    await scenario.publish_and_wait()
    lines = [("If-None-Match", '"other"'), ("If-None-Match", await tag_of(scenario, customer))]
    reply = await scenario.client.get(path_of(customer), headers=[*scenario.as_admin().items(), *lines])
    assert reply.status_code == 304


async def test_after_a_change_the_old_tag_gets_200(scenario: Scenario) -> None:
    campaign = scenario.campaign()
    customer = scenario.member_of(campaign)
    await scenario.publish_and_wait()
    headers = scenario.as_admin(**{"If-None-Match": await tag_of(scenario, customer)})
    assert (await scenario.ask(customer, headers)).status_code == 304
    scenario.add_event("campaign.counters_changed.v1", campaign=campaign)
    await scenario.publish_and_wait()
    assert (await scenario.ask(customer, headers)).status_code == 200


async def test_conditions_are_checked_after_auth_parameters_and_existence(scenario: Scenario) -> None:
    customer, hidden = scenario.customer(), scenario.customer(owner_id=owner_id(2))
    await scenario.publish_and_wait()
    any_tag = {"If-None-Match": "*"}
    assert code_of(await scenario.ask(customer, any_tag)) == (401, "unauthenticated")
    assert (await scenario.ask(customer, bearer(1) | any_tag, limit=0)).status_code == 422
    for absent in (hidden, new_number()):
        assert code_of(await scenario.ask(absent, bearer(1) | any_tag)) == (404, "customer_not_found")


async def test_an_admins_tag_is_not_valid_for_an_owner(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign(), scenario.campaign(owner_id=owner_id(2)))
    await scenario.publish_and_wait()
    condition = {"If-None-Match": await tag_of(scenario, customer)}
    assert (await scenario.ask(customer, bearer(1) | condition)).status_code == 200
    assert (await scenario.ask(customer, scenario.as_admin(**condition))).status_code == 304


# --- Compression -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", DECOMPRESS)
async def test_a_compressed_page_has_the_same_content_and_its_own_tag(scenario: Scenario, coding: str) -> None:
    customer = a_long_list(scenario)
    await scenario.publish_and_wait()
    plain_headers, plain = await raw(scenario, customer)
    packed_headers, packed = await raw(scenario, customer, **{"Accept-Encoding": coding})
    assert "content-encoding" not in plain_headers
    assert packed_headers["content-encoding"] == coding
    assert DECOMPRESS[coding](packed) == plain
    assert len(packed) < len(plain) / 2
    assert packed_headers["content-length"] == str(len(packed))
    assert packed_headers["etag"] == plain_headers["etag"].removesuffix('"') + f'-{coding}"'
    assert STRONG.fullmatch(packed_headers["etag"])
    for headers in (plain_headers, packed_headers):
        assert _varies_on(headers) >= {"authorization", "x-api-key", "accept-encoding"}
        assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("coding", DECOMPRESS)
async def test_a_compressed_page_has_the_same_bytes_every_time(scenario: Scenario, coding: str) -> None:
    customer = a_long_list(scenario)
    await scenario.publish_and_wait()
    answers = [await raw(scenario, customer, **{"Accept-Encoding": coding}) for _ in range(2)]
    assert answers[0][1] == answers[1][1]
    assert answers[0][0]["etag"] == answers[1][0]["etag"]


async def test_each_representation_is_revalidated_by_its_own_tag_only(scenario: Scenario) -> None:
    customer = a_long_list(scenario)
    await scenario.publish_and_wait()
    params = {"limit": "200"}
    tags = {
        coding: await tag_of(scenario, customer, scenario.as_admin(**{"Accept-Encoding": coding}), **params)
        for coding in ("identity", *DECOMPRESS)
    }
    assert len(set(tags.values())) == len(tags)
    for coding, own in tags.items():
        headers = scenario.as_admin(**{"Accept-Encoding": coding})
        same = await scenario.ask(customer, headers | {"If-None-Match": own}, **params)
        assert (same.status_code, same.headers["etag"], same.content) == (304, own, b"")
        assert "content-encoding" not in same.headers
        others = ", ".join(tag for tag in tags.values() if tag != own)
        other = await scenario.ask(customer, headers | {"If-None-Match": others}, **params)
        assert (other.status_code, other.headers["etag"]) == (200, own)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("br, gzip", "gzip"),
        ("br;q=1.0, gzip;q=0.5", "gzip"),
        ("*", "gzip"),
        ("gzip ; q=1", "gzip"),
        ("gzip, zstd;q=0.9", "gzip"),
        ("deflate, zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=0, Zstd;q=0.1", "zstd"),
    ],
)
async def test_the_preferred_coding_is_sent(scenario: Scenario, accepted: str, coding: str) -> None:
    customer = a_long_list(scenario)
    await scenario.publish_and_wait()
    headers, packed = await raw(scenario, customer, **{"Accept-Encoding": accepted})
    assert headers["content-encoding"] == coding
    assert DECOMPRESS[coding](packed).startswith(b'{"data":[{')


@pytest.mark.parametrize(
    "accepted",
    [
        "",
        "identity",
        "br",
        "deflate, pzstd",
        "zstd;q=0",
        "zstd;q=0.5, identity",
        "gzip;q=0",
        "gzip;q=0.000",
        "gzip ; q=0, *",
        "*;q=0",
        "gzipped",
        "gzip;q=x",
    ],
)
async def test_other_callers_get_the_body_without_coding(scenario: Scenario, accepted: str) -> None:
    customer = a_long_list(scenario)
    await scenario.publish_and_wait()
    headers, body = await raw(scenario, customer, **{"Accept-Encoding": accepted})
    assert "content-encoding" not in headers
    assert body.startswith(b'{"data":[')


@pytest.mark.parametrize("coding", DECOMPRESS)
async def test_small_bodies_are_not_compressed(scenario: Scenario, coding: str) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    headers, body = await raw(scenario, customer, **{"Accept-Encoding": coding})
    assert "content-encoding" not in headers
    assert body.startswith(b'{"data":[]')


# --- Caches ----------------------------------------------------------------------------------------------------------


async def test_every_response_requires_revalidation_and_has_vary(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    replies = [
        await scenario.ask(customer),
        await scenario.ask(customer, {}),
        await scenario.ask(customer, limit=0),
        await scenario.ask(new_number()),
    ]
    assert [reply.status_code for reply in replies] == [200, 401, 422, 404]
    for reply in replies:
        assert reply.headers["cache-control"] == "private, no-cache"
        assert _varies_on(reply.headers) >= {"authorization", "x-api-key", "accept-encoding"}
    assert ["etag" in reply.headers for reply in replies] == [True, False, False, False]


def _varies_on(headers: httpx.Headers) -> set[str]:
    return {name.strip().lower() for name in headers["vary"].split(",")}
