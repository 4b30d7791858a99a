"""A reference implementation of docs/events.md and docs/api.md, slow and obvious, to compare the running service with.

It shares no code with the service: bodies are parsed by `json` and isinstance checks, registers are dictionaries, a
page is a slice of a sorted list.

Invariants: a register changes only for a strictly higher version; a message is applied as a whole or parked.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from typing import Any, NamedTuple, NoReturn

BODY_BYTES_MAX = 256 * 1024
EVENT_ID_CHARS_MAX = 128
INT64_MAX = 2**63 - 1
LIMIT_MAX = 200

STATUSES = ("draft", "running", "paused", "done")
CHANNELS = ("call", "whatsapp")
LABELS = ("positive", "negative", "neutral")
SEMANTIC_TYPES = ("new", "active", "won", "lost")
COUNTERS = (
    "contacts_total",
    "contacts_contacted",
    "contacts_remaining",
    "contacts_to_recall",
    "contacts_failed",
    "contacts_succeeded",
)
SORT_FIELDS = ("enrolled_at", "name", "status", "created_at", "progress", *COUNTERS)
REGISTERS = ("customer", "definition", "status", "deletion", "counters", "enrolment", "presence")

Fields = dict[str, Any]
Check = Callable[[object], Any]
Model = dict[str, dict[Any, tuple[int, Any]]]
"""Register name → entity → (version, value)."""
Loc = tuple[str, str]
Pairs = Sequence[tuple[str, str]]


class ParkedError(Exception):
    """An event that cannot be applied; `reason` is one of oversize, json, envelope, type, field, subject."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Principal(NamedTuple):
    """The caller of a request."""

    user_id: str
    is_admin: bool


@dataclass(frozen=True)
class Expected:
    """The response the service must give to `request`: the complete body for 200, the set of `loc` for 422."""

    request: str
    """A description for messages."""
    status: int
    body: Fields | None = None
    locs: frozenset[Loc] = field(default=frozenset())
    has_next: bool = False


# Values: each check returns the value in its normal form, or raises ValueError.


def require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


def storable(value: str) -> bool:
    """Return whether UTF-8 and PostgreSQL can store the text: no NUL, no lone surrogate."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def text(value: object) -> str:
    if isinstance(value, str) and storable(value):
        return value
    raise ValueError("not a string without NUL and lone surrogates")


def filled_text(value: object) -> str:
    require(text(value) != "", "an empty string")
    return text(value)


def event_id(value: object) -> str:
    require(len(filled_text(value)) <= EVENT_ID_CHARS_MAX, "an id too long")
    return text(value)


def flag(value: object) -> bool:
    if value is True or value is False:
        return value
    raise ValueError("not a boolean")


def integer(lowest: int, highest: int = INT64_MAX) -> Check:
    def check(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
            return value
        raise ValueError(f"not an integer from {lowest} to {highest}")

    return check


def finite_number(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(float(value)):
        return float(value)
    raise ValueError("not a finite number")


def one_of(*allowed: str) -> Check:
    def check(value: object) -> str:
        require(isinstance(value, str) and value in allowed, f"not one of {allowed}")
        return str(value)

    return check


def list_of(check_member: Check) -> Check:
    def check(value: object) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError("not a list")  # noqa: TRY004 (a single error type: any error parks the event)
        return [check_member(member) for member in value]

    return check


def canonical_uuid(value: object) -> str:
    pattern = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    require(re.fullmatch(pattern, text(value)) is not None, "not a lower-case hyphenated UUID")
    return text(value)


def moment(value: object) -> datetime:
    """Parse an RFC 3339 date-time, offset required; digits beyond microseconds are truncated."""
    clock = r"([01]\d|2[0-3]):[0-5]\d"
    pattern = rf"\d{{4}}-\d\d-\d\d[Tt]{clock}:[0-5]\d(\.\d+)?([Zz]|[+-]{clock})"
    require(re.fullmatch(pattern, text(value), re.ASCII) is not None, "not an RFC 3339 date-time")
    try:
        return datetime.fromisoformat(text(value).upper()).astimezone(UTC)
    except OverflowError:
        raise ValueError("outside the years 1 to 9999") from None


def stamp(value: object) -> str:
    """Return a date-time in the API's format."""
    return format_utc(moment(value))


