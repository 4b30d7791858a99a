"""Compares two AsyncAPI documents as a producer sees them: subjects, event types, headers, fields."""

from collections.abc import Iterator
from typing import Any

from contracts.changes import Change, additive, breaking
from contracts.schema_comparison import SchemaComparison

Node = Any
"""A value of a JSON document."""


def compare(old: Node, new: Node) -> Iterator[Change]:
    """Yield the changes from one document to the other."""
    for name, channel in old["channels"].items():
        if name not in new["channels"]:
            yield breaking(f"the channel {name} was removed")
            continue
        yield from _channel(channel, new["channels"][name], f"the channel {name}")
    for name in new["channels"]:
        if name not in old["channels"]:
            yield additive(f"the channel {name} is new")
    comparison = SchemaComparison(old, new, "sent")
    for name, message in old["components"]["messages"].items():
        other = new["components"]["messages"].get(name)
        if other is None:
            yield breaking(f"the event type {name} was removed")
            continue
        if message["contentType"] != other["contentType"]:
            yield breaking(f"{name}: the content type changed to {other['contentType']}")
        yield from comparison.compare(message["headers"], other["headers"], f"{name}: the headers")
        yield from comparison.compare(message["payload"], other["payload"], name)
    for name in new["components"]["messages"]:
        if name not in old["components"]["messages"]:
            yield additive(f"the event type {name} is new")


def _channel(old: Node, new: Node, at: str) -> Iterator[Change]:
    if old["address"] != new["address"]:
        yield breaking(f"{at}: the subject changed from {old['address']} to {new['address']}")
    for name in old["messages"]:
        if name not in new["messages"]:
            yield breaking(f"{at} no longer takes {name}")
    for name in new["messages"]:
        if name not in old["messages"]:
            yield additive(f"{at} takes {name}")
