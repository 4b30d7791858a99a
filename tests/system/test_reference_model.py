"""Tests the reference itself with hand-written examples, so that a difference is an error of the service."""

import json
from datetime import UTC, datetime
from random import Random
from typing import Annotated, Any
from uuid import UUID

import httpx
import pytest
from pydantic import Field, TypeAdapter, ValidationError

from tests.support.api_fuzz import INVALID_IDS, INVALID_VALUES, compare, request_cases
from tests.support.random_history import History
from tests.support.reference_model import (
    Expected,
    Fields,
    Principal,
    Reference,
    format_utc,
    read_boolean,
    read_customer_id,
    read_date_to,
    read_integer,
    read_moment,
    search_key,
)

ANNA = "00000000-0000-4000-8000-0000000000a1"
BEN = "00000000-0000-4000-8000-0000000000b2"
OWNER = "00000000-0000-4000-8000-0000000000c3"
OTHER = "00000000-0000-4000-8000-0000000000d4"
AGENT = "00000000-0000-4000-8000-0000000000e5"
ADMIN = Principal(OTHER, is_admin=True)
CAMPAIGNS = tuple(f"00000000-0000-4000-8000-00000000000{number}" for number in range(10))
NOON = "2024-03-05T12:00:00Z"


class Example:
    """A reference with short methods that add events; versions rise automatically unless given."""

    def __init__(self) -> None:
        self.reference = Reference()
        self._position = 0

    def add_event(self, event_type: str, subject: str, **fields: object) -> "Example":
        self._position += 1
        fields.setdefault("version", self._position)
        event = {"specversion": "1.0", "id": "e", "source": "s", "type": event_type, "time": NOON}
        body = json.dumps({**event, "data": fields}).encode()
        self.reference.apply(f"membership.{subject}", body, self._position)
        return self

    def customer(self, customer_id: str = ANNA, owner_id: str = OWNER, **more: object) -> "Example":
        subject = f"customer.{customer_id}"
        return self.add_event("customer.upserted.v1", subject, customer_id=customer_id, owner_id=owner_id, **more)

    def campaign(self, number: int = 1, **more: object) -> "Example":
        fields = {
            "campaign_id": CAMPAIGNS[number],
            "owner_id": OWNER,
            "name": f"Campaign {number}",
            "status": "running",
            "agent_id": AGENT,
            "first_contact_channel": "call",
            "whatsapp_after_attempts": 3,
        }
        return self.add_event("campaign.upserted.v1", f"campaign.{CAMPAIGNS[number]}", **(fields | more))

    def change(self, what: str, number: int = 1, **more: object) -> "Example":
        subject = f"campaign.{CAMPAIGNS[number]}"
        return self.add_event(f"campaign.{what}.v1", subject, campaign_id=CAMPAIGNS[number], **more)

    def counters(self, number: int = 1, **more: object) -> "Example":
        names = ("total", "contacted", "remaining", "to_recall", "failed", "succeeded")
        fields = {f"contacts_{name}": 1 for name in names} | {"progress": 0.5, "campaign_id": CAMPAIGNS[number]}
        subject = f"counters.{CAMPAIGNS[number]}"
        return self.add_event("campaign.counters_changed.v1", subject, **(fields | more))

    def target(self, what: str = "enrolled", number: int = 1, customer_id: str = ANNA, **more: object) -> "Example":
        fields = {"target_id": AGENT, "customer_id": customer_id, "campaign_id": CAMPAIGNS[number]}
        enrolled_at = {"enrolled_at": NOON} if what == "enrolled" else {}
        subject = f"target.{customer_id}.{CAMPAIGNS[number]}"
        return self.add_event(f"target.{what}.v1", subject, **(fields | enrolled_at | more))

    def get(self, principal: Principal = ADMIN, customer_id: str = ANNA, **parameters: object) -> Expected:
        pairs = [(name, str(value)) for name, value in parameters.items()]
        return self.reference.respond(principal, f"/customers/{customer_id}/campaigns", pairs)

    def body(self, principal: Principal = ADMIN, **parameters: object) -> Fields:
        response = self.get(principal, ANNA, **parameters)
        assert response.body is not None, response
        return response.body

    def listed(self, principal: Principal = ADMIN, **parameters: object) -> list[int]:
        """Return the numbers of the campaigns on the page."""
        return [CAMPAIGNS.index(item["id"]) for item in self.body(principal, **parameters)["data"]]


