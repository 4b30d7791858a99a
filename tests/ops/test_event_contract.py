"""`membership events` prints the contract of the events without settings, database or broker."""

import json

from click.testing import CliRunner

from ops.cli import cli
from projections.model import asyncapi, event_schemas
from projections.model.event_examples import EXAMPLES


def printed(*arguments: str) -> object:
    outcome = CliRunner().invoke(cli, ["events", *arguments], env={"MEMBERSHIP_DATABASE_URL": None})
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.output)


def test_asyncapi_prints_what_the_api_serves() -> None:
    assert printed("asyncapi") == json.loads(asyncapi.document())


def test_schema_prints_the_schema_of_each_type() -> None:
    for name in EXAMPLES:
        assert printed("schema", name) == event_schemas.schema_of(name)


def test_an_unknown_type_is_refused_with_the_allowed_ones() -> None:
    outcome = CliRunner().invoke(cli, ["events", "schema", "target.enrolled.v2"])
    assert outcome.exit_code == 2
    assert all(name in outcome.output for name in EXAMPLES)
