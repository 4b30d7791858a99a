"""The running service against the contract file and the document it serves: generated requests, answers as promised."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from service import openapi
from tests.support.builders import an_id, customer_id, owner_id
from tests.support.processes import System
from tests.support.scenario import Scenario, bearer, client_of, new_number

CASES = int(os.environ.get("MEMBERSHIP_TEST_CASES", "1000"))
"""Generated requests over the contract file; half as many more go over the served document."""
LIST = "/customers/{customer_id}/campaigns"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ADDED = {401, 404, 503}
"""Answers that the served document adds, where the contract is silent."""
TIMEOUT_S = 15
CAMPAIGNS = 210
"""More than the largest page holds."""
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class World(NamedTuple):
    """What there is to ask about."""

    api_url: str
    customers: list[str]
    admin: dict[str, str]
    owner: dict[str, str]
    position: int


@pytest.fixture(scope="module")
async def world(system: System) -> World:
    """Customers with no, few, many, deleted and hidden campaigns that have all fields, some or none."""
    async with client_of(system.api_url) as client:
        story = Scenario(system, client)
        rng = Random(4)
        campaigns = [_campaign(story, rng) for _ in range(CAMPAIGNS)]
        everywhere, few, none, unknown = story.member_of(*campaigns), story.customer(), story.customer(), new_number()
        story.enrol(few, *campaigns[:3])
        story.enrol(unknown, *campaigns[3:5])
        for campaign in campaigns[::7]:
            story.add_event("target.removed.v1", customer=everywhere, campaign=campaign)
        for campaign in campaigns[::11]:
            story.add_event("campaign.deleted.v1", campaign=campaign)
        gone = story.member_of(*campaigns[:20])
        story.add_event("customer.upserted.v1", customer=gone, deleted=True)
        position = await story.publish_and_wait()
        customers = [customer_id(number) for number in (everywhere, few, none, unknown, gone)]
        return World(system.api_url, customers, story.as_admin(), bearer(1), position)


def _campaign(story: Scenario, rng: Random) -> int:
    stage = {"id": an_id("57", 1), "campaign_id": an_id("ca", 1), "key": "k", "name": "n", "position": 1}
    stage |= {"semantic_type": rng.choice(["new", "active", "won", "lost"]), "color": "#fff", "is_system": True}
    stage |= {"created_at": "2026-01-01T00:00:00.5Z", "updated_at": "2026-01-01T00:00:00+05:30"}
    objectives = [{"type": "contact", "channels": ["call"]}, {"type": "email"}, {"type": "ai", "label_in": ["neutral"]}]
    optional = {
        "created_at": "2026-01-01T00:00:00Z",
        "agent_name": "Ägent",
        "phone_number_id": an_id("0f", 1),
        "phone_number": "+39 02 1234",
        "whatsapp_channel_id": an_id("0f", 2),
        "goal": "a goal",
        "goal_spec": {"objectives": rng.sample(objectives, rng.randrange(4))},
        "call_opening_message": "Hello",
        "whatsapp_first_message": "Hi",
        "call_attempt_delays": [60, 3600],
        "call_working_hours": {"weekdays": [1, 2, 3]},
        "stages": [stage],
    }
    given_fields = {name: value for name, value in optional.items() if rng.random() < 0.5}
    status = rng.choice(["draft", "running", "paused", "done"])
    campaign = story.campaign(status=status, owner_id=owner_id(rng.choice([1, 1, 2])), **given_fields)
    if rng.random() < 0.5:
        story.add_event("campaign.counters_changed.v1", campaign=campaign)
    return campaign


def read(document: bytes) -> OpenApiSchema:
    """Read a document for schemathesis, its times of day with the meaning that their own defaults have.

    To JSON Schema a `time` has an offset (RFC 3339); the contract's default, 09:00:00, is the local time of ISO 8601.
    """
    whole = json.loads(document)
    window = whole["components"]["schemas"]["CampaignCallWindow"]["properties"]
    for name in ("start", "end"):
        assert window[name].pop("format") == "time"
        window[name]["pattern"] = r"^([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?$"
        assert re.fullmatch(window[name]["pattern"], window[name]["default"])
    return schemathesis.openapi.from_dict(whole)


# --- What is asked ---------------------------------------------------------------------------------------------------

SORT_FIELDS = ("enrolled_at", "name", "status", "created_at", "progress", "contacts_total", "contacts_succeeded")
DATES = ("2026-01-01", "2026-01-01T00:30:00Z", "2025-12-31T23:00:00-02:00", "20260101", "2026-01-02 00:00")
MERE_STRINGS = ("sort_field", "date_from", "date_to")
SENSIBLE = st.fixed_dictionaries(
    {},
    optional={
        "q": st.sampled_from(["campaign", "Ä", "1", "%", ""]),
        "offset": st.integers(0, CAMPAIGNS + 10),
        "sort_field": st.sampled_from(SORT_FIELDS),
        "date_from": st.sampled_from(DATES),
        "date_to": st.sampled_from(DATES),
    },
)
"""Values for what the contract calls a mere string, so that random ones do not make every request a 422."""


class Asking(NamedTuple):
    """Turns generated cases into requests of somebody about somebody, and counts what came of them."""

    world: World
    session: requests.Session
    checks: list[Any]
    undocumented: set[int]
    seen: Counter[int]

    def ask(self, case: Case) -> None:
        """Send a case, and hold the answer against the document."""
        reply = case.call(base_url=self.world.api_url, session=self.session, timeout=TIMEOUT_S)
        self.seen[reply.status_code] += 1
        if reply.status_code in self.undocumented:
            assert reply.headers["content-type"] == ["application/problem+json"]
            assert reply.json()["status"] == reply.status_code
            return
        # This one 503 is what was asked for; any other is a server error.
        is_too_early = reply.status_code == 503 and reply.json()["code"] == "position_not_reached"
        case.validate_response(reply, checks=self.checks[1:] if is_too_early else self.checks)


@contextmanager
def asking(world: World, checks: list[Any], undocumented: set[int]) -> Iterator[Asking]:
    with requests.Session() as session:
        session.headers.clear()
        yield Asking(world, session, checks, undocumented, Counter())


def adjusted(case: Case, customer: str | None, who: dict[str, str], sensible: dict[str, str]) -> Case:
    """Return a case about a customer and by a caller that exist, of sensible texts if it is to be a good one."""
    if customer is not None and UUID.fullmatch(str(case.path_parameters["customer_id"])):
        case.path_parameters["customer_id"] = customer
    assert case.meta is not None
    if case.meta.generation.mode is GenerationMode.POSITIVE:
        for name in MERE_STRINGS:
            case.query.pop(name, None)
        case.query.update(sensible)
    if who:
        case.headers.pop("X-API-Key", None)
        case.headers.update(who)
    if "Membership-Min-Position" in case.headers:
        # A position that will not come would be waited for, two seconds a case.
        case.headers["Prefer"] = "wait=0"
    return case


def ask_generated(asking: Asking, operation: APIOperation, mode: GenerationMode, cases: int) -> None:
    """Ask so many generated cases about the list."""
    customers = st.sampled_from([*asking.world.customers * 2, None])
    callers = st.sampled_from([*[asking.world.admin] * 8, *[asking.world.owner] * 4, {}])
    generated = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.builds(adjusted, generated, customers, callers, SENSIBLE))
    def ask(case: Case) -> None:
        asking.ask(case)

    ask()


def ask_at_the_boundaries(asking: Asking, schema: OpenApiSchema, operation: APIOperation) -> None:
    """Ask the cases that schemathesis derives from the bounds, types and presence of each parameter."""
    cases = schema.iter_coverage_cases(
        operation, generation_modes=list(GenerationMode), generation_config=schema.config.generation
    )
    for case in cases:
        if case.method == "GET":
            asking.ask(adjusted(case, asking.world.customers[0], asking.world.admin, {}))


# --- What must come of it --------------------------------------------------------------------------------------------


def test_generated_requests_over_the_contract_get_what_it_promises(world: World) -> None:
    schema = read(openapi.CONTRACT.read_bytes())
    operation = schema[LIST]["GET"]
    seen = {}
    for mode in GenerationMode:
        with asking(world, CHECKS, ADDED) as generated:
            ask_generated(generated, operation, mode, CASES // 2)
        seen[mode] = generated.seen
    with asking(world, CHECKS, ADDED) as bounds:
        ask_at_the_boundaries(bounds, schema, operation)

    good, bad = seen[GenerationMode.POSITIVE], seen[GenerationMode.NEGATIVE]
    assert good.total() + bad.total() >= CASES
    assert good[200] >= 0.5 * good.total()
    assert bad[422] >= 0.4 * bad.total()
    for status, share in ((200, 0.05), (401, 0.01), (404, 0.01)):
        assert good[status] + bad[status] >= share * CASES, seen
    assert (good + bad).keys() == {200, 401, 404, 422}
    assert bounds.seen.keys() >= {200, 422}
    assert bounds.seen.total() >= 50


def test_generated_requests_over_the_served_document_get_what_it_promises(world: World) -> None:
    served = requests.get(f"{world.api_url}/openapi.json", timeout=TIMEOUT_S)
    schema = read(served.content)
    operation = schema[LIST]["GET"]
    with asking(world, [*CHECKS, response_headers_conformance], set()) as generated:
        for mode in GenerationMode:
            ask_generated(generated, operation, mode, CASES // 4)
        ask_at_the_boundaries(generated, schema, operation)
    assert generated.seen.total() >= CASES // 2
    assert generated.seen.keys() == {200, 304, 401, 404, 422, 503}


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
def test_operations_answer_as_the_served_document_promises(world: World, path: str) -> None:
    operation = read(openapi.document())[path]["GET"]
    with asking(world, [*CHECKS, response_headers_conformance], set()) as asked:
        asked.ask(operation.Case())
    assert asked.seen == {200: 1}
