"""Generated requests to the running service: responses conform to the contract file and to the served document."""

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

Operation = APIOperation[Any, Any, Any, Any]
CASES = int(os.environ.get("MEMBERSHIP_TEST_CASES", "1000"))
"""Requests generated from the contract file; half as many more are generated from the served document."""
LIST = "/customers/{customer_id}/campaigns"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ADDED = {401, 404, 503}
"""Statuses that the served document adds to the contract."""
TIMEOUT_S = 15
CAMPAIGNS = 210
"""More than fit on the largest page."""
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Dataset(NamedTuple):
    """The customers and callers that requests use."""

    api_url: str
    customers: list[str]
    admin: dict[str, str]
    owner: dict[str, str]
    position: int


@pytest.fixture(scope="module")
async def dataset(system: System) -> Dataset:
    """Customers with no, few, many, deleted and hidden campaigns, with all, some or no optional fields."""
    async with client_of(system.api_url) as client:
        scenario = Scenario(system, client)
        rng = Random(4)
        campaigns = [_campaign(scenario, rng) for _ in range(CAMPAIGNS)]
        everywhere, few, none, unknown = (
            scenario.member_of(*campaigns),
            scenario.customer(),
            scenario.customer(),
            new_number(),
        )
        scenario.enrol(few, *campaigns[:3])
        scenario.enrol(unknown, *campaigns[3:5])
        for campaign in campaigns[::7]:
            scenario.add_event("target.removed.v1", customer=everywhere, campaign=campaign)
        for campaign in campaigns[::11]:
            scenario.add_event("campaign.deleted.v1", campaign=campaign)
        gone = scenario.member_of(*campaigns[:20])
        scenario.add_event("customer.upserted.v1", customer=gone, deleted=True)
        position = await scenario.publish_and_wait()
        customers = [customer_id(number) for number in (everywhere, few, none, unknown, gone)]
        return Dataset(system.api_url, customers, scenario.as_admin(), bearer(1), position)


def _campaign(scenario: Scenario, rng: Random) -> int:
    stage = {"id": an_id("57", 1), "campaign_id": an_id("ca", 1), "key": "k", "name": "n", "position": 1}
    stage |= {"semantic_type": rng.choice(["new", "active", "won", "lost"]), "color": "#fff", "is_system": True}
    stage |= {"created_at": "2026-01-01T00:00:00.5Z", "updated_at": "2026-01-01T00:00:00+05:30"}
    objectives = [{"type": "contact", "channels": ["call"]}, {"type": "email"}, {"type": "ai", "label_in": ["neutral"]}]
    optional: dict[str, Any] = {
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
    chosen = {name: value for name, value in optional.items() if rng.random() < 0.5}
    status = rng.choice(["draft", "running", "paused", "done"])
    campaign = scenario.campaign(status=status, owner_id=owner_id(rng.choice([1, 1, 2])), **chosen)
    if rng.random() < 0.5:
        scenario.add_event("campaign.counters_changed.v1", campaign=campaign)
    return campaign


def read(document: bytes) -> OpenApiSchema:
    """Load a document for schemathesis, replacing the format of times of day by a pattern.

    In JSON Schema a `time` has an offset (RFC 3339), but the contract's default, 09:00:00, is an ISO 8601 local time.
    """
    decoded = json.loads(document)
    window = decoded["components"]["schemas"]["CampaignCallWindow"]["properties"]
    for name in ("start", "end"):
        assert window[name].pop("format") == "time"
        window[name]["pattern"] = r"^([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?$"
        assert re.fullmatch(window[name]["pattern"], window[name]["default"])
    return schemathesis.openapi.from_dict(decoded)


# --- Requests --------------------------------------------------------------------------------------------------------

SORT_FIELDS = ("enrolled_at", "name", "status", "created_at", "progress", "contacts_total", "contacts_succeeded")
DATES = ("2026-01-01", "2026-01-01T00:30:00Z", "2025-12-31T23:00:00-02:00", "20260101", "2026-01-02 00:00")
UNTYPED = ("sort_field", "date_from", "date_to")
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
"""Values for parameters that the contract types as plain strings; random ones would make every request a 422."""


class Session(NamedTuple):
    """Sends generated cases, validates the responses and counts their statuses."""

    dataset: Dataset
    http: requests.Session
    checks: list[Any]
    undocumented: set[int]
    statuses: Counter[int]

    def send(self, case: Case[Any]) -> None:
        """Send a case, and validate the response against the document."""
        reply = case.call(base_url=self.dataset.api_url, session=self.http, timeout=TIMEOUT_S)
        self.statuses[reply.status_code] += 1
        if reply.status_code in self.undocumented:
            assert reply.headers["content-type"] == ["application/problem+json"]
            assert reply.json()["status"] == reply.status_code
            return
        # This 503 is expected; any other is a server error.
        is_not_reached = reply.status_code == 503 and reply.json()["code"] == "position_not_reached"
        case.validate_response(reply, checks=self.checks[1:] if is_not_reached else self.checks)


@contextmanager
def open_session(dataset: Dataset, checks: list[Any], undocumented: set[int]) -> Iterator[Session]:
    with requests.Session() as http:
        http.headers.clear()
        yield Session(dataset, http, checks, undocumented, Counter())


def adjusted(case: Case[Any], customer: str | None, caller: dict[str, str], sensible: dict[str, str]) -> Case[Any]:
    """Return the case with an existing customer and caller; a positive case also gets sensible strings."""
    if customer is not None and UUID.fullmatch(str(case.path_parameters["customer_id"])):
        case.path_parameters["customer_id"] = customer
    assert case.meta is not None
    if case.meta.generation.mode is GenerationMode.POSITIVE:
        for name in UNTYPED:
            case.query.pop(name, None)
        case.query.update(sensible)
    if caller:
        case.headers.pop("X-API-Key", None)
        case.headers.update(caller)
    if "Membership-Min-Position" in case.headers:
        # A generated position is rarely reached; waiting for it would take two seconds per case.
        case.headers["Prefer"] = "wait=0"
    return case


def send_generated(session: Session, operation: Operation, mode: GenerationMode, cases: int) -> None:
    """Send this many generated cases of the list operation."""
    customers = st.sampled_from([*session.dataset.customers * 2, None])
    callers = st.sampled_from([*[session.dataset.admin] * 8, *[session.dataset.owner] * 4, {}])
    generated = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.builds(adjusted, generated, customers, callers, SENSIBLE))
    def send(case: Case[Any]) -> None:
        session.send(case)

    send()


