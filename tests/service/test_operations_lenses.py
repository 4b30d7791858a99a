"""The lenses of the operators' API: one customer, one campaign, and the newest events of the stream."""

import signal
from typing import Any

import pytest

from projections import api_keys
from projections.store import database
from service.parameters import LIMIT_MAX
from tests.support.builders import body_of, campaign_id, customer_id, data_of, owner_id, published, subject_for
from tests.support.operators import ask
from tests.support.processes import System, eventually
from tests.support.scenario import Scenario, code_of, locs, new_number

REMOVED, RESTORED = "target.removed.v1", "target.restored.v1"


async def shown(scenario: Scenario, path: str, **params: Any) -> dict[str, Any]:
    return await ask(scenario.client, path, scenario.as_admin(), **params)


async def test_a_customer_is_shown_with_what_the_list_answers_and_why(scenario: Scenario) -> None:
    spring, summer = scenario.campaign("Spring"), scenario.campaign("Summer", owner_id=owner_id(2))
    unknown = new_number()
    customer = scenario.member_of(spring, summer, unknown)
    scenario.add_event(REMOVED, customer=customer, campaign=summer)
    last = await scenario.publish_and_wait()
    lens = await shown(scenario, f"/customers/{customer_id(customer)}")
    assert (lens["known"], lens["owner_id"], lens["deleted"], lens["position"]) == (True, owner_id(1), False, last)
    assert lens["answer"] == await scenario.page(customer, include_deleted="true", limit="50")
    found = [(each["campaign_id"], each["visible"], each["reason"]) for each in lens["memberships"]]
    assert found == [
        (campaign_id(spring), True, "visible"),
        (campaign_id(summer), False, "target_removed"),
        (campaign_id(unknown), False, "campaign_unknown"),
    ]
    assert lens["memberships"][0]["campaign_name"] == "Spring"
    assert "campaign_name" not in lens["memberships"][2]
    assert "stream_problem" not in lens


async def test_the_sentences_of_a_lens_are_those_of_the_history(scenario: Scenario) -> None:
    campaigns = [scenario.campaign(f"Campaign {number}") for number in range(3)]
    customer = scenario.member_of(*campaigns)
    scenario.add_event(REMOVED, customer=customer, campaign=campaigns[0])
    scenario.add_event(RESTORED, customer=customer, campaign=campaigns[0])
    scenario.add_event("campaign.deleted.v1", campaign=campaigns[1])
    await scenario.publish_and_wait()
    lens = await shown(scenario, f"/customers/{customer_id(customer)}")
    for membership in lens["memberships"]:
        path = f"/customers/{customer_id(customer)}/campaigns/{membership['campaign_id']}/history"
        history = (await scenario.client.get(path, headers=scenario.as_admin())).json()
        assert (membership["sentence"], membership["reason"]) == (history["detail"], history["reason"])
        assert "(event " in membership["sentence"]
    assert "removed on" in lens["memberships"][0]["sentence"]
    assert "was deleted on" in lens["memberships"][1]["sentence"]


async def test_the_memberships_of_a_lens_come_page_by_page(scenario: Scenario) -> None:
    campaigns = [scenario.campaign() for _ in range(5)]
    customer = scenario.member_of(*campaigns)
    await scenario.publish_and_wait()
    path = f"/customers/{customer_id(customer)}"
    first = await shown(scenario, path, limit=3)
    second = await shown(scenario, path, limit=3, after=first["next_cursor"])
    ids = [each["campaign_id"] for each in first["memberships"] + second["memberships"]]
    assert ids == [campaign_id(number) for number in campaigns]
    assert len(first["answer"]["data"]) == 5
    assert second.keys().isdisjoint({"answer", "next_cursor"})


async def test_a_deleted_customer_and_an_unknown_one_are_shown_as_such(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign())
    scenario.add_event("customer.upserted.v1", customer=customer, deleted=True)
    await scenario.publish_and_wait()
    lens = await shown(scenario, f"/customers/{customer_id(customer)}")
    assert (lens["deleted"], lens["memberships"][0]["reason"]) == (True, "customer_deleted")
    assert lens["answer"]["meta"]["total"] == 1
    nobody = customer_id(new_number())
    unknown = await shown(scenario, f"/customers/{nobody}")
    assert unknown | {"position": 0} == {"customer_id": nobody, "known": False, "position": 0, "memberships": []}
    reply = await scenario.client.get("/ops/customers/not-an-id", headers=scenario.as_admin())
    assert locs(reply) == [["path", "customer_id"]]


