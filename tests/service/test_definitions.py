"""The definitions that the contract leaves to this project, each shown by a minimal scenario."""

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


# --- Access ----------------------------------------------------------------------------------------------------------


async def test_an_owner_sees_only_their_own_campaigns_and_an_admin_all(
    scenario: Scenario,
) -> None:
    mine, theirs = scenario.campaign("mine", owner_id=owner_id(1)), scenario.campaign("theirs", owner_id=owner_id(2))
    customer = scenario.member_of(mine, theirs)
    await scenario.publish_and_wait()

    for headers, expected in ((bearer(1), ["mine"]), (scenario.as_admin(), ["theirs", "mine"])):
        body = await scenario.page(customer, headers, include_aggregations=True)
        assert names(body) == expected
        assert body["meta"]["total"] == len(expected)
        assert body["aggregations"]["quick_filters"] == NO_COUNTS | {"all": len(expected), "running": len(expected)}


async def test_an_owner_sees_the_deleted_count_of_their_own_campaigns_only(scenario: Scenario) -> None:
    mine, theirs = scenario.campaign("mine", owner_id=owner_id(1)), scenario.campaign("theirs", owner_id=owner_id(2))
    customer = scenario.member_of(mine, theirs)
    scenario.add_event("target.removed.v1", customer=customer, campaign=mine)
    scenario.add_event("target.removed.v1", customer=customer, campaign=theirs)
    await scenario.publish_and_wait()

    for headers, deleted in ((bearer(1), 1), (scenario.as_admin(), 2)):
        body = await scenario.page(customer, headers, include_aggregations=True)
        assert body["aggregations"]["extra"] == {"deleted": deleted}


async def test_hidden_and_unknown_customers_give_identical_404_responses(scenario: Scenario) -> None:
    hidden = scenario.customer(owner_id=owner_id(2))
    unknown = new_number()
    await scenario.publish_and_wait()

    replies = [await scenario.ask(customer, bearer(1) | {"X-Request-ID": "same"}) for customer in (hidden, unknown)]
    assert [code_of(reply) for reply in replies] == [(404, "customer_not_found")] * 2
    assert replies[0].content == replies[1].content
    assert _constant_headers(replies[0]) == _constant_headers(replies[1])

    replies = [await scenario.ask(customer, bearer(1)) for customer in (hidden, unknown)]
    assert _without_request_id(replies[0]) == _without_request_id(replies[1])
    assert replies[0].content != replies[1].content, "each response has its own request id"


async def test_a_customer_of_another_owner_is_404_with_any_parameters(scenario: Scenario) -> None:
    customer = scenario.customer(owner_id=owner_id(2), deleted=True)
    await scenario.publish_and_wait()
    for params in ({"include_deleted": True}, {"only_deleted": True}, {"offset": 7, "q": "x"}):
        reply = await scenario.ask(customer, bearer(1) | {"If-None-Match": "*"}, **params)
        assert code_of(reply) == (404, "customer_not_found")


async def test_a_customer_known_only_from_an_enrolment_is_seen_by_admins(scenario: Scenario) -> None:
    campaign = scenario.campaign("first", owner_id=owner_id(1))
    customer = new_number()
    scenario.enrol(customer, campaign)
    await scenario.publish_and_wait()
    assert await scenario.names(customer) == ["first"]
    assert code_of(await scenario.ask(customer, bearer(1))) == (404, "customer_not_found")

    scenario.add_event("customer.upserted.v1", customer=customer, owner_id=owner_id(1))
    await scenario.publish_and_wait()
    assert await scenario.names(customer, bearer(1)) == ["first"]


@pytest.mark.parametrize("event_type", ["target.removed.v1", "target.restored.v1"])
async def test_a_target_event_without_an_enrolment_creates_no_customer(scenario: Scenario, event_type: str) -> None:
    customer, campaign = new_number(), scenario.campaign()
    scenario.add_event(event_type, customer=customer, campaign=campaign)
    await scenario.publish_and_wait()
    reply = await scenario.ask(customer, include_deleted=True)
    assert code_of(reply) == (404, "customer_not_found")