def clock_time(value: object) -> str:
    require(re.fullmatch(r"\d\d:\d\d:\d\d(\.\d{1,6})?", text(value), re.ASCII) is not None, "not hh:mm:ss")
    time.fromisoformat(text(value))
    return text(value)


def any_object(value: object) -> Fields:
    if isinstance(value, dict):
        return value
    raise ValueError("not an object")


def format_utc(when: datetime) -> str:
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


# Shapes: the fields of an object. Unknown fields are ignored, null counts as absent.

REQUIRED = object()
OMITTED = object()


def shape(fields: dict[str, tuple[Check, object]]) -> Check:
    """Return a check of each field; the second of each pair is REQUIRED, OMITTED, or the default to fill in."""

    def check(value: object) -> Fields:
        values = any_object(value)
        result = {}
        for name, (check_field, default) in fields.items():
            if values.get(name) is not None:
                result[name] = check_field(values[name])
            elif default is REQUIRED:
                raise ValueError(f"{name} is missing")
            elif default is not OMITTED:
                result[name] = default
        return result

    return check


any_integer = integer(-INT64_MAX - 1)

OBJECTIVES = {
    "contact": shape(
        {
            "type": (one_of("contact"), "contact"),
            "channels": (list_of(one_of(*CHANNELS)), OMITTED),
            "min_count": (any_integer, 1),
        }
    ),
    "email": shape({"type": (one_of("email"), "email"), "min_count": (any_integer, 1)}),
    "ai": shape(
        {
            "type": (one_of("ai"), "ai"),
            "label_in": (list_of(one_of(*LABELS)), OMITTED),
            "min_score": (finite_number, 0.0),
        }
    ),
}


def objective(value: object) -> Fields:
    """Check an objective by its type; without a type it is the first that the contract lists."""
    kind = any_object(value).get("type") or "contact"
    require(isinstance(kind, str) and kind in OBJECTIVES, "an unknown objective")
    return OBJECTIVES[kind](value)  # type: ignore[no-any-return]


call_window = shape(
    {
        "start": (clock_time, "09:00:00"),
        "end": (clock_time, "19:00:00"),
        "weekdays": (list_of(any_integer), OMITTED),
    }
)

stage = shape(
    {
        "id": (canonical_uuid, REQUIRED),
        "campaign_id": (canonical_uuid, REQUIRED),
        "key": (text, REQUIRED),
        "name": (text, REQUIRED),
        "position": (any_integer, REQUIRED),
        "semantic_type": (one_of(*SEMANTIC_TYPES), REQUIRED),
        "color": (text, OMITTED),
        "is_system": (flag, False),
        "created_at": (stamp, REQUIRED),
        "updated_at": (stamp, REQUIRED),
    }
)

CARD = {
    "name": (text, REQUIRED),
    "agent_id": (canonical_uuid, REQUIRED),
    "agent_name": (text, OMITTED),
    "phone_number_id": (canonical_uuid, OMITTED),
    "phone_number": (text, OMITTED),
    "whatsapp_channel_id": (canonical_uuid, OMITTED),
    "goal": (text, OMITTED),
    "goal_spec": (shape({"objectives": (list_of(objective), OMITTED)}), OMITTED),
    "first_contact_channel": (one_of(*CHANNELS), REQUIRED),
    "call_opening_message": (text, OMITTED),
    "whatsapp_first_message": (text, OMITTED),
    "whatsapp_after_attempts": (any_integer, REQUIRED),
    "call_attempt_delays": (list_of(any_integer), OMITTED),
    "call_working_hours": (call_window, OMITTED),
    "stages": (list_of(stage), OMITTED),
}
"""The fields of an item that come from the campaign's definition; id, status and counters are added."""

