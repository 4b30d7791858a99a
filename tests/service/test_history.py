"""The history of a membership: its events with their outcomes, and why the list shows it or not."""

import asyncio
import json
import re
from collections import Counter
from typing import Any

import httpx
import jsonschema
import pytest

from service import openapi
from tests.support.builders import body_of, campaign_id, customer_id, data_of, owner_id, subject_for
from tests.support.command import membership
from tests.support.processes import System
from tests.support.scenario import Scenario, bearer, code_of, locs, new_number

POSITION = "Membership-Min-Position"


def history_path(customer: int, campaign: int) -> str:
    return f"/customers/{customer_id(customer)}/campaigns/{campaign_id(campaign)}/history"


async def ask(
    scenario: Scenario, customer: int, campaign: int, headers: dict[str, str] | None = None, /, **params: Any
) -> httpx.Response:
    credentials = scenario.as_admin() if headers is None else headers
    return await scenario.client.get(history_path(customer, campaign), headers=credentials, params=params)


async def history(scenario: Scenario, customer: int, campaign: int, **params: Any) -> dict[str, Any]:
    """Return the body of a history, after checking it against the served schema."""
    reply = await ask(scenario, customer, campaign, **params)
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    document = json.loads(openapi.document())
    schema = {"$ref": "#/components/schemas/MembershipHistory", "components": document["components"]}
    jsonschema.validate(body, schema)
    return body


async def verdict(scenario: Scenario, customer: int, campaign: int) -> tuple[str, str]:
    """Return reason and detail, after checking that `visible` is what the list shows by default."""
    body = await history(scenario, customer, campaign)
    listed = await scenario.ask(customer, limit="200")
    shown = [item["id"] for item in listed.json()["data"]] if listed.status_code == 200 else []
    assert body["visible"] == (campaign_id(campaign) in shown) == (body["reason"] == "visible")
    return body["reason"], body["detail"]


def outcomes(body: dict[str, Any]) -> list[tuple[str | None, str, int | None]]:
    return [(event.get("type"), event["outcome"], event.get("superseded_by")) for event in body["events"]]


def stable_headers(reply: httpx.Response) -> tuple[tuple[str, str], ...]:
    return tuple(item for item in reply.headers.items() if item[0] not in {"server-timing", "date"})


async def test_a_visible_membership_has_its_events_in_stream_order(scenario: Scenario) -> None:
    campaign = scenario.campaign("Spring")
    customer = scenario.member_of(campaign)
    first = await scenario.publish_and_wait() - 2
    scenario.add_event("target.removed.v1", customer=customer, campaign=campaign, reason="moved")
    scenario.add_event("target.restored.v1", customer=customer, campaign=campaign)
    scenario.add_event("campaign.status_changed.v1", campaign=campaign, status="paused")
    last = await scenario.publish_and_wait()
    body = await history(scenario, customer, campaign)
    assert body == {
        "customer_id": customer_id(customer),
        "campaign_id": campaign_id(campaign),
        "visible": True,
        "reason": "visible",
        "detail": body["detail"],
        "enrolled_at": body["enrolled_at"],
        "events": body["events"],
        "meta": {"limit": 50},
    }
    assert outcomes(body) == [
        ("campaign.upserted.v1", "applied", None),
        ("target.enrolled.v1", "applied", None),
        ("target.removed.v1", "applied", last - 1),
        ("target.restored.v1", "applied", None),
        ("campaign.status_changed.v1", "applied", None),
    ]
    assert [event["position"] for event in body["events"]] == [first, first + 2, last - 2, last - 1, last]
    assert body["events"][2] == {
        "position": last - 2,
        "time": "2026-01-01T00:00:00Z",
        "type": "target.removed.v1",
        "id": body["events"][2]["id"],
        "source": "tests",
        "version": "4",
        "outcome": "applied",
        "superseded_by": last - 1,
        "detail": 'reason "moved"',
    }
    assert re.fullmatch(
        rf'In "Spring" since \d+ January 2026, \d\d:\d\d UTC \(event {first + 2}\); '
        rf"removed on 1 January 2026, 00:00 UTC \(event {last - 2}\) "
        rf"and restored on 1 January 2026, 00:00 UTC \(event {last - 1}\)\.",
        body["detail"],
    )


