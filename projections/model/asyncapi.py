"""The AsyncAPI 3 document of the events that this service receives, generated from their types."""

from functools import cache
from typing import Any, Final

import msgspec

from projections.model import event_schemas
from projections.model.event_examples import EXAMPLES
from projections.model.events import BODY_BYTES_MAX, EVENT_TYPES, SUBJECT_IDS, SUBJECT_ROOT

STREAM: Final = "MEMBERSHIP"
MEDIA_TYPE: Final = "application/cloudevents+json"
VERSION: Final = "1.0.0"
"""Of the document as a whole; each event type has its own version in its name."""

_DESCRIPTION: Final = f"""\
Producers publish these events to the JetStream stream `{STREAM}`: one CloudEvents 1.0 object in structured mode per
message, at most {BODY_BYTES_MAX // 1024} KiB, with the header `Nats-Msg-Id` equal to `id`.

**Versions decide, not order.** An event may be published at any time, in any order and more than once. For each piece
of state, the event with the highest `version` wins.

**The receipt** is JetStream's acknowledgement. Its sequence is the event's position; a reader who sends it as
`Membership-Min-Position` gets an answer that includes the event.

**Unknown** attributes and fields are ignored, null means absent, types are strict, and strings must not contain NUL. A
message that is not one of these events is parked: stored aside with a reason, while later events are applied.
"""
_FAMILIES: Final = {
    "customer": "Customers and their owners.",
    "campaign": "Definitions, status and deletion of campaigns.",
    "counters": "A campaign's counters, as absolute values.",
    "target": "Enrolments of customers in campaigns.",
}

Node = Any
"""A value of a JSON document."""


@cache
def document() -> bytes:
    """Return the document as JSON; the same bytes at every call."""
    return msgspec.json.encode(content())


def content() -> dict[str, Node]:
    """Return the document."""
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Campaign Membership events", "version": VERSION, "description": _DESCRIPTION},
        "defaultContentType": MEDIA_TYPE,
        "channels": {family: _channel(family) for family in EVENT_TYPES},
        "operations": {f"receive_{family}": _operation(family) for family in EVENT_TYPES},
        "components": {
            "messages": {name: _message(name) for name in event_schemas.data_types()},
            "schemas": event_schemas.components(),
        },
    }


def _channel(family: str) -> dict[str, Node]:
    ids = SUBJECT_IDS[family]
    return {
        "address": ".".join([SUBJECT_ROOT, family, *(f"{{{name}}}" for name in ids)]),
        "title": _FAMILIES[family],
        "parameters": {name: {"description": "A lower-case hyphenated UUID, as in `data`."} for name in ids},
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in EVENT_TYPES[family]},
    }


def _operation(family: str) -> dict[str, Node]:
    return {
        "action": "receive",
        "title": f"Read events of the family `{family}`",
        "channel": {"$ref": f"#/channels/{family}"},
        "messages": [{"$ref": f"#/channels/{family}/messages/{name}"} for name in EVENT_TYPES[family]],
    }


def _message(name: str) -> dict[str, Node]:
    schema = event_schemas.components()[name]
    identity = {"type": "string", "minLength": 1, "maxLength": 128, "description": "The event's `id`."}
    return {
        "name": name,
        "title": name,
        "summary": schema["description"],
        "contentType": MEDIA_TYPE,
        "headers": {"type": "object", "properties": {"Nats-Msg-Id": identity}, "required": ["Nats-Msg-Id"]},
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "examples": [{"payload": EXAMPLES[name]}],
    }