VERSION = {"version": (integer(1), REQUIRED)}
CUSTOMER_ID = {"customer_id": (canonical_uuid, REQUIRED)}
CAMPAIGN_ID = {"campaign_id": (canonical_uuid, REQUIRED)}
TARGET = {"target_id": (canonical_uuid, REQUIRED), **CUSTOMER_ID, **CAMPAIGN_ID, **VERSION}

ENVELOPE = shape(
    {
        "specversion": (one_of("1.0"), REQUIRED),
        "id": (event_id, REQUIRED),
        "source": (filled_text, REQUIRED),
        "type": (text, REQUIRED),
        "time": (moment, REQUIRED),
        "data": (any_object, REQUIRED),
    }
)

EVENTS: dict[str, Check] = {
    "customer.upserted.v1": shape(
        {**CUSTOMER_ID, **VERSION, "owner_id": (canonical_uuid, REQUIRED), "deleted": (flag, False)}
    ),
    "campaign.upserted.v1": shape(
        {
            **CAMPAIGN_ID,
            **VERSION,
            **CARD,
            "owner_id": (canonical_uuid, REQUIRED),
            "status": (one_of(*STATUSES), REQUIRED),
            "created_at": (moment, OMITTED),
        }
    ),
    "campaign.status_changed.v1": shape({**CAMPAIGN_ID, **VERSION, "status": (one_of(*STATUSES), REQUIRED)}),
    "campaign.deleted.v1": shape({**CAMPAIGN_ID, **VERSION}),
    "campaign.restored.v1": shape({**CAMPAIGN_ID, **VERSION}),
    "campaign.counters_changed.v1": shape(
        {
            **CAMPAIGN_ID,
            **VERSION,
            **{name: (integer(0), REQUIRED) for name in COUNTERS},
            "progress": (finite_number, REQUIRED),
        }
    ),
    "target.enrolled.v1": shape({**TARGET, "enrolled_at": (moment, REQUIRED), "source": (text, OMITTED)}),
    "target.removed.v1": shape({**TARGET, "reason": (text, OMITTED)}),
    "target.restored.v1": shape({**TARGET, "reason": (text, OMITTED)}),
}


# Messages: from subject and bytes to register writes.


def _no_constants(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parsed(body: bytes) -> object:
    """Parse strict UTF-8 JSON; raises ParkedError."""
    if len(body) > BODY_BYTES_MAX:
        raise ParkedError("oversize", f"{len(body)} bytes")
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constants)
    except (ValueError, RecursionError) as error:
        raise ParkedError("json", str(error)) from error


def checked(reason: str, check: Check, value: object) -> Fields:
    try:
        return any_object(check(value))
    except (ValueError, OverflowError) as error:
        raise ParkedError(reason, str(error)) from error


def subject_of(event_type: str, event: Fields) -> str:
    """Return the only subject on which such an event is valid."""
    if event_type == "customer.upserted.v1":
        return f"membership.customer.{event['customer_id']}"
    if event_type == "campaign.counters_changed.v1":
        return f"membership.counters.{event['campaign_id']}"
    if event_type.startswith("campaign."):
        return f"membership.campaign.{event['campaign_id']}"
    return f"membership.target.{event['customer_id']}.{event['campaign_id']}"


def read_event(subject: str, body: bytes) -> tuple[str, Fields]:
    """Return the event's type and checked fields; raises ParkedError if anything is invalid."""
    envelope = checked("envelope", ENVELOPE, parsed(body))
    event_type = envelope["type"]
    if event_type not in EVENTS:
        raise ParkedError("type", event_type)
    event = checked("field", EVENTS[event_type], envelope["data"])
    if subject != subject_of(event_type, event):
        raise ParkedError("subject", subject)
    return event_type, event


