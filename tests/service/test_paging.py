"""Paging by cursor, offset and Link while the list changes: no unchanged row is repeated or skipped."""

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
"""More pages than any list here has: a walk of this length does not terminate."""
CURSOR = [["query", "cursor"]]
DIRECTIONS = ("asc", "desc")


async def walked(scenario: Scenario, customer: int, **params: Any) -> list[str]:
    """Return the ids of all pages, following the cursors to the end."""
    body = await scenario.page(customer, **params)
    walked_ids = ids(body)
    for _ in range(PAGES_MAX):
        if "next_cursor" not in body["meta"]:
            return walked_ids
        body = await scenario.page(customer, cursor=body["meta"]["next_cursor"], **params)
        assert body["data"], "the page of a next_cursor is empty"
        walked_ids += ids(body)
    raise AssertionError("the walk does not end")


async def cursor_of(scenario: Scenario, customer: int, headers: dict[str, str] | None = None, /, **params: Any) -> str:
    """Return the cursor of the page after the first."""
    cursor: str = (await scenario.page(customer, headers, **params))["meta"]["next_cursor"]
    return cursor


def a_list_of(scenario: Scenario, length: int, **fields: Any) -> int:
    """Add a customer enrolled in `length` new campaigns, and return its number."""
    return scenario.member_of(*(scenario.campaign(**fields) for _ in range(length)))


# --- Cursors ---------------------------------------------------------------------------------------------------------