async def test_a_customer_in_no_campaign_has_an_empty_page(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    body = await scenario.page(customer, bearer(1), include_aggregations=True)
    assert (body["data"], body["meta"]["total"]) == ([], 0)
    assert body["aggregations"] == {"quick_filters": NO_COUNTS, "extra": {"deleted": 0}}


async def test_after_a_change_of_owner_only_the_new_owner_sees_the_rows(
    scenario: Scenario,
) -> None:
    campaign = scenario.campaign("wandering", owner_id=owner_id(1))
    customer = scenario.member_of(campaign)
    scenario.add_event("customer.upserted.v1", customer=customer, owner_id=owner_id(2))
    await scenario.publish_and_wait()
    assert code_of(await scenario.ask(customer, bearer(1))) == (404, "customer_not_found")
    assert await scenario.names(customer, bearer(2)) == []

    scenario.add_event("campaign.upserted.v1", campaign=campaign, name="arrived", owner_id=owner_id(2))
    await scenario.publish_and_wait()
    body = await scenario.page(customer, bearer(2), include_aggregations=True)
    assert names(body) == ["arrived"]
    assert body["aggregations"]["quick_filters"]["all"] == 1


async def test_every_form_of_a_customers_uuid_names_that_customer(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    uuid = UUID(path_of(customer).split("/")[2])
    for text in (str(uuid).upper(), uuid.hex, uuid.urn, "{" + str(uuid) + "}"):
        reply = await scenario.client.get(f"/customers/{text}/campaigns", headers=scenario.as_admin())
        assert reply.status_code == 200, text


# --- Listed memberships ----------------------------------------------------------------------------------------------


async def test_a_membership_needs_an_enrolment_and_a_known_campaign(scenario: Scenario) -> None:
    campaign = new_number()
    customer = scenario.member_of(campaign)
    scenario.add_event("campaign.status_changed.v1", campaign=campaign, status="done")
    scenario.add_event("campaign.counters_changed.v1", campaign=campaign)
    await scenario.publish_and_wait()
    body = await scenario.page(customer, include_deleted=True, include_aggregations=True)
    assert body["data"] == []
    assert body["aggregations"]["quick_filters"] == NO_COUNTS

    scenario.add_event("campaign.upserted.v1", campaign=campaign, name="now known", status="draft")
    await scenario.publish_and_wait()
    assert await scenario.names(customer, include_deleted=True) == ["now known"]


async def test_a_removal_without_an_enrolment_lists_nothing(scenario: Scenario) -> None:
    customer, campaign = scenario.customer(), scenario.campaign()
    scenario.add_event("target.removed.v1", customer=customer, campaign=campaign)
    await scenario.publish_and_wait()
    body = await scenario.page(customer, only_deleted=True, include_aggregations=True)
    assert (body["data"], body["aggregations"]["extra"]) == ([], {"deleted": 0})


async def _four_states(scenario: Scenario) -> int:
    """Add a customer in four campaigns: active, with its target removed, deleted, and both."""
    active, removed, deleted, both = (scenario.campaign(name) for name in ("active", "removed", "deleted", "both"))
    customer = scenario.member_of(active, removed, deleted, both)
    for campaign in (removed, both):
        scenario.add_event("target.removed.v1", customer=customer, campaign=campaign)
    for campaign in (deleted, both):
        scenario.add_event("campaign.deleted.v1", campaign=campaign)
    await scenario.publish_and_wait()
    return customer


@pytest.mark.parametrize(
    ("flags", "listed"),
    [
        ({}, ["active"]),
        ({"include_deleted": "true"}, ["both", "deleted", "removed", "active"]),
        ({"only_deleted": "true"}, ["both", "deleted", "removed"]),
        ({"include_deleted": "true", "only_deleted": "true"}, ["both", "deleted", "removed"]),
        ({"include_deleted": "false", "only_deleted": "true"}, ["both", "deleted", "removed"]),
    ],
)
async def test_flags_select_deleted_memberships_and_only_deleted_wins(
    scenario: Scenario, flags: dict[str, str], listed: list[str]
) -> None:
    customer = await _four_states(scenario)
    body = await scenario.page(customer, include_aggregations=True, **flags)
    assert names(body) == listed
    assert body["meta"]["total"] == body["aggregations"]["quick_filters"]["all"] == len(listed)
    assert body["aggregations"]["extra"] == {"deleted": 3}
    assert body["query"]["filters"] == {
        "include_deleted": flags.get("include_deleted") == "true",
        "only_deleted": flags.get("only_deleted") == "true",
    }


async def test_restored_memberships_are_listed_again(scenario: Scenario) -> None:
    removed, deleted = scenario.campaign("removed"), scenario.campaign("deleted")
    customer = scenario.member_of(removed, deleted)
    scenario.add_event("target.removed.v1", customer=customer, campaign=removed)
    scenario.add_event("campaign.deleted.v1", campaign=deleted)
    await scenario.publish_and_wait()
    assert await scenario.names(customer) == []

    scenario.add_event("target.restored.v1", customer=customer, campaign=removed)
    scenario.add_event("campaign.restored.v1", campaign=deleted)
    await scenario.publish_and_wait()
    assert await scenario.names(customer) == ["deleted", "removed"]


async def test_an_upsert_of_a_deleted_campaign_does_not_restore_it(scenario: Scenario) -> None:
    campaign = scenario.campaign("before")
    customer = scenario.member_of(campaign)
    scenario.add_event("campaign.deleted.v1", campaign=campaign)
    scenario.add_event("campaign.upserted.v1", campaign=campaign, name="after")
    await scenario.publish_and_wait()
    assert await scenario.names(customer) == []
    assert await scenario.names(customer, only_deleted=True) == ["after"]


async def test_a_deleted_customer_is_404_unless_one_of_the_flags_is_set(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign("kept"))
    scenario.add_event("customer.upserted.v1", customer=customer, deleted=True)
    await scenario.publish_and_wait()
    for headers in (scenario.as_admin(), bearer(1)):
        assert code_of(await scenario.ask(customer, headers)) == (404, "customer_not_found")
        assert await scenario.names(customer, headers, include_deleted=True) == ["kept"]
        assert await scenario.names(customer, headers, only_deleted=True) == []

    scenario.add_event("customer.upserted.v1", customer=customer, deleted=False)
    await scenario.publish_and_wait()
    assert await scenario.names(customer) == ["kept"]


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
async def test_search_ignores_case_accents_and_ligatures(scenario: Scenario, name: str, found_by: str) -> None:
    customer = scenario.member_of(scenario.campaign(name), scenario.campaign("QVX"))
    await scenario.publish_and_wait()
    body = await scenario.page(customer, q=found_by, include_aggregations=True)
    assert names(body) == [name]
    assert body["meta"]["total"] == body["aggregations"]["quick_filters"]["all"] == 1
    assert body["query"]["q"] == found_by.strip()


@pytest.mark.parametrize("char", ["%", "_", "\\", "*", "?", "[", ".", "'", '"', "$1", "{", "\\%"])
async def test_search_takes_every_character_literally(scenario: Scenario, char: str) -> None:
    customer = scenario.member_of(scenario.campaign("plain words"), scenario.campaign(f"with {char} in it"))
    await scenario.publish_and_wait()
    assert await scenario.names(customer, q=char) == [f"with {char} in it"]
    assert await scenario.names(customer, q=f"with {char} in it") == [f"with {char} in it"]


async def test_a_search_never_matches_across_two_texts(scenario: Scenario) -> None:
    customer = scenario.member_of(
        scenario.campaign("name ends", goal="goal begins", agent_name="agent"), scenario.campaign("ends\ngoal")
    )
    await scenario.publish_and_wait()
    for text in ("ends\ngoal", "s\ng"):
        assert await scenario.names(customer, q=text) == ["ends\ngoal"], text
    for text in ("begins\nagent", "s\na", "endsgoal"):
        assert await scenario.names(customer, q=text) == [], text


async def test_search_matches_name_goal_and_agent_name_separately(scenario: Scenario) -> None:
    campaign = scenario.campaign("Alpha", goal="Beta", agent_name="Gamma")
    customer = scenario.member_of(campaign, scenario.campaign("bare"))
    await scenario.publish_and_wait()
    for text in ("alpha", "beta", "gamma"):
        assert await scenario.names(customer, q=text) == ["Alpha"]
    for text in ("alphabeta", "alpha beta", "alpha\nbeta", "betagamma", "alpha gamma"):
        assert await scenario.names(customer, q=text) == []


async def test_search_matches_no_other_field(scenario: Scenario) -> None:
    texts = {"phone_number": "needle", "call_opening_message": "needle", "whatsapp_first_message": "needle"}
    campaign = scenario.campaign("hay", **texts)
    customer = scenario.member_of(campaign)
    await scenario.publish_and_wait()
    assert await scenario.names(customer, q="needle") == []
    assert await scenario.names(customer, q=campaign_id(campaign)) == []


@pytest.mark.parametrize("blank", ["", " ", "\t \n", "\u3000\u00a0"])
async def test_a_blank_search_is_ignored(scenario: Scenario, blank: str) -> None:
    customer = scenario.member_of(scenario.campaign("listed"))
    await scenario.publish_and_wait()
    body = await scenario.page(customer, q=blank)
    assert names(body) == ["listed"]
    assert "q" not in body["query"]


async def test_a_search_with_an_empty_key_matches_every_text(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign("any"))
    await scenario.publish_and_wait()
    body = await scenario.page(customer, q="\u0301")
    assert (names(body), body["query"]["q"]) == (["any"], "\u0301")


async def test_search_uses_a_campaigns_new_name(scenario: Scenario) -> None:
    campaign = scenario.campaign("old name", goal="old goal")
    customer = scenario.member_of(campaign)
    await scenario.publish_and_wait()
    assert await scenario.names(customer, q="old goal") == ["old name"]
    scenario.add_event("campaign.upserted.v1", campaign=campaign, name="new name")
    await scenario.publish_and_wait()
    assert await scenario.names(customer, q="old") == []
    assert await scenario.names(customer, q="new") == ["new name"]


# --- Dates -----------------------------------------------------------------------------------------------------------

ENROLLED = {
    "eve": "2026-02-28T23:59:59.999999Z",
    "midnight": "2026-03-01T00:00:00Z",
    "noon": "2026-03-01T14:00:00+02:00",
    "last": "2026-03-01T23:59:59.999999Z",
    "next": "2026-03-02T00:00:00Z",
}


async def _enrolled_around_a_day(scenario: Scenario) -> int:
    customer = scenario.customer()
    for name, moment in ENROLLED.items():
        scenario.enrol(customer, scenario.campaign(name), enrolled_at=moment)
    await scenario.publish_and_wait()
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
async def test_date_bounds_are_inclusive_in_utc_and_include_the_last_day(
    scenario: Scenario, bounds: dict[str, str], listed: str
) -> None:
    customer = await _enrolled_around_a_day(scenario)
    body = await scenario.page(customer, sort_dir="asc", include_aggregations=True, **bounds)
    assert names(body) == listed.split()
    assert body["meta"]["total"] == body["aggregations"]["quick_filters"]["running"] == len(listed.split())


async def test_dates_are_echoed_as_date_times_in_utc(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    params = {"date_from": "2026-03-01T02:00:00.5+02:00", "date_to": "2026-03-01"}
    query = (await scenario.page(customer, **params))["query"]
    assert query["date_from"].endswith("Z")
    assert query["date_to"].endswith("Z")
    assert datetime.fromisoformat(query["date_from"]) == datetime(2026, 3, 1, 0, 0, 0, 500_000, UTC)
    assert datetime.fromisoformat(query["date_to"]) == datetime(2026, 3, 1, 23, 59, 59, 999_999, UTC)


@pytest.mark.parametrize("text", ["yesterday", "2026-02-30", "2026-13-01", "", "2026-01-01T25:00", "\0"])
async def test_an_invalid_date_is_422_at_its_parameter(scenario: Scenario, text: str) -> None:
    for name in ("date_from", "date_to"):
        assert locs(await scenario.ask(new_number(), **{name: text})) == [["query", name]]


# --- Order -----------------------------------------------------------------------------------------------------------

INSTANTS = [(EPOCH + timedelta(days=day)).isoformat() for day in range(3)]


def _with_counter(name: str) -> Callable[[Scenario, Any], int]:
    def campaign(scenario: Scenario, value: Any) -> int:
        number = scenario.campaign()
        scenario.add_event("campaign.counters_changed.v1", campaign=number, **{name: value})
        return number

    return campaign


def _with(name: str) -> Callable[[Scenario, Any], int]:
    return lambda scenario, value: scenario.campaign(**{name: value})


SORTED: list[tuple[str, Callable[[Scenario, Any], int], list[Any]]] = [
    ("name", _with("name"), ["_ after -", "a", "Á ", "B", "Zebra", "\ue000", "😀"]),
    ("status", _with("status"), ["draft", "running", "paused", "done"]),
    ("created_at", _with("created_at"), INSTANTS),
    ("progress", _with_counter("progress"), [-1.5, 0, 0.25, 0.3, 1, 1e300]),
    *((name, _with_counter(name), [0, 1, 9, 10, 200, INT64_MAX]) for name in COUNTERS),
]


@pytest.mark.parametrize(("field", "campaign", "values"), SORTED, ids=[row[0] for row in SORTED])
async def test_each_field_sorts_both_ways_with_ties_by_ascending_id(
    scenario: Scenario, field: str, campaign: Callable[[Scenario, Any], int], values: list[Any]
) -> None:
    descending = [(campaign(scenario, value), campaign(scenario, value)) for value in reversed(values)]
    customer = scenario.member_of(*(number for pair in descending for number in pair))
    await scenario.publish_and_wait()

    expected = [number for pair in descending for number in pair]
    body = await scenario.page(customer, sort_field=field, sort_dir="desc", limit=50)
    assert ids(body) == named_ids(*expected)
    expected = [number for pair in reversed(descending) for number in pair]
    body = await scenario.page(customer, sort_field=field, sort_dir="asc", limit=50)
    assert ids(body) == named_ids(*expected)
    assert body["meta"]["sort"] == body["query"]["sort"] == {"field": field, "direction": "asc"}


async def test_the_default_order_is_newest_enrolment_first_then_id(
    scenario: Scenario,
) -> None:
    campaigns = [scenario.campaign() for _ in range(4)]
    customer = scenario.customer()
    for campaign, day in zip(campaigns, (1, 0, 1, 2), strict=True):
        scenario.enrol(customer, campaign, enrolled_at=INSTANTS[day])
    await scenario.publish_and_wait()
    first, second, third, fourth = campaigns
    assert ids(await scenario.page(customer)) == named_ids(fourth, first, third, second)
    assert ids(await scenario.page(customer, sort_dir="asc")) == named_ids(second, first, third, fourth)


async def test_a_campaign_without_a_creation_time_comes_last(scenario: Scenario) -> None:
    early, none, late, null = (scenario.campaign(created_at=time) for time in (INSTANTS[0], ..., INSTANTS[1], None))
    customer = scenario.member_of(null, late, none, early)
    await scenario.publish_and_wait()
    ascending = await scenario.page(customer, sort_field="created_at", sort_dir="asc")
    assert ids(ascending) == named_ids(early, late, none, null)
    descending = await scenario.page(customer, sort_field="created_at")
    assert ids(descending) == named_ids(late, early, none, null)


async def test_names_are_compared_by_search_key_in_code_point_order(scenario: Scenario) -> None:
    ordered = ["!", "10", "9", "A b", "a-b", "ab", "ÀB", "aB", "_", "ﬁ", "fj", "Straße", "strassf", "ω", "\uf8ff", "😀"]
    ordered.sort(key=_expected_key)
    campaigns = {name: scenario.campaign(name) for name in reversed(ordered)}
    customer = scenario.member_of(*campaigns.values())
    await scenario.publish_and_wait()
    body = await scenario.page(customer, sort_field="name", sort_dir="asc", limit=50)
    expected_names = sorted(ordered, key=lambda name: (_expected_key(name), campaigns[name]))
    assert names(body) == expected_names
    assert names(body)[0] == "!"
    assert names(body)[-2:] == ["\uf8ff", "😀"]


def _expected_key(name: str) -> str:
    replacements = {"À": "a", "ﬁ": "fi", "ß": "ss"}
    return "".join(replacements.get(char, char) for char in name).lower()


async def test_a_status_change_moves_a_campaign_in_the_status_order(scenario: Scenario) -> None:
    one, other = scenario.campaign(status="draft"), scenario.campaign(status="running")
    customer = scenario.member_of(one, other)
    await scenario.publish_and_wait()
    assert ids(await scenario.page(customer, sort_field="status", sort_dir="asc")) == named_ids(one, other)
    scenario.add_event("campaign.status_changed.v1", campaign=one, status="done")
    await scenario.publish_and_wait()
    body = await scenario.page(customer, sort_field="status", sort_dir="asc", include_aggregations=True)
    assert ids(body) == named_ids(other, one)
    assert body["aggregations"]["quick_filters"] == NO_COUNTS | {"all": 2, "running": 1, "done": 1}


async def test_an_unknown_sort_field_is_422_and_lists_the_allowed_ones(scenario: Scenario) -> None:
    reply = await scenario.ask(new_number(), sort_field="colour")
    assert locs(reply) == [["query", "sort_field"]]
    message = reply.json()["detail"][0]["msg"]
    allowed = ("enrolled_at", "name", "status", "created_at", "progress", *COUNTERS)
    assert [name for name in allowed if name not in message] == []


# --- Request echo and parameters -------------------------------------------------------------------------------------


async def test_defaults_are_echoed_and_absent_parameters_omitted(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign())
    await scenario.publish_and_wait()
    body = await scenario.page(customer)
    sort = {"field": "enrolled_at", "direction": "desc"}
    assert set(body) == {"data", "meta", "query"}
    assert body["meta"] == {"total": 1, "limit": 10, "offset": 0, "sort": sort}
    assert body["query"] == {"filters": {"include_deleted": False, "only_deleted": False}, "sort": sort}


async def test_all_sent_parameters_are_echoed(scenario: Scenario) -> None:
    customer = scenario.member_of(*(scenario.campaign(f"{n} of five") for n in range(5)))
    await scenario.publish_and_wait()
    params = {
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
    body = await scenario.page(customer, **params)
    sort = {"field": "name", "direction": "asc"}
    assert names(body) == ["1 of five", "2 of five"]
    next_cursor = body["meta"].pop("next_cursor")
    assert isinstance(next_cursor, str)
    assert body["meta"] == {"total": 5, "limit": 2, "offset": 1, "sort": sort}
    dates = {name: datetime.fromisoformat(body["query"].pop(name)) for name in ("date_from", "date_to")}
    assert dates == {"date_from": datetime(2020, 1, 1, tzinfo=UTC), "date_to": datetime(2030, 1, 1, tzinfo=UTC)}
    assert body["query"] == {"q": "of", "filters": {"include_deleted": True, "only_deleted": False}, "sort": sort}


async def test_the_last_repeated_parameter_counts_unknown_ones_are_ignored(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    reply = await scenario.client.get(
        f"{path_of(customer)}?limit=none&limit=7&colour=red&offset=3&offset=4&&=", headers=scenario.as_admin()
    )
    assert reply.status_code == 200
    assert {name: reply.json()["meta"][name] for name in ("limit", "offset")} == {"limit": 7, "offset": 4}


@pytest.mark.parametrize("true", ["true", "TRUE", "1", "yes", "Yes", "on", "t", "y", "Y"])
async def test_a_boolean_accepts_many_forms_of_true(scenario: Scenario, true: str) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    assert (await scenario.page(customer, include_deleted=true))["query"]["filters"]["include_deleted"] is True


async def test_all_invalid_parameters_are_reported_together(scenario: Scenario) -> None:
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
    reply = await scenario.client.get("/customers/nobody/campaigns", params=bad, headers=scenario.as_admin())
    assert sorted(locs(reply)) == sorted([["path", "customer_id"], *(["query", name] for name in bad)])
    kinds = {violation["loc"][1]: violation["type"] for violation in reply.json()["detail"]}
    assert kinds["customer_id"] == "uuid_parsing"
    assert kinds["limit"] == "less_than_equal"
    assert kinds["include_deleted"] == "bool_parsing"
    assert kinds["sort_dir"] == "literal_error"
    assert kinds["date_to"] == "datetime_from_date_parsing"


async def test_the_bounds_of_limit_and_offset_are_inclusive(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    for name, good, bad in (("limit", (1, 200), (0, 201, -1)), ("offset", (0, INT64_MAX), (-1, 2**63, 10**30))):
        for value in good:
            assert (await scenario.page(customer, **{name: value}))["meta"][name] == value
        for value in bad:
            assert locs(await scenario.ask(customer, **{name: value})) == [["query", name]]


async def test_an_offset_beyond_the_end_gives_an_empty_page_with_total(scenario: Scenario) -> None:
    customer = scenario.member_of(*(scenario.campaign() for _ in range(3)))
    await scenario.publish_and_wait()
    for offset in (3, 4, 10**6, INT64_MAX - 1, INT64_MAX):
        for filters in ({}, {"q": "campaign"}):
            body = await scenario.page(customer, offset=offset, limit=200, include_aggregations=True, **filters)
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
async def test_an_item_omits_absent_and_null_fields_and_counts_from_zero(scenario: Scenario, absent: Any) -> None:
    campaign = scenario.campaign("bare", **dict.fromkeys(OPTIONAL, absent))
    customer = scenario.member_of(campaign)
    await scenario.publish_and_wait()
    (item,) = (await scenario.page(customer))["data"]
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


async def test_an_item_has_the_defaults_of_the_contract(scenario: Scenario) -> None:
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
    campaign = scenario.campaign(
        goal_spec={"objectives": objectives}, call_working_hours={"weekdays": [1, 2]}, stages=[stage]
    )
    customer = scenario.member_of(campaign)
    await scenario.publish_and_wait()
    (item,) = (await scenario.page(customer))["data"]
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


async def test_an_item_contains_every_field_of_its_events(scenario: Scenario) -> None:
    fields = {
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
    campaign = scenario.campaign("shown", status="paused", **fields)
    scenario.add_event("campaign.counters_changed.v1", campaign=campaign, **counters)
    customer = scenario.member_of(campaign)
    await scenario.publish_and_wait()
    (item,) = (await scenario.page(customer))["data"]
    expected = {"id": campaign_id(campaign), "name": "shown", "status": "paused", "agent_id": ANYONE}
    assert item == expected | fields | counters


# --- Aggregations ----------------------------------------------------------------------------------------------------


async def test_aggregations_are_returned_only_on_request(scenario: Scenario) -> None:
    customer = scenario.customer()
    await scenario.publish_and_wait()
    for value, included in ((None, False), ("false", False), ("true", True)):
        params = {} if value is None else {"include_aggregations": value}
        assert ("aggregations" in await scenario.page(customer, **params)) is included


async def _of_every_kind(scenario: Scenario) -> int:
    """Add a customer in one draft, two running, three paused and four done campaigns, and as many deleted ones.

    Half of each are named "even" and were enrolled in 2026, the others are named "odd" and were enrolled in 2025.
    """
    customer = scenario.customer()
    for number, status in enumerate(("draft", "running", "paused", "done"), start=1):
        for nth in range(2 * number):
            campaign = scenario.campaign("even" if nth // 2 % 2 == 0 else "odd", status=status)
            scenario.enrol(customer, campaign, enrolled_at=f"{2026 if nth // 2 % 2 == 0 else 2025}-06-01T00:00:00Z")
            if nth % 2:
                scenario.add_event("campaign.deleted.v1", campaign=campaign)
    await scenario.publish_and_wait()
    return customer


async def test_quick_filters_match_total_and_extra_counts_all_deleted(
    scenario: Scenario,
) -> None:
    customer = await _of_every_kind(scenario)
    cases: list[tuple[dict[str, str], tuple[int, int, int, int]]] = [
        ({}, (1, 2, 3, 4)),
        ({"q": "even"}, (1, 1, 2, 2)),
        ({"q": "odd"}, (0, 1, 1, 2)),
        ({"q": "neither"}, (0, 0, 0, 0)),
        ({"date_from": "2026-01-01"}, (1, 1, 2, 2)),
        ({"date_to": "2025-12-31", "q": "odd"}, (0, 1, 1, 2)),
        ({"date_to": "2025-12-31", "q": "even"}, (0, 0, 0, 0)),
    ]
    flags = [({}, 1), ({"only_deleted": "true"}, 1), ({"include_deleted": "true"}, 2)]
    for filters, counts in cases:
        for flag, times in flags:
            body = await scenario.page(customer, include_aggregations=True, limit=1, offset=1, **filters, **flag)
            by_status = dict(zip(("draft", "running", "paused", "done"), (times * n for n in counts), strict=True))
            assert body["aggregations"] == {
                "quick_filters": {"all": times * sum(counts), **by_status},
                "extra": {"deleted": sum(counts)},
            }, (filters, flag)
            assert body["meta"]["total"] == times * sum(counts)


# --- Response helpers ------------------------------------------------------------------------------------------------


def _without_request_id(reply: httpx.Response) -> bytes:
    body = json.loads(reply.content)
    assert body["request_id"] == reply.headers["x-request-id"]
    return reply.content.replace(body["request_id"].encode(), b"")


def _constant_headers(reply: httpx.Response) -> list[tuple[str, str]]:
    return [(name, value) for name, value in reply.headers.items() if name not in {"server-timing", "date"}]
