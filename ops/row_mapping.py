"""How the rows of a table become events: which column, or which constant, gives each field.

Fails: `MappingInvalid`, with all errors of the mapping at once.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from campaign_membership_client.derived_ids import derived_id
from campaign_membership_client.event import Event
from campaign_membership_client.field_errors import allowed, allowed_types
from projections.errors import MembershipError
from projections.model.events import EVENT_TYPES, SUBJECT_IDS, Id, family_of

ATTRIBUTES: Final = ("id", "time")
"""Attributes of the event that a column may give, besides the fields of `data`."""
DERIVED: Final = "target_id"
"""A target's id is derived from customer and campaign if no column gives it."""
_TRUE_FALSE: Final = {"t": True, "f": False, "yes": True, "no": False}
"""Spellings besides true, false, 1 and 0: PostgreSQL's, and those of spreadsheets."""
_US_PER_S: Final = 10**6


class MappingInvalid(MembershipError):
    """The mapping cannot give events."""

    code = "mapping_invalid"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([*self.problems, "Nothing was published."]))


class MappingFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a mapping file; options of the command replace single entries."""

    type: str = ""
    source: str = ""
    columns: dict[str, str] = {}
    """Column by field."""
    constants: dict[str, Any] = {}
    """Value by field."""


class RowMapping:
    """Makes an event of a type from each row."""

    def __init__(self, mapping: MappingFile) -> None:
        family = family_of(mapping.type)
        if family is None:
            raise MappingInvalid([f"--type: {mapping.type!r} is no event type; expected {allowed_types()}."])
        fields = msgspec.structs.fields(EVENT_TYPES[family][mapping.type])
        self.type = mapping.type
        self.source = mapping.source
        self._constants = mapping.constants
        self._columns = mapping.columns
        # The contract's types leave the pattern of these ids to the check of the subject.
        self._annotations: dict[str, Any] = {
            field.name: Id if field.name in SUBJECT_IDS[family] else field.type for field in fields
        }
        self._required = [field.name for field in fields if field.required and field.name != DERIVED]
        self._check()

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise `MappingInvalid` unless the columns give every required field; for input with a header."""
        listed = ", ".join(columns)
        problems = [
            f"--map {field}={column}: there is no column {column!r}; the columns are {listed}."
            for field, column in self._columns.items()
            if column not in columns
        ]
        problems += [
            f"No column gives {field}, {allowed(self._annotations[field])}: use --map {field}=COLUMN or "
            f"--set {field}=VALUE; the columns are {listed}."
            for field in self._required
            if field not in {*self._columns, *self._constants, *columns}
        ]
        problems += [f"Two columns are named {name!r}." for name in sorted(_repeated(columns))]
        if problems:
            raise MappingInvalid(problems)

    def unused(self, columns: Iterable[str]) -> list[str]:
        """Return the columns that give no field."""
        used = {self._columns.get(name, name) for name in (*self._annotations, *ATTRIBUTES)}
        return [column for column in columns if column not in used]

    def event(self, row: Mapping[str, Any]) -> Event:
        """Return the event of a row, with values converted where their text allows it; not yet validated."""
        data = {name: self._value(row, name) for name in self._annotations}
        if DERIVED in data and data[DERIVED] is None:
            data[DERIVED] = derived_id("target", data["customer_id"], data["campaign_id"])
        event_id, time = (self._raw(row, name) for name in ATTRIBUTES)
        return Event(self.type, data, None if event_id is None else str(event_id), _instant(time))

    def _value(self, row: Mapping[str, Any], field: str) -> Any:  # noqa: ANN401 - by field
        value = self._raw(row, field)
        return converted(field, value, self._annotations[field]) if isinstance(value, str) else value

    def _raw(self, row: Mapping[str, Any], field: str) -> Any:  # noqa: ANN401 - by field
        """Return a field's value; an empty text is none."""
        value = self._constants[field] if field in self._constants else row.get(self._columns.get(field, field))
        return None if value == "" else value

    def _check(self) -> None:
        known = {*self._annotations, *ATTRIBUTES}
        unknown = [name for name in (*self._columns, *self._constants) if name not in known]
        problems = [
            f"{self.type} has no field {name!r}; its fields are {', '.join(sorted(known))}." for name in unknown
        ]
        if not self.source:
            problems.append("--source is missing: the name of the system that the rows come from, such as crm.")
        if problems:
            raise MappingInvalid(problems)


def read_mapping(file: Path | None, options: MappingFile) -> MappingFile:
    """Return the mapping of a TOML file, with entries replaced by those of the command's options."""
    if file is None:
        return options
    try:
        parsed = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), MappingFile)
    except (OSError, ValueError) as problem:  # a TOMLDecodeError and a ValidationError are ValueErrors
        raise MappingInvalid([f"{file} is not a mapping: {problem}."]) from None
    return MappingFile(
        options.type or parsed.type,
        options.source or parsed.source,
        parsed.columns | options.columns,
        parsed.constants | options.constants,
    )


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Return `FIELD=TEXT` options by field; raises `MappingInvalid`."""
    wrong = [text for text in texts if not text.partition("=")[1] or not text.partition("=")[0]]
    if wrong:
        raise MappingInvalid([f"{option} {text}: expected FIELD=…" for text in wrong])
    return {field: text for field, _, text in (pair.partition("=") for pair in texts)}


def converted(field: str, text: str, annotation: Any) -> Any:  # noqa: ANN401 - by type
    """Return a text as the value it means for a type; the text itself if it means none, which validation reports."""
    if text.strip()[:1] in {"[", "{"}:
        with suppress(ValueError):
            return json.loads(text)
    if text.lower() in _TRUE_FALSE and _accepts(annotation, True):
        return _TRUE_FALSE[text.lower()]
    instant = _instant(text)
    if isinstance(instant, datetime):
        return _microseconds(instant) if field == "version" else instant
    with suppress(msgspec.ValidationError, OverflowError):
        return msgspec.convert(text.strip(), annotation, strict=False)
    return text


def _accepts(annotation: Any, value: object) -> bool:  # noqa: ANN401 - a type
    try:
        msgspec.convert(value, annotation, strict=True)
    except msgspec.ValidationError:
        return False
    return True


def _instant(value: object) -> Any:  # noqa: ANN401 - a date-time, or the value itself
    """Return a text with a date, a time and an offset as a date-time: PostgreSQL's spelling is none of RFC 3339."""
    if not isinstance(value, str) or ":" not in value:
        return value
    with suppress(ValueError):
        instant = datetime.fromisoformat(value.strip())
        return instant if instant.tzinfo is not None else value
    return value


def _microseconds(instant: datetime) -> int:
    return int(instant.timestamp()) * _US_PER_S + instant.microsecond


def _repeated(names: Sequence[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}