async def test_each_reason_is_given_with_a_sentence_and_agrees_with_the_list(scenario: Scenario) -> None:
    shown, other = scenario.campaign("Shown"), scenario.campaign("Other")
    deleted, unknown = scenario.campaign("Deleted"), new_number()
    customer, gone = scenario.customer(), scenario.customer()
    scenario.enrol(customer, shown, deleted, unknown)
    scenario.enrol(gone, shown)
    scenario.add_event("target.removed.v1", customer=customer, campaign=shown)
    scenario.add_event("campaign.deleted.v1", campaign=deleted)
    scenario.add_event("customer.upserted.v1", customer=gone, deleted=True)
    last = await scenario.publish_and_wait()
    removed, campaign_deleted, customer_deleted = last - 2, last - 1, last
    assert await verdict(scenario, customer, other) == (
        "never_enrolled",
        'Never enrolled in "Other": no enrolment event is applied.',
    )
    assert (await verdict(scenario, customer, unknown))[0] == "campaign_unknown"
    reason, detail = await verdict(scenario, customer, shown)
    assert (reason, f"(event {removed})" in detail) == ("target_removed", True)
    reason, detail = await verdict(scenario, customer, deleted)
    assert (reason, f"(event {campaign_deleted})" in detail) == ("campaign_deleted", True)
    reason, detail = await verdict(scenario, gone, shown)
    assert (reason, f"(event {customer_deleted})" in detail) == ("customer_deleted", True)
    assert "customer.upserted.v1" not in str(await history(scenario, gone, shown))


async def test_of_several_reasons_the_nearest_to_the_target_is_given(scenario: Scenario) -> None:
    campaign, other = scenario.campaign(), scenario.campaign()
    customer = scenario.member_of(campaign)
    steps: list[tuple[str, dict[str, Any], str]] = [
        ("customer.upserted.v1", {"customer": customer, "deleted": True}, "customer_deleted"),
        ("campaign.deleted.v1", {"campaign": campaign}, "campaign_deleted"),
        ("target.removed.v1", {"customer": customer, "campaign": campaign}, "target_removed"),
    ]
    for event_type, fields, reason in steps:
        scenario.add_event(event_type, **fields)
        await scenario.publish_and_wait()
        assert (await verdict(scenario, customer, campaign))[0] == reason
    assert (await verdict(scenario, customer, other))[0] == "never_enrolled"


async def test_a_removal_without_an_enrolment_is_never_enrolled(scenario: Scenario) -> None:
    campaign, customer = scenario.campaign("Spring"), scenario.customer()
    scenario.add_event("target.removed.v1", customer=customer, campaign=campaign)
    position = await scenario.publish_and_wait()
    reason, detail = await verdict(scenario, customer, campaign)
    assert reason == "never_enrolled"
    assert f"only a removal is known on 1 January 2026, 00:00 UTC (event {position})" in detail
    assert "enrolled_at" not in await history(scenario, customer, campaign)


async def test_duplicates_and_superseded_events_are_told_apart(scenario: Scenario) -> None:
    campaign = scenario.campaign()
    customer = scenario.member_of(campaign)
    await scenario.publish_and_wait()
    fields = {"customer": customer, "campaign": campaign}
    data = data_of("target.removed.v1", 9, **fields)
    body = body_of("target.removed.v1", data, id=f"twice-{customer}")
    old = data_of("target.restored.v1", 8, **fields)
    scenario.unpublished += [
        (subject_for("target.removed.v1", data), body),
        (subject_for("target.removed.v1", data), body),
        (subject_for("target.restored.v1", old), body_of("target.restored.v1", old)),
    ]
    last = await scenario.publish_and_wait()
    assert outcomes(await history(scenario, customer, campaign))[-3:] == [
        ("target.removed.v1", "applied", None),
        ("target.removed.v1", "duplicate", None),
        ("target.restored.v1", "superseded", last - 2),
    ]