def definition_of(event: Fields) -> Fields:
    card = {name: event[name] for name in CARD if name in event}
    return {
        "owner_id": event["owner_id"],
        "created_at": event.get("created_at"),
        "card": {"id": event["campaign_id"], **card},
    }


def customer_of(event: Fields) -> Fields:
    return {"owner_id": event["owner_id"], "deleted": event["deleted"]}


def counters_of(event: Fields) -> Fields:
    return {name: event[name] for name in (*COUNTERS, "progress")}


WRITES: dict[str, dict[str, Callable[[Fields], object]]] = {
    "customer.upserted.v1": {"customer": customer_of},
    "campaign.upserted.v1": {"definition": definition_of, "status": lambda event: event["status"]},
    "campaign.status_changed.v1": {"status": lambda event: event["status"]},
    "campaign.deleted.v1": {"deletion": lambda _: True},
    "campaign.restored.v1": {"deletion": lambda _: False},
    "campaign.counters_changed.v1": {"counters": counters_of},
    "target.enrolled.v1": {"enrolment": lambda event: event["enrolled_at"], "presence": lambda _: True},
    "target.removed.v1": {"presence": lambda _: False},
    "target.restored.v1": {"presence": lambda _: True},
}
"""Event type → register → the value written if the event's version is higher."""


def entity_of(register: str, event: Fields) -> object:
    """Return the register's entity: a customer, a campaign, or a (customer, campaign) pair."""
    if register == "customer":
        return event["customer_id"]
    if register in ("enrolment", "presence"):
        return event["customer_id"], event["campaign_id"]
    return event["campaign_id"]


# Parameters: each reader returns a value or raises ValueError.


def read_boolean(raw: str) -> bool:
    if raw.lower() in {"true", "1", "yes", "on", "t", "y"}:
        return True
    require(raw.lower() in {"false", "0", "no", "off", "f", "n"}, "not a boolean")
    return False


def read_integer(lowest: int, highest: int) -> Callable[[str], int]:
    """Read an integer as pydantic 2 does: accepts outer blanks, a sign, single underscores and a zero fraction."""

    def read(raw: str) -> int:
        match = re.fullmatch(r"([+-]?\d+(?:_\d+)*)(?:\.0+)?", raw.strip(), re.ASCII)
        if match is None:
            raise ValueError("not an integer")
        require(lowest <= int(match[1]) <= highest, "out of bounds")
        return int(match[1])

    return read


def read_q(raw: str) -> str | None:
    require(storable(raw), "NUL or a lone surrogate")
    return raw.strip() or None


def read_choice(*allowed: str) -> Callable[[str], str]:
    def read(raw: str) -> str:
        require(raw in allowed, f"not one of {allowed}")
        return raw

    return read


def read_moment(raw: str) -> datetime:
    """Parse an ISO 8601 date or date-time; no offset means UTC."""
    clock = r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?"
    require(re.fullmatch(rf"\d{{4}}-\d\d-\d\d(T{clock})?", raw, re.ASCII) is not None, "not ISO 8601")
    when = datetime.fromisoformat(raw)
    try:
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("outside the years 1 to 9999") from None


def read_date_to(raw: str) -> datetime:
    """Parse an upper bound; a date without a time covers its whole day."""
    when = read_moment(raw)
    return when if "T" in raw else datetime.combine(when, time.max, UTC)


PARAMETERS: dict[str, tuple[Callable[[str], Any], object]] = {
    "include_deleted": (read_boolean, False),
    "only_deleted": (read_boolean, False),
    "limit": (read_integer(1, LIMIT_MAX), 10),
    "offset": (read_integer(0, INT64_MAX), 0),
    "q": (read_q, None),
    "sort_field": (read_choice(*SORT_FIELDS), "enrolled_at"),
    "sort_dir": (read_choice("asc", "desc"), "desc"),
    "include_aggregations": (read_boolean, False),
    "date_from": (read_moment, None),
    "date_to": (read_date_to, None),
}


