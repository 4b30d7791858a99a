"""The page /docs/events: the AsyncAPI document as HTML without scripts, for people.

Invariants: every text of the document is escaped; the page loads its style sheet only.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from html import escape
from typing import Any, Final

from projections.model import asyncapi

Node = Any
"""A value of a JSON document."""

_PAGE: Final = """\
<!-- Generated from the types of the events; also served as /asyncapi.json. -->
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="stylesheet" href="/docs/assets/events.css">
</head>
<body>
<nav aria-label="Event types">{navigation}</nav>
<main>
<h1>{title}</h1>
<p>For programs: <a href="/asyncapi.json">AsyncAPI 3</a> and a JSON Schema for each type. For readers:
<a href="/docs">the HTTP API</a>.</p>
{content}
</main>
</body>
</html>
"""
_HEADINGS: Final = "".join(f'<th scope="col">{heading}</th>' for heading in ("field", "value", "meaning"))


@cache
def page() -> bytes:
    """Return the page; the same bytes at every call."""
    document = asyncapi.content()
    schemas = document["components"]["schemas"]
    content = [*_introduction(document), *_channels(document), "<h2>Structures</h2>", *_structures(schemas)]
    return _PAGE.format(
        title=escape(document["info"]["title"]), navigation=_navigation(document), content="\n".join(content)
    ).encode()


def _introduction(document: Node) -> Iterator[str]:
    for paragraph in document["info"]["description"].strip().split("\n\n"):
        yield f"<p>{_inline(paragraph)}</p>"


def _inline(text: str) -> str:
    """Render the code spans and the bold words of a text."""
    rendered = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", rendered)


def _navigation(document: Node) -> str:
    links = [_link(name) for name in document["components"]["messages"]]
    return "<ul>" + "".join(f"<li>{link}</li>" for link in links) + "</ul>"


def _link(name: str) -> str:
    return f'<a href="#{escape(name)}">{escape(name)}</a>'


def _channels(document: Node) -> Iterator[str]:
    components = document["components"]
    for channel in document["channels"].values():
        yield f"<h2>{escape(channel['title'])}</h2>"
        yield f"<p>Subject: <code>{escape(channel['address'])}</code></p>"
        for name in channel["messages"]:
            yield from _message(components["messages"][name], components["schemas"])


def _message(message: Node, schemas: Node) -> Iterator[str]:
    name = message["name"]
    envelope = schemas[name]["properties"]
    data = schemas[envelope["data"]["$ref"].rpartition("/")[2]]
    yield f'<section id="{escape(name)}"><h3>{escape(name)}</h3>'
    yield f"<p>{escape(message['summary'])}</p>"
    yield f'<p>Fields of <code>data</code> (<a href="/schemas/{escape(name)}">JSON Schema of the message</a>):</p>'
    yield from _fields(data)
    example = json.dumps(message["examples"][0]["payload"], indent=2, ensure_ascii=False)
    yield f"<details><summary>Example</summary><pre>{escape(example)}</pre></details></section>"


def _structures(schemas: Node) -> Iterator[str]:
    """Render the schemas that are neither messages nor the data of one."""
    data = {schema["properties"]["data"]["$ref"] for schema in schemas.values() if "data" in schema["properties"]}
    for name, schema in schemas.items():
        if "data" not in schema["properties"] and f"#/components/schemas/{name}" not in data:
            yield f'<section id="{escape(name)}"><h3>{escape(name)}</h3><p>{escape(schema["description"])}</p>'
            yield from _fields(schema)
            yield "</section>"


def _fields(schema: Node) -> Iterator[str]:
    yield f"<table><thead><tr>{_HEADINGS}</tr></thead><tbody>"
    for name, field in schema["properties"].items():
        optional = "" if name in schema["required"] else " <small>optional</small>"
        heading = f'<th scope="row"><code>{escape(name)}</code>{optional}</th>'
        yield f"<tr>{heading}<td>{_kind(field)}</td><td>{_inline(field.get('description', ''))}</td></tr>"
    yield "</tbody></table>"


def _kind(field: Node) -> str:
    """Describe a value's type; null, which means absent, is left out."""
    match field:
        case {"$ref": reference}:
            return _link(reference.rpartition("/")[2])
        case {"anyOf": kinds}:
            return " or ".join(_kind(kind) for kind in kinds if kind != {"type": "null"})
        case {"enum": values}:
            return _alternatives(values)
        case {"items": items}:
            return f"list of {_kind(items)}"
    kind = field["type"] if isinstance(field["type"], str) else field["type"][0]
    return escape(_named(kind, field)) + _bounds(field)


def _alternatives(values: Iterable[str]) -> str:
    return ", ".join(f"<code>{escape(value)}</code>" for value in values)


def _named(kind: str, field: Node) -> str:
    if "format" in field:
        return str(field["format"])
    if "pattern" not in field:
        return kind
    return "time of day" if "examples" in field else "UUID"


def _bounds(field: Node) -> str:
    """Return the lower bound, if the field has one of its own; all integers are int64."""
    return f" ≥\u00a0{field['minimum']}" if field.get("minimum") in {0, 1} else ""
