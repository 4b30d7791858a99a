"""A reader who names the position of a parked event is told so: waiting longer would not help."""

from tests.support.builders import customer_id
from tests.support.command import membership
from tests.support.processes import System
from tests.support.scenario import Scenario, bearer, code_of

POSITION = "Membership-Min-Position"
PARKED = "Membership-Parked"


async def test_an_answer_says_why_the_event_at_the_named_position_was_parked(story: Scenario) -> None:
    customer = story.member_of(story.campaign("kept"))
    before = await story.publish_and_wait()
    story.untold.append((f"membership.customer.{customer_id(customer)}", b"no JSON"))
    parked = await story.publish_and_wait()
    for _ in range(3):  # from memory, if that were certain
        reply = await story.ask(customer, story.as_admin(**{POSITION: str(parked)}))
        assert (reply.status_code, reply.headers[PARKED]) == (200, "invalid_json")
        assert int(reply.headers["membership-position"]) >= parked
        assert PARKED not in (await story.ask(customer, story.as_admin(**{POSITION: str(before)}))).headers
        assert PARKED not in (await story.ask(customer)).headers
    unchanged = await story.ask(
        customer, story.as_admin(**{POSITION: str(parked), "If-None-Match": reply.headers["etag"]})
    )
    assert (unchanged.status_code, unchanged.headers[PARKED]) == (304, "invalid_json")
    foreign = await story.ask(customer, bearer(2) | {POSITION: str(parked)})
    assert code_of(foreign) == (404, "customer_not_found")
    assert foreign.headers[PARKED] == "invalid_json"
    searched = await story.ask(customer, story.as_admin(**{POSITION: str(parked)}), q="kept")
    assert searched.headers[PARKED] == "invalid_json"


async def test_a_discarded_event_is_named_as_such(story: Scenario, system: System) -> None:
    customer = story.member_of(story.campaign("kept"))
    await story.publish_and_wait()
    story.untold.append((f"membership.customer.{customer_id(customer)}", b"no JSON"))
    parked = await story.publish_and_wait()
    command = ("parked", "discard", str(parked), "--reason", "a test")
    assert (await membership(system.environment, *command)).code == 0
    reply = await story.ask(customer, story.as_admin(**{POSITION: str(parked)}))
    assert (reply.status_code, reply.headers[PARKED]) == (200, "discarded")


async def test_a_position_that_is_no_number_is_refused_from_memory_too(story: Scenario) -> None:
    customer = story.member_of(story.campaign("kept"))
    await story.publish_and_wait()
    for _ in range(3):
        assert (await story.ask(customer)).status_code == 200
    for odd in ("", "x", "-1", "1.5"):
        reply = await story.ask(customer, story.as_admin(**{POSITION: odd}))
        assert reply.status_code == 422, odd
        assert reply.json()["detail"][0]["loc"] == ["header", POSITION]
