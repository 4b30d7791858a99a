"""Holds the reference itself against hand-written examples, so that a difference points at the service."""

import json
from datetime import UTC, datetime
from random import Random
from typing import Annotated, Any
from uuid import UUID

import httpx
import pytest
from pydantic import Field, TypeAdapter, ValidationError

from tests.support.api_fuzz import WRONG_IDS, WRONG_VALUES, compare, questions
from tests.support.random_history import History
from tests.support.reference_model import (
    Expected,
    Fields,
    Principal,
    Reference,
    outgoing,
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


class Story:
    """A reference with short words for telling it events; versions rise by themselves unless given."""

    def __init__(self) -> None:
        self.reference = Reference()
        self._position = 0

    def tell(self, event_type: str, subject: str, **fields: object) -> "Story":
        self._position += 1
        fields.setdefault("version", self._position)
        event = {"specversion": "1.0", "id": "e", "source": "s", "type": event_type, "time": NOON}
        body = json.dumps({**event, "data": fields}).encode()
        self.reference.apply(f"membership.{subject}", body, self._position)
        return self

    def customer(self, customer_id: str = ANNA, owner_id: str = OWNER, **more: object) -> "Story":
        subject = f"customer.{customer_id}"
        return self.tell("customer.upserted.v1", subject, customer_id=customer_id, owner_id=owner_id, **more)

    def campaign(self, number: int = 1, **more: object) -> "Story":
        fields = {
            "campaign_id": CAMPAIGNS[number],
            "owner_id": OWNER,
            "name": f"Campaign {number}",
            "status": "running",
            "agent_id": AGENT,
            "first_contact_channel": "call",
            "whatsapp_after_attempts": 3,
        }
        return self.tell("campaign.upserted.v1", f"campaign.{CAMPAIGNS[number]}", **(fields | more))

    def change(self, what: str, number: int = 1, **more: object) -> "Story":
        subject = f"campaign.{CAMPAIGNS[number]}"
        return self.tell(f"campaign.{what}.v1", subject, campaign_id=CAMPAIGNS[number], **more)

    def counters(self, number: int = 1, **more: object) -> "Story":
        names = ("total", "contacted", "remaining", "to_recall", "failed", "succeeded")
        fields = {f"contacts_{name}": 1 for name in names} | {"progress": 0.5, "campaign_id": CAMPAIGNS[number]}
        subject = f"counters.{CAMPAIGNS[number]}"
        return self.tell("campaign.counters_changed.v1", subject, **(fields | more))

    def target(self, what: str = "enrolled", number: int = 1, customer_id: str = ANNA, **more: object) -> "Story":
        fields = {"target_id": AGENT, "customer_id": customer_id, "campaign_id": CAMPAIGNS[number]}
        enrolled_at = {"enrolled_at": NOON} if what == "enrolled" else {}
        subject = f"target.{customer_id}.{CAMPAIGNS[number]}"
        return self.tell(f"target.{what}.v1", subject, **(fields | enrolled_at | more))

    def ask(self, principal: Principal = ADMIN, customer_id: str = ANNA, **parameters: object) -> Expected:
        pairs = [(name, str(value)) for name, value in parameters.items()]
        return self.reference.answer(principal, f"/customers/{customer_id}/campaigns", pairs)

    def body(self, principal: Principal = ADMIN, **parameters: object) -> Fields:
        answer = self.ask(principal, ANNA, **parameters)
        assert answer.body is not None, answer
        return answer.body

    def listed(self, principal: Principal = ADMIN, **parameters: object) -> list[int]:
        """Return the numbers of the campaigns on the page."""
        return [CAMPAIGNS.index(item["id"]) for item in self.body(principal, **parameters)["data"]]


def test_a_membership_shows_once_both_enrolment_and_campaign_are_known() -> None:
    story = Story().target()
    assert story.body()["data"] == []
    assert story.campaign().listed() == [1]
    assert Story().customer().campaign().listed() == []
    assert Story().customer().campaign().target("restored").listed() == []


def test_an_item_is_complete_with_defaults_filled_and_absent_fields_omitted() -> None:
    story = Story().target().campaign(goal=None, goal_spec={"objectives": [{"type": "contact", "min_count": None}]})
    assert story.body()["data"] == [
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


def test_nested_objects_get_the_contracts_defaults_and_lose_what_is_unknown() -> None:
    stage = {"id": AGENT, "campaign_id": CAMPAIGNS[1], "key": "k", "name": "n", "position": 0}
    stage |= {"semantic_type": "new", "created_at": "2024-03-05T14:00:00+02:00", "updated_at": NOON, "x": 1}
    objectives = [{"type": "email"}, {"type": "ai", "label_in": ["positive"]}]
    story = Story().target()
    story.campaign(call_working_hours={}, stages=[stage], goal_spec={"objectives": objectives})
    item = story.body()["data"][0]
    assert item["call_working_hours"] == {"start": "09:00:00", "end": "19:00:00"}
    assert item["goal_spec"]["objectives"] == [
        {"type": "email", "min_count": 1},
        {"type": "ai", "label_in": ["positive"], "min_score": 0},
    ]
    del stage["x"]
    assert item["stages"] == [{**stage, "is_system": False, "created_at": NOON}]


def test_a_strictly_higher_version_wins_and_the_first_of_a_tie_stays() -> None:
    story = Story().target().campaign(version=5, name="five").campaign(version=4, name="four")
    assert story.body()["data"][0]["name"] == "five"
    assert story.campaign(version=5, name="tie").body()["data"][0]["name"] == "five"
    assert story.campaign(version=6, name="six").body()["data"][0]["name"] == "six"


def test_each_register_keeps_its_own_version() -> None:
    story = Story().target(version=1).campaign(version=1)
    story.change("status_changed", version=9, status="paused").campaign(version=5, name="renamed", status="done")
    item = story.body()["data"][0]
    assert (item["name"], item["status"]) == ("renamed", "paused")
    story.target("removed", version=9).target(version=5, enrolled_at="2030-01-01T00:00:00Z")
    assert story.listed() == []
    assert story.listed(only_deleted=1, date_from="2030-01-01") == [1]


def test_a_deleted_campaign_stays_deleted_whatever_is_upserted_until_restored() -> None:
    story = Story().target().change("deleted").campaign()
    assert story.listed() == []
    assert story.listed(only_deleted="yes") == [1]
    assert story.change("restored").listed() == [1]


def test_deleted_is_removed_target_or_deleted_campaign() -> None:
    story = Story().campaign(1).campaign(2).campaign(3).target("enrolled", 1).target("enrolled", 2)
    story.target("enrolled", 3).target("removed", 2).change("deleted", 3)
    assert story.listed() == [1]
    assert story.listed(include_deleted="true") == [1, 2, 3]
    assert story.listed(only_deleted="true") == [2, 3]
    assert story.listed(include_deleted="true", only_deleted="true") == [2, 3]


def test_counters_come_from_the_latest_event_only() -> None:
    story = Story().target().campaign().counters(version=7, contacts_total=2**63 - 1)
    item = story.counters(version=6).body()["data"][0]
    assert (item["contacts_total"], item["contacts_failed"], item["progress"]) == (2**63 - 1, 1, 0.5)


def test_who_may_see_a_customer_and_which_campaigns() -> None:
    story = Story().customer().campaign(1).campaign(2, owner_id=OTHER).target("enrolled", 1).target("enrolled", 2)
    owner, stranger = Principal(OWNER, is_admin=False), Principal(OTHER, is_admin=False)
    assert story.listed() == [1, 2]
    assert story.listed(owner) == [1]
    assert story.body(owner, include_aggregations=1)["aggregations"]["quick_filters"]["all"] == 1
    assert story.ask(stranger).status == 404
    assert story.ask(owner, customer_id=BEN).status == 404


def test_a_customer_known_only_from_enrolments_is_for_admins_and_from_a_removal_for_nobody() -> None:
    story = Story().target()
    assert story.ask().status == 200
    assert story.ask(Principal(OWNER, is_admin=False)).status == 404
    assert Story().target("removed").ask().status == 404
    assert Story().customer().ask().status == 200


def test_a_deleted_customer_is_404_unless_a_flag_is_set() -> None:
    story = Story().customer(deleted=True).campaign().target()
    assert story.ask().status == 404
    assert story.ask(include_deleted="false").status == 404
    assert story.listed(include_deleted="ON") == [1]
    assert story.listed(only_deleted="t") == []
    assert story.customer(deleted=None).listed() == [1]


def test_a_search_key_has_no_marks_no_case_and_no_compatibility_forms() -> None:
    assert search_key("Été ﬁnal Straße İSTANBUL ⅣＡ") == "ete final strasse istanbul iva"
    assert search_key("ΣΊΣΥΦΟΣ") == search_key("σίσυφος")
    assert search_key("ı") == "ı"


def test_q_matches_name_goal_and_agent_name_each_by_itself() -> None:
    story = Story().target("enrolled", 1).target("enrolled", 2).target("enrolled", 3)
    story.campaign(1, name="Été 100%").campaign(2, name="x", goal="a_b").campaign(3, name="y", agent_name="Zoë\\")
    for q, found in (("ETE", [1]), ("%", [1]), ("_", [2]), ("\\", [3]), ("zoe", [3]), ("xa", []), (" x ", [2])):
        assert story.listed(q=q) == found, q
    assert story.listed(q=" \t ") == [1, 2, 3]


def test_dates_bound_enrolment_inclusively_and_a_date_covers_its_day() -> None:
    story = Story()
    for number, day in enumerate(("04T23:59:59.999999", "05T00:00:00", "05T23:59:59.999999", "06T00:00:00")):
        story.campaign(number).target("enrolled", number, enrolled_at=f"2024-03-{day}Z")
    assert story.listed(date_from="2024-03-05", date_to="2024-03-05") == [2, 1]
    assert story.listed(date_from="2024-03-05T23:59:59.999999") == [3, 2]
    assert story.listed(date_to="2024-03-05T01:00:00+01:00") == [1, 0]
    assert story.listed(date_from="2024-03-06", date_to="2024-03-05") == []


def test_order_puts_ties_by_id_and_null_last_in_both_directions() -> None:
    story = Story().campaign(1).campaign(2, created_at=NOON).campaign(3, created_at="2024-03-06T00:00:00Z")
    story.campaign(4).campaign(5, created_at=NOON)
    for number in (5, 4, 3, 2, 1):
        story.target("enrolled", number)
    assert story.listed(sort_field="created_at", sort_dir="asc") == [2, 5, 3, 1, 4]
    assert story.listed(sort_field="created_at", sort_dir="desc") == [3, 2, 5, 1, 4]
    assert story.listed(sort_dir="asc") == story.listed(sort_dir="desc") == [1, 2, 3, 4, 5]


def test_status_sorts_by_lifecycle_and_name_by_search_key() -> None:
    story = Story()
    for number, (status, name) in enumerate((("paused", "b"), ("done", "Á"), ("draft", "a b"), ("running", "ZZ"))):
        story.campaign(number, status=status, name=name).target("enrolled", number)
    assert story.listed(sort_field="status", sort_dir="asc") == [2, 3, 0, 1]
    assert story.listed(sort_field="name", sort_dir="asc") == [1, 2, 0, 3]


def test_meta_and_query_echo_what_was_applied() -> None:
    body = Story().customer().body(q="  Été ", date_from="2024-03-05", date_to="2024-03-05", limit="5")
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
    story = Story().campaign(1).campaign(2).campaign(3)
    story.target("enrolled", 1).target("enrolled", 2).target("enrolled", 3)
    assert [story.ask(limit=2, offset=offset).has_next for offset in (0, 1, 2, 2**63 - 1)] == [
        True,
        False,
        False,
        False,
    ]
    assert story.body(limit=1, offset=2)["meta"]["total"] == 3
    assert story.listed(limit=2, offset=2) == [3]


def test_aggregations_count_what_total_counts_and_deleted_whatever_the_flags() -> None:
    story = Story().campaign(1).campaign(2, status="done").campaign(3, name="other")
    story.target("enrolled", 1).target("enrolled", 2).target("enrolled", 3).target("removed", 2)
    nothing = dict.fromkeys(("draft", "running", "paused", "done"), 0)
    assert story.body(include_aggregations=1)["aggregations"] == {
        "quick_filters": nothing | {"all": 2, "running": 2},
        "extra": {"deleted": 1},
    }
    assert story.body(include_aggregations=1, only_deleted=1, q="camp")["aggregations"] == {
        "quick_filters": nothing | {"all": 1, "done": 1},
        "extra": {"deleted": 1},
    }
    assert "aggregations" not in story.body(include_aggregations=0)


def test_all_wrong_parameters_are_named_at_once_and_before_404() -> None:
    answer = Story().ask(
        customer_id="x", limit="0", offset="", q="\0", sort_field="id", sort_dir="ASC", only_deleted="2"
    )
    names = ("limit", "offset", "q", "sort_field", "sort_dir", "only_deleted")
    assert (answer.status, answer.body) == (422, None)
    assert answer.locs == {("path", "customer_id"), *(("query", name) for name in names)}


def test_of_a_repeated_parameter_the_last_counts_and_unknown_ones_are_ignored() -> None:
    reference = Story().customer().reference
    pairs = [("limit", "abc"), ("limit", "7"), ("colour", "\0")]
    answer = reference.answer(ADMIN, f"/customers/{ANNA}/campaigns", pairs)
    assert answer.body is not None
    assert answer.body["meta"]["limit"] == 7


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
ODD_IDS = (f"{{{ANNA.replace('-', '')}}}", f"URN:UUID:{ANNA}", ANNA.replace("-", "", 1), f"{{{ANNA}")


def outcome(read: Any, given: str) -> object:
    try:
        return read(given)
    except (ValueError, ValidationError):
        return "refused"


@pytest.mark.parametrize("given", [*INTEGERS, *WRONG_VALUES["limit"], *WRONG_VALUES["offset"]])
def test_integers_are_read_as_pydantic_reads_them(given: str) -> None:
    pydantic = TypeAdapter(Annotated[int, Field(ge=1, le=200)])
    assert outcome(read_integer(1, 200), given) == outcome(pydantic.validate_python, given)


@pytest.mark.parametrize("given", [*BOOLEANS, *WRONG_VALUES["include_deleted"], *WRONG_VALUES["only_deleted"]])
def test_booleans_are_read_as_pydantic_reads_them(given: str) -> None:
    assert outcome(read_boolean, given) == outcome(TypeAdapter(bool).validate_python, given)


@pytest.mark.parametrize("given", [*IDS, *ODD_IDS, *WRONG_IDS])
def test_ids_are_read_as_pydantic_reads_them(given: str) -> None:
    read = outcome(TypeAdapter(UUID).validate_python, given)
    assert outcome(read_customer_id, given) == str(read)


@pytest.mark.parametrize("given", [*WRONG_VALUES["date_from"], *WRONG_VALUES["date_to"], "", "2024-03-05T10"])
def test_what_is_no_date_is_refused(given: str) -> None:
    assert outcome(read_moment, given) == outcome(read_date_to, given) == "refused"


def test_dates_are_read_in_every_spelling() -> None:
    ten = datetime(2024, 3, 5, 10, 0, tzinfo=UTC)
    spellings = ("10:00", "10:00:00", "10:00:00.000Z", "12:00:00+02:00", "07:00-03:00", "10:00Z")
    assert {read_moment(f"2024-03-05T{clock}") for clock in spellings} == {ten}
    assert outgoing(read_date_to("9999-12-31")) == "9999-12-31T23:59:59.999999Z"


def test_one_example_of_each_reason_to_park() -> None:
    story = Story()
    for subject, body in (
        ("membership.customer.x", b"x" * (256 * 1024 + 1)),
        ("membership.customer.x", b"[" * 100_000),
        ("membership.customer.x", b'{"specversion": "1.0"}'),
    ):
        story.reference.apply(subject, body, -len(body))
    story.tell("customer.vanished.v1", f"customer.{ANNA}").customer(owner_id="x")
    story.tell("campaign.deleted.v1", f"campaign.{CAMPAIGNS[2]}", campaign_id=CAMPAIGNS[1])
    assert list(story.reference.parked.values()) == ["oversize", "json", "envelope", "type", "field", "subject"]
    assert not any(story.reference.model.values())


@pytest.mark.parametrize("version", [0, -1, 2**63, "7", 1.0, True, None])
def test_a_version_is_a_positive_int64(version: object) -> None:
    assert Story().customer(version=version).reference.parked == {1: "field"}


@pytest.mark.parametrize("seed", range(3))
def test_any_delivery_of_a_world_comes_to_what_its_maker_meant(seed: int) -> None:
    world = History(seed)
    for delivery in (world.publications, world.publications[::-1], world.scrambled(1), world.scrambled(2)):
        reference = Reference()
        for position, publication in enumerate(delivery):
            reference.apply(publication.subject, publication.body, position)
        assert reference.model == world.final()
        assert reference.parked.keys() == {at for at, each in enumerate(delivery) if each.spoiled}


def test_a_world_and_its_questions_depend_on_their_seeds_alone() -> None:
    assert History(7).scrambled(1) == History(7).scrambled(1)
    assert questions(History(7), 1, 50) == questions(History(7), 1, 50)
    assert History(7).scrambled(1) != History(7).scrambled(2)
    assert History(7).customers != History(8).customers


def response_to(question: Fields, status: int = 200, media_type: str = "application/json") -> httpx.Response:
    request = httpx.Request("GET", "http://test/customers")
    body = json.dumps(question).encode()
    headers = {"content-type": media_type, "membership-position": "7"}
    return httpx.Response(status, content=body, headers=headers, request=request)


def test_the_comparison_accepts_the_expected_body_and_notices_any_change_in_it() -> None:
    story = Story().target().campaign(stages=[], goal_spec={"objectives": [{"type": "ai"}]}).counters()
    expected = story.ask(include_aggregations=1)
    assert compare(expected, response_to(story.body(include_aggregations=1))) == ""
    rng = Random(1)
    for _ in range(200):
        body = json.loads(json.dumps(expected.body))
        spoil(rng, body)
        found = compare(expected, response_to(body))
        assert "GET" in found, body


def spoil(rng: Random, holder: Any) -> None:
    """Change one thing somewhere inside a JSON value."""
    places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    place = rng.choice(places)
    if isinstance(holder[place], dict | list) and holder[place] and rng.random() < 0.9:
        spoil(rng, holder[place])
    elif rng.random() < 0.3:
        del holder[place]
    else:
        holder[place] = rng.choice((None, "other", 12345, [1]))


def test_the_comparison_minds_types_locs_and_next_pages() -> None:
    story = Story().target().campaign().target("enrolled", 2).campaign(2)
    body = story.body(limit=1)
    assert "next_cursor" in compare(story.ask(limit=1), response_to(body))
    body["query"]["filters"]["include_deleted"] = 0
    assert "include_deleted" in compare(story.ask(limit=1), response_to(body))
    wrong = {"detail": [{"loc": ["query", "offset"], "msg": "", "type": ""}]}
    assert "locs" in compare(story.ask(limit=0), response_to(wrong, 422))
    assert "content-type" in compare(story.ask(customer_id=BEN), response_to({}, 404))