async def test_a_parked_event_is_shown_as_far_as_it_can_be_read(scenario: Scenario, system: System) -> None:
    campaign = scenario.campaign("Spring")
    customer = scenario.customer()
    subject = f"membership.target.{customer_id(customer)}.{campaign_id(campaign)}"
    scenario.unpublished += [
        (subject, b"no JSON"),
        (subject, body_of("target.enrolled.v9", {"version": 2**60}, id="unknown-type")),
        (subject, b'{"id":"' + b"x" * 300_000 + b'"}'),
    ]
    last = await scenario.publish_and_wait()
    body = await history(scenario, customer, campaign)
    garbage, unknown, oversize = body["events"][-3:]
    assert garbage == {"position": last - 2, "outcome": "parked", "detail": garbage["detail"]}
    assert garbage["detail"].startswith("invalid_json: ")
    assert (unknown["type"], unknown["id"], unknown["version"]) == ("target.enrolled.v9", "unknown-type", str(2**60))
    assert unknown["detail"].startswith("unknown_type: ")
    assert oversize["detail"].startswith("oversize: ")
    assert len(str(oversize)) < 1_000
    assert body["detail"].endswith(f" 3 events of it are parked and not applied (the last event {last}).")
    discard = await membership(system.environment, "parked", "discard", str(last - 1), "--reason", "secret words")
    assert discard.code == 0, discard.err
    body = await history(scenario, customer, campaign)
    assert body["events"][-2]["outcome"] == "parked"
    assert body["events"][-2]["detail"].startswith("discarded: ")
    assert "secret words" not in str(body)


async def test_an_event_that_the_tables_refused_is_parked(scenario: Scenario, system: System) -> None:
    campaign = scenario.campaign("kept")
    customer = scenario.member_of(campaign)
    await scenario.publish_and_wait()
    (live,) = await system.fetch("SELECT generation FROM control.live")
    name = f"{live['generation']}.membership"
    constraint = f"refused_{customer}"
    await system.fetch(f"ALTER TABLE {name} ADD CONSTRAINT {constraint} CHECK (presence_reason <> '{constraint}')")
    try:
        scenario.add_event("target.removed.v1", customer=customer, campaign=campaign, reason=constraint)
        await scenario.publish_and_wait()
        body = await history(scenario, customer, campaign)
    finally:
        await system.fetch(f"ALTER TABLE {name} DROP CONSTRAINT {constraint}")
    assert (body["visible"], body["events"][-1]["outcome"]) == (True, "parked")
    assert body["events"][-1]["detail"].startswith("refused_by_tables: ")
    assert body["events"][-1]["type"] == "target.removed.v1"


async def test_counters_are_included_on_request_only(scenario: Scenario) -> None:
    campaign = scenario.campaign()
    customer = scenario.member_of(campaign)
    for _ in range(3):
        scenario.add_event("campaign.counters_changed.v1", campaign=campaign)
    last = await scenario.publish_and_wait()
    types = [kind for kind, _, _ in outcomes(await history(scenario, customer, campaign))]
    assert "campaign.counters_changed.v1" not in types
    included = outcomes(await history(scenario, customer, campaign, include="counters"))
    assert included[-3:] == [
        ("campaign.counters_changed.v1", "applied", last - 1),
        ("campaign.counters_changed.v1", "applied", last),
        ("campaign.counters_changed.v1", "applied", None),
    ]