CHANGING: dict[str, Callable[[Random], dict[str, Any]]] = {
    "enrolled_at": lambda _: {},
    "name": lambda rng: {"name": rng.choice("aÁbB_zß") + str(rng.randrange(3))},
    "status": lambda rng: {"status": rng.choice(["draft", "running", "paused", "done"])},
    "created_at": lambda rng: {"created_at": rng.choice([None, EPOCH.isoformat(), "2020-02-02T02:02:02Z"])},
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("field", CHANGING)
async def test_a_walk_returns_each_unchanged_row_once_while_others_change(
    scenario: Scenario, field: str, direction: str
) -> None:
    rng = Random(f"{field} {direction}")

    def new_campaign(customer: int) -> int:
        campaign = scenario.campaign(**CHANGING[field](rng))
        day = rng.randrange(1, 9)
        scenario.enrol(customer, campaign, enrolled_at=f"2026-01-0{day}T00:00:00Z")
        return campaign

    customer = scenario.customer()
    unchanged, leaving = {new_campaign(customer) for _ in range(40)}, [new_campaign(customer) for _ in range(20)]
    rng.shuffle(leaving)
    await scenario.publish_and_wait()

    walked_ids: list[str] = []
    params = {"sort_field": field, "sort_dir": direction, "limit": 7}
    body = await scenario.page(customer, **params)
    while "next_cursor" in body["meta"]:
        walked_ids += ids(body)
        for _ in range(3):
            new_campaign(customer)
        # Prefer to remove the row that the cursor names.
        at_cursor = [campaign for campaign in leaving if named_ids(campaign) == ids(body)[-1:]]
        for campaign in (at_cursor or leaving)[:1]:
            leaving.remove(campaign)
            scenario.add_event("target.removed.v1", customer=customer, campaign=campaign)
        await scenario.publish_and_wait()
        body = await scenario.page(customer, cursor=body["meta"]["next_cursor"], **params)
    walked_ids += ids(body)

    assert len(walked_ids) == len(set(walked_ids)), "a row was repeated"
    assert set(named_ids(*unchanged)) <= set(walked_ids), "a row was skipped"
    assert len(walked_ids) > 50


async def test_every_page_by_cursor_has_offset_0_and_the_lists_total(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 5)
    await scenario.publish_and_wait()
    first = await scenario.page(customer, limit=2)
    second = await scenario.page(customer, limit=2, cursor=first["meta"]["next_cursor"], offset=0)
    third = await scenario.page(customer, limit=2, cursor=second["meta"]["next_cursor"])
    assert [body["meta"]["offset"] for body in (first, second, third)] == [0, 0, 0]
    assert [body["meta"]["total"] for body in (first, second, third)] == [5, 5, 5]
    assert "next_cursor" not in third["meta"]
    by_offset = await scenario.page(customer)
    assert ids(first) + ids(second) + ids(third) == ids(by_offset)


async def test_the_last_page_has_no_next_cursor(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 3)
    await scenario.publish_and_wait()
    assert "next_cursor" not in (await scenario.page(customer, limit=3))["meta"]
    assert "next_cursor" in (await scenario.page(customer, limit=2))["meta"]
    assert "next_cursor" not in (await scenario.page(customer, limit=2, offset=1))["meta"]


async def test_a_cursor_from_a_page_by_offset_continues_after_that_page(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 6)
    await scenario.publish_and_wait()
    cursor = await cursor_of(scenario, customer, limit=2, offset=1)
    assert ids(await scenario.page(customer, limit=9, cursor=cursor)) == ids(await scenario.page(customer, offset=3))


async def test_a_cursor_stays_valid_when_its_row_and_all_later_rows_vanish(scenario: Scenario) -> None:
    campaigns = [scenario.campaign() for _ in range(4)]
    customer = scenario.member_of(*campaigns)
    await scenario.publish_and_wait()
    cursor = await cursor_of(scenario, customer, limit=2)
    for campaign in campaigns:
        scenario.add_event("campaign.deleted.v1", campaign=campaign)
    await scenario.publish_and_wait()
    body = await scenario.page(customer, limit=2, cursor=cursor)
    assert (body["data"], body["meta"]["total"]) == ([], 0)
    assert "next_cursor" not in body["meta"]


async def test_limit_and_aggregations_may_change_between_pages(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 6)
    await scenario.publish_and_wait()
    cursor = await cursor_of(scenario, customer, limit=1)
    body = await scenario.page(customer, limit=4, include_aggregations=True, cursor=cursor)
    assert len(body["data"]) == 4
    assert body["aggregations"]["quick_filters"]["all"] == 6


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("length", [200, KEY_BYTES_MAX])
async def test_long_names_with_equal_beginnings_are_paged_correctly(
    scenario: Scenario, direction: str, length: int
) -> None:
    beginnings = ["n" * (length - 1), "n" * length, "n" * (length + 1), "é" * length, "ﬃ" * (length // 3), "n" * 5000]
    campaigns = [
        scenario.campaign(start + end) for start in beginnings for end in ("", "a", "b", "bb", "n", "z", "😀", "a")
    ]
    customer = scenario.member_of(*campaigns)
    await scenario.publish_and_wait()
    order = {"sort_field": "name", "sort_dir": direction}
    whole = await scenario.page(customer, limit=200, **order)
    assert len(whole["data"]) == len(campaigns)
    for limit in (1, 3):
        assert await walked(scenario, customer, limit=limit, **order) == ids(whole)


@pytest.mark.parametrize("new_end", ["z", "a", "other"])
@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_renaming_a_cursors_row_repeats_and_skips_no_other_row(
    scenario: Scenario, direction: str, new_end: str
) -> None:
    long = "n" * 300
    campaigns = {end: scenario.campaign(long + end) for end in ("c", "d", "m", "p", "q")}
    customer = scenario.member_of(*campaigns.values())
    await scenario.publish_and_wait()
    params = {"sort_field": "name", "sort_dir": direction, "limit": 3}
    first = await scenario.page(customer, **params)
    assert ids(first)[-1:] == named_ids(campaigns["m"])
    scenario.add_event(
        "campaign.upserted.v1", campaign=campaigns["m"], name=new_end if new_end == "other" else long + new_end
    )
    await scenario.publish_and_wait()
    second = await scenario.page(customer, cursor=first["meta"]["next_cursor"], **params)
    unchanged = [row for row in ids(first) + ids(second) if row not in named_ids(campaigns["m"])]
    expected = [campaigns[end] for end in ("c", "d", "p", "q")]
    assert unchanged == named_ids(*(expected if direction == "asc" else reversed(expected)))


@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_campaigns_without_a_creation_time_are_paged_correctly(scenario: Scenario, direction: str) -> None:
    times = [None, "2026-01-02T00:00:00Z", None, "2026-01-01T00:00:00.000001Z", "2026-01-02T00:00:00Z", None]
    customer = scenario.member_of(*(scenario.campaign(created_at=time) for time in times))
    await scenario.publish_and_wait()
    order = {"sort_field": "created_at", "sort_dir": direction}
    whole = ids(await scenario.page(customer, **order))
    assert len(whole) == len(times)
    for limit in (1, 2, 3, 4):
        assert await walked(scenario, customer, limit=limit, **order) == whole


@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_fractions_and_extreme_numbers_are_paged_correctly(scenario: Scenario, direction: str) -> None:
    campaigns = []
    for progress in (0.1, 0.1 + 2**-56, 1e-300, 1e308, -0.0, 0, -1.5, 1 / 3, 0.1):
        campaigns.append(scenario.campaign())
        scenario.add_event("campaign.counters_changed.v1", campaign=campaigns[-1], progress=progress)
    customer = scenario.member_of(*campaigns)
    await scenario.publish_and_wait()
    order = {"sort_field": "progress", "sort_dir": direction}
    assert await walked(scenario, customer, limit=1, **order) == ids(await scenario.page(customer, **order))


async def test_all_pages_of_a_walk_are_filtered(scenario: Scenario) -> None:
    matching = [scenario.campaign(f"matching {n}") for n in range(5)]
    customer = scenario.member_of(*matching, *(scenario.campaign(f"other {n}") for n in range(5)))
    removed = matching[2]
    scenario.add_event("target.removed.v1", customer=customer, campaign=removed)
    await scenario.publish_and_wait()
    walked_ids = await walked(scenario, customer, q="matching", limit=1, sort_dir="asc")
    assert walked_ids == named_ids(*(campaign for campaign in matching if campaign != removed))
    assert len(await walked(scenario, customer, q="matching", include_deleted="true", limit=2)) == 5


FOREIGN: dict[str, dict[str, str]] = {
    "another search": {"q": "campaign"},
    "another start date": {"date_from": "2020-01-01"},
    "another end date": {"date_to": "2030-01-01"},
    "the deleted too": {"include_deleted": "true"},
    "the deleted only": {"only_deleted": "true"},
    "another field": {"sort_field": "name"},
    "another direction": {"sort_dir": "asc"},
}


@pytest.mark.parametrize("changed", FOREIGN.values(), ids=FOREIGN)
async def test_a_cursor_is_rejected_with_another_filter_or_order(scenario: Scenario, changed: dict[str, str]) -> None:
    customer = a_list_of(scenario, 3)
    await scenario.publish_and_wait()
    cursor = await cursor_of(scenario, customer, limit=1)
    assert locs(await scenario.ask(customer, cursor=cursor, **changed)) == CURSOR
    other_cursor = await cursor_of(scenario, customer, limit=1, **changed) if "only_deleted" not in changed else None
    if other_cursor is not None:
        assert locs(await scenario.ask(customer, cursor=other_cursor)) == CURSOR


async def test_a_cursor_is_rejected_for_another_customer(scenario: Scenario) -> None:
    campaigns = [scenario.campaign() for _ in range(3)]
    one, other = scenario.member_of(*campaigns), scenario.member_of(*campaigns)
    await scenario.publish_and_wait()
    assert locs(await scenario.ask(other, cursor=await cursor_of(scenario, one, limit=1))) == CURSOR


async def test_a_cursor_is_valid_only_for_callers_of_the_same_scope(
    scenario: Scenario,
) -> None:
    customer = a_list_of(scenario, 3)
    await scenario.publish_and_wait()
    of_admin = await cursor_of(scenario, customer, limit=1)
    of_owner = await cursor_of(scenario, customer, bearer(1), limit=1)
    assert locs(await scenario.ask(customer, bearer(1), cursor=of_admin)) == CURSOR
    assert locs(await scenario.ask(customer, cursor=of_owner)) == CURSOR
    assert len((await scenario.page(customer, bearer(7, admin=True), cursor=of_admin))["data"]) == 2
    assert len((await scenario.page(customer, bearer(1), cursor=of_owner))["data"]) == 2


async def test_a_foreign_cursor_does_not_reveal_a_hidden_customer(scenario: Scenario) -> None:
    hidden, mine = scenario.customer(owner_id=owner_id(2)), a_list_of(scenario, 2)
    unknown = scenario.customer() + 10**9
    await scenario.publish_and_wait()
    cursor = await cursor_of(scenario, mine, bearer(1), limit=1)
    replies = [await scenario.ask(customer, bearer(1), cursor=cursor) for customer in (hidden, unknown)]
    assert [locs(reply) for reply in replies] == [CURSOR] * 2
    assert replies[0].content == replies[1].content


async def test_an_equivalent_request_accepts_the_cursor(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 3, name="same")
    await scenario.publish_and_wait()
    plain = {"q": "same", "date_to": "2030-01-01T00:00:00Z", "only_deleted": "false", "sort_dir": "desc"}
    equivalent = {"q": " same ", "date_to": "2030-01-01T01:00:00+01:00", "only_deleted": "no"}
    cursor = await cursor_of(scenario, customer, limit=1, **plain)
    assert len((await scenario.page(customer, cursor=cursor, **equivalent))["data"]) == 2


async def test_a_cursor_with_any_one_character_changed_is_rejected(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 3)
    await scenario.publish_and_wait()
    cursor = await cursor_of(scenario, customer, limit=1)
    rng = Random(cursor)
    for index, char in enumerate(cursor):
        # The neighbour in the alphabet differs only in the last bit, which may be unused at the end of base64.
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        neighbour = alphabet[alphabet.index(char) ^ 1]
        for other in {neighbour, rng.choice(alphabet.replace(char, ""))}:
            tampered = cursor[:index] + other + cursor[index + 1 :]
            assert locs(await scenario.ask(customer, cursor=tampered)) == CURSOR, f"{char} → {other} at {index}"


async def test_a_truncated_extended_or_reencoded_cursor_is_rejected(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 3)
    await scenario.publish_and_wait()
    cursor = await cursor_of(scenario, customer, limit=1)
    cut = [cursor[:length] for length in range(len(cursor))] + [cursor[1:], cursor[8:]]
    longer = [f"{cursor}{end}" for end in ("A", "AAAA", "=", "==", " ", "\n", ".", "\0")] + [f" {cursor}", cursor * 2]
    for text in (*cut, *longer, cursor.swapcase(), cursor[::-1]):
        assert locs(await scenario.ask(customer, cursor=text)) == CURSOR, repr(text)


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
async def test_garbage_is_rejected_as_a_cursor(scenario: Scenario, garbage: str) -> None:
    customer = a_list_of(scenario, 2)
    await scenario.publish_and_wait()
    assert locs(await scenario.ask(customer, cursor=garbage)) == CURSOR


async def test_bytes_that_are_not_utf8_are_rejected_as_a_cursor(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 1)
    await scenario.publish_and_wait()
    for raw in ("%FF", "%ED%A0%80", "%C3"):
        reply = await scenario.client.get(f"{path_of(customer)}?cursor={raw}", headers=scenario.as_admin())
        assert locs(reply) == CURSOR


async def test_an_invalid_cursor_is_reported_with_all_other_violations(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 3)
    await scenario.publish_and_wait()
    cursor = await cursor_of(scenario, customer, limit=1)
    limit, offset = ["query", "limit"], ["query", "offset"]
    assert sorted(locs(await scenario.ask(customer, cursor="garbage", limit=0))) == [*CURSOR, limit]
    assert sorted(locs(await scenario.ask(customer, cursor="garbage", limit=0, offset=3))) == [*CURSOR, limit, offset]
    assert sorted(locs(await scenario.ask(customer, cursor=cursor, limit=0, offset=3))) == [limit, offset]


async def test_a_cursor_may_only_be_combined_with_offset_zero(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 3)
    await scenario.publish_and_wait()
    cursor = await cursor_of(scenario, customer, limit=1)
    assert locs(await scenario.ask(customer, cursor=cursor, offset=1)) == [["query", "offset"]]
    assert len((await scenario.page(customer, cursor=cursor, offset=0))["data"]) == 2


# --- Links -----------------------------------------------------------------------------------------------------------


def relations(reply: httpx.Response) -> dict[str, str]:
    """Return the targets of a Link header by relation, resolved like a client does; each relation occurs once."""
    assert reply.status_code == 200, reply.text[:300]
    assert len(reply.headers.get_list("link")) <= 1
    targets = {name: str(reply.url.join(link["url"])) for name, link in reply.links.items() if name}
    assert len(targets) == reply.headers.get("link", "").count("rel=")
    return targets


async def follow(scenario: Scenario, url: str) -> httpx.Response:
    """Get the target of a link."""
    return await scenario.client.get(url, headers=scenario.as_admin())


@pytest.mark.parametrize(
    ("offset", "offsets"),
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
async def test_pages_by_offset_link_to_first_last_and_neighbours(
    scenario: Scenario, offset: int, offsets: dict[str, int]
) -> None:
    customer = a_list_of(scenario, 5)
    await scenario.publish_and_wait()
    whole = ids(await scenario.page(customer))
    targets = relations(await scenario.ask(customer, limit=2, offset=offset))
    assert targets.keys() == offsets.keys()
    for relation, expected in offsets.items():
        reply = await follow(scenario, targets[relation])
        assert reply.json()["meta"] | {"next_cursor": ""} == {
            "total": 5,
            "limit": 2,
            "offset": expected,
            "sort": {"field": "enrolled_at", "direction": "desc"},
            "next_cursor": "",
        }
        assert ids(reply.json()) == whole[expected : expected + 2], relation


@pytest.mark.parametrize("offset", [0, 10])
async def test_the_links_of_an_empty_list_have_offset_0_and_no_next(scenario: Scenario, offset: int) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    targets = relations(await scenario.ask(customer, offset=offset))
    assert "next" not in targets
    for url in targets.values():
        assert (await follow(scenario, url)).json()["meta"]["offset"] == 0


async def test_pages_by_cursor_link_to_the_next_page_only(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 5)
    await scenario.publish_and_wait()
    reply = await scenario.ask(customer, limit=2, cursor=await cursor_of(scenario, customer, limit=2))
    assert relations(reply).keys() == {"next"}
    reply = await follow(scenario, relations(reply)["next"])
    assert ids(reply.json()) == ids(await scenario.page(customer))[4:]
    assert relations(reply) == {}


@pytest.mark.parametrize("by", ["offset", "cursor"])
async def test_following_next_links_walks_the_whole_list(scenario: Scenario, by: str) -> None:
    customer = a_list_of(scenario, 11, name="listed")
    await scenario.publish_and_wait()
    params: dict[str, Any] = {"limit": 3, "q": "listed", "sort_field": "name", "sort_dir": "asc"}
    whole = ids(await scenario.page(customer, **params | {"limit": 200}))
    walked_ids = []
    if by == "cursor":
        first = await scenario.page(customer, **params)
        walked_ids, params["cursor"] = ids(first), first["meta"]["next_cursor"]
    reply = await scenario.ask(customer, **params)
    for _ in range(PAGES_MAX):
        walked_ids += ids(reply.json())
        if "next" not in relations(reply):
            break
        reply = await follow(scenario, relations(reply)["next"])
    assert walked_ids == whole


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


def test_links_that_are_too_long_are_not_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_keywords: object) -> str:
        raise AssertionError("escaped although it is too long")

    monkeypatch.setattr(paging, "urlencode", fail)
    kept = paging.kept_parameters([("x", "\xe9")] * (LINK_BYTES_MAX // 2))
    assert kept is None
    assert paging.links(kept, ListRequest(customer_id="c"), "c", 100, None) == ""


@pytest.mark.parametrize("by", ["offset", "cursor"])
async def test_links_keep_all_other_parameters(scenario: Scenario, by: str) -> None:
    customer = a_list_of(scenario, 4, name=dict(KEPT)["q"])
    await scenario.publish_and_wait()
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in KEPT)
    if by == "cursor":
        reply = await scenario.client.get(f"{path_of(customer)}?{query}", headers=scenario.as_admin())
        query += f"&cursor={reply.json()['meta']['next_cursor']}"
    else:
        query += "&offset=1"
    reply = await scenario.client.get(f"{path_of(customer)}?{query}", headers=scenario.as_admin())
    targets = relations(reply)
    assert targets.keys() == ({"next"} if by == "cursor" else {"first", "prev", "next", "last"})
    for relation, url in targets.items():
        assert urlsplit(url).path == path_of(customer)
        pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
        assert [pair for pair in pairs if pair[0] not in {"offset", "cursor"}] == KEPT, relation
        assert [name for name, _ in pairs if name in {"offset", "cursor"}] == [by]
        page = (await follow(scenario, url)).json()
        assert page["query"]["q"] == dict(KEPT)["q"]
        assert len(names(page)) == 1


async def test_links_use_the_customers_id_in_any_accepted_form(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 2)
    await scenario.publish_and_wait()
    upper_case_id = path_of(customer).split("/")[2].upper()
    reply = await scenario.client.get(f"/customers/{upper_case_id}/campaigns?limit=1", headers=scenario.as_admin())
    assert (await follow(scenario, relations(reply)["next"])).json()["meta"]["offset"] == 1


async def test_non_utf8_bytes_in_an_unknown_parameter_do_not_break_links(scenario: Scenario) -> None:
    customer = a_list_of(scenario, 2)
    await scenario.publish_and_wait()
    reply = await scenario.client.get(f"{path_of(customer)}?limit=1&%FF=%FE%0D%0AX:%20y", headers=scenario.as_admin())
    assert "x" not in reply.headers
    assert (await follow(scenario, relations(reply)["next"])).status_code == 200
