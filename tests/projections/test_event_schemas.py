"""The generated schemas agree with the decoder, and the AsyncAPI document is complete."""

import copy
import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import jsonschema
import pytest

from projections.model import asyncapi, event_schemas
from projections.model.decode import decode
from projections.model.event_examples import EXAMPLES
from projections.model.events import EVENT_TYPES, SUBJECT_IDS, Unreadable, family_of
from tests.support.builders import published

FORMATS = jsonschema.FormatChecker(formats=())
OTHER_UUID = "00000000-0000-4000-8000-0000000000ff"
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    7,
    2**63,
    1.5,
    "",
    "x",
    OTHER_UUID,
    OTHER_UUID.upper(),
    [],
    ["x"],
    {},
    [[]],
)
"""Values that are put in place of each value of an example."""
ABSENT = object()


@FORMATS.checks("date-time")
def is_instant(value: object) -> bool:
    """Return whether a text is a date-time with an offset; other types have no format."""
    if not isinstance(value, str):
        return True
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def is_valid(name: str, message: Any) -> bool:
    return jsonschema.Draft202012Validator(event_schemas.schema_of(name), format_checker=FORMATS).is_valid(message)


def is_decoded(name: str, message: Any, example: Any) -> bool:
    """Return whether the message decodes on the subject of the example."""
    family = family_of(name) or ""
    subject = ".".join(["membership", family, *(example["data"][field] for field in SUBJECT_IDS[family])])
    return not isinstance(decode(subject, json.dumps(message).encode()), Unreadable)


def paths(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value below an object or a list."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from paths(value, (*at, key))


def changed(message: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy with another value at a path, or without it."""
    result = copy.deepcopy(message)
    parent = result
    for step in path[:-1]:
        parent = parent[step]
    if value is ABSENT:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return result


def test_there_is_an_example_of_each_type() -> None:
    assert list(EXAMPLES) == [name for types in EVENT_TYPES.values() for name in types]


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_is_valid_and_decodes(name: str) -> None:
    assert is_valid(name, EXAMPLES[name])
    assert is_decoded(name, EXAMPLES[name], EXAMPLES[name])


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_the_schema_accepts_is_what_the_decoder_accepts(name: str) -> None:
    example = EXAMPLES[name]
    accepted = {True: 0, False: 0}
    for path in paths(example):
        if path[-1] in {"customer_id", "campaign_id"} or "objectives" in path:
            continue  # compared with the subject, and decided by the objective's type
        for value in (*VALUES, ABSENT):
            message = changed(example, path, value)
            decoded = is_decoded(name, message, example)
            assert is_valid(name, message) == decoded, (path, value)
            accepted[decoded] += 1
    assert min(accepted.values()) > 5


@pytest.mark.parametrize(
    "value", [*VALUES, ABSENT], ids=lambda value: "absent" if value is ABSENT else repr(value)[:24]
)
def test_an_objective_that_decodes_is_valid(value: Any) -> None:
    name = "campaign.upserted.v1"
    example = EXAMPLES[name]
    for path in paths(example):
        if "objectives" in path and is_decoded(name, changed(example, path, value), example):
            assert is_valid(name, changed(example, path, value)), path


def test_events_of_the_test_suite_are_valid() -> None:
    for name in EXAMPLES:
        _, body = published(name, 1)
        assert is_valid(name, json.loads(body)), name


def test_only_types_have_a_schema_of_their_own() -> None:
    with pytest.raises(KeyError):
        event_schemas.schema_of("CampaignUpserted")


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_of_the_asyncapi_document_resolves() -> None:
    document = json.loads(asyncapi.document())
    found = set(references(document))
    assert len(found) > 30
    for reference in found:
        target = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def test_the_channels_are_the_subjects_of_the_contract() -> None:
    channels = json.loads(asyncapi.document())["channels"]
    assert {family: list(channel["messages"]) for family, channel in channels.items()} == {
        family: list(types) for family, types in EVENT_TYPES.items()
    }
    for family, channel in channels.items():
        assert re.findall(r"\{(\w+)\}", channel["address"]) == list(SUBJECT_IDS[family]) == list(channel["parameters"])