async def test_a_high_version_is_sent_as_a_string(scenario: Scenario) -> None:
    campaign = scenario.campaign()
    customer = scenario.member_of(campaign)
    data = data_of("target.removed.v1", 2**63 - 1, customer=customer, campaign=campaign)
    scenario.unpublished.append((subject_for("target.removed.v1", data), body_of("target.removed.v1", data)))
    await scenario.publish_and_wait()
    assert (await history(scenario, customer, campaign))["events"][-1]["version"] == str(2**63 - 1)


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_pages_add_up_to_the_history_while_events_arrive(scenario: Scenario, limit: int) -> None:
    campaign = scenario.campaign()
    customer = scenario.member_of(campaign)
    for step in range(10):
        name = "removed" if step % 2 else "restored"
        scenario.add_event(f"target.{name}.v1", customer=customer, campaign=campaign)
    await scenario.publish_and_wait()
    whole = await history(scenario, customer, campaign)
    paged: list[int] = []
    params: dict[str, Any] = {"limit": limit}
    for _ in range(20):
        body = await history(scenario, customer, campaign, **params)
        assert body["meta"]["limit"] == limit
        assert len(body["events"]) <= limit
        paged += [event["position"] for event in body["events"]]
        if len(paged) == limit:
            scenario.add_event("campaign.status_changed.v1", campaign=campaign)
            added = await scenario.publish_and_wait()
        if "next_cursor" not in body["meta"]:
            break
        params["cursor"] = body["meta"]["next_cursor"]
    assert paged == [*(event["position"] for event in whole["events"]), added]


async def test_a_cursor_of_another_request_or_caller_is_refused(scenario: Scenario) -> None:
    campaign, other = scenario.campaign(), scenario.campaign()
    customer = scenario.member_of(campaign, other)
    await scenario.publish_and_wait()
    cursor = (await history(scenario, customer, campaign, limit=1))["meta"]["next_cursor"]
    assert (await ask(scenario, customer, campaign, cursor=cursor, limit=2)).status_code == 200
    listing = (await scenario.page(customer, limit="1"))["meta"]["next_cursor"]
    refused = [
        await ask(scenario, customer, other, cursor=cursor),
        await ask(scenario, customer, campaign, cursor=cursor, include="counters"),
        await ask(scenario, customer, campaign, bearer(1), cursor=cursor),
        await ask(scenario, customer, campaign, cursor=listing),
        await ask(scenario, customer, campaign, cursor=cursor[:-1]),
        await ask(scenario, customer, campaign, cursor=""),
        await scenario.ask(customer, cursor=cursor),
    ]
    assert [locs(reply) for reply in refused] == [[["query", "cursor"]]] * len(refused)


async def test_missing_and_foreign_memberships_give_the_same_404(scenario: Scenario) -> None:
    campaign, customer = scenario.campaign(), scenario.customer()
    foreign_campaign = scenario.campaign(owner_id=owner_id(2))
    foreign_customer = scenario.customer(owner_id=owner_id(2))
    scenario.enrol(customer, campaign, foreign_campaign, undefined := new_number())
    scenario.enrol(foreign_customer, campaign)
    scenario.enrol(unowned := new_number(), campaign)
    await scenario.publish_and_wait()
    missing, absent = new_number(), new_number()
    assert (await ask(scenario, customer, campaign, bearer(1))).status_code == 200
    same_id = {"X-Request-ID": "one"}
    hidden = [(foreign_customer, campaign), (customer, foreign_campaign), (unowned, campaign), (customer, undefined)]
    unknown = [(missing, campaign), (customer, absent), (missing, absent)]
    replies = [await ask(scenario, *pair, bearer(1) | same_id) for pair in (*hidden, *unknown)]
    assert {code_of(reply) for reply in replies} == {(404, "membership_not_found")}
    assert len({reply.content for reply in replies}) == 1
    assert len({stable_headers(reply) for reply in replies}) == 1
    assert [(await ask(scenario, *pair)).status_code for pair in hidden] == [200] * 4
    assert [(await ask(scenario, *pair)).status_code for pair in unknown] == [404] * 3