def test_a_membership_is_listed_once_enrolment_and_campaign_are_known() -> None:
    scenario = Example().target()
    assert scenario.body()["data"] == []
    assert scenario.campaign().listed() == [1]
    assert Example().customer().campaign().listed() == []
    assert Example().customer().campaign().target("restored").listed() == []


def test_items_have_defaults_filled_and_absent_fields_omitted() -> None:
    scenario = (
        Example().target().campaign(goal=None, goal_spec={"objectives": [{"type": "contact", "min_count": None}]})
    )
    assert scenario.body()["data"] == [
        {
            "id": CAMPAIGNS[1],
            "name": "Campaign 1",
            "status": "running",
            "agent_id": AGENT,
            "goal_spec": {"objectives": [{"type": "contact", "min_count": 1}]},
            "first_contact_channel": "call",
            "whatsapp_after_attempts": 3,
            "contacts_total": 0,
            "contacts_contacted": 0,
            "contacts_remaining": 0,
            "contacts_to_recall": 0,
            "contacts_failed": 0,
            "contacts_succeeded": 0,
            "progress": 0,
        }
    ]


def test_nested_objects_get_defaults_and_lose_unknown_fields() -> None:
    stage = {"id": AGENT, "campaign_id": CAMPAIGNS[1], "key": "k", "name": "n", "position": 0}
    stage |= {"semantic_type": "new", "created_at": "2024-03-05T14:00:00+02:00", "updated_at": NOON, "x": 1}
    objectives = [{"type": "email"}, {"type": "ai", "label_in": ["positive"]}]
    scenario = Example().target()
    scenario.campaign(call_working_hours={}, stages=[stage], goal_spec={"objectives": objectives})
    item = scenario.body()["data"][0]
    assert item["call_working_hours"] == {"start": "09:00:00", "end": "19:00:00"}
    assert item["goal_spec"]["objectives"] == [
        {"type": "email", "min_count": 1},
        {"type": "ai", "label_in": ["positive"], "min_score": 0},
    ]
    del stage["x"]
    assert item["stages"] == [{**stage, "is_system": False, "created_at": NOON}]


def test_a_strictly_higher_version_wins_and_a_tie_keeps_the_first() -> None:
    scenario = Example().target().campaign(version=5, name="five").campaign(version=4, name="four")
    assert scenario.body()["data"][0]["name"] == "five"
    assert scenario.campaign(version=5, name="tie").body()["data"][0]["name"] == "five"
    assert scenario.campaign(version=6, name="six").body()["data"][0]["name"] == "six"


def test_each_register_keeps_its_own_version() -> None:
    scenario = Example().target(version=1).campaign(version=1)
    scenario.change("status_changed", version=9, status="paused").campaign(version=5, name="renamed", status="done")
    item = scenario.body()["data"][0]
    assert (item["name"], item["status"]) == ("renamed", "paused")
    scenario.target("removed", version=9).target(version=5, enrolled_at="2030-01-01T00:00:00Z")
    assert scenario.listed() == []
    assert scenario.listed(only_deleted=1, date_from="2030-01-01") == [1]


def test_a_deleted_campaign_stays_deleted_until_restored() -> None:
    scenario = Example().target().change("deleted").campaign()
    assert scenario.listed() == []
    assert scenario.listed(only_deleted="yes") == [1]
    assert scenario.change("restored").listed() == [1]


def test_deleted_means_a_removed_target_or_a_deleted_campaign() -> None:
    scenario = Example().campaign(1).campaign(2).campaign(3).target("enrolled", 1).target("enrolled", 2)
    scenario.target("enrolled", 3).target("removed", 2).change("deleted", 3)
    assert scenario.listed() == [1]
    assert scenario.listed(include_deleted="true") == [1, 2, 3]
    assert scenario.listed(only_deleted="true") == [2, 3]
    assert scenario.listed(include_deleted="true", only_deleted="true") == [2, 3]


def test_counters_come_from_the_latest_event_only() -> None:
    scenario = Example().target().campaign().counters(version=7, contacts_total=2**63 - 1)
    item = scenario.counters(version=6).body()["data"][0]
    assert (item["contacts_total"], item["contacts_failed"], item["progress"]) == (2**63 - 1, 1, 0.5)


def test_visibility_of_customers_and_campaigns() -> None:
    scenario = Example().customer().campaign(1).campaign(2, owner_id=OTHER).target("enrolled", 1).target("enrolled", 2)
    owner, stranger = Principal(OWNER, is_admin=False), Principal(OTHER, is_admin=False)
    assert scenario.listed() == [1, 2]
    assert scenario.listed(owner) == [1]
    assert scenario.body(owner, include_aggregations=1)["aggregations"]["quick_filters"]["all"] == 1
    assert scenario.get(stranger).status == 404
    assert scenario.get(owner, customer_id=BEN).status == 404


