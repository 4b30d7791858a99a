"""The standard data set: seeded, made as it is read, so that its size is bounded by disk and not by memory.

A customer is in a campaign once, so a customer with 100,000 memberships needs as many campaigns: beside the ordinary
ones there are light campaigns that only the busy customer is in.
"""

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from msgspec.json import encode

from ops.publishing import Publication

SEED: Final = 20_261_101
OWNERS: Final = tuple(f"0b0e0000-0000-4000-8000-{number:012x}" for number in range(50))
BUSY_CUSTOMER: Final = "b1600000-0000-4000-8000-00000000b5b5"
BUSY_CAMPAIGN: Final = "b1600000-0000-4000-8000-00000000ca3a"
STATUSES: Final = ("running", "running", "running", "paused", "draft", "done")
BEGINNING: Final = datetime(2025, 1, 6, 8, tzinfo=UTC)
AGENT: Final = "a9e70000-0000-4000-8000-000000000001"
WORDS: Final = (
    "spring", "renewal", "follow-up", "welcome", "winback", "Zürich", "Genève", "Basel", "survey", "upgrade",
    "reminder", "branch", "leasing", "insurance", "solar", "pension", "autumn", "onboarding", "loyalty", "recall",
)  # fmt: skip


class Size(NamedTuple):
    """How much of everything; memberships include those of the busy customer and of the busy campaign."""

    customers: int
    campaigns: int
    memberships: int
    busy: int
    """Memberships of the busy customer, and members of the busy campaign."""

    def of(self, share: float) -> "Size":
        """Return a size smaller by a factor."""
        return Size(*(max(20, int(each * share)) for each in self))


STANDARD: Final = Size(customers=100_000, campaigns=5_000, memberships=1_000_000, busy=100_000)


class DataSet:
    """The events of one size, and the ids in it that a benchmark asks for."""

    def __init__(self, size: Size = STANDARD, seed: int = SEED) -> None:
        self.size = size
        self._random = random.Random(seed)  # noqa: S311 - the same set every time
        self._told = 0
        self.customers = [self._id() for _ in range(size.customers)]
        self.campaigns = [self._id() for _ in range(size.campaigns)]

    def events(self) -> Iterator[Publication]:
        """Yield all events once: customers, campaigns, then enrolments with counters strewn in."""
        for customer in (*self.customers, BUSY_CUSTOMER):
            owner = self._random.choice(OWNERS)
            yield self._event(f"customer.{customer}", "customer.upserted.v1", customer_id=customer, owner_id=owner)
        for campaign in (*self.campaigns, BUSY_CAMPAIGN):
            yield self._campaign(campaign)
            yield self._counters(campaign, 1)
        yield from self._enrolments()

    def _enrolments(self) -> Iterator[Publication]:
        for number, customer in enumerate(self.customers[: self.size.busy]):
            yield self._enrolment(customer, BUSY_CAMPAIGN, number)
        for number in range(self.size.busy):
            if number < len(self.campaigns):
                campaign = self.campaigns[number]
            else:
                campaign = self._id()
                yield self._campaign(campaign)
            yield self._enrolment(BUSY_CUSTOMER, campaign, number)
        rest = max(0, self.size.memberships - 2 * self.size.busy)
        for number in range(rest):
            # Customer and campaign numbers step differently, so no pair comes twice.
            turn, customer_number = divmod(number, len(self.customers))
            campaign_number = (customer_number * 7 + turn * 613) % len(self.campaigns)
            yield self._enrolment(self.customers[customer_number], self.campaigns[campaign_number], number)

    def counter_events(self, campaign: str, events: int) -> Iterator[Publication]:
        """Yield counter events of one campaign, each with a higher version."""
        for number in range(events):
            yield self._counters(campaign, number + 2)

    def _campaign(self, campaign: str) -> Publication:
        draw = self._random
        return self._event(
            f"campaign.{campaign}",
            "campaign.upserted.v1",
            campaign_id=campaign,
            owner_id=draw.choice(OWNERS),
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

    def _enrolment(self, customer: str, campaign: str, number: int) -> Publication:
        return self._event(
            f"target.{customer}.{campaign}",
            "target.enrolled.v1",
            target_id=self._id(),
            customer_id=customer,
            campaign_id=campaign,
            enrolled_at=self._at(number % 900_000 + self._random.random()),
        )

    def _event(self, subject: str, event_type: str, *, version: int = 1, **data: object) -> Publication:
        self._told += 1
        envelope = {
            "specversion": "1.0",
            "id": f"standard-{self._told}",
            "source": "benchmarks",
            "type": event_type,
            "time": "2026-01-01T00:00:00Z",
            "data": {"version": version} | data,
        }
        return Publication(f"membership.{subject}", f"standard-{self._told}", encode(envelope))

    def _id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _at(self, minutes: float) -> str:
        return (BEGINNING + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
