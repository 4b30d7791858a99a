"""Compares two JSON Schemas of one value, as yesterday's clients send or receive it.

Invariants: a schema of what clients send must accept everything that the old one accepted; a schema of what they
receive must allow nothing that the old one did not. A difference that cannot be judged is breaking: a person decides.
"""

from collections.abc import Iterator
from typing import Any, Final

from contracts.changes import Change, Direction, additive, breaking

Node = Any
"""A value of a JSON document."""

_LOWER_BOUNDS: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_UPPER_BOUNDS: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
_EXACT: Final = ("pattern", "format", "multipleOf", "uniqueItems")
"""Constraints that are not compared by size: adding one narrows, removing one widens, changing one does both."""
_ANNOTATIONS: Final = frozenset(("title", "description", "examples", "example", "deprecated", "$comment"))
_KNOWN: Final = frozenset(
    (
        "$ref",
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "properties",
        "required",
        "items",
        "additionalProperties",
        "default",
    )
) | {*_LOWER_BOUNDS, *_UPPER_BOUNDS, *_EXACT}
_JSON_TYPES: Final = ("array", "boolean", "integer", "null", "number", "object", "string")


class SchemaComparison:
    """Compares schemas of two documents, of which it resolves the references."""

    def __init__(self, old: Node, new: Node, direction: Direction) -> None:
        self._old = old
        self._new = new
        self._direction = direction
        self._open: set[tuple[str, str]] = set()
        """Pairs of references that are being compared: a schema may contain itself."""

    def compare(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        """Yield the changes from `old` to `new`; `at` names the value in sentences."""
        pair = (old.get("$ref", ""), new.get("$ref", ""))
        if all(pair) and pair in self._open:
            return
        self._open.add(pair)
        yield from self._resolved(_resolve(old, self._old), _resolve(new, self._new), at)
        self._open.discard(pair)

    def _resolved(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        for keyword in sorted((old.keys() | new.keys()) - _KNOWN - _ANNOTATIONS):
            if old.get(keyword) != new.get(keyword):
                yield breaking(f"{at}: {keyword} changed, which {__name__} cannot judge")
        if _alternatives(old) or _alternatives(new):
            yield from self._unions(old, new, at)
            return
        yield from self._types(old, new, at)
        yield from self._values(old, new, at)
        yield from self._bounds(old, new, at)
        yield from self._default(old, new, at)
        yield from self._properties(old, new, at)
        yield from self._items(old, new, at)

    def _narrows(self, sentence: str) -> Change:
        return breaking(sentence) if self._direction == "sent" else additive(sentence)

    def _widens(self, sentence: str) -> Change:
        return additive(sentence) if self._direction == "sent" else breaking(sentence)

    def _types(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        before, after = _types(old), _types(new)
        lost = [kind for kind in before if not _includes(after, kind)]
        gained = [kind for kind in after if not _includes(before, kind)]
        if lost:
            yield self._narrows(f"{at} may no longer be {_listed(lost)}")
        if gained:
            yield self._widens(f"{at} may now be {_listed(gained)}")

    def _values(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        before, after = _enumerated(old), _enumerated(new)
        if before is None and after is not None:
            yield self._narrows(f"{at} is restricted to {_listed(after)}")
        elif after is None and before is not None:
            yield self._widens(f"{at} is no longer restricted to {_listed(before)}")
        elif before is not None and after is not None:
            if lost := [value for value in before if value not in after]:
                yield self._narrows(f"{at} may no longer be {_listed(lost)}")
            if gained := [value for value in after if value not in before]:
                yield self._widens(f"{at} may now be {_listed(gained)}")

    def _bounds(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        for name in (*_LOWER_BOUNDS, *_UPPER_BOUNDS, *_EXACT):
            before, after = old.get(name), new.get(name)
            if before == after:
                continue
            sentence = f"{at}: {name} changed from {_shown(before)} to {_shown(after)}"
            if name in _EXACT and before is not None and after is not None:
                yield breaking(sentence)
            elif _is_narrower(name, before, after):
                yield self._narrows(sentence)
            else:
                yield self._widens(sentence)

    def _default(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        before, after = old.get("default"), new.get("default")
        if before != after:
            change = breaking if before is not None else additive
            yield change(f"{at}: the default changed from {_shown(before)} to {_shown(after)}")

    def _properties(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in before:
            if name in after:
                yield from self.compare(before[name], after[name], f"{at}.{name}")
            else:
                yield breaking(f"{at}.{name} was removed")
        yield from self._requirements(old, new, at)
        yield from self._additional(old, new, at)

    def _requirements(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        known = old.get("properties", {})
        before, after = set(old.get("required", [])), set(new.get("required", []))
        for name in new.get("properties", {}):
            if name not in known:
                is_required = name in after and self._direction == "sent"
                change = breaking if is_required else additive
                yield change(f"{at}.{name} is a new {'required' if name in after else 'optional'} field")
            elif name in after - before:
                yield self._narrows(f"{at}.{name} became required")
            elif name in before - after:
                yield self._widens(f"{at}.{name} became optional")

    def _additional(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        before, after = old.get("additionalProperties", True), new.get("additionalProperties", True)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from self.compare(before, after, f"{at}.*")
        elif before != after:
            narrowed = after is False or isinstance(after, dict)
            sentence = f"{at}: additional fields changed from {_shown(before)} to {_shown(after)}"
            yield self._narrows(sentence) if narrowed else self._widens(sentence)

    def _items(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        before, after = old.get("items"), new.get("items")
        if before is not None and after is not None:
            yield from self.compare(before, after, f"{at}[]")
        elif before != after:
            sentence = f"{at}: the items of the list changed from {_shown(before)} to {_shown(after)}"
            yield self._narrows(sentence) if before is None else self._widens(sentence)

    def _unions(self, old: Node, new: Node, at: str) -> Iterator[Change]:
        """Compare alternatives of the same name; a schema without alternatives is its own only one."""
        if _constraints_beside(old) != _constraints_beside(new):
            yield breaking(f"{at}: what is beside the alternatives changed, which {__name__} cannot judge")
        before, after = _named(old, self._old), _named(new, self._new)
        for name in before:
            if name in after:
                yield from self.compare(before[name], after[name], f"{at} ({name})")
            else:
                yield self._narrows(f"{at} may no longer be {name}")
        for name in after:
            if name not in before:
                yield self._widens(f"{at} may now be {name}")


def _alternatives(schema: Node) -> list[Node]:
    return schema.get("anyOf") or schema.get("oneOf") or []


def _constraints_beside(schema: Node) -> dict[str, Node]:
    """Return the constraints next to a schema's alternatives; nothing for a schema without any."""
    beside = schema.keys() - _ANNOTATIONS - {"anyOf", "oneOf"} if _alternatives(schema) else ()
    return {name: schema[name] for name in beside}


def _named(schema: Node, document: Node) -> dict[str, Node]:
    return {
        _name(kind, document, number): kind for number, kind in enumerate(_alternatives(schema) or [schema], start=1)
    }


def _resolve(schema: Node, document: Node) -> Node:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    target = document
    for step in reference.removeprefix("#/").split("/"):
        target = target[step.replace("~1", "/").replace("~0", "~")]
    return _resolve(target, document)


def _name(schema: Node, document: Node, number: int) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    resolved = _resolve(schema, document)
    kind = resolved.get("type")
    return str(resolved.get("title") or (kind if isinstance(kind, str) else f"alternative {number}"))


def _types(schema: Node) -> tuple[str, ...]:
    kind = schema.get("type", _JSON_TYPES)
    if "type" not in schema and (values := _enumerated(schema)) is not None:
        return tuple(dict.fromkeys(_json_type(value) for value in values))
    return (kind,) if isinstance(kind, str) else tuple(kind)


def _json_type(value: Node) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _includes(kinds: tuple[str, ...], kind: str) -> bool:
    return kind in kinds or (kind == "integer" and "number" in kinds)


def _enumerated(schema: Node) -> list[Node] | None:
    """Return the values that a schema lists; None if it lists none."""
    if "const" in schema:
        return [schema["const"]]
    values: list[Node] | None = schema.get("enum")
    return values


def _is_narrower(name: str, before: Node, after: Node) -> bool:
    if before is None or after is None:
        return before is None
    return bool(after > before) if name in _LOWER_BOUNDS else bool(after < before)


def _listed(values: Any) -> str:  # noqa: ANN401 - values of any schema
    return ", ".join(str(value) for value in values)


def _shown(value: Node) -> str:
    return "none" if value is None else repr(value)
