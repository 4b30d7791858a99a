"""The definitions that the contract leaves to this project, each by the smallest world that shows it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.support.builders import ANYONE, COUNTERS, EPOCH, an_id, campaign_id, owner_id
from tests.support.scenario import Scenario, bearer, code_of, ids, locs, named_ids, names, new_number, path_of

INT64_MAX = 2**63 - 1
NO_COUNTS = {"all": 0, "draft": 0, "running": 0, "paused": 0, "done": 0}


# --- Who may read ----------------------------------------------------------------------------------------------------


async def test_an_owner_sees_of_their_customer_only_the_campaigns_they_own_and_an_admin_sees_all(
    story: Scenario,
) -> None:
    mine, theirs = story.campaign("mine", owner_id=owner_id(1)), story.campaign("theirs", owner_id=owner_id(2))
    customer = story.member_of(mine, theirs)
    await story.publish_and_wait()

    for headers, seen in ((bearer(1), ["mine"]), (story.as_admin(), ["theirs", "mine"])):
        body = await story.page(customer, headers, include_aggregations=True)
        assert names(body) == seen
        assert body["meta"]["total"] == len(seen)
        assert body["aggregations"]["quick_filters"] == NO_COUNTS | {"all": len(seen), "running": len(seen)}


async def test_the_deleted_that_an_owner_hears_of_are_those_of_their_own_campaigns(story: Scenario) -> None:
    mine, theirs = story.campaign("mine", owner_id=owner_id(1)), story.campaign("theirs", owner_id=owner_id(2))
    customer = story.member_of(mine, theirs)
    story.add_event("target.removed.v1", customer=customer, campaign=mine)
    story.add_event("target.removed.v1", customer=customer, campaign=theirs)
    await story.publish_and_wait()

    for headers, deleted in ((bearer(1), 1), (story.as_admin(), 2)):
        body = await story.page(customer, headers, include_aggregations=True)
        assert body["aggregations"]["extra"] == {"deleted": deleted}


async def test_a_customer_of_another_owner_and_one_that_is_not_there_get_the_same_bytes(story: Scenario) -> None:
    someone_elses = story.customer(owner_id=owner_id(2))
    nobody = new_number()
    await story.publish_and_wait()

    replies = [await story.ask(each, bearer(1) | {"X-Request-ID": "same"}) for each in (someone_elses, nobody)]
    assert [code_of(reply) for reply in replies] == [(404, "customer_not_found")] * 2
    assert replies[0].content == replies[1].content
    assert _steady_headers(replies[0]) == _steady_headers(replies[1])

    unnamed = [await story.ask(each, bearer(1)) for each in (someone_elses, nobody)]
    assert _without_request_id(unnamed[0]) == _without_request_id(unnamed[1])
    assert unnamed[0].content != unnamed[1].content, "each answer has a request id of its own"


async def test_what_is_not_owned_is_hidden_whatever_the_parameters_and_conditions(story: Scenario) -> None:
    customer = story.customer(owner_id=owner_id(2), deleted=True)
    await story.publish_and_wait()
    for params in ({"include_deleted": True}, {"only_deleted": True}, {"offset": 7, "q": "x"}):
        reply = await story.ask(customer, bearer(1) | {"If-None-Match": "*"}, **params)
        assert code_of(reply) == (404, "customer_not_found")


async def test_a_customer_known_only_from_an_enrolment_has_no_owner_so_admins_alone_see_it(story: Scenario) -> None:
    campaign = story.campaign("first", owner_id=owner_id(1))
    customer = new_number()
    story.enrol(customer, campaign)
    await story.publish_and_wait()
    assert await story.names(customer) == ["first"]
    assert code_of(await story.ask(customer, bearer(1))) == (404, "customer_not_found")

    story.add_event("customer.upserted.v1", customer=customer, owner_id=owner_id(1))
    await story.publish_and_wait()
    assert await story.names(customer, bearer(1)) == ["first"]


@pytest.mark.parametrize("event_type", ["target.removed.v1", "target.restored.v1"])
async def test_an_event_of_a_target_that_is_no_enrolment_makes_no_customer_exist(
    story: Scenario, event_type: str
) -> None:
    customer, campaign = new_number(), story.campaign()
    story.add_event(event_type, customer=customer, campaign=campaign)
    await story.publish_and_wait()
    reply = await story.ask(customer, include_deleted=True)
    assert code_of(reply) == (404, "customer_not_found")


async def test_a_customer_in_no_campaign_has_an_empty_page(story: Scenario) -> None:
    customer = story.customer()
    await story.publish_and_wait()
    body = await story.page(customer, bearer(1), include_aggregations=True)
    assert (body["data"], body["meta"]["total"]) == ([], 0)
    assert body["aggregations"] == {"quick_filters": NO_COUNTS, "extra": {"deleted": 0}}


async def test_a_customer_and_a_campaign_that_change_hands_are_seen_by_their_new_owner_alone(story: Scenario) -> None:
    campaign = story.campaign("wandering", owner_id=owner_id(1))
    customer = story.member_of(campaign)
    story.add_event("customer.upserted.v1", customer=customer, owner_id=owner_id(2))
    await story.publish_and_wait()
    assert code_of(await story.ask(customer, bearer(1))) == (404, "customer_not_found")
    assert await story.names(customer, bearer(2)) == []

    story.add_event("campaign.upserted.v1", campaign=campaign, name="arrived", owner_id=owner_id(2))
    await story.publish_and_wait()
    body = await story.page(customer, bearer(2), include_aggregations=True)
    assert names(body) == ["arrived"]
    assert body["aggregations"]["quick_filters"]["all"] == 1


async def test_any_spelling_of_a_customers_uuid_is_that_customer(story: Scenario) -> None:
    customer = story.customer()
    await story.publish_and_wait()
    spelled = UUID(path_of(customer).split("/")[2])
    for text in (str(spelled).upper(), spelled.hex, spelled.urn, "{" + str(spelled) + "}"):
        reply = await story.client.get(f"/customers/{text}/campaigns", headers=story.as_admin())
        assert reply.status_code == 200, text


# --- What is listed --------------------------------------------------------------------------------------------------


async def test_a_membership_is_visible_once_both_its_enrolment_and_its_campaign_are_known(story: Scenario) -> None:
    campaign = new_number()
    customer = story.member_of(campaign)
    story.add_event("campaign.status_changed.v1", campaign=campaign, status="done")
    story.add_event("campaign.counters_changed.v1", campaign=campaign)
    await story.publish_and_wait()
    body = await story.page(customer, include_deleted=True, include_aggregations=True)
    assert body["data"] == []
    assert body["aggregations"]["quick_filters"] == NO_COUNTS

    story.add_event("campaign.upserted.v1", campaign=campaign, name="known at last", status="draft")
    await story.publish_and_wait()
    assert await story.names(customer, include_deleted=True) == ["known at last"]


async def test_a_removal_without_an_enrolment_shows_nothing_even_among_the_deleted(story: Scenario) -> None:
    customer, campaign = story.customer(), story.campaign()
    story.add_event("target.removed.v1", customer=customer, campaign=campaign)
    await story.publish_and_wait()
    body = await story.page(customer, only_deleted=True, include_aggregations=True)
    assert (body["data"], body["aggregations"]["extra"]) == ([], {"deleted": 0})


async def _four_states(story: Scenario) -> int:
    """Tell of a customer in four campaigns: there, removed from, deleted, and both."""
    there, left, gone, both = (story.campaign(name) for name in ("there", "left", "gone", "both"))
    customer = story.member_of(there, left, gone, both)
    for campaign in (left, both):
        story.add_event("target.removed.v1", customer=customer, campaign=campaign)
    for campaign in (gone, both):
        story.add_event("campaign.deleted.v1", campaign=campaign)
    await story.publish_and_wait()
    return customer


@pytest.mark.parametrize(
    ("flags", "listed"),
    [
        ({}, ["there"]),
        ({"include_deleted": "true"}, ["both", "gone", "left", "there"]),
        ({"only_deleted": "true"}, ["both", "gone", "left"]),
        ({"include_deleted": "true", "only_deleted": "true"}, ["both", "gone", "left"]),
        ({"include_deleted": "false", "only_deleted": "true"}, ["both", "gone", "left"]),
    ],
)
async def test_a_removed_target_and_a_deleted_campaign_are_listed_by_flags_and_only_deleted_wins(
    story: Scenario, flags: dict[str, str], listed: list[str]
) -> None:
    customer = await _four_states(story)
    body = await story.page(customer, include_aggregations=True, **flags)
    assert names(body) == listed
    assert body["meta"]["total"] == body["aggregations"]["quick_filters"]["all"] == len(listed)
    assert body["aggregations"]["extra"] == {"deleted": 3}
    assert body["query"]["filters"] == {
        "include_deleted": flags.get("include_deleted") == "true",
        "only_deleted": flags.get("only_deleted") == "true",
    }


async def test_what_is_restored_is_listed_again(story: Scenario) -> None:
    left, gone = story.campaign("left"), story.campaign("gone")
    customer = story.member_of(left, gone)
    story.add_event("target.removed.v1", customer=customer, campaign=left)
    story.add_event("campaign.deleted.v1", campaign=gone)
    await story.publish_and_wait()
    assert await story.names(customer) == []

    story.add_event("target.restored.v1", customer=customer, campaign=left)
    story.add_event("campaign.restored.v1", campaign=gone)
    await story.publish_and_wait()
    assert await story.names(customer) == ["gone", "left"]


async def test_a_change_of_a_deleted_campaigns_definition_does_not_restore_it(story: Scenario) -> None:
    campaign = story.campaign("before")
    customer = story.member_of(campaign)
    story.add_event("campaign.deleted.v1", campaign=campaign)
    story.add_event("campaign.upserted.v1", campaign=campaign, name="after")
    await story.publish_and_wait()
    assert await story.names(customer) == []
    assert await story.names(customer, only_deleted=True) == ["after"]


async def test_a_deleted_customer_is_404_unless_one_of_the_flags_is_set(story: Scenario) -> None:
    customer = story.member_of(story.campaign("kept"))
    story.add_event("customer.upserted.v1", customer=customer, deleted=True)
    await story.publish_and_wait()
    for headers in (story.as_admin(), bearer(1)):
        assert code_of(await story.ask(customer, headers)) == (404, "customer_not_found")
        assert await story.names(customer, headers, include_deleted=True) == ["kept"]
        assert await story.names(customer, headers, only_deleted=True) == []

    story.add_event("customer.upserted.v1", customer=customer, deleted=False)
    await story.publish_and_wait()
    assert await story.names(customer) == ["kept"]


# --- Search ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found_by"),
    [
        ("Café Olé", "cafe ole"),
        ("Cafe Ole", "CAFÉ OLÉ"),
        ("Cafe\u0301", "é"),
        ("Straße", "STRASSE"),
        ("STRASSE", "straße"),
        ("ﬁnal eﬃcient", "FINAL EFFI"),
        ("final", "ﬁ"),
        ("İstanbul", "istanbul"),
        ("Σίσυφος", "ΣΙΣΥΦΟΣ"),
        ("ＦＵＬＬ ｗｉｄｔｈ", "full width"),
        ("Zürich ①", "zurich 1"),
        ("Ångström", "angstro"),
        ("日本の夏", "の夏"),
        ("A🚀B", "🚀b"),
        ("middle of it", "le o"),
        ("trimmed", "  trim\t\u3000"),
    ],
)
async def test_search_finds_whatever_the_case_accents_and_ligatures(story: Scenario, name: str, found_by: str) -> None:
    customer = story.member_of(story.campaign(name), story.campaign("QVX"))
    await story.publish_and_wait()
    body = await story.page(customer, q=found_by, include_aggregations=True)
    assert names(body) == [name]
    assert body["meta"]["total"] == body["aggregations"]["quick_filters"]["all"] == 1
    assert body["query"]["q"] == found_by.strip()


@pytest.mark.parametrize("char", ["%", "_", "\\", "*", "?", "[", ".", "'", '"', "$1", "{", "\\%"])
async def test_search_takes_every_character_literally(story: Scenario, char: str) -> None:
    customer = story.member_of(story.campaign("plain words"), story.campaign(f"with {char} in it"))
    await story.publish_and_wait()
    assert await story.names(customer, q=char) == [f"with {char} in it"]
    assert await story.names(customer, q=f"with {char} in it") == [f"with {char} in it"]


async def test_search_looks_into_name_goal_and_agent_name_each_by_itself(story: Scenario) -> None:
    whole = story.campaign("Alpha", goal="Beta", agent_name="Gamma")
    customer = story.member_of(whole, story.campaign("bare"))
    await story.publish_and_wait()
    for text in ("alpha", "beta", "gamma"):
        assert await story.names(customer, q=text) == ["Alpha"]
    for text in ("alphabeta", "alpha beta", "alpha\nbeta", "betagamma", "alpha gamma"):
        assert await story.names(customer, q=text) == []


async def test_search_looks_nowhere_else(story: Scenario) -> None:
    texts = {"phone_number": "needle", "call_opening_message": "needle", "whatsapp_first_message": "needle"}
    campaign = story.campaign("hay", **texts)
    customer = story.member_of(campaign)
    await story.publish_and_wait()
    assert await story.names(customer, q="needle") == []
    assert await story.names(customer, q=campaign_id(campaign)) == []


@pytest.mark.parametrize("blank", ["", " ", "\t \n", "\u3000\u00a0"])
async def test_a_blank_search_is_an_absent_one(story: Scenario, blank: str) -> None:
    customer = story.member_of(story.campaign("all there is"))
    await story.publish_and_wait()
    body = await story.page(customer, q=blank)
    assert names(body) == ["all there is"]
    assert "q" not in body["query"]


async def test_a_search_whose_key_is_empty_is_part_of_every_text(story: Scenario) -> None:
    customer = story.member_of(story.campaign("any"))
    await story.publish_and_wait()
    body = await story.page(customer, q="\u0301")
    assert (names(body), body["query"]["q"]) == (["any"], "\u0301")


async def test_a_search_follows_a_campaign_to_its_new_name(story: Scenario) -> None:
    campaign = story.campaign("old name", goal="old goal")
    customer = story.member_of(campaign)
    await story.publish_and_wait()
    assert await story.names(customer, q="old goal") == ["old name"]
    story.add_event("campaign.upserted.v1", campaign=campaign, name="new name")
    await story.publish_and_wait()
    assert await story.names(customer, q="old") == []
    assert await story.names(customer, q="new") == ["new name"]


# --- Dates -----------------------------------------------------------------------------------------------------------

ENROLLED = {
    "eve": "2026-02-28T23:59:59.999999Z",
    "midnight": "2026-03-01T00:00:00Z",
    "noon": "2026-03-01T14:00:00+02:00",
    "last": "2026-03-01T23:59:59.999999Z",
    "next": "2026-03-02T00:00:00Z",
}


async def _enrolled_around_a_day(story: Scenario) -> int:
    customer = story.customer()
    for name, moment in ENROLLED.items():
        story.enrol(customer, story.campaign(name), enrolled_at=moment)
    await story.publish_and_wait()
    return customer


@pytest.mark.parametrize(
    ("bounds", "listed"),
    [
        ({"date_from": "2026-03-01"}, "midnight noon last next"),
        ({"date_to": "2026-03-01"}, "eve midnight noon last"),
        ({"date_from": "2026-03-01", "date_to": "2026-03-01"}, "midnight noon last"),
        ({"date_from": "2026-03-01T12:00:00Z", "date_to": "2026-03-01T12:00:00Z"}, "noon"),
        ({"date_from": "2026-03-01T12:00:00", "date_to": "2026-03-01T12:00:00"}, "noon"),
        ({"date_from": "2026-03-01T13:30:00+01:30", "date_to": "2026-03-01T13:30:00+01:30"}, "noon"),
        ({"date_from": "2026-03-01T12:00:00.000001Z"}, "last next"),
        ({"date_to": "2026-03-01T11:59:59.999999Z"}, "eve midnight"),
        ({"date_to": "2026-03-01T00:00:00"}, "eve midnight"),
        ({"date_from": "2026-03-02", "date_to": "2026-03-01"}, ""),
        ({"date_from": "9999-12-31", "date_to": "0001-01-01"}, ""),
        ({"date_from": "0001-01-01", "date_to": "9999-12-31"}, "eve midnight noon last next"),
    ],
)
async def test_dates_bound_the_enrolment_inclusively_in_utc_and_a_last_day_counts_whole(
    story: Scenario, bounds: dict[str, str], listed: str
) -> None:
    customer = await _enrolled_around_a_day(story)
    body = await story.page(customer, sort_dir="asc", include_aggregations=True, **bounds)
    assert names(body) == listed.split()
    assert body["meta"]["total"] == body["aggregations"]["quick_filters"]["running"] == len(listed.split())


async def test_dates_are_echoed_as_date_times_in_utc(story: Scenario) -> None:
    customer = story.customer()
    await story.publish_and_wait()
    asked = {"date_from": "2026-03-01T02:00:00.5+02:00", "date_to": "2026-03-01"}
    query = (await story.page(customer, **asked))["query"]
    assert query["date_from"].endswith("Z")
    assert query["date_to"].endswith("Z")
    assert datetime.fromisoformat(query["date_from"]) == datetime(2026, 3, 1, 0, 0, 0, 500_000, UTC)
    assert datetime.fromisoformat(query["date_to"]) == datetime(2026, 3, 1, 23, 59, 59, 999_999, UTC)


@pytest.mark.parametrize("text", ["yesterday", "2026-02-30", "2026-13-01", "", "2026-01-01T25:00", "\0"])
async def test_what_is_no_date_is_422_where_it_stands(story: Scenario, text: str) -> None:
    for name in ("date_from", "date_to"):
        assert locs(await story.ask(new_number(), **{name: text})) == [["query", name]]


# --- Order -----------------------------------------------------------------------------------------------------------

INSTANTS = [(EPOCH + timedelta(days=day)).isoformat() for day in range(3)]


def _with_counter(name: str) -> Callable[[Scenario, Any], int]:
    def campaign(story: Scenario, value: Any) -> int:
        number = story.campaign()
        story.add_event("campaign.counters_changed.v1", campaign=number, **{name: value})
        return number

    return campaign


def _with(name: str) -> Callable[[Scenario, Any], int]:
    return lambda story, value: story.campaign(**{name: value})


SORTED: list[tuple[str, Callable[[Scenario, Any], int], list[Any]]] = [
    ("name", _with("name"), ["_ after -", "a", "Á ", "B", "Zebra", "\ue000", "😀"]),
    ("status", _with("status"), ["draft", "running", "paused", "done"]),
    ("created_at", _with("created_at"), INSTANTS),
    ("progress", _with_counter("progress"), [-1.5, 0, 0.25, 0.3, 1, 1e300]),
    *((name, _with_counter(name), [0, 1, 9, 10, 200, INT64_MAX]) for name in COUNTERS),
]


@pytest.mark.parametrize(("field", "campaign", "values"), SORTED, ids=[each[0] for each in SORTED])
async def test_each_field_sorts_both_ways_and_ties_stand_by_campaign_id_ascending_in_both(
    story: Scenario, field: str, campaign: Callable[[Scenario, Any], int], values: list[Any]
) -> None:
    descending = [(campaign(story, value), campaign(story, value)) for value in reversed(values)]
    customer = story.member_of(*(number for pair in descending for number in pair))
    await story.publish_and_wait()

    wanted = [number for pair in descending for number in pair]
    body = await story.page(customer, sort_field=field, sort_dir="desc", limit=50)
    assert ids(body) == named_ids(*wanted)
    wanted = [number for pair in reversed(descending) for number in pair]
    body = await story.page(customer, sort_field=field, sort_dir="asc", limit=50)
    assert ids(body) == named_ids(*wanted)
    assert body["meta"]["sort"] == body["query"]["sort"] == {"field": field, "direction": "asc"}


async def test_enrolment_is_the_order_unless_told_otherwise_newest_first_and_ties_by_campaign_id(
    story: Scenario,
) -> None:
    campaigns = [story.campaign() for _ in range(4)]
    customer = story.customer()
    for campaign, day in zip(campaigns, (1, 0, 1, 2), strict=True):
        story.enrol(customer, campaign, enrolled_at=INSTANTS[day])
    await story.publish_and_wait()
    first, second, third, fourth = campaigns
    assert ids(await story.page(customer)) == named_ids(fourth, first, third, second)
    assert ids(await story.page(customer, sort_dir="asc")) == named_ids(second, first, third, fourth)


async def test_a_campaign_without_a_creation_time_comes_last_in_both_directions(story: Scenario) -> None:
    early, none, late, null = (story.campaign(created_at=each) for each in (INSTANTS[0], ..., INSTANTS[1], None))
    customer = story.member_of(null, late, none, early)
    await story.publish_and_wait()
    ascending = await story.page(customer, sort_field="created_at", sort_dir="asc")
    assert ids(ascending) == named_ids(early, late, none, null)
    descending = await story.page(customer, sort_field="created_at")
    assert ids(descending) == named_ids(late, early, none, null)


async def test_names_are_compared_by_search_key_in_code_point_order(story: Scenario) -> None:
    ordered = ["!", "10", "9", "A b", "a-b", "ab", "ÀB", "aB", "_", "ﬁ", "fj", "Straße", "strassf", "ω", "\uf8ff", "😀"]
    ordered.sort(key=_key_by_hand)
    made = {name: story.campaign(name) for name in reversed(ordered)}
    customer = story.member_of(*made.values())
    await story.publish_and_wait()
    body = await story.page(customer, sort_field="name", sort_dir="asc", limit=50)
    by_hand = sorted(ordered, key=lambda name: (_key_by_hand(name), made[name]))
    assert names(body) == by_hand
    assert names(body)[0] == "!"
    assert names(body)[-2:] == ["\uf8ff", "😀"]


def _key_by_hand(name: str) -> str:
    written_out = {"À": "a", "ﬁ": "fi", "ß": "ss"}
    return "".join(written_out.get(char, char) for char in name).lower()


async def test_a_campaign_that_changes_status_moves_to_its_new_place(story: Scenario) -> None:
    one, other = story.campaign(status="draft"), story.campaign(status="running")
    customer = story.member_of(one, other)
    await story.publish_and_wait()
    assert ids(await story.page(customer, sort_field="status", sort_dir="asc")) == named_ids(one, other)
    story.add_event("campaign.status_changed.v1", campaign=one, status="done")
    await story.publish_and_wait()
    body = await story.page(customer, sort_field="status", sort_dir="asc", include_aggregations=True)
    assert ids(body) == named_ids(other, one)
    assert body["aggregations"]["quick_filters"] == NO_COUNTS | {"all": 2, "running": 1, "done": 1}


async def test_an_unknown_sort_field_is_422_and_names_the_allowed_ones(story: Scenario) -> None:
    reply = await story.ask(new_number(), sort_field="colour")
    assert locs(reply) == [["query", "sort_field"]]
    message = reply.json()["detail"][0]["msg"]
    allowed = ("enrolled_at", "name", "status", "created_at", "progress", *COUNTERS)
    assert [name for name in allowed if name not in message] == []


# --- meta and query --------------------------------------------------------------------------------------------------


async def test_defaults_are_echoed_and_what_is_absent_is_left_out(story: Scenario) -> None:
    customer = story.member_of(story.campaign())
    await story.publish_and_wait()
    body = await story.page(customer)
    sort = {"field": "enrolled_at", "direction": "desc"}
    assert set(body) == {"data", "meta", "query"}
    assert body["meta"] == {"total": 1, "limit": 10, "offset": 0, "sort": sort}
    assert body["query"] == {"filters": {"include_deleted": False, "only_deleted": False}, "sort": sort}


async def test_everything_given_is_echoed(story: Scenario) -> None:
    customer = story.member_of(*(story.campaign(f"{n} of five") for n in range(5)))
    await story.publish_and_wait()
    asked = {
        "limit": 2,
        "offset": 1,
        "q": " of ",
        "sort_field": "name",
        "sort_dir": "asc",
        "include_deleted": "yes",
        "only_deleted": "off",
        "date_from": "2020-01-01",
        "date_to": "2030-01-01T00:00:00Z",
        "include_aggregations": "1",
    }
    body = await story.page(customer, **asked)
    sort = {"field": "name", "direction": "asc"}
    assert names(body) == ["1 of five", "2 of five"]
    next_cursor = body["meta"].pop("next_cursor")
    assert isinstance(next_cursor, str)
    assert body["meta"] == {"total": 5, "limit": 2, "offset": 1, "sort": sort}
    dates = {name: datetime.fromisoformat(body["query"].pop(name)) for name in ("date_from", "date_to")}
    assert dates == {"date_from": datetime(2020, 1, 1, tzinfo=UTC), "date_to": datetime(2030, 1, 1, tzinfo=UTC)}
    assert body["query"] == {"q": "of", "filters": {"include_deleted": True, "only_deleted": False}, "sort": sort}


async def test_of_a_repeated_parameter_the_last_counts_and_unknown_ones_are_ignored(story: Scenario) -> None:
    customer = story.customer()
    await story.publish_and_wait()
    reply = await story.client.get(
        f"{path_of(customer)}?limit=none&limit=7&colour=red&offset=3&offset=4&&=", headers=story.as_admin()
    )
    assert reply.status_code == 200
    assert {name: reply.json()["meta"][name] for name in ("limit", "offset")} == {"limit": 7, "offset": 4}


@pytest.mark.parametrize("true", ["true", "TRUE", "1", "yes", "Yes", "on", "t", "y", "Y"])
async def test_a_boolean_is_true_in_many_spellings(story: Scenario, true: str) -> None:
    customer = story.customer()
    await story.publish_and_wait()
    assert (await story.page(customer, include_deleted=true))["query"]["filters"]["include_deleted"] is True


async def test_all_bad_parameters_are_reported_together_where_they_stand(story: Scenario) -> None:
    bad = {
        "include_deleted": "perhaps",
        "only_deleted": "2",
        "limit": "201",
        "offset": str(2**63),
        "q": "\0",
        "sort_field": "colour",
        "sort_dir": "up",
        "include_aggregations": "",
        "date_from": "x",
        "date_to": "y",
        "cursor": "z",
    }
    reply = await story.client.get("/customers/nobody/campaigns", params=bad, headers=story.as_admin())
    assert sorted(locs(reply)) == sorted([["path", "customer_id"], *(["query", name] for name in bad)])
    kinds = {violation["loc"][1]: violation["type"] for violation in reply.json()["detail"]}
    assert kinds["customer_id"] == "uuid_parsing"
    assert kinds["limit"] == "less_than_equal"
    assert kinds["include_deleted"] == "bool_parsing"
    assert kinds["sort_dir"] == "literal_error"
    assert kinds["date_to"] == "datetime_from_date_parsing"


async def test_the_bounds_of_limit_and_offset_are_inclusive(story: Scenario) -> None:
    customer = story.customer()
    await story.publish_and_wait()
    for name, good, bad in (("limit", (1, 200), (0, 201, -1)), ("offset", (0, INT64_MAX), (-1, 2**63, 10**30))):
        for value in good:
            assert (await story.page(customer, **{name: value}))["meta"][name] == value
        for value in bad:
            assert locs(await story.ask(customer, **{name: value})) == [["query", name]]


async def test_an_offset_beyond_the_end_is_an_empty_page_with_the_same_total(story: Scenario) -> None:
    customer = story.member_of(*(story.campaign() for _ in range(3)))
    await story.publish_and_wait()
    for offset in (3, 4, 10**6, INT64_MAX - 1, INT64_MAX):
        for narrowed in ({}, {"q": "campaign"}):
            body = await story.page(customer, offset=offset, limit=200, include_aggregations=True, **narrowed)
            assert body["data"] == []
            assert body["meta"]["total"] == body["aggregations"]["quick_filters"]["all"] == 3
            assert body["meta"]["offset"] == offset
            assert "next_cursor" not in body["meta"]


# --- Items -----------------------------------------------------------------------------------------------------------

OPTIONAL_TEXTS = ("phone_number", "goal", "agent_name", "call_opening_message", "whatsapp_first_message")
OPTIONAL = (
    *OPTIONAL_TEXTS,
    "phone_number_id",
    "whatsapp_channel_id",
    "goal_spec",
    "call_attempt_delays",
    "call_working_hours",
    "stages",
)


@pytest.mark.parametrize("absent", [..., None])
async def test_an_item_leaves_out_what_is_absent_or_null_and_counts_from_zero(story: Scenario, absent: Any) -> None:
    campaign = story.campaign("bare", **dict.fromkeys(OPTIONAL, absent))
    customer = story.member_of(campaign)
    await story.publish_and_wait()
    (item,) = (await story.page(customer))["data"]
    assert item == {
        "id": campaign_id(campaign),
        "name": "bare",
        "status": "running",
        "agent_id": ANYONE,
        "first_contact_channel": "call",
        "whatsapp_after_attempts": 2,
        **dict.fromkeys(COUNTERS, 0),
        "progress": 0,
    }


async def test_an_item_fills_in_the_defaults_that_the_contract_states(story: Scenario) -> None:
    stage = {
        "id": an_id("57", 1),
        "campaign_id": an_id("ca", 0),
        "key": "new",
        "name": "New",
        "position": 0,
        "semantic_type": "new",
        "created_at": "2026-01-01T01:00:00+01:00",
        "updated_at": "2026-01-01T00:00:00.25Z",
    }
    objectives = [{"type": "contact"}, {"type": "email"}, {"type": "ai"}, {"type": "ai", "min_score": 0.5}]
    campaign = story.campaign(
        goal_spec={"objectives": objectives}, call_working_hours={"weekdays": [1, 2]}, stages=[stage]
    )
    customer = story.member_of(campaign)
    await story.publish_and_wait()
    (item,) = (await story.page(customer))["data"]
    assert item["goal_spec"]["objectives"] == [
        {"type": "contact", "min_count": 1},
        {"type": "email", "min_count": 1},
        {"type": "ai", "min_score": 0},
        {"type": "ai", "min_score": 0.5},
    ]
    assert item["call_working_hours"] == {"start": "09:00:00", "end": "19:00:00", "weekdays": [1, 2]}
    times = {name: item["stages"][0].pop(name) for name in ("created_at", "updated_at")}
    assert item["stages"] == [
        {name: value for name, value in stage.items() if name not in times} | {"is_system": False}
    ]
    assert all(time.endswith("Z") for time in times.values())
    assert datetime.fromisoformat(times["created_at"]) == EPOCH
    assert datetime.fromisoformat(times["updated_at"]) == EPOCH + timedelta(milliseconds=250)


async def test_an_item_shows_everything_it_was_given(story: Scenario) -> None:
    given = {
        **{name: f'{name} “Ünïcode” \\ " \n 🚀 \u2028' for name in OPTIONAL_TEXTS},
        "phone_number_id": an_id("0f", 1),
        "whatsapp_channel_id": an_id("0f", 2),
        "whatsapp_after_attempts": -3,
        "call_attempt_delays": [0, 60, 3600],
        "goal_spec": {"objectives": [{"type": "contact", "channels": ["call", "whatsapp"], "min_count": 0}]},
        "call_working_hours": {"start": "08:30:00", "end": "17:00:15", "weekdays": []},
        "stages": [],
        "first_contact_channel": "whatsapp",
    }
    counters = dict.fromkeys(COUNTERS, INT64_MAX) | {"progress": 0.1}
    campaign = story.campaign("shown", status="paused", **given)
    story.add_event("campaign.counters_changed.v1", campaign=campaign, **counters)
    customer = story.member_of(campaign)
    await story.publish_and_wait()
    (item,) = (await story.page(customer))["data"]
    expected = {"id": campaign_id(campaign), "name": "shown", "status": "paused", "agent_id": ANYONE}
    assert item == expected | given | counters


# --- Aggregations ----------------------------------------------------------------------------------------------------


async def test_aggregations_come_only_when_asked_for(story: Scenario) -> None:
    customer = story.customer()
    await story.publish_and_wait()
    for asked, given in ((None, False), ("false", False), ("true", True)):
        params = {} if asked is None else {"include_aggregations": asked}
        assert ("aggregations" in await story.page(customer, **params)) is given


async def _of_every_kind(story: Scenario) -> int:
    """Tell of a customer in one draft, two running, three paused and four done campaigns, and as many deleted ones.

    Half of each has "even" in its name and was enrolled in 2026, the others in 2025.
    """
    customer = story.customer()
    for number, status in enumerate(("draft", "running", "paused", "done"), start=1):
        for nth in range(2 * number):
            campaign = story.campaign("even" if nth // 2 % 2 == 0 else "odd", status=status)
            story.enrol(customer, campaign, enrolled_at=f"{2026 if nth // 2 % 2 == 0 else 2025}-06-01T00:00:00Z")
            if nth % 2:
                story.add_event("campaign.deleted.v1", campaign=campaign)
    await story.publish_and_wait()
    return customer


async def test_quick_filters_count_what_total_counts_and_extra_the_deleted_whatever_the_flags(story: Scenario) -> None:
    customer = await _of_every_kind(story)
    narrowings: list[tuple[dict[str, str], tuple[int, int, int, int]]] = [
        ({}, (1, 2, 3, 4)),
        ({"q": "even"}, (1, 1, 2, 2)),
        ({"q": "odd"}, (0, 1, 1, 2)),
        ({"q": "neither"}, (0, 0, 0, 0)),
        ({"date_from": "2026-01-01"}, (1, 1, 2, 2)),
        ({"date_to": "2025-12-31", "q": "odd"}, (0, 1, 1, 2)),
        ({"date_to": "2025-12-31", "q": "even"}, (0, 0, 0, 0)),
    ]
    flags = [({}, 1), ({"only_deleted": "true"}, 1), ({"include_deleted": "true"}, 2)]
    for narrowed, counts in narrowings:
        for flag, times in flags:
            body = await story.page(customer, include_aggregations=True, limit=1, offset=1, **narrowed, **flag)
            by_status = dict(zip(("draft", "running", "paused", "done"), (times * n for n in counts), strict=True))
            assert body["aggregations"] == {
                "quick_filters": {"all": times * sum(counts), **by_status},
                "extra": {"deleted": sum(counts)},
            }, (narrowed, flag)
            assert body["meta"]["total"] == times * sum(counts)


# --- The reading of answers ------------------------------------------------------------------------------------------


def _without_request_id(reply: httpx.Response) -> bytes:
    body = json.loads(reply.content)
    assert body["request_id"] == reply.headers["x-request-id"]
    return reply.content.replace(body["request_id"].encode(), b"")


def _steady_headers(reply: httpx.Response) -> list[tuple[str, str]]:
    return [(name, value) for name, value in reply.headers.items() if name not in {"server-timing", "date"}]