async def test_a_key_to_operate_sees_customers_of_every_owner(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign())
    await scenario.publish_and_wait()
    connection = await database.connect(scenario.system.database_url, "test")
    scopes: tuple[api_keys.Scope, ...] = ("operate",)
    key = await api_keys.create(connection, owner_id(99), is_admin=False, label="", actor="test", scopes=scopes)
    await connection.close()
    reply = await scenario.client.get(f"/ops/customers/{customer_id(customer)}", headers={"X-API-Key": key})
    assert len(reply.json()["answer"]["data"]) == 1


async def test_a_campaign_is_shown_with_its_card_and_the_event_of_its_counters(scenario: Scenario) -> None:
    campaign = scenario.campaign("Spring", status="paused")
    customer = scenario.member_of(campaign)
    scenario.add_event("campaign.counters_changed.v1", campaign=campaign)
    last = await scenario.publish_and_wait()
    lens = await shown(scenario, f"/campaigns/{campaign_id(campaign)}")
    assert (lens["known"], lens["owner_id"], lens["status"], lens["deleted"]) == (True, owner_id(1), "paused", False)
    (item,) = (await scenario.page(customer))["data"]
    assert {name: item[name] for name in lens["card"]} == lens["card"]
    assert (lens["counters"]["position"], lens["counters"]["version"]) == (last, str(scenario._version))
    assert lens["counters"]["contacts_total"] == scenario._version
    assert (lens["members"], lens["sentence"]) == ({"total": 1}, '"Spring" is paused and has 1 enrolment.')
    assert "fan_out" not in lens
    # An older event comes later: it loses, and the position of the counters is not that of another event.
    await scenario.system.wait_until_applied(
        await scenario.system.publish([published("campaign.counters_changed.v1", 1, campaign=campaign)])
    )
    assert "position" not in (await shown(scenario, f"/campaigns/{campaign_id(campaign)}"))["counters"]


async def test_a_campaign_says_what_is_known_of_it(scenario: Scenario) -> None:
    deleted, undefined, nothing = scenario.campaign("Old"), new_number(), new_number()
    scenario.add_event("campaign.deleted.v1", campaign=deleted)
    scenario.member_of(undefined)
    await scenario.publish_and_wait()
    sentences = {
        number: (await shown(scenario, f"/campaigns/{campaign_id(number)}")) for number in (deleted, undefined, nothing)
    }
    assert '"Old" is deleted' in sentences[deleted]["sentence"]
    assert "No definition" in sentences[undefined]["sentence"]
    assert (sentences[undefined]["known"], sentences[nothing]["known"]) == (True, False)
    assert sentences[nothing].keys() == {"campaign_id", "known", "members", "sentence"}


async def test_a_pending_fan_out_is_shown_with_its_campaign(own_system: System) -> None:
    await own_system.wait_until_applied(await own_system.publish([published("campaign.upserted.v1", 1)]))
    own_system.kill("project")
    await own_system.fetch(
        "INSERT INTO control.fan_out (generation, campaign_id, resumes_at) VALUES ('g1', $1, $2)",
        campaign_id(1),
        customer_id(5),
    )
    lens = (await own_system.get(f"/ops/campaigns/{campaign_id(1)}")).json()
    assert lens["fan_out"] == {"resumes_at": customer_id(5)}
    assert "still being copied" in lens["sentence"]


async def test_the_members_of_a_campaign_come_page_by_page(scenario: Scenario) -> None:
    campaign = scenario.campaign()
    customers = [scenario.member_of(campaign) for _ in range(5)]
    scenario.add_event(REMOVED, customer=customers[1], campaign=campaign)
    await scenario.publish_and_wait()
    path = f"/campaigns/{campaign_id(campaign)}/members"
    first = await shown(scenario, path, limit=3)
    second = await shown(scenario, path, limit=3, after=first["next_cursor"])
    members = first["members"] + second["members"]
    assert [each["customer_id"] for each in members] == [customer_id(number) for number in customers]
    assert [each["present"] for each in members] == [True, False, True, True, True]
    assert "next_cursor" not in second


