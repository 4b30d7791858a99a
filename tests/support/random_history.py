"""A random history from a seed: events as a producer would publish them, their expected outcome, and invalid messages.

The expected outcome is recorded while the events are generated, not by reading them back, so it also tests the
reference model.

Invariants: versions rise along `publications` for every entity, so no two valid events tie; every invalid message
has a version above all valid ones, so that its application would be visible in the outcome.
"""

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any, NamedTuple

BODY_BYTES_MAX = 256 * 1024
EVENT_ID_CHARS_MAX = 128
INT64_MAX = 2**63 - 1
COPIES_WEIGHTS = (40, 25, 15, 10, 10)
"""Weights of delivering a valid event once, twice, … five times."""

Fields = dict[str, Any]
Registers = dict[str, dict[Any, tuple[int, Any]]]
"""Register → entity → (version, value), with the names of the reference's model."""

NAMES = (
    "Été à la plage",
    "ete a la plage",
    "ÉTÉ À LA PLAGE",
    "E\u0301te\u0301 decomposed",
    "Straße 1",
    "STRASSE 1",
    "ﬁnal oﬀer",
    "Final Offer",
    "100% off",
    "100_off",
    "1000off",
    "C:\\new\\table",
    "\\%_",
    "ΣΊΣΥΦΟΣ",
    "σίσυφος",
    "Привет, Ёлка",
    "ПРИВЕТ, ЕЛКА",
    "東京キャンペーン",
    "ﾄｳｷｮｳ",
    "한국어 캠페인",
    "हिन्दी अभियान",
    "مُحَمَّد",
    "שָׁלוֹם",
    "İstanbul",
    "ıstanbul",
    "🎉 Launch 🎉",
    "👩‍👩‍👧 family",
    "\uf8ff private",
    "①②③ Ⅳ ½",
    "Ｆｕｌｌ ｗｉｄｔｈ",
    "",
    "  padded  ",
    "Same name",
    "Same name",
    "same NAME",
    'tab\there "quoted" </script>\u2028',
    "\u0001 control",
    "Zürich",
    "zebra",
    "null",
)
GOALS = (
    "Sell more café au lait",
    "SELL MORE CAFE",
    "renew 50% of contracts_",
    "",
    "日本語のゴール",
    "naïve coöperation",
)
AGENTS = ("Zoë", "zoe", "Ángel Núñez", "Søren", "Ольга", "o_lga", "R2\\D2", "김민수")
ENROLLED_AT = (
    datetime(2024, 3, 5, tzinfo=UTC),
    datetime(2024, 3, 5, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2024, 3, 6, tzinfo=UTC),
    datetime(2024, 3, 6, 12, 30, tzinfo=UTC),
    datetime(2024, 3, 6, 12, 30, 0, 1, tzinfo=UTC),
    datetime(2024, 2, 29, 23, 30, tzinfo=UTC),
    datetime(2023, 12, 31, 23, 59, 59, 500000, tzinfo=UTC),
    datetime(2024, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 250000, tzinfo=UTC),
)
EXTREME_MOMENTS = (
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
)
COUNTERS = (
    "contacts_total",
    "contacts_contacted",
    "contacts_remaining",
    "contacts_to_recall",
    "contacts_failed",
    "contacts_succeeded",
)
PROGRESS = (0, 0.0, 0.5, 12.25, 33.3, 50, 100, 100.0, -1.5, 1e-7, 1e300)
STATUSES = ("draft", "running", "paused", "done")
OPTIONAL = (
    "agent_name",
    "phone_number_id",
    "phone_number",
    "whatsapp_channel_id",
    "goal",
    "goal_spec",
    "call_opening_message",
    "whatsapp_first_message",
    "call_attempt_delays",
    "call_working_hours",
    "stages",
)


@dataclass(frozen=True)
class Publication:
    """One message for JetStream; `defect` describes what makes it invalid, "" if it is valid."""

    subject: str
    body: bytes
    msg_id: str
    defect: str = ""