def test_only_admins_see_a_customer_known_only_from_enrolments() -> None:
    scenario = Example().target()
    assert scenario.get().status == 200
    assert scenario.get(Principal(OWNER, is_admin=False)).status == 404
    assert Example().target("removed").get().status == 404
    assert Example().customer().get().status == 200


def test_a_deleted_customer_is_404_unless_a_flag_is_set() -> None:
    scenario = Example().customer(deleted=True).campaign().target()
    assert scenario.get().status == 404
    assert scenario.get(include_deleted="false").status == 404
    assert scenario.listed(include_deleted="ON") == [1]
    assert scenario.listed(only_deleted="t") == []
    assert scenario.customer(deleted=None).listed() == [1]


def test_a_search_key_ignores_marks_case_and_compatibility_forms() -> None:
    assert search_key("Été ﬁnal Straße İSTANBUL ⅣＡ") == "ete final strasse istanbul iva"
    assert search_key("ΣΊΣΥΦΟΣ") == search_key("σίσυφος")
    assert search_key("ı") == "ı"


def test_q_matches_name_goal_and_agent_name_separately() -> None:
    scenario = Example().target("enrolled", 1).target("enrolled", 2).target("enrolled", 3)
    scenario.campaign(1, name="Été 100%").campaign(2, name="x", goal="a_b").campaign(3, name="y", agent_name="Zoë\\")
    for q, expected in (("ETE", [1]), ("%", [1]), ("_", [2]), ("\\", [3]), ("zoe", [3]), ("xa", []), (" x ", [2])):
        assert scenario.listed(q=q) == expected, q
    assert scenario.listed(q=" \t ") == [1, 2, 3]


def test_date_bounds_are_inclusive_and_a_date_covers_its_day() -> None:
    scenario = Example()
    for number, day in enumerate(("04T23:59:59.999999", "05T00:00:00", "05T23:59:59.999999", "06T00:00:00")):
        scenario.campaign(number).target("enrolled", number, enrolled_at=f"2024-03-{day}Z")
    assert scenario.listed(date_from="2024-03-05", date_to="2024-03-05") == [2, 1]
    assert scenario.listed(date_from="2024-03-05T23:59:59.999999") == [3, 2]
    assert scenario.listed(date_to="2024-03-05T01:00:00+01:00") == [1, 0]
    assert scenario.listed(date_from="2024-03-06", date_to="2024-03-05") == []


def test_ties_are_ordered_by_id_and_nulls_last_in_both_directions() -> None:
    scenario = Example().campaign(1).campaign(2, created_at=NOON).campaign(3, created_at="2024-03-06T00:00:00Z")
    scenario.campaign(4).campaign(5, created_at=NOON)
    for number in (5, 4, 3, 2, 1):
        scenario.target("enrolled", number)
    assert scenario.listed(sort_field="created_at", sort_dir="asc") == [2, 5, 3, 1, 4]
    assert scenario.listed(sort_field="created_at", sort_dir="desc") == [3, 2, 5, 1, 4]
    assert scenario.listed(sort_dir="asc") == scenario.listed(sort_dir="desc") == [1, 2, 3, 4, 5]


def test_status_sorts_by_lifecycle_and_name_by_search_key() -> None:
    scenario = Example()
    for number, (status, name) in enumerate((("paused", "b"), ("done", "Á"), ("draft", "a b"), ("running", "ZZ"))):
        scenario.campaign(number, status=status, name=name).target("enrolled", number)
    assert scenario.listed(sort_field="status", sort_dir="asc") == [2, 3, 0, 1]
    assert scenario.listed(sort_field="name", sort_dir="asc") == [1, 2, 0, 3]


def test_meta_and_query_echo_what_was_applied() -> None:
    body = Example().customer().body(q="  Été ", date_from="2024-03-05", date_to="2024-03-05", limit="5")
    sort = {"field": "enrolled_at", "direction": "desc"}
    assert body == {
        "data": [],
        "meta": {"total": 0, "limit": 5, "offset": 0, "sort": sort},
        "query": {
            "q": "Été",
            "date_from": "2024-03-05T00:00:00Z",
            "date_to": "2024-03-05T23:59:59.999999Z",
            "sort": sort,
            "filters": {"include_deleted": False, "only_deleted": False},
        },
    }


