"""The demo data set: the campaigns, customers and enrolments of a calling platform, as events.

Deterministic: the same events with the same ids on every call, so publishing it again changes nothing. It covers every
case a reader of the API should see: accents, removed and restored targets, deleted campaigns, a deleted
customer, an enrolment in an unknown campaign, a customer known only from enrolments, a customer in very many campaigns.
"""

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from ops.devstack.demo_words import AGENTS, CITIES, OBJECTIVES, OPENINGS, STAGES, THEMES
from ops.publisher import Publication
from projections.model.events import SUBJECT_IDS, SUBJECT_ROOT, family_of

OWNERS: Final = tuple(f"0a0e0000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
DEMO_OWNER: Final = OWNERS[0]
"""Owns every third campaign and customer, and the customers below, except the one without an owner."""
DEMO_CUSTOMER: Final = "c0ffee00-0000-4000-8000-000000000001"
"""Enrolled in 18 campaigns, removed from one; some of them are deleted, one is unknown."""
BIG_CUSTOMER: Final = "b1600000-0000-4000-8000-000000000001"
"""In 3,000 campaigns: a branch manager who is in every weekly follow-up of every branch."""
UNOWNED_CUSTOMER: Final = "c0ffee00-0000-4000-8000-000000000002"
"""Known from enrolments only, so it has no owner: only admins see it."""
DELETED_CUSTOMER: Final = "c0ffee00-0000-4000-8000-000000000003"
"""A deleted customer."""

CUSTOMERS: Final = 300
CAMPAIGNS: Final = 300
BRANCHES: Final = 20
WEEKS: Final = 150
SEED: Final = 20_260_105
BEGINNING: Final = datetime(2025, 1, 6, 8, tzinfo=UTC)
_NAMESPACE: Final = uuid.UUID("0a0e0000-0000-4000-8000-0000000000ff")


def demo_events() -> Iterator[Publication]:
    """Yield the demo events, 12,638 of them, all valid."""
    return Demo().events()


def _id(kind: str, number: object) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{kind} {number}"))


def _at(minutes: float) -> str:
    return (BEGINNING + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


class Demo:
    """Generates the events; use an instance once, because it draws from its own random numbers."""

    def __init__(self) -> None:
        self._random = random.Random(SEED)  # noqa: S311 - the same data every time
        self._events_made = 0

    def events(self) -> Iterator[Publication]:
        """Yield customers, campaigns and enrolments, the busy customer last."""
        customers = [DEMO_CUSTOMER, *(_id("customer", number) for number in range(CUSTOMERS))]
        for number, customer in enumerate(customers):
            yield self._event("customer.upserted.v1", customer_id=customer, version=1, owner_id=OWNERS[number % 3])
        yield self._event("customer.upserted.v1", customer_id=DELETED_CUSTOMER, version=1, owner_id=DEMO_OWNER)
        yield self._event(
            "customer.upserted.v1", customer_id=DELETED_CUSTOMER, version=2, owner_id=DEMO_OWNER, deleted=True
        )
        for number in range(CAMPAIGNS):
            yield from self._campaign(number)
        for number, customer in enumerate(customers):
            yield from self._enrolments(customer, number % 3)
        yield from self._special_cases()
        yield from self._weekly_follow_ups()

    def _event(self, event_type: str, **fields: Any) -> Publication:  # noqa: ANN401 - by type
        self._events_made += 1
        family = family_of(event_type)
        subject = ".".join([SUBJECT_ROOT, str(family), *(fields[name] for name in SUBJECT_IDS[str(family)])])
        event_id = f"membership-demo-{self._events_made}"
        envelope = {"specversion": "1.0", "id": event_id, "source": "membership/demo", "type": event_type}
        body = msgspec.json.encode(envelope | {"time": _at(self._events_made), "data": fields})
        return Publication(subject, event_id, body)

    def _campaign(self, number: int) -> Iterator[Publication]:
        campaign = _id("campaign", number)
        yield self._event("campaign.upserted.v1", **self._definition(campaign, number))
        yield self._event("campaign.counters_changed.v1", campaign_id=campaign, version=1, **self._counters())
        if number % 5 == 0:
            yield self._event("campaign.status_changed.v1", campaign_id=campaign, version=2, status="done")
        if number % 9 == 0:
            yield self._event("campaign.deleted.v1", campaign_id=campaign, version=3)
        if number % 27 == 0:
            yield self._event("campaign.restored.v1", campaign_id=campaign, version=4)

    def _definition(self, campaign: str, number: int) -> dict[str, Any]:
        theme, goal = THEMES[number % len(THEMES)]
        agent = self._random.randrange(len(AGENTS))
        definition: dict[str, Any] = {
            "campaign_id": campaign,
            "version": 1,
            "owner_id": OWNERS[number % 3],
            "name": f"{theme} – {CITIES[number // len(THEMES) % len(CITIES)]}",
            "status": self._random.choice(("draft", "running", "running", "paused", "done")),
            "agent_id": _id("agent", agent),
            "agent_name": AGENTS[agent],
            "goal": goal,
            "first_contact_channel": self._random.choice(("call", "whatsapp")),
            "whatsapp_after_attempts": self._random.randint(1, 4),
            "created_at": _at(-60 * number),
        }
        if number % 2 == 0:
            definition |= self._details(campaign, number)
        return definition

    def _details(self, campaign: str, number: int) -> dict[str, Any]:
        """Return the optional fields."""
        return {
            "phone_number_id": _id("phone", number % 12),
            "phone_number": f"+1 555 01{number % 100:02}",
            "goal_spec": {"objectives": OBJECTIVES[: 1 + number % len(OBJECTIVES)]},
            "call_opening_message": OPENINGS[number % len(OPENINGS)],
            "call_attempt_delays": [60, 240, 1440][: 1 + number % 3],
            "call_working_hours": {"start": "09:30:00", "end": "18:00:00", "weekdays": [0, 1, 2, 3, 4]},
            "stages": [self._stage(campaign, position, *stage) for position, stage in enumerate(STAGES)],
        }

    def _stage(self, campaign: str, position: int, name: str, semantic_type: str, color: str) -> dict[str, Any]:
        return {
            "id": _id(f"stage {campaign}", position),
            "campaign_id": campaign,
            "key": name.lower().replace(" ", "_"),
            "name": name,
            "position": position,
            "semantic_type": semantic_type,
            "color": color,
            "is_system": semantic_type in ("new", "won", "lost"),
            "created_at": _at(0),
            "updated_at": _at(position),
        }

    def _counters(self) -> dict[str, Any]:
        total = self._random.randint(20, 2_000)
        contacted = self._random.randint(0, total)
        succeeded = self._random.randint(0, contacted)
        failed = self._random.randint(0, contacted - succeeded)
        return {
            "contacts_total": total,
            "contacts_contacted": contacted,
            "contacts_remaining": total - contacted,
            "contacts_to_recall": contacted - succeeded - failed,
            "contacts_failed": failed,
            "contacts_succeeded": succeeded,
            "progress": round(100 * contacted / total, 1),
        }

    def _enrolments(self, customer: str, owner: int) -> Iterator[Publication]:
        """Enrol a customer, mostly in campaigns of its own owner, because that owner sees no others."""
        own = [number for number in range(CAMPAIGNS) if number % 3 == owner]
        chosen = self._random.sample(own, 12) + self._random.sample(range(CAMPAIGNS), 3)
        for number in dict.fromkeys(chosen):
            yield from self._enrolment(customer, _id("campaign", number))

    def _enrolment(self, customer: str, campaign: str) -> Iterator[Publication]:
        target = {"target_id": _id(customer, campaign), "customer_id": customer, "campaign_id": campaign}
        when = _at(self._random.randrange(60 * 24 * 500))
        yield self._event("target.enrolled.v1", **target, version=1, enrolled_at=when, source="import")
        chance = self._random.random()
        if chance < 0.12:  # noqa: PLR2004 - about one in eight is removed
            yield self._event("target.removed.v1", **target, version=2, reason="asked to be left alone")
        if chance < 0.04:  # noqa: PLR2004 - and a third of those is restored
            yield self._event("target.restored.v1", **target, version=3, reason="changed their mind")

    def _special_cases(self) -> Iterator[Publication]:
        yield from self._enrolment(DELETED_CUSTOMER, _id("campaign", 3))
        yield from self._enrolment(UNOWNED_CUSTOMER, _id("campaign", 3))
        yield from self._enrolment(DEMO_CUSTOMER, _id("campaign", "that never comes"))
        for number in (9, 18):  # deleted campaigns of DEMO_OWNER, for only_deleted
            yield from self._enrolment(DEMO_CUSTOMER, _id("campaign", number))

    def _weekly_follow_ups(self) -> Iterator[Publication]:
        """Enrol the busy customer in 3,000 campaigns: a membership is unique per customer and campaign."""
        yield self._event("customer.upserted.v1", customer_id=BIG_CUSTOMER, version=1, owner_id=DEMO_OWNER)
        for number in range(BRANCHES * WEEKS):
            week, branch = divmod(number, BRANCHES)
            campaign = _id("weekly", number)
            monday = BEGINNING - timedelta(weeks=week)
            yield self._event("campaign.upserted.v1", **self._weekly(campaign, monday, branch))
            yield from self._enrolment(BIG_CUSTOMER, campaign)

    def _weekly(self, campaign: str, monday: datetime, branch: int) -> dict[str, Any]:
        agent = branch % len(AGENTS)
        return {
            "campaign_id": campaign,
            "version": 1,
            "owner_id": DEMO_OWNER,
            "name": f"Weekly follow-up {monday:%G-W%V} – {CITIES[branch % len(CITIES)]}",
            "status": "running" if monday == BEGINNING else "done",
            "agent_id": _id("agent", agent),
            "agent_name": AGENTS[agent],
            "first_contact_channel": "call",
            "whatsapp_after_attempts": 2,
            "created_at": monday.isoformat(),
        }
