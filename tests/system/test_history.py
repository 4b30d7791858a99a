"""Histories of random deliveries: the verdict is what the list shows, and outcomes are those of an independent fold."""

import json
import os
from collections import Counter
from random import Random
from typing import Any

import httpx
import pytest

from consumers import stream
from consumers.client import connect_once
from ops.token import sign
from tests.support.builders import campaign_id, customer_id, published
from tests.support.command import membership
from tests.support.differential import DifferentialRun, in_batches
from tests.support.processes import ADMIN, System, free_port
from tests.support.random_history import History
from tests.support.reference_history import Sent, expected_history
from tests.support.reference_model import Principal, Reference

SEEDS = range(2000, 2000 + int(os.environ.get("MEMBERSHIP_TEST_SEEDS", "2")))
"""Other histories than those of the differential tests: the broker drops a message id that it has just seen."""
CONCURRENCY_MAX = 8
PAIRS = 80
REASONS = {"visible", "never_enrolled", "campaign_unknown", "target_removed", "campaign_deleted", "customer_deleted"}


def expected_reason(reference: Reference, customer: str, campaign: str) -> str:
    """Return the reason that docs/api.md gives, from the reference's registers."""
    model = reference.model
    if (customer, campaign) not in model["enrolment"]:
        return "never_enrolled"
    if campaign not in model["definition"]:
        return "campaign_unknown"
    if not model["presence"][customer, campaign][1]:
        return "target_removed"
    if model["deletion"].get(campaign, (0, False))[1]:
        return "campaign_deleted"
    deleted = customer in model["customer"] and model["customer"][customer][1]["deleted"]
    return "customer_deleted" if deleted else "visible"


def exists(reference: Reference, customer: str, campaign: str) -> bool:
    """Return whether customer and campaign exist for an admin."""
    model = reference.model
    enrolled = {other for other, _ in model["enrolment"]}
    campaigns = {*model["definition"], *model["status"], *model["deletion"]}
    known = campaign in campaigns or (customer, campaign) in model["presence"]
    return (customer in model["customer"] or customer in enrolled) and known


def may_see(reference: Reference, owner: str, customer: str, campaign: str) -> bool:
    """Return whether a caller owns both customer and campaign."""
    model = reference.model
    owned = customer in model["customer"] and model["customer"][customer][1]["owner_id"] == owner
    return owned and campaign in model["definition"] and model["definition"][campaign][1]["owner_id"] == owner


def messages_by_subject(run: DifferentialRun) -> dict[str, list[Sent]]:
    found: dict[str, list[Sent]] = {}
    for position, sent in run.published.items():
        found.setdefault(sent.subject, []).append(Sent(position, sent.subject, sent.body))
    return found


async def whole_history(client: httpx.AsyncClient, customer: str, campaign: str, limit: int) -> dict[str, Any]:
    """Return a history with the events of all its pages."""
    params: dict[str, Any] = {"limit": limit}
    events: list[Any] = []
    while True:
        reply = await client.get(f"/customers/{customer}/campaigns/{campaign}/history", params=params)
        assert reply.status_code == 200, reply.text
        body: dict[str, Any] = reply.json()
        events += body["events"]
        if "next_cursor" not in body["meta"]:
            return body | {"events": events}
        params["cursor"] = body["meta"]["next_cursor"]


async def default_listing(client: httpx.AsyncClient, customer: str) -> set[str]:
    reply = await client.get(f"/customers/{customer}/campaigns", params={"limit": 200})
    return {item["id"] for item in reply.json()["data"]} if reply.status_code == 200 else set()


