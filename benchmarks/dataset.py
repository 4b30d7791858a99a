"""The standard data set: seeded and generated lazily, so that disk and not memory limits its size.

A customer is in a campaign at most once, so a customer with 100,000 memberships needs as many campaigns: the additional
"light" campaigns contain only the busy customer and two customers with a share of its memberships.
"""

import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from msgspec.json import encode

from ops.publisher import Publication

SEED: Final = 20_261_101
OWNERS: Final = tuple(f"0b0e0000-0000-4000-8000-{number:012x}" for number in range(50))
BUSY_CUSTOMER: Final = "b1600000-0000-4000-8000-00000000b5b5"
BUSY_CAMPAIGN: Final = "b1600000-0000-4000-8000-00000000ca3a"
LESS_BUSY: Final = {10: "b1600000-0000-4000-8000-000000000010", 100: "b1600000-0000-4000-8000-000000000100"}
"""Customers with a tenth and a hundredth of the busy customer's memberships, to measure the cost of growth."""
STATUSES: Final = ("running", "running", "running", "paused", "draft", "done")
BEGINNING: Final = datetime(2025, 1, 6, 8, tzinfo=UTC)
AGENT: Final = "a9e70000-0000-4000-8000-000000000001"
WORDS: Final = (
    "spring", "renewal", "follow-up", "welcome", "winback", "Zürich", "Genève", "Basel", "survey", "upgrade",
    "reminder", "branch", "leasing", "insurance", "solar", "pension", "autumn", "onboarding", "loyalty", "recall",
)  # fmt: skip


class Size(NamedTuple):
    """The number of customers, campaigns and memberships."""

    customers: int
    campaigns: int
    memberships: int
    """In total, including those of the busy customer and of the busy campaign."""
    busy: int
    """Memberships of the busy customer, and members of the busy campaign."""

    def of(self, share: float) -> "Size":
        """Return this size scaled by `share`, at least 20 of everything."""
        return Size(*(max(20, int(count * share)) for count in self))


MIX: Final = {"counters": 60, "enrolled": 25, "presence": 9, "customer": 5, "status": 0.5, "campaign": 0.5}
"""Percentages of live events by kind; presence is a target removed or restored."""
EDITING_MIX: Final = {"counters": 50, "enrolled": 25, "presence": 5, "customer": 10, "status": 5, "campaign": 5}
"""The mix of a day on which every tenth event edits a campaign or changes its status."""

STANDARD: Final = Size(customers=100_000, campaigns=5_000, memberships=1_000_000, busy=100_000)