def test_total_and_next_page_are_counted_before_paging() -> None:
    scenario = Example().campaign(1).campaign(2).campaign(3)
    scenario.target("enrolled", 1).target("enrolled", 2).target("enrolled", 3)
    assert [scenario.get(limit=2, offset=offset).has_next for offset in (0, 1, 2, 2**63 - 1)] == [
        True,
        False,
        False,
        False,
    ]
    assert scenario.body(limit=1, offset=2)["meta"]["total"] == 3
    assert scenario.listed(limit=2, offset=2) == [3]


def test_aggregations_count_the_total_and_deleted_ignores_the_flags() -> None:
    scenario = Example().campaign(1).campaign(2, status="done").campaign(3, name="other")
    scenario.target("enrolled", 1).target("enrolled", 2).target("enrolled", 3).target("removed", 2)
    zeros = dict.fromkeys(("draft", "running", "paused", "done"), 0)
    assert scenario.body(include_aggregations=1)["aggregations"] == {
        "quick_filters": zeros | {"all": 2, "running": 2},
        "extra": {"deleted": 1},
    }
    assert scenario.body(include_aggregations=1, only_deleted=1, q="camp")["aggregations"] == {
        "quick_filters": zeros | {"all": 1, "done": 1},
        "extra": {"deleted": 1},
    }
    assert "aggregations" not in scenario.body(include_aggregations=0)


def test_all_invalid_parameters_are_reported_and_before_404() -> None:
    response = Example().get(
        customer_id="x", limit="0", offset="", q="\0", sort_field="id", sort_dir="ASC", only_deleted="2"
    )
    names = ("limit", "offset", "q", "sort_field", "sort_dir", "only_deleted")
    assert (response.status, response.body) == (422, None)
    assert response.locs == {("path", "customer_id"), *(("query", name) for name in names)}


def test_the_last_repeated_parameter_counts_and_unknown_ones_do_not() -> None:
    reference = Example().customer().reference
    pairs = [("limit", "abc"), ("limit", "7"), ("colour", "\0")]
    response = reference.respond(ADMIN, f"/customers/{ANNA}/campaigns", pairs)
    assert response.body is not None
    assert response.body["meta"]["limit"] == 7


INTEGERS = (
    "7",
    "+7",
    "007",
    " 7 ",
    "\t7\n",
    "7.0",
    "7.00",
    "1_0",
    "-0",
    "7.",
    "_1",
    "1__0",
    "1_",
    "7.01",
    "+ 7",
    "-1.0",
)
BOOLEANS = ("TRUE", "tRue", " true", "T", "Yes", "oN", "2", "Y", "", "off", "F", "n", "NO", "0", "1", "null")
IDS = (ANNA, ANNA.upper(), ANNA.replace("-", ""), f"urn:uuid:{ANNA}", f"{{{ANNA}}}", f" {ANNA}", f"uuid:{ANNA}")
UNUSUAL_IDS = (f"{{{ANNA.replace('-', '')}}}", f"URN:UUID:{ANNA}", ANNA.replace("-", "", 1), f"{{{ANNA}")


def outcome(read: Any, raw: str) -> object:
    try:
        return read(raw)
    except (ValueError, ValidationError):
        return "refused"


@pytest.mark.parametrize("raw", [*INTEGERS, *INVALID_VALUES["limit"], *INVALID_VALUES["offset"]])
def test_integers_are_read_as_pydantic_reads_them(raw: str) -> None:
    pydantic = TypeAdapter(Annotated[int, Field(ge=1, le=200)])
    assert outcome(read_integer(1, 200), raw) == outcome(pydantic.validate_python, raw)


@pytest.mark.parametrize("raw", [*BOOLEANS, *INVALID_VALUES["include_deleted"], *INVALID_VALUES["only_deleted"]])
def test_booleans_are_read_as_pydantic_reads_them(raw: str) -> None:
    assert outcome(read_boolean, raw) == outcome(TypeAdapter(bool).validate_python, raw)


@pytest.mark.parametrize("raw", [*IDS, *UNUSUAL_IDS, *INVALID_IDS])
def test_ids_are_read_as_pydantic_reads_them(raw: str) -> None:
    read = outcome(TypeAdapter(UUID).validate_python, raw)
    assert outcome(read_customer_id, raw) == str(read)