def new_id(rng: Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def in_utc(when: datetime) -> str:
    fraction = f".{when.microsecond:06d}" if when.microsecond else ""
    return f"{when.year:04d}-{when.month:02d}-{when.day:02d}T{when:%H:%M:%S}{fraction}Z"


def format_moment(rng: Random, when: datetime) -> str:
    """Format an instant in one of the RFC 3339 notations: any offset, up to six decimals."""
    if when in EXTREME_MOMENTS:
        return in_utc(when)
    minutes = rng.choice((0, 0, 0, 60, 120, -300, 330, 345, -570, 840))
    local = when.astimezone(timezone(timedelta(minutes=minutes)))
    digits = f"{local.microsecond:06d}".rstrip("0")
    digits = digits.ljust(rng.randint(len(digits), 6), "0")
    offset = local.isoformat()[-6:]
    if minutes == 0:
        offset = rng.choice(("Z", "+00:00"))
    return f"{local:%Y-%m-%dT%H:%M:%S}" + (f".{digits}" if digits else "") + offset


def as_sent(rng: Random, expected: Fields, defaults: Fields, optional: tuple[str, ...] = ()) -> Fields:
    """Return an object as producers send it: defaults sometimes omitted or null, absent fields sometimes null."""
    sent = dict(expected)
    for name, default in defaults.items():
        if expected[name] == default and rng.random() < 0.7:
            sent[name] = None
            if rng.random() < 0.6:
                del sent[name]
    for name in optional:
        if name not in expected and rng.random() < 0.3:
            sent[name] = None
    if rng.random() < 0.2:
        sent["x_unknown"] = {"ignored": [1, None, 10**30]}
    return sent


def random_subset(rng: Random, words: tuple[str, ...]) -> list[str]:
    return rng.sample(words, rng.randint(0, len(words)))


def objective(rng: Random) -> tuple[Fields, Fields]:
    """Return an objective: (as expected, as sent)."""
    kind = rng.choice(("contact", "email", "ai"))
    count: Fields = {"type": kind, "min_count": rng.choice((1, 1, 2, 5))}
    if kind == "email":
        return count, as_sent(rng, count, {"min_count": 1})
    is_listed = rng.random() < 0.7
    if kind == "contact":
        channels = {"channels": random_subset(rng, ("call", "whatsapp"))} if is_listed else {}
        return count | channels, as_sent(rng, count | channels, {"min_count": 1}, ("channels",))
    score: Fields = {"type": kind, "min_score": rng.choice((0.0, 0.0, 0.75, -2.0))}
    labels = {"label_in": random_subset(rng, ("positive", "negative", "neutral"))} if is_listed else {}
    return score | labels, as_sent(rng, score | labels, {"min_score": 0.0}, ("label_in",))


def goal_spec(rng: Random, count_min: int) -> tuple[Fields, Fields]:
    if not count_min and rng.random() < 0.2:
        return {}, rng.choice(({}, {"objectives": None}))
    parts = [objective(rng) for _ in range(rng.randint(count_min, 4))]
    return {"objectives": [expected for expected, _ in parts]}, {"objectives": [sent for _, sent in parts]}


def working_hours(rng: Random) -> tuple[Fields, Fields]:
    expected: Fields = {
        "start": rng.choice(("09:00:00", "09:00:00", "08:30:00")),
        "end": rng.choice(("19:00:00", "19:00:00", "23:59:59")),
    }
    if rng.random() < 0.6:
        expected["weekdays"] = sorted(rng.sample(range(7), rng.randint(0, 7)))
    return expected, as_sent(rng, expected, {"start": "09:00:00", "end": "19:00:00"}, ("weekdays",))


def stage(rng: Random, campaign_id: str, position: int) -> tuple[Fields, Fields]:
    created, updated = rng.choice(ENROLLED_AT), rng.choice(ENROLLED_AT)
    expected: Fields = {
        "id": new_id(rng),
        "campaign_id": campaign_id,
        "key": f"stage_{position}",
        "name": rng.choice(("Nouveau", "進行中", "Won 🎉", "")),
        "position": position,
        "semantic_type": rng.choice(("new", "active", "won", "lost")),
        "is_system": rng.random() < 0.3,
        "created_at": in_utc(created),
        "updated_at": in_utc(updated),
    }
    if rng.random() < 0.5:
        expected["color"] = "#00ff7f"
    sent = as_sent(rng, expected, {"is_system": False}, ("color",))
    moments = {"created_at": format_moment(rng, created), "updated_at": format_moment(rng, updated)}
    return expected, sent | moments


def optional_parts(rng: Random, campaign_id: str, complete: bool) -> tuple[Fields, Fields]:
    """Return optional fields of a campaign, most of them or (`complete`) all: (as expected, as sent)."""
    stages = [stage(rng, campaign_id, position) for position in range(rng.randint(int(complete), 3))]
    values: Fields = {
        "agent_name": rng.choice(AGENTS),
        "phone_number_id": new_id(rng),
        "phone_number": rng.choice(("+39 055 123456", "")),
        "whatsapp_channel_id": new_id(rng),
        "goal": rng.choice(GOALS),
        "call_opening_message": rng.choice(("Buongiorno!\nÈ qui…", "Hi")),
        "whatsapp_first_message": rng.choice(("👋", "Hello {name}")),
        "call_attempt_delays": [rng.choice((0, 15, 60, 1440)) for _ in range(rng.randint(int(complete), 3))],
    }
    parts: dict[str, tuple[Any, Any]] = {name: (value, value) for name, value in values.items()}
    parts["goal_spec"] = goal_spec(rng, count_min=int(complete))
    parts["call_working_hours"] = working_hours(rng)
    parts["stages"] = ([expected for expected, _ in stages], [sent for _, sent in stages])
    names = [name for name in OPTIONAL if complete or rng.random() < 0.6]
    return {name: parts[name][0] for name in names}, {name: parts[name][1] for name in names}


def definition(rng: Random, campaign_id: str, owner_id: str, complete: bool = False) -> tuple[Fields, Fields]:
    """Return a campaign's definition: (as expected, as sent in an event without status and version)."""
    created_at = None if rng.random() < 0.35 else rng.choice(ENROLLED_AT[:5])
    required = {
        "name": rng.choice(NAMES),
        "agent_id": new_id(rng),
        "first_contact_channel": rng.choice(("call", "whatsapp")),
        "whatsapp_after_attempts": rng.randint(0, 9),
    }
    expected, sent = optional_parts(rng, campaign_id, complete)
    sent = as_sent(rng, {**required, **sent}, {}, OPTIONAL)
    sent |= {"campaign_id": campaign_id, "owner_id": owner_id}
    if created_at is not None or rng.random() < 0.5:
        sent["created_at"] = created_at and format_moment(rng, created_at)
    card = {"id": campaign_id, **required, **expected}
    return {"owner_id": owner_id, "created_at": created_at, "card": card}, sent


def counters(rng: Random) -> Fields:
    counts: Fields = {name: rng.choice((0, 0, 1, 2, 5, 10, 10)) for name in COUNTERS}
    if rng.random() < 0.1:
        counts[rng.choice(COUNTERS)] = rng.choice((INT64_MAX, INT64_MAX - 1, 2**53 + 1, 2**31))
    return {**counts, "progress": rng.choice(PROGRESS)}


def shuffled(rng: Random, fields: Fields) -> Fields:
    return dict(rng.sample(list(fields.items()), len(fields)))


def encoded(rng: Random, event: Fields) -> bytes:
    """Encode an event as JSON, compact, indented or default."""
    layout = rng.choice(({}, {"separators": (",", ":")}, {"indent": 2}))
    body = json.dumps(event, ensure_ascii=rng.random() < 0.4, allow_nan=False, **layout)
    return (body + rng.choice(("", "", "\n", " \r\n"))).encode()


class History:
    """Customers, campaigns and enrolments of one seed.

    `publications` are the valid events, each once, in version order; `final()` is their expected outcome.
    """

    def __init__(self, seed: int, customers: int = 20, campaigns: int = 40, owners: int = 4) -> None:
        self.seed = seed
        self._rng = Random(f"world {seed}")  # the text stays as it is, so that recorded seeds give the same history
        self.owners = [new_id(self._rng) for _ in range(owners)]
        self.customers = [new_id(self._rng) for _ in range(customers)]
        self.campaigns = [new_id(self._rng) for _ in range(campaigns)]
        self.stranger = new_id(self._rng)
        self.publications: list[Publication] = []
        self._versions: Counter[str] = Counter()
        self._expected: Registers = {
            name: {} for name in ("customer", "definition", "status", "deletion", "counters", "enrolment", "presence")
        }
        self._add_campaigns()
        self._add_customers()
        self._add_targets()
        self._add_highest_version()

    def final(self) -> Registers:
        """Return the expected registers after all valid events, in any order and with any repetitions."""
        return deepcopy(self._expected)

    def delivery(self, seed: int) -> list[Publication]:
        """Return a delivery: the valid events shuffled and repeated, with one invalid message of every kind."""
        rng = Random(f"delivery {self.seed} {seed}")
        publications = [copy for original in self.publications for copy in _copies(rng, original)]
        publications += InvalidMessages(self, rng, f"{self.seed}-{seed}").each_kind()
        rng.shuffle(publications)
        return publications

    def next_version(self, subject: str) -> int:
        """Return a version above all used on `subject`, without reserving it."""
        return self._versions[subject] + 1_000

    def envelope(self, rng: Random, event_type: str, fields: Fields) -> Fields:
        """Wrap an event's fields as a CloudEvent."""
        event = {
            "specversion": "1.0",
            "id": new_id(rng),
            "source": rng.choice(("/umanize/api", "urn:producer:é")),
            "type": event_type,
            "time": format_moment(rng, rng.choice(ENROLLED_AT)),
            "data": shuffled(rng, fields),
        }
        extra: Fields = {"datacontenttype": "application/json", "subject": "x", "traceparent": None, "depth": [[{}]]}
        return shuffled(rng, event | extra if rng.random() < 0.3 else event)

    def _add_highest_version(self) -> None:
        subject = f"membership.counters.{self.campaigns[0]}"
        self._versions[subject] = INT64_MAX - 1
        self._add_counters(self.campaigns[0], step=1)

    def _add(self, event_type: str, subject: str, fields: Fields, step: int = 0) -> int:
        """Add an event with the next version of its subject; return that version."""
        rng = self._rng
        start = self._versions[subject] or rng.choice((0, 0, 1_710_000_000_000_000))
        version = start + (step or rng.choice((1, 1, 2, 17, 1_000_000)))
        self._versions[subject] = version
        event = self.envelope(rng, event_type, {**fields, "version": version})
        if len(self.publications) % 97 == 5:
            event["id"] = event["id"].ljust(EVENT_ID_CHARS_MAX, "x")
        body = encoded(rng, event)
        if len(self.publications) == 50:
            body = padded(event, BODY_BYTES_MAX)
        self.publications.append(Publication(subject, body, event["id"]))
        return version

    def _record(self, register: str, entity: object, version: int, value: object) -> None:
        self._expected[register][entity] = (version, value)

    def _add_campaigns(self) -> None:
        for number, campaign_id in enumerate(self.campaigns):
            is_upserted = number % 20 != 19
            steps = ["upserted"] * (self._rng.choice((1, 1, 2, 3)) if is_upserted else 0)
            steps += ["status"] * self._rng.randint(0, 3)
            steps += self._rng.choice(([], [], [], ["deleted"], ["deleted", "restored"], ["restored", "deleted"]))
            steps += ["counters"] * self._rng.choice((0, 1, 2, 4))
            self._rng.shuffle(steps)
            for step in steps:
                getattr(self, f"_add_{step}")(campaign_id)

    def _add_upserted(self, campaign_id: str) -> None:
        owner_id = self._rng.choice((self.owners[0], *self.owners))
        expected, sent = definition(self._rng, campaign_id, owner_id)
        status = self._rng.choice(STATUSES)
        subject = f"membership.campaign.{campaign_id}"
        version = self._add("campaign.upserted.v1", subject, {**sent, "status": status})
        self._record("definition", campaign_id, version, expected)
        self._record("status", campaign_id, version, status)

    def _add_status(self, campaign_id: str) -> None:
        status = self._rng.choice(STATUSES)
        subject = f"membership.campaign.{campaign_id}"
        fields = {"campaign_id": campaign_id, "status": status}
        self._record("status", campaign_id, self._add("campaign.status_changed.v1", subject, fields), status)

    def _add_deleted(self, campaign_id: str) -> None:
        self._add_deletion(campaign_id, "campaign.deleted.v1", deleted=True)

    def _add_restored(self, campaign_id: str) -> None:
        self._add_deletion(campaign_id, "campaign.restored.v1", deleted=False)

    def _add_deletion(self, campaign_id: str, event_type: str, deleted: bool) -> None:
        subject = f"membership.campaign.{campaign_id}"
        fields: Fields = {
            "campaign_id": campaign_id,
            "name": 7,
            "status": None,
        }  # other types' fields
        self._record("deletion", campaign_id, self._add(event_type, subject, fields), deleted)

    def _add_counters(self, campaign_id: str, step: int = 0) -> None:
        counts = counters(self._rng)
        subject = f"membership.counters.{campaign_id}"
        fields = {"campaign_id": campaign_id, **counts}
        version = self._add("campaign.counters_changed.v1", subject, fields, step)
        self._record("counters", campaign_id, version, counts)

    def _add_customers(self) -> None:
        """Add all customers except every sixth and the last; every fifth ends deleted."""
        for number, customer_id in enumerate(self.customers):
            is_added = number % 6 != 5 and customer_id != self.customers[-1]
            for change in range(self._rng.randint(1, 3) if is_added else 0):
                owner_id = self._rng.choice(self.owners)
                fields: Fields = {"customer_id": customer_id, "owner_id": owner_id}
                deleted = number % 5 == 4 or (change == 0 and number % 5 == 3)
                fields |= {"deleted": True} if deleted else self._rng.choice(({}, {"deleted": None}))
                fields |= {} if deleted else self._rng.choice(({}, {"deleted": False}))
                version = self._add("customer.upserted.v1", f"membership.customer.{customer_id}", fields)
                self._record("customer", customer_id, version, {"owner_id": owner_id, "deleted": deleted})

    def _add_targets(self) -> None:
        """Enrol the first customer in all campaigns, the others in some; none for the last two, but a removal."""
        for number, customer_id in enumerate(self.customers[:-2]):
            density = 1.0 if number == 0 else self._rng.choice((0.1, 0.5, 0.7, 0.9))
            for campaign_id in self.campaigns:
                if self._rng.random() < density:
                    self._add_target(customer_id, campaign_id)
        self._add_target(self.customers[-1], self.campaigns[0], ("removed",))

    def _add_target(self, customer_id: str, campaign_id: str, steps: tuple[str, ...] = ()) -> None:
        sequences = ("e", "e", "e", "e", "ee", "er", "er", "erR", "ere", "re", "R", "r", "eR")
        names = {"e": "enrolled", "r": "removed", "R": "restored"}
        steps = steps or tuple(names[letter] for letter in self._rng.choice(sequences))
        fields = {"target_id": new_id(self._rng), "customer_id": customer_id, "campaign_id": campaign_id}
        subject = f"membership.target.{customer_id}.{campaign_id}"
        for step in steps:
            enrolled_at = self._enrolled_at()
            extra: Fields = {"enrolled_at": "ignored unless enrolled", "reason": self._rng.choice((None, "ok"))}
            if step == "enrolled":
                extra = {"enrolled_at": format_moment(self._rng, enrolled_at), "reason": 7, "source": None}
            version = self._add(f"target.{step}.v1", subject, fields | extra)
            self._record("presence", (customer_id, campaign_id), version, step != "removed")
            if step == "enrolled":
                self._record("enrolment", (customer_id, campaign_id), version, enrolled_at)

    def _enrolled_at(self) -> datetime:
        if self._rng.random() < 0.03:
            return self._rng.choice(EXTREME_MOMENTS)
        if self._rng.random() < 0.5:
            return self._rng.choice(ENROLLED_AT)
        return datetime(2024, 3, 1, tzinfo=UTC) + timedelta(microseconds=self._rng.randrange(10**12))


def _copies(rng: Random, original: Publication) -> Iterator[Publication]:
    """Yield an event one to five times, each time with a new message id."""
    (count,) = rng.choices(range(1, 6), COPIES_WEIGHTS)
    yield original
    for number in range(2, count + 1):
        yield Publication(original.subject, original.body, f"{original.msg_id}#{number}")


def padded(event: Fields, size_bytes: int) -> bytes:
    """Encode an event with an unknown attribute that pads it to exactly this size."""
    unpadded = len(json.dumps({**event, "padding": ""}).encode())
    return json.dumps({**event, "padding": "x" * (size_bytes - unpadded)}).encode()


MISSING = object()


def literal(json_text: str) -> str:
    """Return a placeholder for JSON text that json.dumps does not produce."""
    return f"<<{json_text}>>"


def dumped(event: object) -> bytes:
    body = json.dumps(event, ensure_ascii=False)
    return re.sub(r'"<<(.*?)>>"', r"\1", body).encode()


def with_value(event: Fields, path: str, value: object) -> Fields:
    """Return a copy of the event with the value at a dotted path replaced, or removed if MISSING."""
    changed = deepcopy(event)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    container: Any = changed
    for step in parents:
        container = container[step]
    if value is MISSING:
        del container[last]
    else:
        container[last] = value
    return changed


SOME_ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
INVALID_IDS = (MISSING, None, "", 7, SOME_ID.upper(), SOME_ID.replace("-", ""), f"{{{SOME_ID}}}", SOME_ID[:-1] + "g")
INVALID_VERSIONS = (MISSING, None, 0, -1, 2**63, "7", literal("1.0"), 1.5, True, [1], literal("1e400"))
INVALID_TEXTS = (MISSING, None, 7, True, ["a"], {"a": 1}, "with \0 NUL", literal(r'"lone \ud800"'))
INVALID_MOMENTS = (
    MISSING,
    None,
    1_710_000_000,
    "",
    "yesterday",
    "2024-03-05",
    "2024-03-05T10:00:00",
    "2024-02-30T10:00:00Z",
    "2024-03-05T25:00:00Z",
    "0001-01-01T00:00:00+10:00",
)
INVALID_COUNTS = (MISSING, None, -1, 2**63, "3", literal("1.0"), True)
INVALID_NUMBERS = (
    MISSING,
    None,
    "50",
    True,
    literal("NaN"),
    literal("Infinity"),
    literal("-Infinity"),
    literal("1e400"),
)

INVALID_CAMPAIGN_FIELDS: dict[str, tuple[object, ...]] = {
    "name": INVALID_TEXTS,
    "status": (MISSING, None, "RUNNING", "archived", 1),
    "agent_id": INVALID_IDS,
    "owner_id": INVALID_IDS,
    "first_contact_channel": (MISSING, None, "sms", "Call"),
    "whatsapp_after_attempts": (MISSING, None, "3", literal("3.0"), True),
    "created_at": INVALID_MOMENTS[2:],
    "agent_name": INVALID_TEXTS[2:],
    "phone_number_id": INVALID_IDS[2:],
    "phone_number": (390551234, "\0"),
    "whatsapp_channel_id": ("x",),
    "goal": (5, "a\0b"),
    "goal_spec": ([], "contact"),
    "goal_spec.objectives": ({}, [None], ["contact"], [{"type": "sms"}], [{"type": 1}]),
    "goal_spec.objectives.0": (
        {"type": "contact", "channels": ["sms"]},
        {"type": "contact", "channels": "call"},
        {"type": "email", "min_count": "1"},
        {"type": "email", "min_count": literal("1.0")},
        {"type": "ai", "label_in": ["meh"]},
        {"type": "ai", "min_score": "0.5"},
        {"type": "ai", "min_score": literal("1e400")},
    ),
    "call_opening_message": (5, "\0"),
    "whatsapp_first_message": (5, "\0"),
    "call_attempt_delays": (60, ["60"], [1.5], [None], [True]),
    "call_working_hours": ([], "09:00:00"),
    "call_working_hours.start": (9, "25:00:00", "nine"),
    "call_working_hours.end": ("19:60:00",),
    "call_working_hours.weekdays": ("monday", ["1"], [True], [1.5]),
    "stages": ({}, [None], ["new"]),
    "stages.0.id": (MISSING, SOME_ID.upper()),
    "stages.0.campaign_id": (MISSING, 7),
    "stages.0.key": (MISSING, None, 7),
    "stages.0.name": (MISSING, "\0"),
    "stages.0.position": (MISSING, "1", literal("1.0")),
    "stages.0.semantic_type": (MISSING, "open"),
    "stages.0.color": (7, "\0"),
    "stages.0.is_system": ("false", 0),
    "stages.0.created_at": (MISSING, "2024-03-05T10:00:00"),
    "stages.0.updated_at": (MISSING, 0),
}
INVALID_TARGET_FIELDS: dict[str, tuple[object, ...]] = {
    "target_id": INVALID_IDS,
    "customer_id": (MISSING, SOME_ID),
    "campaign_id": (MISSING, SOME_ID),
    "version": INVALID_VERSIONS[:5],
}
INVALID_DATA: dict[str, dict[str, tuple[object, ...]]] = {
    "customer.upserted.v1": {
        "customer_id": (*INVALID_IDS, SOME_ID),
        "owner_id": INVALID_IDS,
        "version": INVALID_VERSIONS,
        "deleted": ("false", 0, 1, []),
    },
    "campaign.upserted.v1": {
        "campaign_id": (*INVALID_IDS, SOME_ID),
        "version": INVALID_VERSIONS[:8],
        **INVALID_CAMPAIGN_FIELDS,
    },
    "campaign.status_changed.v1": {
        "campaign_id": (MISSING, SOME_ID),
        "status": (MISSING, None, "Running", "deleted", 2),
        "version": INVALID_VERSIONS[:5],
    },
    "campaign.deleted.v1": {"campaign_id": (MISSING, SOME_ID), "version": INVALID_VERSIONS[:5]},
    "campaign.restored.v1": {"campaign_id": (MISSING, SOME_ID), "version": INVALID_VERSIONS[:5]},
    "campaign.counters_changed.v1": {
        "campaign_id": (MISSING, SOME_ID),
        "version": INVALID_VERSIONS[:8],
        "progress": INVALID_NUMBERS,
        "x_unknown": (literal("NaN"),),
        **dict.fromkeys(COUNTERS[:2], INVALID_COUNTS),
        **dict.fromkeys(COUNTERS[2:], (MISSING, -1)),
    },
    "target.enrolled.v1": {**INVALID_TARGET_FIELDS, "enrolled_at": INVALID_MOMENTS},
    "target.removed.v1": INVALID_TARGET_FIELDS,
    "target.restored.v1": INVALID_TARGET_FIELDS,
}
"""Event type → dotted path in its data → values with which it must be parked."""

INVALID_ATTRIBUTES: dict[str, tuple[object, ...]] = {
    "specversion": (MISSING, None, "0.3", 1.0),
    "id": (MISSING, None, 7, "x" * (EVENT_ID_CHARS_MAX + 1), "a\0b"),
    "source": (MISSING, None, 7),
    "type": (MISSING, None, 7, "", "customer.upserted.v2", "Customer.Upserted.V1", "customer.erased.v1"),
    "time": (MISSING, None, 0, "now", "2024-03-05T10:00:00"),
    "data": (MISSING, None, [], "{}", 7),
}

DEEP = b"[" * 50_000 + b"]" * 50_000

INVALID_BODIES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "blank": lambda _: b" \n",
    "truncated": lambda body: body[:-5],
    "two objects": lambda body: body + body,
    "trailing comma": lambda body: body[:-1] + b",}",
    "trailing garbage": lambda body: body + b" x",
    "single quotes": lambda body: body.replace(b'"', b"'"),
    "a comment": lambda body: b"// hello\n" + body,
    "a byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "UTF-16": lambda body: body.decode().encode("utf-16"),
    "invalid UTF-8": lambda body: body.replace(b'"1.0"', b'"1.0", "source": "\xff"'),
    "invalid UTF-8 in an unknown field": lambda body: body.replace(b'"1.0"', b'"1.0", "x_unknown": "\xff"'),
    "UTF-8 of a surrogate": lambda body: body.replace(b'"1.0"', b'"1.0", "source": "\xed\xa0\x80"'),
    "a raw line feed in a string": lambda body: body.replace(b'"1.0"', b'"1.0", "x_unknown": "a\nb"'),
    "wrapped in a list": lambda body: b"[" + body + b"]",
    "null": lambda _: b"null",
    "a number": lambda _: b"7",
    "a string": lambda _: b'"event"',
    "nested 100,000 deep, open": lambda _: b"[" * 100_000,
    "nested 100,000 objects deep, open": lambda _: b'{"a":' * 50_000,
    "nested 50,000 deep, closed": lambda _: DEEP,
    "nested 50,000 deep in an unknown field": lambda body: body.replace(b'"1.0"', b'"1.0", "x_unknown": ' + DEEP),
}