@pytest.mark.parametrize("seed", SEEDS)
async def test_verdicts_agree_with_the_list_and_outcomes_with_the_reference(system: System, seed: int) -> None:
    rng, history = Random(seed), History(seed)
    run = DifferentialRun(system)
    await run.publish(history.delivery(seed))
    pairs = [(customer, campaign) for customer in history.customers for campaign in history.campaigns]
    chosen = [pair for pair in rng.sample(pairs, PAIRS) if exists(run.reference, *pair)]
    chosen += [pair for pair in pairs if exists(run.reference, *pair) and pair not in chosen and is_rare(run, *pair)][
        :30
    ]
    messages = messages_by_subject(run)
    seen: Counter[str] = Counter()
    headers = {"Authorization": f"Bearer {system.admin_token}"}
    async with httpx.AsyncClient(base_url=system.api_url, headers=headers, timeout=30) as client:
        listings = {customer: await default_listing(client, customer) for customer in history.customers}

        async def compare(pair: tuple[str, str]) -> None:
            customer, campaign = pair
            body = await whole_history(client, customer, campaign, rng.choice((2, 7, 200)))
            assert body["reason"] == expected_reason(run.reference, customer, campaign)
            assert body["visible"] == (campaign in listings[customer]) == (body["reason"] == "visible")
            subjects = (f"membership.target.{customer}.{campaign}", f"membership.campaign.{campaign}")
            expected = expected_history([sent for subject in subjects for sent in messages.get(subject, [])])
            shown = [
                (event["position"], {name: event[name] for name in ("outcome", "superseded_by") if name in event})
                for event in body["events"]
            ]
            assert shown == sorted(expected.items(), key=lambda item: item[0])
            enrolment = run.reference.model["enrolment"].get(pair)
            assert ("enrolled_at" in body) == (enrolment is not None)
            seen.update([body["reason"], *(event["outcome"] for event in body["events"])])

        await in_batches(compare, chosen, CONCURRENCY_MAX)
    assert REASONS | {"applied", "superseded", "duplicate", "parked"} <= seen.keys()


def is_rare(run: DifferentialRun, customer: str, campaign: str) -> bool:
    return expected_reason(run.reference, customer, campaign) in {"campaign_unknown", "customer_deleted"}


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_history_is_found_by_its_owner_only(system: System, seed: int) -> None:
    history = History(seed + 1000)
    run = DifferentialRun(system)
    await run.publish(history.delivery(seed))
    owner = Principal(history.owners[0], is_admin=False)
    token = sign(system.jwt_secret, owner.user_id, admin=False, ttl_s=600)
    statuses: Counter[int] = Counter()
    async with httpx.AsyncClient(base_url=system.api_url, headers={"Authorization": f"Bearer {token}"}) as client:
        for customer in history.customers:
            for campaign in history.campaigns[::4]:
                reply = await client.get(f"/customers/{customer}/campaigns/{campaign}/history")
                assert reply.status_code == (200 if may_see(run.reference, owner.user_id, customer, campaign) else 404)
                statuses[reply.status_code] += 1
    assert min(statuses[200], statuses[404]) > 5
    assert owner.user_id != ADMIN


async def test_explain_gives_the_endpoints_answer_and_tells_unknown_ids(system: System) -> None:
    campaign, customer = 71, 72
    events = [
        published("customer.upserted.v1", 1, customer=customer),
        published("campaign.upserted.v1", 1, campaign=campaign, name="Spring\x1b[2J"),
        published("target.enrolled.v1", 1, customer=customer, campaign=campaign),
        published("target.removed.v1", 2, customer=customer, campaign=campaign),
        published("target.restored.v1", 1, customer=customer, campaign=campaign),
    ]
    last = await system.publish(events)
    await system.wait_until_applied(last)
    ids = ("--customer", customer_id(customer), "--campaign", campaign_id(campaign))
    answer = (await system.get(f"/customers/{ids[1]}/campaigns/{ids[3]}/history")).json()
    printed = await membership(system.environment, "explain", *ids, "--json")
    assert printed.code == 0, printed.err
    assert json.loads(printed.out) | {"meta": answer["meta"]} == answer
    shown = await membership(system.environment, "explain", *ids)
    assert shown.code == 0, shown.err
    sentence, heading, *rows = shown.out.splitlines()
    assert sentence == answer["detail"]
    assert "\x1b" not in shown.out
    assert heading.split() == ["position", "time", "type", "version", "outcome", "source", "id", "detail"]
    assert [row.split()[0] for row in rows] == [str(event["position"]) for event in answer["events"]]
    assert f"superseded by {last - 1}" in rows[-1]
    listed = await membership(system.environment, "explain", *ids[:2], "--json")
    (entry,) = json.loads(listed.out)["memberships"]
    assert entry == {name: answer[name] for name in ("campaign_id", "visible", "reason", "detail", "enrolled_at")}
    for arguments, code, sentence in (
        ((*ids[:3], campaign_id(999)), 1, f"There is no campaign {campaign_id(999)}"),
        ((ids[0], customer_id(999), *ids[2:]), 1, f"There is no customer {customer_id(999)}"),
        ((ids[0], customer_id(999)), 1, f"There is no customer {customer_id(999)}"),
        ((ids[0], "c0ffee"), 2, "is not a valid UUID"),
        ((*ids[:3], "Spring"), 2, "is not a valid UUID"),
        ((), 2, "Missing option"),
    ):
        refused = await membership(system.environment, "explain", *arguments)
        assert (refused.code, refused.out) == (code, "")
        assert sentence in refused.err