def read_customer_id(raw: str) -> str:
    """Read a UUID in the notations that pydantic 2 accepts: hyphenated, plain, braced, urn; any case."""
    digits = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    notations = rf"{digits}|[0-9a-fA-F]{{32}}|\{{{digits}\}}|urn:uuid:{digits}"
    require(re.fullmatch(notations, raw) is not None, "not a UUID")
    hexadecimal = re.sub("[^0-9a-f]", "", raw.removeprefix("urn:uuid:").lower())
    return "-".join(hexadecimal[start:end] for start, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, None)))


def read_request(path: str, query_pairs: Pairs) -> tuple[Fields, set[Loc]]:
    """Return the values of path and parameters, and the location of every invalid one. The last repetition counts."""
    last = dict(query_pairs)
    values: Fields = {}
    invalid: set[Loc] = set()
    try:
        values["customer_id"] = read_customer_id(path.removeprefix("/customers/").removesuffix("/campaigns"))
    except ValueError:
        invalid.add(("path", "customer_id"))
    for name, (read, default) in PARAMETERS.items():
        try:
            values[name] = read(last[name]) if name in last else default
        except ValueError:
            invalid.add(("query", name))
    return values, invalid


# Responses.


def search_key(raw: str) -> str:
    decomposed = unicodedata.normalize("NFKD", raw)
    return "".join(char for char in decomposed if unicodedata.combining(char) == 0).casefold()


def matches_search(row: Fields, values: Fields) -> bool:
    """Return whether a membership passes `q` and the dates."""
    item, after, before = row["item"], values["date_from"], values["date_to"]
    if after is not None and row["enrolled_at"] < after:
        return False
    if before is not None and row["enrolled_at"] > before:
        return False
    if values["q"] is None:
        return True
    searched = [item[name] for name in ("name", "goal", "agent_name") if name in item]
    return any(search_key(values["q"]) in search_key(field) for field in searched)


def matches_flags(row: Fields, values: Fields) -> bool:
    """Return whether a membership passes the two deletion flags."""
    if values["only_deleted"]:
        return bool(row["deleted"])
    return values["include_deleted"] or not row["deleted"]


def sort_value(row: Fields, sort_field: str) -> Any:
    if sort_field in ("enrolled_at", "created_at"):
        return row[sort_field]
    if sort_field == "name":
        return search_key(row["item"]["name"])
    if sort_field == "status":
        return STATUSES.index(row["item"]["status"])
    return row["item"][sort_field]


def ordered(rows: list[Fields], sort_field: str, sort_dir: str) -> list[Fields]:
    """Sort; ties by campaign id ascending and nulls last, in both directions."""
    by_id = sorted(rows, key=lambda row: row["item"]["id"])
    known = [row for row in by_id if sort_value(row, sort_field) is not None]
    unknown = [row for row in by_id if sort_value(row, sort_field) is None]
    # A stable sort keeps the order of equal rows, reversed or not: here, by id ascending.
    return sorted(known, key=lambda row: sort_value(row, sort_field), reverse=sort_dir == "desc") + unknown


def echo(values: Fields) -> Fields:
    """Return the body's `query`."""
    dates = {name: format_utc(values[name]) for name in ("date_from", "date_to") if values[name] is not None}
    return {
        **({} if values["q"] is None else {"q": values["q"]}),
        **dates,
        "sort": sort_of(values),
        "filters": {name: values[name] for name in ("include_deleted", "only_deleted")},
    }


def sort_of(values: Fields) -> Fields:
    return {"field": values["sort_field"], "direction": values["sort_dir"]}


def aggregations(matching: list[Fields], listed: list[Fields]) -> Fields:
    """Return the counts: of `listed`, which meta.total counts, and of `matching`, which ignores the flags."""
    by_status = {status: sum(row["item"]["status"] == status for row in listed) for status in STATUSES}
    return {
        "quick_filters": {"all": len(listed), **by_status},
        "extra": {"deleted": sum(row["deleted"] for row in matching)},
    }