class Template(NamedTuple):
    """A valid event that is changed into an invalid message."""

    subject: str
    event: Fields


class InvalidMessages:
    """Makes one message of every kind that must be parked, each from an event that would otherwise take effect."""

    def __init__(self, history: History, rng: Random, name: str) -> None:
        self._history = history
        self._rng = rng
        self._name = name
        self._count = 0

    def each_kind(self) -> Iterator[Publication]:
        """Yield every kind of invalid message once."""
        for event_type, fields in INVALID_DATA.items():
            prefixed = {f"data.{path}": values for path, values in fields.items()}
            yield from self._invalid_values(event_type, prefixed)
        yield from self._invalid_values("customer.upserted.v1", INVALID_ATTRIBUTES)
        yield from self._invalid_bodies()
        yield from self._invalid_subjects()
        yield from self._invalid_types()

    def _invalid(self, label: str, subject: str, body: bytes) -> Publication:
        self._count += 1
        return Publication(subject, body, f"invalid-{self._name}-{self._count}", label)

    def _invalid_values(self, event_type: str, invalid: dict[str, tuple[object, ...]]) -> Iterator[Publication]:
        for path, values in invalid.items():
            for value in values:
                subject, event = self._template(event_type)
                shown = "missing" if value is MISSING else repr(value)[:60]
                label = f"{event_type}: {path} {shown}"
                yield self._invalid(label, subject, dumped(with_value(event, path, value)))

    def _invalid_bodies(self) -> Iterator[Publication]:
        for label, corrupt in INVALID_BODIES.items():
            subject, event = self._template(self._rng.choice(tuple(INVALID_DATA)))
            yield self._invalid(label, subject, corrupt(dumped(event)))
        subject, event = self._template("campaign.upserted.v1")
        yield self._invalid("one byte over 256 KiB", subject, padded(event, BODY_BYTES_MAX + 1))
        yield self._invalid("far over 256 KiB", subject, padded(event, 2 * BODY_BYTES_MAX))

    def _invalid_subjects(self) -> Iterator[Publication]:
        for event_type in ("customer.upserted.v1", "campaign.deleted.v1", "campaign.counters_changed.v1"):
            subject, event = self._template(event_type)
            family, entity_id = subject.removeprefix("membership.").split(".")
            other_family = "campaign" if family == "counters" else "counters"
            for invalid_subject in (
                f"membership.{family}",
                f"membership.{family}.{SOME_ID}",
                f"membership.{family}.{entity_id.upper()}",
                f"membership.{family}.{entity_id}.{entity_id}",
                f"membership.{family}s.{entity_id}",
                f"membership.{other_family}.{entity_id}",
                f"membership.{entity_id}",
            ):
                yield self._invalid(f"{event_type} on {invalid_subject}", invalid_subject, dumped(event))
        yield from self._invalid_target_subjects()

    def _invalid_target_subjects(self) -> Iterator[Publication]:
        _, event = self._template("target.removed.v1")
        customer_id, campaign_id = event["data"]["customer_id"], event["data"]["campaign_id"]
        for invalid_subject in (
            f"membership.target.{campaign_id}.{customer_id}",
            f"membership.target.{customer_id}",
            f"membership.target.{customer_id}.{campaign_id}.x",
            f"membership.target.{customer_id}.{campaign_id.upper()}",
            f"membership.target.{SOME_ID}.{campaign_id}",
            f"membership.campaign.{campaign_id}",
        ):
            yield self._invalid(f"target.removed.v1 on {invalid_subject}", invalid_subject, dumped(event))

    def _invalid_types(self) -> Iterator[Publication]:
        """Yield upper-case ids on matching subjects, and event types on the subject of another family."""
        subject, event = self._template("customer.upserted.v1")
        upper_case_id = event["data"]["customer_id"].upper()
        yield self._invalid(
            "upper-case ids that match",
            f"membership.customer.{upper_case_id}",
            dumped(with_value(event, "data.customer_id", upper_case_id)),
        )
        subject, event = self._template("campaign.counters_changed.v1")
        for event_type in ("campaign.deleted.v1", "campaign.upserted.v1", "target.removed.v1"):
            body = dumped(with_value(event, "type", event_type))
            yield self._invalid(f"{event_type} on a counters subject", subject, body)

    def _template(self, event_type: str) -> Template:
        """Return a valid event that would change what readers see."""
        history, rng = self._history, self._rng
        customer_id, campaign_id = rng.choice(history.customers), rng.choice(history.campaigns[1:19])
        family = event_type.partition(".")[0]
        entity = {"customer": customer_id, "campaign": campaign_id, "target": f"{customer_id}.{campaign_id}"}
        subject = f"membership.{family}.{entity[family]}"
        if event_type == "campaign.counters_changed.v1":
            subject = f"membership.counters.{campaign_id}"
        fields = self._fields(event_type, customer_id, campaign_id)
        fields["version"] = history.next_version(subject)
        return Template(subject, history.envelope(rng, event_type, fields))

    def _fields(self, event_type: str, customer_id: str, campaign_id: str) -> Fields:
        rng = self._rng
        if event_type == "customer.upserted.v1":
            return {"customer_id": customer_id, "owner_id": self._history.stranger, "deleted": False}
        if event_type == "campaign.upserted.v1":
            _, sent = definition(rng, campaign_id, self._history.stranger, complete=True)
            return {**sent, "status": "done", "name": "Invalid name", "created_at": "2020-01-01T00:00:00Z"}
        if event_type == "campaign.counters_changed.v1":
            return {"campaign_id": campaign_id, **dict.fromkeys(COUNTERS, 666), "progress": 6.66}
        if event_type.startswith("campaign."):
            return {"campaign_id": campaign_id, "status": rng.choice(STATUSES)}
        enrolled_at = in_utc(rng.choice(ENROLLED_AT))
        target = {"target_id": new_id(rng), "customer_id": customer_id, "campaign_id": campaign_id}
        return {**target, "enrolled_at": enrolled_at}