class DataSet:
    """The events of a data set of one size, and the ids that benchmarks request."""

    def __init__(self, size: Size = STANDARD, seed: int = SEED) -> None:
        self.size = size
        self._random = random.Random(seed)  # noqa: S311 - the same data every time
        self._events_made = 0
        self.customers = [self._id() for _ in range(size.customers)]
        self.campaigns = [self._id() for _ in range(size.campaigns)]
        self.light_campaigns = [self._id() for _ in range(max(0, size.busy - size.campaigns))]

    def events(self) -> Iterator[Publication]:
        """Yield all events once: customers, campaigns with their counters, then enrolments."""
        for customer in (*self.customers, BUSY_CUSTOMER, *LESS_BUSY.values()):
            yield self._customer(customer, 1)
        for campaign in (*self.campaigns, BUSY_CAMPAIGN):
            yield self._campaign(campaign, 1)
            yield self._counters(campaign, 1)
        for campaign in self.light_campaigns:
            yield self._campaign(campaign, 1)
        yield from self._enrolments()

    def live_events(self, events: int) -> Iterator[Publication]:
        """Yield live events after `events`, mixed by `MIX`, spread evenly over the ordinary campaigns."""
        return self._live_events(events, MIX, self.campaigns)

    def editing_events(self, events: int) -> Iterator[Publication]:
        """Yield live events mixed by `EDITING_MIX`, over light campaigns too, so that few rows are written twice."""
        return self._live_events(events, EDITING_MIX, self.campaigns + self.light_campaigns)

    def _live_events(self, events: int, mix: Mapping[str, float], campaigns: Sequence[str]) -> Iterator[Publication]:
        kinds = self._random.choices(list(mix), weights=list(mix.values()), k=events)
        for kind in kinds:
            customer, campaign = self._random.choice(self.customers), self._random.choice(campaigns)
            # Higher than any earlier version of any register.
            version = self._events_made + 2
            match kind:
                case "counters":
                    yield self._counters(campaign, version)
                case "enrolled":
                    yield self._enrolment(customer, campaign, self._events_made, version)
                case "presence":
                    yield self._presence(*self._pair(self._random.randrange(self._pairs)), version)
                case "customer":
                    yield self._customer(customer, version)
                case "status":
                    yield self.status_event(campaign, self._random.choice(STATUSES))
                case _:
                    yield self._campaign(campaign, version)

    def status_event(self, campaign: str, status: str) -> Publication:
        """Return a change of a campaign's status."""
        version = self._events_made + 2
        return self._event(
            f"campaign.{campaign}", "campaign.status_changed.v1", version=version, campaign_id=campaign, status=status
        )

    def _enrolments(self) -> Iterator[Publication]:
        for number, customer in enumerate(self.customers[: self.size.busy]):
            yield self._enrolment(customer, BUSY_CAMPAIGN, number)
        campaigns = (self.campaigns + self.light_campaigns)[: self.size.busy]
        for number, campaign in enumerate(campaigns):
            yield self._enrolment(BUSY_CUSTOMER, campaign, number)
        for divisor, customer in LESS_BUSY.items():
            for number, campaign in enumerate(campaigns[: self.size.busy // divisor]):
                yield self._enrolment(customer, campaign, number)
        for number in range(self._pairs):
            yield self._enrolment(*self._pair(number), number)

    def memberships(self, count: int) -> Iterator[tuple[str, str]]:
        """Yield customer and campaign of ordinary memberships, at most `count`, spread evenly."""
        for number in range(0, self._pairs, max(1, self._pairs // count)):
            yield self._pair(number)

    @property
    def _pairs(self) -> int:
        """The number of memberships that belong neither to a busy customer nor to the busy campaign."""
        busy = 2 * self.size.busy + sum(self.size.busy // divisor for divisor in LESS_BUSY)
        return max(1, self.size.memberships - busy)

    def _pair(self, number: int) -> tuple[str, str]:
        # Customer and campaign numbers advance in different steps, so no pair is repeated.
        turn, customer_number = divmod(number, len(self.customers))
        campaign_number = (customer_number * 7 + turn * 613) % len(self.campaigns)
        return self.customers[customer_number], self.campaigns[campaign_number]

    def counter_events(self, campaign: str, events: int) -> Iterator[Publication]:
        """Yield counter events of one campaign, each with a higher version."""
        for _ in range(events):
            yield self._counters(campaign, self._events_made + 2)

    def _customer(self, customer: str, version: int) -> Publication:
        return self._event(
            f"customer.{customer}",
            "customer.upserted.v1",
            version=version,
            customer_id=customer,
            owner_id=self._random.choice(OWNERS),
        )

    def _campaign(self, campaign: str, version: int) -> Publication:
        draw = self._random
        return self._event(
            f"campaign.{campaign}",
            "campaign.upserted.v1",
            version=version,
            campaign_id=campaign,
            # Edits do not change the owner.
            owner_id=OWNERS[int(campaign[:4], 16) % len(OWNERS)],
            name=" ".join(draw.choices(WORDS, k=4)) + f" {draw.randrange(10_000)}",
            status=draw.choice(STATUSES),
            agent_id=AGENT,
            agent_name="Anna",
            first_contact_channel="call",
            whatsapp_after_attempts=2,
            created_at=self._at(draw.randrange(500_000)),
            goal=" ".join(draw.choices(WORDS, k=8)),
            goal_spec={"objectives": [{"type": "contact", "channels": ["call"], "min_count": 1}]},
            call_opening_message="Good morning, this is Anna; have you got two minutes for a question?",
            call_attempt_delays=[60, 240, 1440],
        )

    def _counters(self, campaign: str, version: int) -> Publication:
        total = self._random.randrange(1, 100_000)
        done = total // 3
        return self._event(
            f"counters.{campaign}",
            "campaign.counters_changed.v1",
            version=version,
            campaign_id=campaign,
            contacts_total=total,
            contacts_contacted=done,
            contacts_remaining=total - done,
            contacts_to_recall=done // 5,
            contacts_failed=done // 7,
            contacts_succeeded=done // 2,
            progress=round(done / total, 4),
        )

    def _enrolment(self, customer: str, campaign: str, number: int, version: int = 1) -> Publication:
        return self._event(
            f"target.{customer}.{campaign}",
            "target.enrolled.v1",
            version=version,
            target_id=self._id(),
            customer_id=customer,
            campaign_id=campaign,
            enrolled_at=self._at(number % 900_000 + self._random.random()),
        )

    def _presence(self, customer: str, campaign: str, version: int) -> Publication:
        return self._event(
            f"target.{customer}.{campaign}",
            self._random.choice(("target.removed.v1", "target.restored.v1")),
            version=version,
            target_id=self._id(),
            customer_id=customer,
            campaign_id=campaign,
        )

    def _event(self, subject: str, event_type: str, *, version: int = 1, **data: object) -> Publication:
        self._events_made += 1
        envelope = {
            "specversion": "1.0",
            "id": f"standard-{self._events_made}",
            "source": "benchmarks",
            "type": event_type,
            "time": "2026-01-01T00:00:00Z",
            "data": {"version": version} | data,
        }
        return Publication(f"membership.{subject}", f"standard-{self._events_made}", encode(envelope))

    def _id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _at(self, minutes: float) -> str:
        return (BEGINNING + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
