"""The client's copy of the event contract is the service's, and each event type has its function and method."""

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import msgspec
import pytest

from campaign_membership_client import EventMethods, events, prepare
from campaign_membership_client.contract import events as copied
from projections.model import events as own
from projections.model.decode import decode
from projections.model.events import EVENT_TYPES, Unreadable
from tests.support.builders import ALL_TYPES, data_of

ROOT = Path(__file__).parents[2]
FUNCTIONS = {
    "target.enrolled.v1": events.enrolled,
    "target.removed.v1": events.removed,
    "target.restored.v1": events.restored,
} | {
    name: getattr(events, name.removesuffix(".v1").replace(".", "_"))
    for name in ALL_TYPES
    if not name.startswith("target.")
}
PARAMETERS = {
    "customer": "customer_id",
    "campaign": "campaign_id",
    "owner": "owner_id",
    "target": "target_id",
    "at": "enrolled_at",
}
"""The parameters whose names differ from the fields of the contract."""


def copier() -> Any:
    spec = importlib.util.spec_from_file_location("copy_contract", ROOT / "client" / "copy_contract.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_copied_contract_equals_its_sources() -> None:
    script = copier()
    for module in script.MODULES:
        assert script.path_of(module).read_text(encoding="utf-8") == script.copy_of(module), (
            "projections/model has changed: run `python client/copy_contract.py` and record the change in the changelog"
        )
    assert copied.__file__ != own.__file__


@pytest.mark.parametrize("event_type", ALL_TYPES)
def test_a_function_takes_exactly_the_fields_of_its_type(event_type: str) -> None:
    kind = next(types[event_type] for types in EVENT_TYPES.values() if event_type in types)
    fields = {field.name: field.required for field in msgspec.structs.fields(kind)}
    parameters = inspect.signature(FUNCTIONS[event_type]).parameters
    named = {
        PARAMETERS.get(name, name): parameter.default is parameter.empty
        for name, parameter in parameters.items()
        if name not in {"event_id", "time"}
    }
    assert named == fields | ({"target_id": False} if "target_id" in fields else {})
    assert hasattr(EventMethods, FUNCTIONS[event_type].__name__)


@pytest.mark.parametrize("event_type", ALL_TYPES)
def test_the_service_reads_what_each_function_makes(event_type: str) -> None:
    names = {field: parameter for parameter, field in PARAMETERS.items()}
    given = {names.get(field, field): value for field, value in data_of(event_type, 7).items()}
    event = FUNCTIONS[event_type](**given)
    publication = prepare(event, "crm")
    decoded = decode(publication.subject, publication.body)
    assert not isinstance(decoded, Unreadable), decoded
    assert decoded.version == 7
    assert prepare(event, "crm").msg_id == publication.msg_id
    assert prepare(event, "another source").msg_id != publication.msg_id
