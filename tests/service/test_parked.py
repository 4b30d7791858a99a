"""A response to a request for a parked event's position reports the parking: waiting longer would not help."""

from tests.support.builders import customer_id
from tests.support.command import membership
from tests.support.processes import System
from tests.support.scenario import Scenario, bearer, code_of

POSITION = "Membership-Min-Position"
PARKED = "Membership-Parked"


async def test_a_response_reports_why_the_requested_event_was_parked(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign("kept"))
    before = await scenario.publish_and_wait()
    scenario.unpublished.append((f"membership.customer.{customer_id(customer)}", b"no JSON"))
    parked = await scenario.publish_and_wait()
    for _ in range(3):  # a cached response must not be served
        reply = await scenario.ask(customer, scenario.as_admin(**{POSITION: str(parked)}))
        assert (reply.status_code, reply.headers[PARKED]) == (200, "invalid_json")
        assert int(reply.headers["membership-position"]) >= parked
        assert PARKED not in (await scenario.ask(customer, scenario.as_admin(**{POSITION: str(before)}))).headers
        assert PARKED not in (await scenario.ask(customer)).headers
    unchanged = await scenario.ask(
        customer, scenario.as_admin(**{POSITION: str(parked), "If-None-Match": reply.headers["etag"]})
    )
    assert (unchanged.status_code, unchanged.headers[PARKED]) == (304, "invalid_json")
    foreign = await scenario.ask(customer, bearer(2) | {POSITION: str(parked)})
    assert code_of(foreign) == (404, "customer_not_found")
    assert foreign.headers[PARKED] == "invalid_json"
    searched = await scenario.ask(customer, scenario.as_admin(**{POSITION: str(parked)}), q="kept")
    assert searched.headers[PARKED] == "invalid_json"


async def test_a_discarded_event_is_reported_as_discarded(scenario: Scenario, system: System) -> None:
    customer = scenario.member_of(scenario.campaign("kept"))
    await scenario.publish_and_wait()
    scenario.unpublished.append((f"membership.customer.{customer_id(customer)}", b"no JSON"))
    parked = await scenario.publish_and_wait()
    command = ("parked", "discard", str(parked), "--reason", "a test")
    assert (await membership(system.environment, *command)).code == 0
    reply = await scenario.ask(customer, scenario.as_admin(**{POSITION: str(parked)}))
    assert (reply.status_code, reply.headers[PARKED]) == (200, "discarded")


async def test_an_invalid_position_is_rejected_even_for_a_cached_page(scenario: Scenario) -> None:
    customer = scenario.member_of(scenario.campaign("kept"))
    await scenario.publish_and_wait()
    for _ in range(3):
        assert (await scenario.ask(customer)).status_code == 200
    for odd in ("", "x", "-1", "1.5"):
        reply = await scenario.ask(customer, scenario.as_admin(**{POSITION: odd}))
        assert reply.status_code == 422, odd
        assert reply.json()["detail"][0]["loc"] == ["header", POSITION]