async def test_the_newest_events_are_filtered_by_subject_and_come_page_by_page(scenario: Scenario) -> None:
    campaign = scenario.campaign()
    customers = [scenario.member_of(campaign) for _ in range(4)]
    scenario.unpublished.append(("membership.odd", b"\xff{"))
    last = await scenario.publish_and_wait()
    (newest,) = (await shown(scenario, "/stream/events", limit=1))["events"]
    assert (newest["position"], newest["subject"], newest["body"]) == (last, "membership.odd", "\\xff{")
    assert newest.keys() == {"position", "time", "subject", "body", "body_bytes"}
    pattern = f"membership.target.*.{campaign_id(campaign)}"
    first = await shown(scenario, "/stream/events", subject=pattern, limit=3)
    second = await shown(scenario, "/stream/events", subject=pattern, limit=3, before=first["next_cursor"])
    subjects = [event["subject"].split(".")[2] for event in first["events"] + second["events"]]
    assert subjects == [customer_id(number) for number in reversed(customers)]
    assert first["events"][0].items() >= {"type": "target.enrolled.v1", "source": "tests"}.items()
    last_page = await shown(scenario, "/stream/events", subject=pattern, before=second["next_cursor"])
    assert last_page == {"events": []}


@pytest.mark.parametrize("subject", ["other.>", "membership", "membership.>.x", "membership.a b", "$JS.API.>", ""])
async def test_a_subject_outside_the_stream_is_refused(scenario: Scenario, subject: str) -> None:
    reply = await scenario.client.get("/ops/stream/events", headers=scenario.as_admin(), params={"subject": subject})
    assert locs(reply) == [["query", "subject"]]


async def test_a_large_event_is_cut_but_its_size_is_shown(scenario: Scenario) -> None:
    data = data_of("campaign.upserted.v1", 1, campaign=new_number(), goal="x" * 100_000)
    body = body_of("campaign.upserted.v1", data)
    await scenario.system.publish([(subject_for("campaign.upserted.v1", data), body)])
    (event,) = (await shown(scenario, "/stream/events", limit=1))["events"]
    assert (len(event["body"]), event["body_bytes"]) == (8_192, len(body))
    assert event["type"] == "campaign.upserted.v1"


async def test_without_a_broker_the_lenses_say_so_and_still_explain(own_system: System) -> None:
    events = [
        published("campaign.upserted.v1", 1, name="Spring"),
        published("target.enrolled.v1", 1),
        published("campaign.counters_changed.v1", 1),
    ]
    await own_system.wait_until_applied(await own_system.publish(events))
    own_system.broker.stop()
    lens = (await own_system.get(f"/ops/customers/{customer_id(1)}")).json()
    assert lens["memberships"][0]["sentence"].startswith('In "Spring" since 1 January 2026')
    assert "event" not in lens["memberships"][0]["sentence"]
    assert lens["stream_problem"]
    counters = (await own_system.get(f"/ops/campaigns/{campaign_id(1)}")).json()["counters"]
    assert (counters["version"], "position" in counters) == ("1", False)
    assert code_of(await own_system.get("/ops/stream/events")) == (503, "stream_unavailable")


async def test_an_api_without_a_broker_url_says_what_to_set(own_system: System) -> None:
    await own_system.wait_until_applied(
        await own_system.publish([published("campaign.upserted.v1", 1), published("target.enrolled.v1", 1)])
    )
    own_system.kill("serve", signal.SIGTERM)
    own_system.settings["MEMBERSHIP_NATS_URL"] = ""
    own_system.launch("serve")
    await eventually(own_system._ready, "the API is ready")
    assert code_of(await own_system.get("/ops/stream/events")) == (503, "broker_not_configured")
    lens = (await own_system.get(f"/ops/customers/{customer_id(1)}")).json()
    assert "MEMBERSHIP_NATS_URL" in lens["stream_problem"]
    assert lens["memberships"][0]["visible"] is True


async def test_a_page_of_200_memberships_is_explained_in_time(scenario: Scenario) -> None:
    campaigns = [scenario.campaign() for _ in range(LIMIT_MAX)]
    customer = scenario.member_of(*campaigns)
    await scenario.publish_and_wait()
    lens = await shown(scenario, f"/customers/{customer_id(customer)}", limit=LIMIT_MAX)
    assert len(lens["memberships"]) == LIMIT_MAX
    assert all("(event " in each["sentence"] for each in lens["memberships"]), lens.get("stream_problem")
