"""From page to page, by cursor, offset and Link, while the list changes: nothing repeated, nothing skipped."""

import base64
from collections.abc import Callable
from random import Random
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
import pytest

from service import paging
from service.page_reader import KEY_BYTES_MAX
from service.paging import LINK_BYTES_MAX
from service.parameters import ListRequest
from tests.support.builders import EPOCH, owner_id
from tests.support.scenario import Scenario, bearer, ids, locs, named_ids, names, path_of

PAGES_MAX = 200
"""More than any list here has: a walk that gets there goes round in circles."""
CURSOR = [["query", "cursor"]]
DIRECTIONS = ("asc", "desc")


async def walked(story: Scenario, customer: int, **params: Any) -> list[str]:
    """Return the ids of all pages by cursor, end to end."""
    body = await story.page(customer, **params)
    found = ids(body)
    for _ in range(PAGES_MAX):
        if "next_cursor" not in body["meta"]:
            return found
        body = await story.page(customer, cursor=body["meta"]["next_cursor"], **params)
        assert body["data"], "a next page that was promised is empty"
        found += ids(body)
    raise AssertionError("the walk does not end")


async def cursor_of(story: Scenario, customer: int, headers: dict[str, str] | None = None, **params: Any) -> str:
    """Return the cursor of the page after the first."""
    cursor: str = (await story.page(customer, headers, **params))["meta"]["next_cursor"]
    return cursor


def a_list_of(story: Scenario, length: int, **fields: Any) -> int:
    """Add a customer enrolled in so many new campaigns, and return its number."""
    return story.member_of(*(story.campaign(**fields) for _ in range(length)))


# --- Cursors ---------------------------------------------------------------------------------------------------------

