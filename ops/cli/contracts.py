"""Subcommands that print the contract of the events for programs."""

import rich_click as click

from ops.cli.group import cli
from projections.model.events import EVENT_TYPES


@cli.group()
def events() -> None:
    """Print the contract of the events: AsyncAPI, or the JSON Schema of a type."""


@events.command()
def asyncapi() -> None:
    """Print the AsyncAPI 3 document; a running API serves it as /asyncapi.json."""
    from projections.model import asyncapi as contract  # noqa: PLC0415

    _print(contract.content())


@events.command()
@click.argument(
    "event_type", metavar="TYPE", type=click.Choice([name for types in EVENT_TYPES.values() for name in types])
)
def schema(event_type: str) -> None:
    """Print the JSON Schema of one event TYPE, for a producer's validator."""
    from projections.model import event_schemas  # noqa: PLC0415

    _print(event_schemas.schema_of(event_type))


def _print(document: object) -> None:
    import json  # noqa: PLC0415

    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
