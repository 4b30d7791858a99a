"""A small dense world made from a seed: its events as a producer would publish them, its truth, and its vandals.

The truth is noted while the events are written, never by reading them back, so that it can judge the reference too.

Invariants: versions rise along `publications` for every entity, so no two good events tie; every spoiled message
carries a version above all good ones, so that a service which applied it would show it.
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
"""How often a good event is delivered once, twice, … five times."""

Fields = dict[str, Any]
Truth = dict[str, dict[Any, tuple[int, Any]]]
"""Register → entity → (version, value): the same words as the reference's model."""

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
    """One message as handed to JetStream; `spoiled` names what is wrong with it, "" for a good one."""

    subject: str
    body: bytes
    msg_id: str
    spoiled: str = ""


def new_id(rng: Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def in_utc(when: datetime) -> str:
    fraction = f".{when.microsecond:06d}" if when.microsecond else ""
    return f"{when.year:04d}-{when.month:02d}-{when.day:02d}T{when:%H:%M:%S}{fraction}Z"


def spelled_moment(rng: Random, when: datetime) -> str:
    """Write an instant in one of the RFC 3339 spellings: any offset, any number of digits up to six."""
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


def spelled(rng: Random, truth: Fields, defaults: Fields, optional: tuple[str, ...] = ()) -> Fields:
    """Write an object as producers do: defaults left out or null at times, absent fields null at times."""
    written = dict(truth)
    for name, default in defaults.items():
        if truth[name] == default and rng.random() < 0.7:
            written[name] = None
            if rng.random() < 0.6:
                del written[name]
    for name in optional:
        if name not in truth and rng.random() < 0.3:
            written[name] = None
    if rng.random() < 0.2:
        written["x_unknown"] = {"ignored": [1, None, 10**30]}
    return written


def some_of(rng: Random, words: tuple[str, ...]) -> list[str]:
    return rng.sample(words, rng.randint(0, len(words)))


def objective(rng: Random) -> tuple[Fields, Fields]:
    """Make an objective: (its truth, its spelling)."""
    kind = rng.choice(("contact", "email", "ai"))
    count: Fields = {"type": kind, "min_count": rng.choice((1, 1, 2, 5))}
    if kind == "email":
        return count, spelled(rng, count, {"min_count": 1})
    is_listed = rng.random() < 0.7
    if kind == "contact":
        channels = {"channels": some_of(rng, ("call", "whatsapp"))} if is_listed else {}
        return count | channels, spelled(rng, count | channels, {"min_count": 1}, ("channels",))
    score: Fields = {"type": kind, "min_score": rng.choice((0.0, 0.0, 0.75, -2.0))}
    labels = {"label_in": some_of(rng, ("positive", "negative", "neutral"))} if is_listed else {}
    return score | labels, spelled(rng, score | labels, {"min_score": 0.0}, ("label_in",))


def goal_spec(rng: Random, at_least: int) -> tuple[Fields, Fields]:
    if not at_least and rng.random() < 0.2:
        return {}, rng.choice(({}, {"objectives": None}))
    made = [objective(rng) for _ in range(rng.randint(at_least, 4))]
    return {"objectives": [truth for truth, _ in made]}, {"objectives": [written for _, written in made]}


def working_hours(rng: Random) -> tuple[Fields, Fields]:
    truth: Fields = {
        "start": rng.choice(("09:00:00", "09:00:00", "08:30:00")),
        "end": rng.choice(("19:00:00", "19:00:00", "23:59:59")),
    }
    if rng.random() < 0.6:
        truth["weekdays"] = sorted(rng.sample(range(7), rng.randint(0, 7)))
    return truth, spelled(rng, truth, {"start": "09:00:00", "end": "19:00:00"}, ("weekdays",))


def stage(rng: Random, campaign_id: str, position: int) -> tuple[Fields, Fields]:
    created, updated = rng.choice(ENROLLED_AT), rng.choice(ENROLLED_AT)
    truth: Fields = {
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
        truth["color"] = "#00ff7f"
    written = spelled(rng, truth, {"is_system": False}, ("color",))
    moments = {"created_at": spelled_moment(rng, created), "updated_at": spelled_moment(rng, updated)}
    return truth, written | moments


def optional_parts(rng: Random, campaign_id: str, whole: bool) -> tuple[Fields, Fields]:
    """Make the optional fields of a campaign, most of them or (`whole`) all: (their truth, their spelling)."""
    stages = [stage(rng, campaign_id, position) for position in range(rng.randint(int(whole), 3))]
    plain: Fields = {
        "agent_name": rng.choice(AGENTS),
        "phone_number_id": new_id(rng),
        "phone_number": rng.choice(("+39 055 123456", "")),
        "whatsapp_channel_id": new_id(rng),
        "goal": rng.choice(GOALS),
        "call_opening_message": rng.choice(("Buongiorno!\nÈ qui…", "Hi")),
        "whatsapp_first_message": rng.choice(("👋", "Hello {name}")),
        "call_attempt_delays": [rng.choice((0, 15, 60, 1440)) for _ in range(rng.randint(int(whole), 3))],
    }
    made: dict[str, tuple[Any, Any]] = {name: (value, value) for name, value in plain.items()}
    made["goal_spec"] = goal_spec(rng, at_least=int(whole))
    made["call_working_hours"] = working_hours(rng)
    made["stages"] = ([truth for truth, _ in stages], [written for _, written in stages])
    kept = [name for name in OPTIONAL if whole or rng.random() < 0.6]
    return {name: made[name][0] for name in kept}, {name: made[name][1] for name in kept}


def definition(rng: Random, campaign_id: str, owner_id: str, whole: bool = False) -> tuple[Fields, Fields]:
    """Make a campaign's definition: (its truth, its fields in an event, status and version excepted)."""
    created_at = None if rng.random() < 0.35 else rng.choice(ENROLLED_AT[:5])
    required = {
        "name": rng.choice(NAMES),
        "agent_id": new_id(rng),
        "first_contact_channel": rng.choice(("call", "whatsapp")),
        "whatsapp_after_attempts": rng.randint(0, 9),
    }
    truth, written = optional_parts(rng, campaign_id, whole)
    written = spelled(rng, {**required, **written}, {}, OPTIONAL)
    written |= {"campaign_id": campaign_id, "owner_id": owner_id}
    if created_at is not None or rng.random() < 0.5:
        written["created_at"] = created_at and spelled_moment(rng, created_at)
    card = {"id": campaign_id, **required, **truth}
    return {"owner_id": owner_id, "created_at": created_at, "card": card}, written


def counters(rng: Random) -> Fields:
    tally: Fields = {name: rng.choice((0, 0, 1, 2, 5, 10, 10)) for name in COUNTERS}
    if rng.random() < 0.1:
        tally[rng.choice(COUNTERS)] = rng.choice((INT64_MAX, INT64_MAX - 1, 2**53 + 1, 2**31))
    return {**tally, "progress": rng.choice(PROGRESS)}


def shuffled(rng: Random, fields: Fields) -> Fields:
    return dict(rng.sample(list(fields.items()), len(fields)))


def written_out(rng: Random, event: Fields) -> bytes:
    """Give an event as bytes in one of JSON's layouts."""
    layout = rng.choice(({}, {"separators": (",", ":")}, {"indent": 2}))
    body = json.dumps(event, ensure_ascii=rng.random() < 0.4, allow_nan=False, **layout)
    return (body + rng.choice(("", "", "\n", " \r\n"))).encode()


class History:
    """Customers, campaigns and enrolments of one seed.

    `publications` are the good events, each once, in version order; `final()` is what they come to.
    """

    def __init__(self, seed: int, customers: int = 20, campaigns: int = 40, owners: int = 4) -> None:
        self.seed = seed
        self._rng = Random(f"world {seed}")
        self.owners = [new_id(self._rng) for _ in range(owners)]
        self.customers = [new_id(self._rng) for _ in range(customers)]
        self.campaigns = [new_id(self._rng) for _ in range(campaigns)]
        self.stranger = new_id(self._rng)
        self.publications: list[Publication] = []
        self._versions: Counter[str] = Counter()
        self._truth: Truth = {
            name: {} for name in ("customer", "definition", "status", "deletion", "counters", "enrolment", "presence")
        }
        self._tell_campaigns()
        self._tell_customers()
        self._tell_targets()
        self._tell_highest_version()

    def final(self) -> Truth:
        """Return the model that all good events come to, in whatever order and number they arrive."""
        return deepcopy(self._truth)

    def scrambled(self, seed: int) -> list[Publication]:
        """Return a delivery: the good events permuted and repeated, one spoiled message of every kind among them."""
        rng = Random(f"delivery {self.seed} {seed}")
        delivered = [copy for each in self.publications for copy in _copies(rng, each)]
        delivered += InvalidMessages(self, rng, f"{self.seed}-{seed}").each_kind()
        rng.shuffle(delivered)
        return delivered

    def next_version(self, subject: str) -> int:
        """Return a version above all that `subject` has seen, without using it up."""
        return self._versions[subject] + 1_000

    def envelope(self, rng: Random, event_type: str, fields: Fields) -> Fields:
        """Wrap an event's fields as a CloudEvent."""
        event = {
            "specversion": "1.0",
            "id": new_id(rng),
            "source": rng.choice(("/umanize/api", "urn:producer:é")),
            "type": event_type,
            "time": spelled_moment(rng, rng.choice(ENROLLED_AT)),
            "data": shuffled(rng, fields),
        }
        extra: Fields = {"datacontenttype": "application/json", "subject": "x", "traceparent": None, "depth": [[{}]]}
        return shuffled(rng, event | extra if rng.random() < 0.3 else event)

    def _tell_highest_version(self) -> None:
        subject = f"membership.counters.{self.campaigns[0]}"
        self._versions[subject] = INT64_MAX - 1
        self._tell_counters(self.campaigns[0], step=1)

    def _tell(self, event_type: str, subject: str, fields: Fields, step: int = 0) -> int:
        """Publish an event with the next version of its subject; return that version."""
        rng = self._rng
        start = self._versions[subject] or rng.choice((0, 0, 1_710_000_000_000_000))
        version = start + (step or rng.choice((1, 1, 2, 17, 1_000_000)))
        self._versions[subject] = version
        event = self.envelope(rng, event_type, {**fields, "version": version})
        if len(self.publications) % 97 == 5:
            event["id"] = event["id"].ljust(EVENT_ID_CHARS_MAX, "x")
        body = written_out(rng, event)
        if len(self.publications) == 50:
            body = padded(event, BODY_BYTES_MAX)
        self.publications.append(Publication(subject, body, event["id"]))
        return version

    def _note(self, register: str, entity: object, version: int, value: object) -> None:
        self._truth[register][entity] = (version, value)

    def _tell_campaigns(self) -> None:
        for number, campaign_id in enumerate(self.campaigns):
            known = number % 20 != 19
            steps = ["upserted"] * (self._rng.choice((1, 1, 2, 3)) if known else 0)
            steps += ["status"] * self._rng.randint(0, 3)
            steps += self._rng.choice(([], [], [], ["deleted"], ["deleted", "restored"], ["restored", "deleted"]))
            steps += ["counters"] * self._rng.choice((0, 1, 2, 4))
            self._rng.shuffle(steps)
            for step in steps:
                getattr(self, f"_tell_{step}")(campaign_id)

    def _tell_upserted(self, campaign_id: str) -> None:
        owner_id = self._rng.choice((self.owners[0], *self.owners))
        truth, written = definition(self._rng, campaign_id, owner_id)
        status = self._rng.choice(STATUSES)
        subject = f"membership.campaign.{campaign_id}"
        version = self._tell("campaign.upserted.v1", subject, {**written, "status": status})
        self._note("definition", campaign_id, version, truth)
        self._note("status", campaign_id, version, status)

    def _tell_status(self, campaign_id: str) -> None:
        status = self._rng.choice(STATUSES)
        subject = f"membership.campaign.{campaign_id}"
        fields = {"campaign_id": campaign_id, "status": status}
        self._note("status", campaign_id, self._tell("campaign.status_changed.v1", subject, fields), status)

    def _tell_deleted(self, campaign_id: str) -> None:
        self._tell_deletion(campaign_id, "campaign.deleted.v1", deleted=True)

    def _tell_restored(self, campaign_id: str) -> None:
        self._tell_deletion(campaign_id, "campaign.restored.v1", deleted=False)

    def _tell_deletion(self, campaign_id: str, event_type: str, deleted: bool) -> None:
        subject = f"membership.campaign.{campaign_id}"
        fields: Fields = {"campaign_id": campaign_id, "name": 7, "status": None}  # known elsewhere, not here
        self._note("deletion", campaign_id, self._tell(event_type, subject, fields), deleted)

    def _tell_counters(self, campaign_id: str, step: int = 0) -> None:
        tally = counters(self._rng)
        subject = f"membership.counters.{campaign_id}"
        fields = {"campaign_id": campaign_id, **tally}
        version = self._tell("campaign.counters_changed.v1", subject, fields, step)
        self._note("counters", campaign_id, version, tally)

    def _tell_customers(self) -> None:
        """Tell of all customers but every sixth and the last; every fifth ends deleted."""
        for number, customer_id in enumerate(self.customers):
            is_told = number % 6 != 5 and customer_id != self.customers[-1]
            for change in range(self._rng.randint(1, 3) if is_told else 0):
                owner_id = self._rng.choice(self.owners)
                fields: Fields = {"customer_id": customer_id, "owner_id": owner_id}
                deleted = number % 5 == 4 or (change == 0 and number % 5 == 3)
                fields |= {"deleted": True} if deleted else self._rng.choice(({}, {"deleted": None}))
                fields |= {} if deleted else self._rng.choice(({}, {"deleted": False}))
                version = self._tell("customer.upserted.v1", f"membership.customer.{customer_id}", fields)
                self._note("customer", customer_id, version, {"owner_id": owner_id, "deleted": deleted})

    def _tell_targets(self) -> None:
        """Enrol customers, the first in all campaigns, the last but one in none; the last is only ever removed."""
        for number, customer_id in enumerate(self.customers[:-2]):
            density = 1.0 if number == 0 else self._rng.choice((0.1, 0.5, 0.7, 0.9))
            for campaign_id in self.campaigns:
                if self._rng.random() < density:
                    self._tell_target(customer_id, campaign_id)
        self._tell_target(self.customers[-1], self.campaigns[0], ("removed",))

    def _tell_target(self, customer_id: str, campaign_id: str, steps: tuple[str, ...] = ()) -> None:
        histories = ("e", "e", "e", "e", "ee", "er", "er", "erR", "ere", "re", "R", "r", "eR")
        names = {"e": "enrolled", "r": "removed", "R": "restored"}
        steps = steps or tuple(names[letter] for letter in self._rng.choice(histories))
        fields = {"target_id": new_id(self._rng), "customer_id": customer_id, "campaign_id": campaign_id}
        subject = f"membership.target.{customer_id}.{campaign_id}"
        for step in steps:
            enrolled_at = self._enrolled_at()
            about: Fields = {"enrolled_at": "ignored unless enrolled", "reason": self._rng.choice((None, "ok"))}
            if step == "enrolled":
                about = {"enrolled_at": spelled_moment(self._rng, enrolled_at), "reason": 7, "source": None}
            version = self._tell(f"target.{step}.v1", subject, fields | about)
            self._note("presence", (customer_id, campaign_id), version, step != "removed")
            if step == "enrolled":
                self._note("enrolment", (customer_id, campaign_id), version, enrolled_at)

    def _enrolled_at(self) -> datetime:
        if self._rng.random() < 0.03:
            return self._rng.choice(EXTREME_MOMENTS)
        if self._rng.random() < 0.5:
            return self._rng.choice(ENROLLED_AT)
        return datetime(2024, 3, 1, tzinfo=UTC) + timedelta(microseconds=self._rng.randrange(10**12))


def _copies(rng: Random, original: Publication) -> Iterator[Publication]:
    """Yield an event one to five times, each time with a message id that the broker has not seen."""
    (count,) = rng.choices(range(1, 6), COPIES_WEIGHTS)
    yield original
    for number in range(2, count + 1):
        yield Publication(original.subject, original.body, f"{original.msg_id}#{number}")


def padded(event: Fields, size_bytes: int) -> bytes:
    """Give an event with an unknown attribute that fills it up to exactly this size."""
    bare = len(json.dumps({**event, "padding": ""}).encode())
    return json.dumps({**event, "padding": "x" * (size_bytes - bare)}).encode()


MISSING = object()


def literal(json_text: str) -> str:
    """Stand for a JSON text that json.dumps would not write."""
    return f"<<{json_text}>>"


def dumped(event: object) -> bytes:
    body = json.dumps(event, ensure_ascii=False)
    return re.sub(r'"<<(.*?)>>"', r"\1", body).encode()


def planted(event: Fields, path: str, value: object) -> Fields:
    """Return a copy of the event with the value at a dotted path replaced, or taken out if MISSING."""
    changed = deepcopy(event)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    holder: Any = changed
    for step in way:
        holder = holder[step]
    if value is MISSING:
        del holder[last]
    else:
        holder[last] = value
    return changed


SOME_ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
NOT_IDS = (MISSING, None, "", 7, SOME_ID.upper(), SOME_ID.replace("-", ""), f"{{{SOME_ID}}}", SOME_ID[:-1] + "g")
NOT_VERSIONS = (MISSING, None, 0, -1, 2**63, "7", literal("1.0"), 1.5, True, [1], literal("1e400"))
NOT_TEXTS = (MISSING, None, 7, True, ["a"], {"a": 1}, "with \0 NUL", literal(r'"lone \ud800"'))
NOT_MOMENTS = (
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
NOT_COUNTS = (MISSING, None, -1, 2**63, "3", literal("1.0"), True)
NOT_NUMBERS = (
    MISSING,
    None,
    "50",
    True,
    literal("NaN"),
    literal("Infinity"),
    literal("-Infinity"),
    literal("1e400"),
)

CAMPAIGN_WRONGS: dict[str, tuple[object, ...]] = {
    "name": NOT_TEXTS,
    "status": (MISSING, None, "RUNNING", "archived", 1),
    "agent_id": NOT_IDS,
    "owner_id": NOT_IDS,
    "first_contact_channel": (MISSING, None, "sms", "Call"),
    "whatsapp_after_attempts": (MISSING, None, "3", literal("3.0"), True),
    "created_at": NOT_MOMENTS[2:],
    "agent_name": NOT_TEXTS[2:],
    "phone_number_id": NOT_IDS[2:],
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
TARGET_WRONGS: dict[str, tuple[object, ...]] = {
    "target_id": NOT_IDS,
    "customer_id": (MISSING, SOME_ID),
    "campaign_id": (MISSING, SOME_ID),
    "version": NOT_VERSIONS[:5],
}
DATA_WRONGS: dict[str, dict[str, tuple[object, ...]]] = {
    "customer.upserted.v1": {
        "customer_id": (*NOT_IDS, SOME_ID),
        "owner_id": NOT_IDS,
        "version": NOT_VERSIONS,
        "deleted": ("false", 0, 1, []),
    },
    "campaign.upserted.v1": {
        "campaign_id": (*NOT_IDS, SOME_ID),
        "version": NOT_VERSIONS[:8],
        **CAMPAIGN_WRONGS,
    },
    "campaign.status_changed.v1": {
        "campaign_id": (MISSING, SOME_ID),
        "status": (MISSING, None, "Running", "deleted", 2),
        "version": NOT_VERSIONS[:5],
    },
    "campaign.deleted.v1": {"campaign_id": (MISSING, SOME_ID), "version": NOT_VERSIONS[:5]},
    "campaign.restored.v1": {"campaign_id": (MISSING, SOME_ID), "version": NOT_VERSIONS[:5]},
    "campaign.counters_changed.v1": {
        "campaign_id": (MISSING, SOME_ID),
        "version": NOT_VERSIONS[:8],
        "progress": NOT_NUMBERS,
        "x_unknown": (literal("NaN"),),
        **dict.fromkeys(COUNTERS[:2], NOT_COUNTS),
        **dict.fromkeys(COUNTERS[2:], (MISSING, -1)),
    },
    "target.enrolled.v1": {**TARGET_WRONGS, "enrolled_at": NOT_MOMENTS},
    "target.removed.v1": TARGET_WRONGS,
    "target.restored.v1": TARGET_WRONGS,
}
"""Event type → dotted path in its data → values that make it one to be parked."""

ENVELOPE_WRONGS: dict[str, tuple[object, ...]] = {
    "specversion": (MISSING, None, "0.3", 1.0),
    "id": (MISSING, None, 7, "x" * (EVENT_ID_CHARS_MAX + 1), "a\0b"),
    "source": (MISSING, None, 7),
    "type": (MISSING, None, 7, "", "customer.upserted.v2", "Customer.Upserted.V1", "customer.erased.v1"),
    "time": (MISSING, None, 0, "now", "2024-03-05T10:00:00"),
    "data": (MISSING, None, [], "{}", 7),
}

DEEP = b"[" * 50_000 + b"]" * 50_000

BODY_WRONGS: dict[str, Callable[[bytes], bytes]] = {
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
    "a raw line feed in a text": lambda body: body.replace(b'"1.0"', b'"1.0", "x_unknown": "a\nb"'),
    "a list around": lambda body: b"[" + body + b"]",
    "null": lambda _: b"null",
    "a number": lambda _: b"7",
    "a text": lambda _: b'"event"',
    "nested 100,000 deep, open": lambda _: b"[" * 100_000,
    "nested 100,000 objects deep, open": lambda _: b'{"a":' * 50_000,
    "nested 50,000 deep, closed": lambda _: DEEP,
    "nested 50,000 deep in an unknown field": lambda body: body.replace(b'"1.0"', b'"1.0", "x_unknown": ' + DEEP),
}


class Template(NamedTuple):
    """One good event about to be spoiled."""

    subject: str
    event: Fields


class InvalidMessages:
    """Makes one message of every kind that must be parked, each on top of an event that would otherwise win."""

    def __init__(self, world: History, rng: Random, name: str) -> None:
        self._world = world
        self._rng = rng
        self._name = name
        self._count = 0

    def each_kind(self) -> Iterator[Publication]:
        """Yield every kind of spoiled message once."""
        for event_type, wrongs in DATA_WRONGS.items():
            prefixed = {f"data.{path}": values for path, values in wrongs.items()}
            yield from self._wrong_values(event_type, prefixed)
        yield from self._wrong_values("customer.upserted.v1", ENVELOPE_WRONGS)
        yield from self._wrong_bodies()
        yield from self._wrong_subjects()
        yield from self._wrong_types()

    def _spoiled(self, label: str, subject: str, body: bytes) -> Publication:
        self._count += 1
        return Publication(subject, body, f"spoiled-{self._name}-{self._count}", label)

    def _wrong_values(self, event_type: str, wrongs: dict[str, tuple[object, ...]]) -> Iterator[Publication]:
        for path, values in wrongs.items():
            for value in values:
                subject, event = self._victim(event_type)
                shown = "missing" if value is MISSING else repr(value)[:60]
                label = f"{event_type}: {path} {shown}"
                yield self._spoiled(label, subject, dumped(planted(event, path, value)))

    def _wrong_bodies(self) -> Iterator[Publication]:
        for label, spoil in BODY_WRONGS.items():
            subject, event = self._victim(self._rng.choice(tuple(DATA_WRONGS)))
            yield self._spoiled(label, subject, spoil(dumped(event)))
        subject, event = self._victim("campaign.upserted.v1")
        yield self._spoiled("one byte over 256 KiB", subject, padded(event, BODY_BYTES_MAX + 1))
        yield self._spoiled("far over 256 KiB", subject, padded(event, 2 * BODY_BYTES_MAX))

    def _wrong_subjects(self) -> Iterator[Publication]:
        for event_type in ("customer.upserted.v1", "campaign.deleted.v1", "campaign.counters_changed.v1"):
            subject, event = self._victim(event_type)
            family, entity_id = subject.removeprefix("membership.").split(".")
            other_family = "campaign" if family == "counters" else "counters"
            for wrong in (
                f"membership.{family}",
                f"membership.{family}.{SOME_ID}",
                f"membership.{family}.{entity_id.upper()}",
                f"membership.{family}.{entity_id}.{entity_id}",
                f"membership.{family}s.{entity_id}",
                f"membership.{other_family}.{entity_id}",
                f"membership.{entity_id}",
            ):
                yield self._spoiled(f"{event_type} on {wrong}", wrong, dumped(event))
        yield from self._wrong_target_subjects()

    def _wrong_target_subjects(self) -> Iterator[Publication]:
        _, event = self._victim("target.removed.v1")
        customer_id, campaign_id = event["data"]["customer_id"], event["data"]["campaign_id"]
        for wrong in (
            f"membership.target.{campaign_id}.{customer_id}",
            f"membership.target.{customer_id}",
            f"membership.target.{customer_id}.{campaign_id}.x",
            f"membership.target.{customer_id}.{campaign_id.upper()}",
            f"membership.target.{SOME_ID}.{campaign_id}",
            f"membership.campaign.{campaign_id}",
        ):
            yield self._spoiled(f"target.removed.v1 on {wrong}", wrong, dumped(event))

    def _wrong_types(self) -> Iterator[Publication]:
        """Yield upper-case ids on subjects that agree with them, and types on the subject of another family."""
        subject, event = self._victim("customer.upserted.v1")
        shouted = event["data"]["customer_id"].upper()
        yield self._spoiled(
            "upper-case ids that agree",
            f"membership.customer.{shouted}",
            dumped(planted(event, "data.customer_id", shouted)),
        )
        subject, event = self._victim("campaign.counters_changed.v1")
        for event_type in ("campaign.deleted.v1", "campaign.upserted.v1", "target.removed.v1"):
            body = dumped(planted(event, "type", event_type))
            yield self._spoiled(f"{event_type} on a counters subject", subject, body)

    def _victim(self, event_type: str) -> Template:
        """Make a good event that would change what readers see, were it not about to be spoiled."""
        world, rng = self._world, self._rng
        customer_id, campaign_id = rng.choice(world.customers), rng.choice(world.campaigns[1:19])
        family = event_type.partition(".")[0]
        entity = {"customer": customer_id, "campaign": campaign_id, "target": f"{customer_id}.{campaign_id}"}
        subject = f"membership.{family}.{entity[family]}"
        if event_type == "campaign.counters_changed.v1":
            subject = f"membership.counters.{campaign_id}"
        fields = self._fields(event_type, customer_id, campaign_id)
        fields["version"] = world.next_version(subject)
        return Template(subject, world.envelope(rng, event_type, fields))

    def _fields(self, event_type: str, customer_id: str, campaign_id: str) -> Fields:
        rng = self._rng
        if event_type == "customer.upserted.v1":
            return {"customer_id": customer_id, "owner_id": self._world.stranger, "deleted": False}
        if event_type == "campaign.upserted.v1":
            _, written = definition(rng, campaign_id, self._world.stranger, whole=True)
            return {**written, "status": "done", "name": "Vandalised", "created_at": "2020-01-01T00:00:00Z"}
        if event_type == "campaign.counters_changed.v1":
            return {"campaign_id": campaign_id, **dict.fromkeys(COUNTERS, 666), "progress": 6.66}
        if event_type.startswith("campaign."):
            return {"campaign_id": campaign_id, "status": rng.choice(STATUSES)}
        enrolled_at = in_utc(rng.choice(ENROLLED_AT))
        target = {"target_id": new_id(rng), "customer_id": customer_id, "campaign_id": campaign_id}
        return {**target, "enrolled_at": enrolled_at}