async def test_explain_without_a_broker_says_so(system: System) -> None:
    await system.wait_until_applied(await system.publish([published("customer.upserted.v1", 1, customer=73)]))
    offline = system.environment | {"MEMBERSHIP_NATS_URL": f"nats://127.0.0.1:{free_port()}"}
    for campaign in ((), ("--campaign", campaign_id(71))):
        refused = await membership(offline, "explain", "--customer", customer_id(73), *campaign)
        assert (refused.code, refused.out) == (1, ""), refused.err
        assert "does not answer" in refused.err or "There is no campaign" in refused.err


async def test_explain_prints_the_verdict_of_every_membership(system: System) -> None:
    history = History(4000)
    run = DifferentialRun(system)
    await run.publish(history.delivery(1))
    customer = history.customers[0]
    explained = await membership(system.environment, "explain", "--customer", customer)
    assert explained.code == 0, explained.err
    *lines, summary = explained.out.splitlines()
    campaigns = sorted(campaign for other, campaign in run.reference.model["presence"] if other == customer)
    assert [line[:36] for line in lines] == campaigns
    verdicts = Counter(expected_reason(run.reference, customer, campaign) for campaign in campaigns)
    for reason, number in verdicts.items():
        assert f"{number} {reason}" in summary
    assert summary.startswith(f"{len(campaigns)} memberships: ")


async def history_of(system: System, customer: int, campaign: int) -> httpx.Response:
    return await system.get(f"/customers/{customer_id(customer)}/campaigns/{campaign_id(campaign)}/history")


async def test_an_event_that_is_not_applied_yet_is_not_shown(own_system: System) -> None:
    events = [published(name, 1) for name in ("customer.upserted.v1", "campaign.upserted.v1", "target.enrolled.v1")]
    applied = await own_system.publish(events)
    await own_system.wait_until_applied(applied)
    own_system.kill("project")
    removed = await own_system.publish([published("target.removed.v1", 2)])
    reply = await history_of(own_system, 1, 1)
    assert (reply.json()["visible"], int(reply.headers["membership-position"])) == (True, applied)
    assert [event["position"] for event in reply.json()["events"]] == [applied - 1, applied]
    own_system.launch("project")
    await own_system.wait_until_applied(removed)
    reply = await history_of(own_system, 1, 1)
    assert (reply.json()["reason"], reply.json()["events"][-1]["position"]) == ("target_removed", removed)


async def test_lost_events_are_named_and_an_erased_membership_is_unknown(own_system: System) -> None:
    events = [published(f"{name}.upserted.v1", 1) for name in ("customer", "campaign")]
    events += [published("target.enrolled.v1", 1), published("customer.upserted.v1", 1, customer=2)]
    events += [published("target.enrolled.v1", 1, customer=2)]
    await own_system.wait_until_applied(await own_system.publish(events))
    erased = await membership(own_system.environment, "erase", "--customer", customer_id(2), "--yes")
    assert erased.code == 0, erased.err
    assert (await history_of(own_system, 2, 1)).json()["code"] == "membership_not_found"
    assert (await history_of(own_system, 1, 1)).json()["visible"]
    client = await connect_once(own_system.nats_url, "test")
    await stream.purge(client, f"membership.target.{customer_id(1)}.{campaign_id(1)}")
    await client.close()
    body = (await history_of(own_system, 1, 1)).json()
    assert (body["visible"], [event["type"] for event in body["events"]]) == (True, ["campaign.upserted.v1"])
    assert "an event that the stream no longer holds" in body["detail"]