@pytest.mark.parametrize("raw", [*INVALID_VALUES["date_from"], *INVALID_VALUES["date_to"], "", "2024-03-05T10"])
def test_an_invalid_date_is_refused(raw: str) -> None:
    assert outcome(read_moment, raw) == outcome(read_date_to, raw) == "refused"


def test_dates_are_read_in_every_notation() -> None:
    ten = datetime(2024, 3, 5, 10, 0, tzinfo=UTC)
    spellings = ("10:00", "10:00:00", "10:00:00.000Z", "12:00:00+02:00", "07:00-03:00", "10:00Z")
    assert {read_moment(f"2024-03-05T{clock}") for clock in spellings} == {ten}
    assert format_utc(read_date_to("9999-12-31")) == "9999-12-31T23:59:59.999999Z"


def test_one_example_of_each_parking_reason() -> None:
    scenario = Example()
    for subject, body in (
        ("membership.customer.x", b"x" * (256 * 1024 + 1)),
        ("membership.customer.x", b"[" * 100_000),
        ("membership.customer.x", b'{"specversion": "1.0"}'),
    ):
        scenario.reference.apply(subject, body, -len(body))
    scenario.add_event("customer.vanished.v1", f"customer.{ANNA}").customer(owner_id="x")
    scenario.add_event("campaign.deleted.v1", f"campaign.{CAMPAIGNS[2]}", campaign_id=CAMPAIGNS[1])
    assert list(scenario.reference.parked.values()) == ["oversize", "json", "envelope", "type", "field", "subject"]
    assert not any(scenario.reference.model.values())


@pytest.mark.parametrize("version", [0, -1, 2**63, "7", 1.0, True, None])
def test_a_version_is_a_positive_int64(version: object) -> None:
    assert Example().customer(version=version).reference.parked == {1: "field"}


@pytest.mark.parametrize("seed", range(3))
def test_any_delivery_of_a_history_has_the_expected_outcome(seed: int) -> None:
    history = History(seed)
    for delivery in (history.publications, history.publications[::-1], history.delivery(1), history.delivery(2)):
        reference = Reference()
        for position, publication in enumerate(delivery):
            reference.apply(publication.subject, publication.body, position)
        assert reference.model == history.final()
        assert reference.parked.keys() == {
            position for position, publication in enumerate(delivery) if publication.defect
        }


def test_a_history_and_its_requests_depend_only_on_their_seeds() -> None:
    assert History(7).delivery(1) == History(7).delivery(1)
    assert request_cases(History(7), 1, 50) == request_cases(History(7), 1, 50)
    assert History(7).delivery(1) != History(7).delivery(2)
    assert History(7).customers != History(8).customers


def response_with(content: Fields, status: int = 200, media_type: str = "application/json") -> httpx.Response:
    request = httpx.Request("GET", "http://test/customers")
    body = json.dumps(content).encode()
    headers = {"content-type": media_type, "membership-position": "7"}
    return httpx.Response(status, content=body, headers=headers, request=request)


def test_the_comparison_detects_any_change_of_the_expected_body() -> None:
    scenario = Example().target().campaign(stages=[], goal_spec={"objectives": [{"type": "ai"}]}).counters()
    expected = scenario.get(include_aggregations=1)
    assert compare(expected, response_with(scenario.body(include_aggregations=1))) == ""
    rng = Random(1)
    for _ in range(200):
        body = json.loads(json.dumps(expected.body))
        change_one_value(rng, body)
        assert "GET" in compare(expected, response_with(body)), body


def change_one_value(rng: Random, container: Any) -> None:
    """Change or delete one value somewhere inside a JSON value."""
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    key = rng.choice(keys)
    if isinstance(container[key], dict | list) and container[key] and rng.random() < 0.9:
        change_one_value(rng, container[key])
    elif rng.random() < 0.3:
        del container[key]
    else:
        container[key] = rng.choice((None, "other", 12345, [1]))


def test_the_comparison_checks_types_locs_and_next_pages() -> None:
    scenario = Example().target().campaign().target("enrolled", 2).campaign(2)
    body = scenario.body(limit=1)
    assert "next_cursor" in compare(scenario.get(limit=1), response_with(body))
    body["query"]["filters"]["include_deleted"] = 0
    assert "include_deleted" in compare(scenario.get(limit=1), response_with(body))
    invalid = {"detail": [{"loc": ["query", "offset"], "msg": "", "type": ""}]}
    assert "locs" in compare(scenario.get(limit=0), response_with(invalid, 422))
    assert "content-type" in compare(scenario.get(customer_id=BEN), response_with({}, 404))
