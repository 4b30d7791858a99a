"""The read client's types are those of the HTTP contract and of the service's additions to it."""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from campaign_membership_client.reading import Filters, Problem, models
from campaign_membership_client.reading.errors import problem
from campaign_membership_client.reading.requests import SortField
from projections.model.explanation import Verdict
from projections.model.history import Outcome
from service import openapi
from service.parameters import SortField as ServiceSortField
from service.problems import PROBLEMS

ROOT = Path(__file__).parents[2]
CONTRACT = json.loads((ROOT / "service" / "contract" / "openapi.json").read_text(encoding="utf-8"))
SERVED = json.loads(openapi.document())
TYPES = {
    "PaginatedResponse_CampaignListItemOut_": models.ListBody,
    "CampaignListItemOut": models.Campaign,
    "CampaignGoalSpec": models.GoalSpec,
    "ContactObjective": models.ContactObjective,
    "EmailObjective": models.EmailObjective,
    "AiObjective": models.AiObjective,
    "CampaignCallWindow": models.CallWindow,
    "CampaignStageOut": models.Stage,
    "MetaOut": models.Meta,
    "SortOut": models.Sort,
    "QueryOut": models.Query,
    "AggregationsOut": models.Aggregations,
    "MembershipHistory": models.HistoryBody,
    "HistoryEvent": models.HistoryEvent,
}
NAMES = {kind.__name__: name for name, kind in TYPES.items()}
REQUIRED_OBJECTIVE = {"ContactObjective", "EmailObjective", "AiObjective"}
"""Their `type` is a tag here: the service always sends it, because it is the default."""
IGNORED = {"title", "description", "pattern", "additionalProperties", "discriminator"}


def normal(schema: Any, definitions: dict[str, Any] | None = None) -> Any:
    """Return a schema without texts, with our null removed and names of the contract."""
    if isinstance(schema, list):
        return [normal(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if definitions is not None and name not in NAMES:
            return normal(definitions[name], definitions)
        return {"$ref": NAMES.get(name, name)}
    cleaned = {key: value for key, value in schema.items() if key not in IGNORED and value is not None}
    if cleaned.get("format") == "time":
        del cleaned["format"]  # msgspec states it for times with an offset only
    if "const" in cleaned:
        cleaned |= {"enum": [cleaned.pop("const")]}
    if "enum" in cleaned:
        cleaned = cleaned | {"enum": sorted(cleaned["enum"]), "type": "string"}
    if "anyOf" in cleaned:
        options = [option for option in cleaned["anyOf"] if option != {"type": "null"}]
        rest = {key: value for key, value in cleaned.items() if key != "anyOf" and value is not None}
        cleaned = (options[0] | rest) if len(options) == 1 else {"anyOf": options, **rest}
        if len(options) == 1:
            return normal(cleaned, definitions)
    return {key: normal(value, definitions) for key, value in cleaned.items()}


def fields(schema: dict[str, Any], definitions: dict[str, Any] | None = None) -> dict[str, Any]:
    return {name: normal(value, definitions) for name, value in schema.get("properties", {}).items()}


@pytest.mark.parametrize("name", TYPES)
def test_a_type_has_exactly_the_fields_of_its_schema(name: str) -> None:
    (reference,), definitions = msgspec.json.schema_components([TYPES[name]])
    ours = definitions[reference["$ref"].rpartition("/")[2]]
    theirs = SERVED["components"]["schemas"][name]
    our_fields, their_fields = fields(ours, definitions), fields(theirs)
    if name in REQUIRED_OBJECTIVE:
        their_fields["type"].pop("default")
    assert our_fields == their_fields
    required = set(ours.get("required", ())) - ({"type"} if name in REQUIRED_OBJECTIVE else set())
    assert required == set(theirs.get("required", ()))


def test_the_filters_are_the_parameters_of_the_contract() -> None:
    parameters = CONTRACT["paths"]["/customers/{customer_id}/campaigns"]["get"]["parameters"]
    names = {parameter["name"] for parameter in parameters if parameter["in"] == "query"}
    assert set(Filters.__annotations__) == names
    assert get_args(SortField) == get_args(ServiceSortField)


def test_outcomes_and_reasons_are_those_of_the_service() -> None:
    assert set(get_args(models.Outcome)) == set(get_args(Outcome))
    assert set(get_args(models.Reason)) == set(get_args(Verdict))


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_problem_of_the_service_has_an_exception(code: str) -> None:
    known = PROBLEMS[code]
    raised = problem(code, known.status, known.detail, "r-1")
    assert type(raised) is not Problem
    assert (raised.code, raised.status, raised.request_id) == (code, known.status, "r-1")
    assert "r-1" in str(raised)


def test_a_later_problem_gets_the_exception_of_its_status() -> None:
    assert type(problem("new_one", 404, "", "")).__name__ == "RequestRefused"
    assert type(problem("new_one", 418, "", "")) is Problem
