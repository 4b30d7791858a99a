"""JSON Schemas of the events, generated from the types that decode them.

Invariants: a message that decodes is valid by its schema. The converse holds but for what a schema cannot say well: ids
that differ from the subject's, NUL in a string, an objective without `type`, and `1.0` where an integer is required.
"""

from typing import Any, Final, get_args

import msgspec

from projections.model.decode import Envelope
from projections.model.events import (
    EVENT_TYPES,
    SUBJECT_IDS,
    UUID_PATTERN,
    AiObjective,
    ContactObjective,
    EmailObjective,
    Event,
    Objective,
    Status,
)

Schema = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_ID: Final[Schema] = {
    "type": "string",
    "pattern": f"^{UUID_PATTERN}$",
    "description": "A lower-case hyphenated UUID.",
}
_TIME: Final[Schema] = {
    "type": "string",
    "pattern": r"^[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})?$",
    "examples": ["09:00:00"],
}
_IDS: Final = frozenset(name for names in SUBJECT_IDS.values() for name in names)
"""Fields that are plain strings for the decoder, because the subject's pattern already constrains them."""
_DESCRIPTIONS: Final = {
    "version": "Raised by the producer with every change of the entity: the event with the highest version wins, in "
    "whatever order events come. A row version, or the row's update time in microseconds.",
    "customer_id": "As in the subject.",
    "campaign_id": "As in the subject.",
    "owner_id": "The user who may read it without being an admin.",
    "progress": "A finite number; shown and sorted by, never computed.",
    "enrolled_at": "RFC 3339 with an offset.",
    "created_at": "RFC 3339 with an offset.",
    "deleted": "Absent: false.",
}


def data_types() -> dict[str, type[Event]]:
    """Return the type of `data` by event type, in the order of the documentation."""
    return {name: data for types in EVENT_TYPES.values() for name, data in types.items()}


def components(reference: str = "#/components/schemas/{name}") -> dict[str, Schema]:
    """Return a schema for each event type, named like it, and for each structure that they refer to."""
    types = data_types()
    structs = [*types.values(), ContactObjective, EmailObjective, AiObjective]
    _, generated = msgspec.json.schema_components(structs, schema_hook=_objective(reference), ref_template=reference)
    names = {data.__name__ for data in types.values()}
    messages = {name: _message(name, data, reference) for name, data in types.items()}
    structures = {name: _completed(schema) for name, schema in generated.items()}
    return {
        **messages,
        **{name: structures[name] for name in structures if name in names},
        **{name: structures[name] for name in structures if name not in names},
    }


def schema_of(name: str) -> Schema:
    """Return the complete JSON Schema of one event type; KeyError for an unknown one."""
    data_types()[name]  # the other components are parts of messages
    definitions = components("#/$defs/{name}")
    message = definitions[name]
    used = _referred(message, definitions)
    return {
        "$schema": DIALECT,
        "$id": f"urn:campaign-membership:{name}",
        **message,
        "$defs": {name: schema for name, schema in definitions.items() if name in used},
    }


def _objective(reference: str) -> Any:  # noqa: ANN401 - a hook of msgspec
    def hook(kind: type) -> Schema:
        if kind is not Objective:
            raise NotImplementedError
        kinds = [
            {"$ref": reference.format(name=name)} for name in ("ContactObjective", "EmailObjective", "AiObjective")
        ]
        return {
            "anyOf": kinds,
            "description": "Without `type` it is `ai` if it has `label_in` or `min_score` and no `channels`, and "
            "otherwise `contact`.",
        }

    return hook


def _message(name: str, data: type[Event], reference: str) -> Schema:
    """Return the schema of the CloudEvents envelope of one type."""
    _, generated = msgspec.json.schema_components([Envelope])
    properties = generated[Envelope.__name__]["properties"]
    return {
        "title": name,
        "description": _sentence(data),
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": properties["id"]
            | {"description": "Unique across all sources; sent also as the header `Nats-Msg-Id`."},
            "source": properties["source"] | {"description": "The system that publishes."},
            "type": {"const": name},
            "time": properties["time"] | {"description": "RFC 3339 with an offset."},
            "data": {"$ref": reference.format(name=data.__name__)},
        },
        "required": ["specversion", "id", "source", "type", "time", "data"],
    }


def _sentence(data: type[Event]) -> str:
    return (data.__doc__ or "").split("\n", 1)[0]


def _completed(schema: Schema) -> Schema:
    """Add what the decoder verifies elsewhere, and say it in JSON Schema's terms."""
    is_window = schema["title"] == "CallWindow"
    properties = {
        name: _property(name, _TIME if is_window and name in {"start", "end"} else None, field)
        for name, field in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def _property(name: str, replacement: Schema | None, field: Schema) -> Schema:
    if name in _IDS:
        field = _ID
    field = {key: value for key, value in field.items() if key != "default"}
    match field:
        case {"anyOf": [kind, {"type": "null"}]}:
            field = _nullable(_kind(replacement or kind))
        case _:
            field = _kind(field)
    text = _DESCRIPTIONS.get(name)
    return field | {"description": text} if text is not None else field


def _nullable(kind: Schema) -> Schema:
    """Null means absent."""
    if "$ref" in kind or "enum" in kind:
        return {"anyOf": [kind, {"type": "null"}]}
    return {**kind, "type": [kind["type"], "null"]}


def _kind(kind: Schema) -> Schema:
    match kind:
        case {"pattern": _}:
            return kind if kind is _TIME else dict(_ID)
        case {"enum": values} if set(values) == set(get_args(Status)):
            return {"type": "string", "enum": list(get_args(Status))}
        case {"enum": values}:
            return {"type": "string", "enum": list(values)}
        case {"type": "array", "items": items}:
            return {**kind, "items": _kind(items)}
    return kind


def _referred(node: Any, definitions: dict[str, Schema]) -> set[str]:  # noqa: ANN401 - any part of a schema
    """Return the names of all definitions that a schema refers to, at any depth."""
    if isinstance(node, list):
        return {name for item in node for name in _referred(item, definitions)}
    if not isinstance(node, dict):
        return set()
    names = {name for value in node.values() for name in _referred(value, definitions)}
    if isinstance(reference := node.get("$ref"), str):
        name = reference.rpartition("/")[2]
        names |= {name} | _referred(definitions[name], definitions)
    return names