class Reference:
    """The expected read model after the messages applied so far."""

    def __init__(self) -> None:
        self.model: Model = {name: {} for name in REGISTERS}
        self.parked: dict[int, str] = {}
        """Position → coarse reason."""

    def apply(self, subject: str, body: bytes, position: int) -> None:
        """Fold one published message, or record it as parked."""
        try:
            event_type, event = read_event(subject, body)
        except ParkedError as error:
            self.parked[position] = error.reason
            return
        for register, value_of in WRITES[event_type].items():
            entity = entity_of(register, event)
            current = self.model[register].get(entity)
            if current is None or event["version"] > current[0]:
                self.model[register][entity] = (event["version"], value_of(event))

    def respond(self, principal: Principal, path: str, query_pairs: Pairs) -> Expected:
        """Return the complete response to GET `path` (unescaped) with these parameters; `cursor` is ignored."""
        request = f"GET {path} {list(query_pairs)} as {principal}"
        values, invalid = read_request(path, query_pairs)
        if invalid:
            return Expected(request, 422, locs=frozenset(invalid))
        if not self._customer_is_visible(principal, values):
            return Expected(request, 404)
        matching = [row for row in self._memberships(principal, values) if matches_search(row, values)]
        listed = [row for row in matching if matches_flags(row, values)]
        body, has_next = self._page(values, listed)
        if values["include_aggregations"]:
            body["aggregations"] = aggregations(matching, listed)
        return Expected(request, 200, body, has_next=has_next)

    def _page(self, values: Fields, listed: list[Fields]) -> tuple[Fields, bool]:
        full = ordered(listed, values["sort_field"], values["sort_dir"])
        end = values["offset"] + values["limit"]
        meta = {"total": len(full), "limit": values["limit"], "offset": values["offset"], "sort": sort_of(values)}
        page = [row["item"] for row in full[values["offset"] : end]]
        return {"data": page, "meta": meta, "query": echo(values)}, end < len(full)

    def _customer_is_visible(self, principal: Principal, values: Fields) -> bool:
        customer_id = values["customer_id"]
        if customer_id not in self.model["customer"]:
            enrolled = any(customer == customer_id for customer, _ in self.model["enrolment"])
            return enrolled and principal.is_admin
        _, customer = self.model["customer"][customer_id]
        if customer["deleted"] and not (values["include_deleted"] or values["only_deleted"]):
            return False
        return bool(principal.is_admin or customer["owner_id"] == principal.user_id)

    def _memberships(self, principal: Principal, values: Fields) -> Iterator[Fields]:
        """Yield the customer's memberships, deleted or not, that this principal may see."""
        for (customer_id, campaign_id), (_, enrolled_at) in self.model["enrolment"].items():
            if customer_id != values["customer_id"] or campaign_id not in self.model["definition"]:
                continue
            _, definition = self.model["definition"][campaign_id]
            if principal.is_admin or definition["owner_id"] == principal.user_id:
                yield {
                    "item": self._item(campaign_id),
                    "enrolled_at": enrolled_at,
                    "created_at": definition["created_at"],
                    "deleted": self._is_deleted(customer_id, campaign_id),
                }

    def _item(self, campaign_id: str) -> Fields:
        no_counters = dict.fromkeys(COUNTERS, 0) | {"progress": 0.0}
        _, definition = self.model["definition"][campaign_id]
        _, status = self.model["status"][campaign_id]
        _, counters = self.model["counters"].get(campaign_id, (0, no_counters))
        return {**definition["card"], "status": status, **counters}

    def _is_deleted(self, customer_id: str, campaign_id: str) -> bool:
        _, present = self.model["presence"][customer_id, campaign_id]
        _, campaign_deleted = self.model["deletion"].get(campaign_id, (0, False))
        return campaign_deleted or not present
