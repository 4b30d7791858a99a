"""Compares two OpenAPI documents as a caller sees them: paths, parameters, responses, headers."""

from collections.abc import Iterator
from typing import Any

from contracts.changes import Change, additive, breaking
from contracts.schema_comparison import SchemaComparison

Node = Any
"""A value of a JSON document."""


def compare(old: Node, new: Node) -> Iterator[Change]:
    """Yield the changes from one document to the other."""
    for path, operations in old["paths"].items():
        if path not in new["paths"]:
            yield breaking(f"the path {path} was removed")
            continue
        for method, operation in operations.items():
            at = f"{method.upper()} {path}"
            if method in new["paths"][path]:
                yield from _Operation(old, new).compare(operation, new["paths"][path][method], at)
            else:
                yield breaking(f"{at} was removed")
    for path, operations in new["paths"].items():
        for method in operations:
            if method not in old["paths"].get(path, {}):
                yield additive(f"{method.upper()} {path} is new")


class _Operation:
    """Compares one operation."""

    def __init__(self, old: Node, new: Node) -> None:
        self._old = old
        self._new = new
        self._sent = SchemaComparison(old, new, "sent")
        self._received = SchemaComparison(old, new, "received")

    def compare(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        if old.get("operationId") != new.get("operationId"):
            yield breaking(
                f"{at}: the operation's id changed to {new.get('operationId')}, and with it generated clients"
            )
        before, after = (self._security(*pair) for pair in ((old, self._old), (new, self._new)))
        if before != after:
            yield breaking(f"{at}: the accepted credentials changed from {before} to {after}")
        yield from self._parameters(old, new, at)
        yield from self._request_body(old, new, at)
        yield from self._responses(old["responses"], new["responses"], at)

    @staticmethod
    def _security(operation: Node, document: Node) -> Node:
        return operation.get("security", document.get("security", []))

    def _parameters(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        before, after = (_parameters(operation) for operation in (old, new))
        for key, parameter in before.items():
            name = f"{at}: the {key[0]} parameter {key[1]}"
            if key not in after:
                yield breaking(f"{name} was removed")
                continue
            if after[key].get("required", False) and not parameter.get("required", False):
                yield breaking(f"{name} became required")
            elif parameter.get("required", False) and not after[key].get("required", False):
                yield additive(f"{name} became optional")
            yield from self._sent.compare(parameter["schema"], after[key]["schema"], name)
        for key, parameter in after.items():
            if key not in before:
                is_required = parameter.get("required", False)
                change = breaking if is_required else additive
                kind = "required" if is_required else "optional"
                yield change(f"{at}: the {key[0]} parameter {key[1]} is new and {kind}")

    def _request_body(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        before, after = old.get("requestBody", {}), new.get("requestBody", {})
        if after.get("required", False) and not before.get("required", False):
            yield breaking(f"{at}: a request body became required")
        for media_type, content in before.get("content", {}).items():
            if media_type not in after.get("content", {}):
                yield breaking(f"{at}: a request body of {media_type} is no longer accepted")
            else:
                other = after["content"][media_type]
                yield from self._sent.compare(content["schema"], other["schema"], f"{at}: the request body")
        for media_type in after.get("content", {}):
            if media_type not in before.get("content", {}):
                yield additive(f"{at}: a request body of {media_type} is accepted")

    def _responses(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        for status, response in old.items():
            name = f"{at}: the response {status}"
            if status in new:
                yield from self._response(response, new[status], name)
            else:
                change = breaking if status.startswith("2") else additive
                yield change(f"{name} was removed")
        for status in new:
            if status not in old:
                yield additive(f"{at}: the response {status} is new")

    def _response(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        for media_type, content in old.get("content", {}).items():
            if media_type not in new.get("content", {}):
                yield breaking(f"{at} is no longer sent as {media_type}")
                continue
            other = new["content"][media_type]
            yield from self._received.compare(content["schema"], other["schema"], at)
            yield from _codes(content.get("examples", {}), other.get("examples", {}), at)
        for media_type in new.get("content", {}):
            if media_type not in old.get("content", {}):
                yield additive(f"{at} may be sent as {media_type}")
        yield from self._headers(old.get("headers", {}), new.get("headers", {}), at)

    def _headers(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        for name, header in old.items():
            if name not in new:
                yield breaking(f"{at} no longer has the header {name}")
                continue
            before, after = self._header(header, self._old), self._header(new[name], self._new)
            yield from self._received.compare(before["schema"], after["schema"], f"{at}: the header {name}")
        for name in new:
            if name not in old:
                yield additive(f"{at} has the new header {name}")

    @staticmethod
    def _header(header: Node, document: Node) -> Node:
        reference = header.get("$ref")
        return header if reference is None else document["components"]["headers"][reference.rpartition("/")[2]]


def _parameters(operation: Node) -> dict[tuple[str, str], Node]:
    return {(parameter["in"], parameter["name"]): parameter for parameter in operation.get("parameters", [])}


def _codes(old: Node, new: Node, at: str) -> Iterator[Change]:
    """Compare the documented problems: a status may get a new `code`, but a code does not disappear or move."""
    for code in old:
        if code not in new:
            yield breaking(f"{at} no longer has the problem {code}")
    for code in new:
        if code not in old:
            yield additive(f"{at} has the new problem {code}")