async def test_checks_go_credentials_then_parameters_then_existence(scenario: Scenario) -> None:
    path = "/customers/none/campaigns/nothing/history?limit=0&include=all&cursor=%C3"
    reply = await scenario.client.get(path)
    assert code_of(reply) == (401, "unauthenticated")
    assert "www-authenticate" in reply.headers
    reply = await scenario.client.get(path, headers=scenario.as_admin(**{POSITION: "-1"}))
    assert locs(reply) == [
        ["path", "customer_id"],
        ["path", "campaign_id"],
        ["query", "limit"],
        ["query", "include"],
        ["header", POSITION],
        ["query", "cursor"],
    ]
    violations = {tuple(violation["loc"]): violation for violation in reply.json()["detail"]}
    assert violations["query", "limit"]["type"] == "greater_than_equal"
    assert violations["query", "include"] == {
        "loc": ["query", "include"],
        "msg": "Input should be 'counters'",
        "type": "literal_error",
    }
    assert violations["path", "campaign_id"]["type"] == "uuid_parsing"
    missing = await ask(scenario, new_number(), new_number(), limit=200, unknown="ignored")
    assert code_of(missing) == (404, "membership_not_found")


async def test_head_and_validators_work_as_on_the_list(scenario: Scenario) -> None:
    campaign = scenario.campaign()
    customer = scenario.member_of(campaign)
    for event_type in ("target.removed.v1", "target.restored.v1") * 5:
        scenario.add_event(event_type, customer=customer, campaign=campaign)
    position = await scenario.publish_and_wait()
    path, admin = history_path(customer, campaign), scenario.as_admin()
    got = await scenario.client.get(path, headers=admin)
    head = await scenario.client.head(path, headers=admin)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "content-type", "membership-position", "vary", "cache-control"):
        assert head.headers[name] == got.headers[name]
    assert int(got.headers["membership-position"]) >= position
    unchanged = await scenario.client.get(path, headers=admin | {"If-None-Match": got.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert (await scenario.client.post(path, headers=admin)).status_code == 405
    for coding in ("gzip", "zstd"):
        packed = await scenario.client.get(path, headers=admin | {"Accept-Encoding": coding})
        assert packed.headers["content-encoding"] == coding
        assert packed.headers["etag"] == got.headers["etag"].removesuffix('"') + f'-{coding}"'
        assert packed.content == got.content


async def test_a_publisher_reads_the_history_of_its_own_event(scenario: Scenario) -> None:
    campaign = scenario.campaign()
    customer = scenario.member_of(campaign)
    position = await scenario.publish()
    reply = await ask(scenario, customer, campaign, scenario.as_admin(**{POSITION: str(position)}))
    assert reply.json()["events"][-1]["position"] == position
    late = scenario.as_admin(**{POSITION: str(2**62), "Prefer": "wait=0"})
    assert code_of(await ask(scenario, customer, campaign, late)) == (503, "position_not_reached")
    scenario.unpublished.append((f"membership.customer.{customer_id(customer)}", b"no JSON"))
    parked = await scenario.publish_and_wait()
    reply = await ask(scenario, customer, campaign, scenario.as_admin(**{POSITION: str(parked)}))
    assert (reply.status_code, reply.headers["membership-parked"]) == (200, "invalid_json")


async def test_many_histories_at_once_are_read_or_refused_quickly(scenario: Scenario) -> None:
    campaign = scenario.campaign()
    customer = scenario.member_of(campaign)
    await scenario.publish_and_wait()
    replies = await asyncio.gather(*(ask(scenario, customer, campaign) for _ in range(300)))
    codes = Counter(reply.json().get("code", "read") for reply in replies)
    assert codes["read"] > 20
    assert codes.keys() <= {"read", "history_busy"}
    assert len({reply.content for reply in replies if reply.status_code == 200}) == 1


async def test_histories_have_their_own_route_in_the_metrics(scenario: Scenario) -> None:
    await ask(scenario, new_number(), new_number())
    text = (await scenario.client.get("/metrics")).text
    label = "/customers/{customer_id}/campaigns/{campaign_id}/history"
    assert f'membership_http_requests_total{{route="{label}",status="404"}}' in text
    assert customer_id(1)[:8] not in text