CHANGING: dict[str, Callable[[Random], dict[str, Any]]] = {
    "enrolled_at": lambda _: {},
    "name": lambda rng: {"name": rng.choice("aÁbB_zß") + str(rng.randrange(3))},
    "status": lambda rng: {"status": rng.choice(["draft", "running", "paused", "done"])},
    "created_at": lambda rng: {"created_at": rng.choice([None, EPOCH.isoformat(), "2020-02-02T02:02:02Z"])},
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("field", CHANGING)
async def test_a_walk_repeats_and_skips_no_unchanged_row_while_others_come_and_go(
    story: Scenario, field: str, direction: str
) -> None:
    rng = Random(f"{field} {direction}")

    def new_campaign(customer: int) -> int:
        campaign = story.campaign(**CHANGING[field](rng))
        day = rng.randrange(1, 9)
        story.enrol(customer, campaign, enrolled_at=f"2026-01-0{day}T00:00:00Z")
        return campaign

    customer = story.customer()
    unchanged, leaving = {new_campaign(customer) for _ in range(40)}, [new_campaign(customer) for _ in range(20)]
    rng.shuffle(leaving)
    await story.publish_and_wait()

    found: list[str] = []
    params = {"sort_field": field, "sort_dir": direction, "limit": 7}
    body = await story.page(customer, **params)
    while "next_cursor" in body["meta"]:
        found += ids(body)
        for _ in range(3):
            new_campaign(customer)
        # The very row that the cursor stands on leaves too, if it may.
        here = [each for each in leaving if named_ids(each) == ids(body)[-1:]]
        for campaign in (here or leaving)[:1]:
            leaving.remove(campaign)
            story.add_event("target.removed.v1", customer=customer, campaign=campaign)
        await story.publish_and_wait()
        body = await story.page(customer, cursor=body["meta"]["next_cursor"], **params)
    found += ids(body)

    assert len(found) == len(set(found)), "a row was repeated"
    assert set(named_ids(*unchanged)) <= set(found), "a row was skipped"
    assert len(found) > 50


async def test_every_page_by_cursor_says_offset_0_and_the_total_of_the_whole_list(story: Scenario) -> None:
    customer = a_list_of(story, 5)
    await story.publish_and_wait()
    first = await story.page(customer, limit=2)
    second = await story.page(customer, limit=2, cursor=first["meta"]["next_cursor"], offset=0)
    third = await story.page(customer, limit=2, cursor=second["meta"]["next_cursor"])
    assert [body["meta"]["offset"] for body in (first, second, third)] == [0, 0, 0]
    assert [body["meta"]["total"] for body in (first, second, third)] == [5, 5, 5]
    assert "next_cursor" not in third["meta"]
    by_offset = await story.page(customer)
    assert ids(first) + ids(second) + ids(third) == ids(by_offset)


async def test_a_list_that_ends_with_the_page_has_no_next_cursor(story: Scenario) -> None:
    customer = a_list_of(story, 3)
    await story.publish_and_wait()
    assert "next_cursor" not in (await story.page(customer, limit=3))["meta"]
    assert "next_cursor" in (await story.page(customer, limit=2))["meta"]
    assert "next_cursor" not in (await story.page(customer, limit=2, offset=1))["meta"]


async def test_a_cursor_from_a_page_by_offset_goes_on_from_there(story: Scenario) -> None:
    customer = a_list_of(story, 6)
    await story.publish_and_wait()
    cursor = await cursor_of(story, customer, limit=2, offset=1)
    assert ids(await story.page(customer, limit=9, cursor=cursor)) == ids(await story.page(customer, offset=3))


async def test_a_cursor_outlives_the_row_it_stands_on_and_every_row_behind_it(story: Scenario) -> None:
    campaigns = [story.campaign() for _ in range(4)]
    customer = story.member_of(*campaigns)
    await story.publish_and_wait()
    cursor = await cursor_of(story, customer, limit=2)
    for campaign in campaigns:
        story.add_event("campaign.deleted.v1", campaign=campaign)
    await story.publish_and_wait()
    body = await story.page(customer, limit=2, cursor=cursor)
    assert (body["data"], body["meta"]["total"]) == ([], 0)
    assert "next_cursor" not in body["meta"]


async def test_a_page_size_and_aggregations_may_change_from_page_to_page(story: Scenario) -> None:
    customer = a_list_of(story, 6)
    await story.publish_and_wait()
    cursor = await cursor_of(story, customer, limit=1)
    body = await story.page(customer, limit=4, include_aggregations=True, cursor=cursor)
    assert len(body["data"]) == 4
    assert body["aggregations"]["quick_filters"]["all"] == 6


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("length", [200, KEY_BYTES_MAX])
async def test_names_longer_than_a_cursor_holds_that_begin_alike_are_walked_right(
    story: Scenario, direction: str, length: int
) -> None:
    beginnings = ["n" * (length - 1), "n" * length, "n" * (length + 1), "é" * length, "ﬃ" * (length // 3), "n" * 5000]
    made = [story.campaign(start + end) for start in beginnings for end in ("", "a", "b", "bb", "n", "z", "😀", "a")]
    customer = story.member_of(*made)
    await story.publish_and_wait()
    order = {"sort_field": "name", "sort_dir": direction}
    whole = await story.page(customer, limit=200, **order)
    assert len(whole["data"]) == len(made)
    for limit in (1, 3):
        assert await walked(story, customer, limit=limit, **order) == ids(whole)


@pytest.mark.parametrize("new_end", ["z", "a", "other"])
@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_renaming_the_row_a_cursor_stands_on_neither_repeats_nor_skips_the_unchanged(
    story: Scenario, direction: str, new_end: str
) -> None:
    long = "n" * 300
    campaigns = {end: story.campaign(long + end) for end in ("c", "d", "m", "p", "q")}
    customer = story.member_of(*campaigns.values())
    await story.publish_and_wait()
    params = {"sort_field": "name", "sort_dir": direction, "limit": 3}
    first = await story.page(customer, **params)
    assert ids(first)[-1:] == named_ids(campaigns["m"])
    story.add_event(
        "campaign.upserted.v1", campaign=campaigns["m"], name=new_end if new_end == "other" else long + new_end
    )
    await story.publish_and_wait()
    second = await story.page(customer, cursor=first["meta"]["next_cursor"], **params)
    unchanged = [each for each in ids(first) + ids(second) if each not in named_ids(campaigns["m"])]
    wanted = [campaigns[end] for end in ("c", "d", "p", "q")]
    assert unchanged == named_ids(*(wanted if direction == "asc" else reversed(wanted)))


@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_campaigns_without_a_creation_time_are_walked_right(story: Scenario, direction: str) -> None:
    times = [None, "2026-01-02T00:00:00Z", None, "2026-01-01T00:00:00.000001Z", "2026-01-02T00:00:00Z", None]
    customer = story.member_of(*(story.campaign(created_at=time) for time in times))
    await story.publish_and_wait()
    order = {"sort_field": "created_at", "sort_dir": direction}
    whole = ids(await story.page(customer, **order))
    assert len(whole) == len(times)
    for limit in (1, 2, 3, 4):
        assert await walked(story, customer, limit=limit, **order) == whole


@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_fractions_and_extremes_are_walked_right(story: Scenario, direction: str) -> None:
    campaigns = []
    for progress in (0.1, 0.1 + 2**-56, 1e-300, 1e308, -0.0, 0, -1.5, 1 / 3, 0.1):
        campaigns.append(story.campaign())
        story.add_event("campaign.counters_changed.v1", campaign=campaigns[-1], progress=progress)
    customer = story.member_of(*campaigns)
    await story.publish_and_wait()
    order = {"sort_field": "progress", "sort_dir": direction}
    assert await walked(story, customer, limit=1, **order) == ids(await story.page(customer, **order))


async def test_a_walk_stays_in_its_filters(story: Scenario) -> None:
    wanted = [story.campaign(f"wanted {n}") for n in range(5)]
    customer = story.member_of(*wanted, *(story.campaign(f"other {n}") for n in range(5)))
    gone = wanted[2]
    story.add_event("target.removed.v1", customer=customer, campaign=gone)
    await story.publish_and_wait()
    found = await walked(story, customer, q="wanted", limit=1, sort_dir="asc")
    assert found == named_ids(*(each for each in wanted if each != gone))
    assert len(await walked(story, customer, q="wanted", include_deleted="true", limit=2)) == 5


FOREIGN: dict[str, dict[str, str]] = {
    "another search": {"q": "campaign"},
    "another beginning": {"date_from": "2020-01-01"},
    "another end": {"date_to": "2030-01-01"},
    "the deleted too": {"include_deleted": "true"},
    "the deleted only": {"only_deleted": "true"},
    "another field": {"sort_field": "name"},
    "another direction": {"sort_dir": "asc"},
}


@pytest.mark.parametrize("changed", FOREIGN.values(), ids=FOREIGN)
async def test_a_cursor_is_refused_by_a_request_with_another_filter_or_order(
    story: Scenario, changed: dict[str, str]
) -> None:
    customer = a_list_of(story, 3)
    await story.publish_and_wait()
    cursor = await cursor_of(story, customer, limit=1)
    assert locs(await story.ask(customer, cursor=cursor, **changed)) == CURSOR
    back = await cursor_of(story, customer, limit=1, **changed) if "only_deleted" not in changed else None
    if back is not None:
        assert locs(await story.ask(customer, cursor=back)) == CURSOR


async def test_a_cursor_is_refused_for_another_customer_of_the_same_campaigns(story: Scenario) -> None:
    campaigns = [story.campaign() for _ in range(3)]
    one, other = story.member_of(*campaigns), story.member_of(*campaigns)
    await story.publish_and_wait()
    assert locs(await story.ask(other, cursor=await cursor_of(story, one, limit=1))) == CURSOR


async def test_a_cursor_is_refused_for_a_caller_who_sees_otherwise_and_serves_one_who_sees_the_same(
    story: Scenario,
) -> None:
    customer = a_list_of(story, 3)
    await story.publish_and_wait()
    of_admin = await cursor_of(story, customer, limit=1)
    of_owner = await cursor_of(story, customer, bearer(1), limit=1)
    assert locs(await story.ask(customer, bearer(1), cursor=of_admin)) == CURSOR
    assert locs(await story.ask(customer, cursor=of_owner)) == CURSOR
    assert len((await story.page(customer, bearer(7, admin=True), cursor=of_admin))["data"]) == 2
    assert len((await story.page(customer, bearer(1), cursor=of_owner))["data"]) == 2


async def test_a_foreign_cursor_says_nothing_of_whether_a_hidden_customer_exists(story: Scenario) -> None:
    hidden, mine = story.customer(owner_id=owner_id(2)), a_list_of(story, 2)
    nobody = story.customer() + 10**9
    await story.publish_and_wait()
    cursor = await cursor_of(story, mine, bearer(1), limit=1)
    replies = [await story.ask(each, bearer(1), cursor=cursor) for each in (hidden, nobody)]
    assert [locs(reply) for reply in replies] == [CURSOR] * 2
    assert replies[0].content == replies[1].content


async def test_the_same_request_spelled_otherwise_takes_the_cursor(story: Scenario) -> None:
    customer = a_list_of(story, 3, name="same")
    await story.publish_and_wait()
    plain = {"q": "same", "date_to": "2030-01-01T00:00:00Z", "only_deleted": "false", "sort_dir": "desc"}
    spelled = {"q": " same ", "date_to": "2030-01-01T01:00:00+01:00", "only_deleted": "no"}
    cursor = await cursor_of(story, customer, limit=1, **plain)
    assert len((await story.page(customer, cursor=cursor, **spelled))["data"]) == 2


async def test_a_cursor_with_any_one_character_changed_is_refused(story: Scenario) -> None:
    customer = a_list_of(story, 3)
    await story.publish_and_wait()
    cursor = await cursor_of(story, customer, limit=1)
    rng = Random(cursor)
    for place, char in enumerate(cursor):
        # The neighbour in the alphabet differs in the last bit alone, which at the end of base64 may carry nothing.
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        neighbour = alphabet[alphabet.index(char) ^ 1]
        for other in {neighbour, rng.choice(alphabet.replace(char, ""))}:
            tampered = cursor[:place] + other + cursor[place + 1 :]
            assert locs(await story.ask(customer, cursor=tampered)) == CURSOR, f"{char} → {other} at {place}"


async def test_a_cut_lengthened_or_otherwise_written_cursor_is_refused(story: Scenario) -> None:
    customer = a_list_of(story, 3)
    await story.publish_and_wait()
    cursor = await cursor_of(story, customer, limit=1)
    cut = [cursor[:length] for length in range(len(cursor))] + [cursor[1:], cursor[8:]]
    longer = [f"{cursor}{end}" for end in ("A", "AAAA", "=", "==", " ", "\n", ".", "\0")] + [f" {cursor}", cursor * 2]
    for text in (*cut, *longer, cursor.swapcase(), cursor[::-1]):
        assert locs(await story.ask(customer, cursor=text)) == CURSOR, repr(text)


GARBAGE = [
    "",
    "0",
    "null",
    "{}",
    "../../etc/passwd",
    "é",
    "\0",
    "🚀",
    "%",
    "A" * 5000,
    base64.urlsafe_b64encode(b"\x94\x01\xc4\x00\xc0\xa0" * 9).decode(),
    base64.urlsafe_b64encode(b"\xdf\xff\xff\xff\xff" * 8).decode(),
    base64.urlsafe_b64encode(b"\x91" * 5000).decode(),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda text: ascii(text[:20]))
async def test_garbage_is_no_cursor(story: Scenario, garbage: str) -> None:
    customer = a_list_of(story, 2)
    await story.publish_and_wait()
    assert locs(await story.ask(customer, cursor=garbage)) == CURSOR


async def test_bytes_that_are_no_text_are_no_cursor(story: Scenario) -> None:
    customer = a_list_of(story, 1)
    await story.publish_and_wait()
    for raw in ("%FF", "%ED%A0%80", "%C3"):
        reply = await story.client.get(f"{path_of(customer)}?cursor={raw}", headers=story.as_admin())
        assert locs(reply) == CURSOR


async def test_a_bad_cursor_is_reported_with_all_other_violations(story: Scenario) -> None:
    customer = a_list_of(story, 3)
    await story.publish_and_wait()
    cursor = await cursor_of(story, customer, limit=1)
    limit, offset = ["query", "limit"], ["query", "offset"]
    assert sorted(locs(await story.ask(customer, cursor="garbage", limit=0))) == [*CURSOR, limit]
    assert sorted(locs(await story.ask(customer, cursor="garbage", limit=0, offset=3))) == [*CURSOR, limit, offset]
    assert sorted(locs(await story.ask(customer, cursor=cursor, limit=0, offset=3))) == [limit, offset]


async def test_a_cursor_goes_with_no_offset_but_zero(story: Scenario) -> None:
    customer = a_list_of(story, 3)
    await story.publish_and_wait()
    cursor = await cursor_of(story, customer, limit=1)
    assert locs(await story.ask(customer, cursor=cursor, offset=1)) == [["query", "offset"]]
    assert len((await story.page(customer, cursor=cursor, offset=0))["data"]) == 2


# --- Links -----------------------------------------------------------------------------------------------------------


def relations(reply: httpx.Response) -> dict[str, str]:
    """Return the targets of a Link header by relation, as a client resolves them; each relation but once."""
    assert reply.status_code == 200, reply.text[:300]
    assert len(reply.headers.get_list("link")) <= 1
    found = {name: str(reply.url.join(link["url"])) for name, link in reply.links.items()}
    assert len(found) == reply.headers.get("link", "").count("rel=")
    return found


async def followed(story: Scenario, url: str) -> httpx.Response:
    """Get what a link leads to."""
    return await story.client.get(url, headers=story.as_admin())


@pytest.mark.parametrize(
    ("offset", "leading_to"),
    [
        (0, {"first": 0, "next": 2, "last": 4}),
        (2, {"first": 0, "prev": 0, "next": 4, "last": 4}),
        (4, {"first": 0, "prev": 2, "last": 4}),
        (1, {"first": 0, "prev": 0, "next": 3, "last": 4}),
        (3, {"first": 0, "prev": 1, "last": 4}),
        (5, {"first": 0, "prev": 3, "last": 4}),
        (50, {"first": 0, "prev": 4, "last": 4}),
        (2**63 - 1, {"first": 0, "prev": 4, "last": 4}),
    ],
)
async def test_pages_by_offset_link_to_the_first_the_last_and_their_neighbours(
    story: Scenario, offset: int, leading_to: dict[str, int]
) -> None:
    customer = a_list_of(story, 5)
    await story.publish_and_wait()
    whole = ids(await story.page(customer))
    found = relations(await story.ask(customer, limit=2, offset=offset))
    assert found.keys() == leading_to.keys()
    for relation, wanted in leading_to.items():
        reply = await followed(story, found[relation])
        assert reply.json()["meta"] | {"next_cursor": ""} == {
            "total": 5,
            "limit": 2,
            "offset": wanted,
            "sort": {"field": "enrolled_at", "direction": "desc"},
            "next_cursor": "",
        }
        assert ids(reply.json()) == whole[wanted : wanted + 2], relation


@pytest.mark.parametrize("offset", [0, 10])
async def test_an_empty_list_has_neither_next_nor_previous_content(story: Scenario, offset: int) -> None:
    customer = story.customer()
    await story.publish_and_wait()
    found = relations(await story.ask(customer, offset=offset))
    assert "next" not in found
    for url in found.values():
        assert (await followed(story, url)).json()["meta"]["offset"] == 0


async def test_pages_by_cursor_link_to_the_next_alone_and_there_to_the_end(story: Scenario) -> None:
    customer = a_list_of(story, 5)
    await story.publish_and_wait()
    reply = await story.ask(customer, limit=2, cursor=await cursor_of(story, customer, limit=2))
    assert relations(reply).keys() == {"next"}
    reply = await followed(story, relations(reply)["next"])
    assert ids(reply.json()) == ids(await story.page(customer))[4:]
    assert relations(reply) == {}


@pytest.mark.parametrize("by", ["offset", "cursor"])
async def test_following_next_walks_the_whole_list(story: Scenario, by: str) -> None:
    customer = a_list_of(story, 11, name="listed")
    await story.publish_and_wait()
    params: dict[str, Any] = {"limit": 3, "q": "listed", "sort_field": "name", "sort_dir": "asc"}
    whole = ids(await story.page(customer, **params | {"limit": 200}))
    found = []
    if by == "cursor":
        first = await story.page(customer, **params)
        found, params["cursor"] = ids(first), first["meta"]["next_cursor"]
    reply = await story.ask(customer, **params)
    for _ in range(PAGES_MAX):
        found += ids(reply.json())
        if "next" not in relations(reply):
            break
        reply = await followed(story, relations(reply)["next"])
    assert found == whole


KEPT = [
    ("q", "a&b=c+d e%20\"'<>;,#?/ü🚀"),
    ("sort_field", "name"),
    ("sort_dir", "asc"),
    ("include_aggregations", "yes"),
    ("date_from", "2020-01-01T00:00:00+01:00"),
    ("unknown", "kept, too"),
    ("limit", "9"),
    ("limit", "1"),
    ("flag", ""),
]


def test_links_that_would_be_too_long_are_not_escaped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_more: object) -> str:
        raise AssertionError("escaped though it is too long")

    monkeypatch.setattr(paging, "urlencode", refuse)
    pairs = [("x", "\xe9")] * (LINK_BYTES_MAX // 4)
    assert paging.links(pairs, ListRequest(customer_id="c"), 100, None) == ""


@pytest.mark.parametrize("by", ["offset", "cursor"])
async def test_all_other_parameters_are_kept_in_links(story: Scenario, by: str) -> None:
    customer = a_list_of(story, 4, name=dict(KEPT)["q"])
    await story.publish_and_wait()
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in KEPT)
    if by == "cursor":
        reply = await story.client.get(f"{path_of(customer)}?{query}", headers=story.as_admin())
        query += f"&cursor={reply.json()['meta']['next_cursor']}"
    else:
        query += "&offset=1"
    reply = await story.client.get(f"{path_of(customer)}?{query}", headers=story.as_admin())
    found = relations(reply)
    assert found.keys() == ({"next"} if by == "cursor" else {"first", "prev", "next", "last"})
    for relation, url in found.items():
        assert urlsplit(url).path == path_of(customer)
        pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
        assert [pair for pair in pairs if pair[0] not in {"offset", "cursor"}] == KEPT, relation
        assert [name for name, _ in pairs if name in {"offset", "cursor"}] == [by]
        page = (await followed(story, url)).json()
        assert page["query"]["q"] == dict(KEPT)["q"]
        assert len(names(page)) == 1


async def test_links_lead_to_the_customer_however_its_id_was_spelled(story: Scenario) -> None:
    customer = a_list_of(story, 2)
    await story.publish_and_wait()
    spelled = path_of(customer).split("/")[2].upper()
    reply = await story.client.get(f"/customers/{spelled}/campaigns?limit=1", headers=story.as_admin())
    assert (await followed(story, relations(reply)["next"])).json()["meta"]["offset"] == 1


async def test_bytes_that_are_no_text_in_an_unknown_parameter_break_no_link(story: Scenario) -> None:
    customer = a_list_of(story, 2)
    await story.publish_and_wait()
    reply = await story.client.get(f"{path_of(customer)}?limit=1&%FF=%FE%0D%0AX:%20y", headers=story.as_admin())
    assert "x" not in reply.headers
    assert (await followed(story, relations(reply)["next"])).status_code == 200