def send_boundary_cases(session: Session, schema: OpenApiSchema, operation: Operation) -> None:
    """Send the cases that schemathesis derives from the bounds, types and presence of each parameter."""
    cases = schema.iter_coverage_cases(
        operation, generation_modes=list(GenerationMode), generation_config=schema.config.generation
    )
    for case in cases:
        if case.method == "GET":
            session.send(adjusted(case, session.dataset.customers[0], session.dataset.admin, {}))


# --- Expected responses ----------------------------------------------------------------------------------------------


def test_responses_to_generated_requests_conform_to_the_contract(dataset: Dataset) -> None:
    schema = read(openapi.CONTRACT.read_bytes())
    operation = schema[LIST]["GET"]
    statuses = {}
    for mode in GenerationMode:
        with open_session(dataset, CHECKS, ADDED) as generated:
            send_generated(generated, operation, mode, CASES // 2)
        statuses[mode] = generated.statuses
    with open_session(dataset, CHECKS, ADDED) as bounds:
        send_boundary_cases(bounds, schema, operation)

    good, bad = statuses[GenerationMode.POSITIVE], statuses[GenerationMode.NEGATIVE]
    assert good.total() + bad.total() >= CASES
    assert good[200] >= 0.5 * good.total()
    assert bad[422] >= 0.4 * bad.total()
    for status, share in ((200, 0.05), (401, 0.01), (404, 0.01)):
        assert good[status] + bad[status] >= share * CASES, statuses
    assert (good + bad).keys() == {200, 401, 404, 422}
    assert bounds.statuses.keys() >= {200, 422}
    assert bounds.statuses.total() >= 50


def test_responses_to_generated_requests_conform_to_the_served_document(dataset: Dataset) -> None:
    served = requests.get(f"{dataset.api_url}/openapi.json", timeout=TIMEOUT_S)
    schema = read(served.content)
    operation = schema[LIST]["GET"]
    with open_session(dataset, [*CHECKS, response_headers_conformance], set()) as generated:
        for mode in GenerationMode:
            send_generated(generated, operation, mode, CASES // 4)
        send_boundary_cases(generated, schema, operation)
    assert generated.statuses.total() >= CASES // 2
    assert generated.statuses.keys() == {200, 304, 401, 404, 422, 503}


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
def test_operator_routes_conform_to_the_served_document(dataset: Dataset, path: str) -> None:
    operation = read(openapi.document())[path]["GET"]
    with open_session(dataset, [*CHECKS, response_headers_conformance], set()) as session:
        session.send(operation.Case())
    assert session.statuses == {200: 1}
