"""Entity tags, revalidation and compression: a caller never keeps what changed, nor is sent what it has."""

import gzip
import re
import zlib
from typing import Any

import httpx
import pytest

from tests.support.builders import owner_id
from tests.support.scenario import Scenario, bearer, code_of, new_number, path_of

STRONG = re.compile(r'"[\x21\x23-\x7e]+"')
BODY_WORTH_COMPRESSING = 30
"""Campaigns that make a page far longer than a network packet."""


async def tag_of(story: Scenario, customer: int, headers: dict[str, str] | None = None, **params: Any) -> str:
    """Return the entity tag of an answer."""
    reply = await story.ask(customer, headers, **params)
    assert reply.status_code == 200
    tag: str = reply.headers["etag"]
    assert STRONG.fullmatch(tag), tag
    return tag


async def raw(story: Scenario, customer: int, **headers: str) -> tuple[httpx.Headers, bytes]:
    """Return headers and bytes of an answer as they came over the wire, still encoded."""
    request = story.client.build_request("GET", path_of(customer), headers=story.as_admin(**headers))
    request.url = request.url.copy_with(params={"limit": "200"})
    reply = await story.client.send(request, stream=True)
    try:
        assert reply.status_code == 200
        return reply.headers, b"".join([part async for part in reply.aiter_raw()])
    finally:
        await reply.aclose()


def a_long_list(story: Scenario) -> int:
    """Add a customer whose page is worth compressing."""
    return story.member_of(*(story.campaign(f"campaign number {n}") for n in range(BODY_WORTH_COMPRESSING)))


# --- Entity tags -----------------------------------------------------------------------------------------------------


async def test_whatever_changes_the_body_changes_the_tag(story: Scenario) -> None:
    campaign = story.campaign("first")
    other = story.campaign("second", owner_id=owner_id(2))
    customer = story.member_of(campaign)
    await story.publish_and_wait()
    seen = {await tag_of(story, customer)}
    changes: list[tuple[str, dict[str, Any]]] = [
        ("campaign.upserted.v1", {"campaign": campaign, "name": "renamed"}),
        ("campaign.status_changed.v1", {"campaign": campaign, "status": "done"}),
        ("campaign.counters_changed.v1", {"campaign": campaign}),
        ("target.enrolled.v1", {"customer": customer, "campaign": other}),
        ("target.removed.v1", {"customer": customer, "campaign": campaign}),
        ("campaign.deleted.v1", {"campaign": other}),
    ]
    for number, (event_type, given) in enumerate(changes, start=2):
        story.add_event(event_type, **given)
        await story.publish_and_wait()
        seen.add(await tag_of(story, customer))
        assert len(seen) == number, f"{event_type} left the tag as it was"


async def test_requests_that_are_echoed_differently_have_different_tags(story: Scenario) -> None:
    customer = story.member_of(story.campaign("one"), story.campaign("two", owner_id=owner_id(2)))
    await story.publish_and_wait()
    asked: list[dict[str, Any]] = [
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
    tags = [await tag_of(story, customer, **params) for params in asked]
    tags.append(await tag_of(story, customer, bearer(1)))
    assert len(set(tags)) == len(tags)


async def test_the_tag_stays_while_the_body_does_whatever_else_happens(story: Scenario) -> None:
    customer = story.member_of(story.campaign())
    await story.publish_and_wait()
    before = await story.ask(customer)
    story.add_event("customer.upserted.v1", customer=customer)
    story.add_event("campaign.counters_changed.v1", campaign=story.campaign())
    position = await story.publish_and_wait()
    after = await story.ask(customer)
    assert after.content == before.content
    assert after.headers["etag"] == before.headers["etag"]
    assert int(after.headers["membership-position"]) >= position > int(before.headers["membership-position"])
    spelled_otherwise = await story.ask(customer, limit=10, include_deleted="off", q=" ")
    assert spelled_otherwise.headers["etag"] == before.headers["etag"]


@pytest.mark.parametrize(
    "held",
    ["{tag}", "W/{tag}", '"other", {tag}', '{tag},"other"', '"other" , W/{tag} , "more"', "*", '"", {tag}'],
)
async def test_a_caller_who_holds_the_answer_gets_304_and_no_body(story: Scenario, held: str) -> None:
    customer = story.member_of(story.campaign())
    position = await story.publish_and_wait()
    tag = await tag_of(story, customer)
    reply = await story.ask(customer, story.as_admin(**{"If-None-Match": held.format(tag=tag)}))
    assert (reply.status_code, reply.content) == (304, b"")
    assert reply.headers["etag"] == tag
    assert int(reply.headers["membership-position"]) >= position
    assert reply.headers["cache-control"] == "private, no-cache"
    assert _varies_on(reply.headers) >= {"authorization", "x-api-key", "accept-encoding"}


async def test_a_304_claims_no_other_length_than_the_answers_own(story: Scenario) -> None:
    # RFC 9110, 8.6: a length in a 304 is that of the 200 it stands for, or there is none.
    customer = story.member_of(story.campaign())
    await story.publish_and_wait()
    whole = await story.ask(customer)
    reply = await story.ask(customer, story.as_admin(**{"If-None-Match": "*"}))
    assert reply.headers.get("content-length", str(len(whole.content))) == str(len(whole.content))


@pytest.mark.parametrize("held", ['"other"', 'W/"other"', '"other", "more"', "{bare}", '"*"', "", ",", '"', "W/*", "é"])
async def test_a_caller_who_holds_something_else_gets_the_answer(story: Scenario, held: str) -> None:
    customer = story.member_of(story.campaign())
    await story.publish_and_wait()
    tag = await tag_of(story, customer)
    headers = story.as_admin() | {"If-None-Match": held.format(bare=tag.strip('"'))}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    reply = await story.client.get(path_of(customer), headers=encoded)
    assert reply.status_code == 200
    assert reply.headers["etag"] == tag


async def test_tags_in_several_header_lines_are_one_list(story: Scenario) -> None:
    customer = story.member_of(story.campaign())
    await story.publish_and_wait()
    lines = [("If-None-Match", '"other"'), ("If-None-Match", await tag_of(story, customer))]
    reply = await story.client.get(path_of(customer), headers=[*story.as_admin().items(), *lines])
    assert reply.status_code == 304


async def test_a_304_ends_with_the_next_change(story: Scenario) -> None:
    campaign = story.campaign()
    customer = story.member_of(campaign)
    await story.publish_and_wait()
    held = story.as_admin(**{"If-None-Match": await tag_of(story, customer)})
    assert (await story.ask(customer, held)).status_code == 304
    story.add_event("campaign.counters_changed.v1", campaign=campaign)
    await story.publish_and_wait()
    assert (await story.ask(customer, held)).status_code == 200


async def test_conditions_come_after_credentials_parameters_and_existence(story: Scenario) -> None:
    customer, hidden = story.customer(), story.customer(owner_id=owner_id(2))
    await story.publish_and_wait()
    every = {"If-None-Match": "*"}
    assert code_of(await story.ask(customer, every)) == (401, "unauthenticated")
    assert (await story.ask(customer, bearer(1) | every, limit=0)).status_code == 422
    for absent in (hidden, new_number()):
        assert code_of(await story.ask(absent, bearer(1) | every)) == (404, "customer_not_found")


async def test_an_owner_who_holds_an_admins_answer_gets_their_own(story: Scenario) -> None:
    customer = story.member_of(story.campaign(), story.campaign(owner_id=owner_id(2)))
    await story.publish_and_wait()
    held = {"If-None-Match": await tag_of(story, customer)}
    assert (await story.ask(customer, bearer(1) | held)).status_code == 200
    assert (await story.ask(customer, story.as_admin(**held))).status_code == 304


# --- Compression -----------------------------------------------------------------------------------------------------


async def test_the_gzipped_answer_is_the_same_bytes_under_a_tag_of_its_own(story: Scenario) -> None:
    customer = a_long_list(story)
    await story.publish_and_wait()
    plain_headers, plain = await raw(story, customer)
    gzip_headers, packed = await raw(story, customer, **{"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain_headers
    assert gzip_headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed) == plain
    assert len(packed) < len(plain) / 2
    assert gzip_headers["content-length"] == str(len(packed))
    assert gzip_headers["etag"] != plain_headers["etag"]
    assert STRONG.fullmatch(gzip_headers["etag"])
    for headers in (plain_headers, gzip_headers):
        assert _varies_on(headers) >= {"authorization", "x-api-key", "accept-encoding"}
        assert headers["content-type"] == "application/json"


async def test_the_gzipped_answer_is_the_same_bytes_every_time(story: Scenario) -> None:
    customer = a_long_list(story)
    await story.publish_and_wait()
    answers = [await raw(story, customer, **{"Accept-Encoding": "gzip"}) for _ in range(2)]
    assert answers[0][1] == answers[1][1]
    assert answers[0][0]["etag"] == answers[1][0]["etag"]


async def test_each_representation_is_revalidated_by_its_own_tag(story: Scenario) -> None:
    customer = a_long_list(story)
    await story.publish_and_wait()
    params = {"limit": "200"}
    gzipped = {"Accept-Encoding": "gzip"}
    tags = [await tag_of(story, customer, **params), await tag_of(story, customer, story.as_admin(**gzipped), **params)]
    for encoding, (own, others) in (({}, tags), (gzipped, reversed(tags))):
        same = await story.ask(customer, story.as_admin(**encoding, **{"If-None-Match": own}), **params)
        assert (same.status_code, same.headers["etag"], same.content) == (304, own, b"")
        assert "content-encoding" not in same.headers
        other = await story.ask(customer, story.as_admin(**encoding, **{"If-None-Match": others}), **params)
        assert (other.status_code, other.headers["etag"]) == (200, own)


@pytest.mark.parametrize("accepted", ["gzip", "GZip", "x-gzip", "br, gzip", "br;q=1.0, gzip;q=0.5", "*", "gzip ; q=1"])
async def test_gzip_is_sent_to_those_who_accept_it(story: Scenario, accepted: str) -> None:
    customer = a_long_list(story)
    await story.publish_and_wait()
    headers, packed = await raw(story, customer, **{"Accept-Encoding": accepted})
    assert headers["content-encoding"] == "gzip"
    assert zlib.decompress(packed, wbits=31)


@pytest.mark.parametrize(
    "accepted",
    [
        "",
        "identity",
        "br",
        "deflate, zstd",
        "gzip;q=0",
        "gzip;q=0.000",
        "gzip ; q=0, *",
        "*;q=0",
        "gzipped",
        "gzip;q=x",
    ],
)
async def test_nobody_else_is_sent_gzip(story: Scenario, accepted: str) -> None:
    customer = a_long_list(story)
    await story.publish_and_wait()
    headers, body = await raw(story, customer, **{"Accept-Encoding": accepted})
    assert "content-encoding" not in headers
    assert body.startswith(b'{"data":[')


async def test_small_bodies_stay_plain(story: Scenario) -> None:
    customer = story.customer()
    await story.publish_and_wait()
    headers, body = await raw(story, customer, **{"Accept-Encoding": "gzip"})
    assert "content-encoding" not in headers
    assert body.startswith(b'{"data":[]')


# --- Caches ----------------------------------------------------------------------------------------------------------


async def test_every_answer_tells_caches_to_ask_first_and_what_it_depends_on(story: Scenario) -> None:
    customer = story.customer()
    await story.publish_and_wait()
    replies = [
        await story.ask(customer),
        await story.ask(customer, {}),
        await story.ask(customer, limit=0),
        await story.ask(new_number()),
    ]
    assert [reply.status_code for reply in replies] == [200, 401, 422, 404]
    for reply in replies:
        assert reply.headers["cache-control"] == "private, no-cache"
        assert _varies_on(reply.headers) >= {"authorization", "x-api-key", "accept-encoding"}
    assert ["etag" in reply.headers for reply in replies] == [True, False, False, False]


def _varies_on(headers: httpx.Headers) -> set[str]:
    return {name.strip().lower() for name in headers["vary"].split(",")}
