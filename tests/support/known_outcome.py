"""A dataset with a known outcome: the final state is generated first, then the events that lead to it.

So the expected rows of every table are known without folding any event.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

from tests.support.builders import EPOCH, campaign_id, customer_id, owner_id, published

STATUSES = ("draft", "running", "paused", "done")
Event = tuple[str, bytes]
"""(subject, body)"""


class Dataset:
    """Customers, campaigns and memberships in their final state; `events` returns events that lead to it."""

    def __init__(self, seed: int, customers: int, campaigns: int, memberships_each: int) -> None:
        self._rng = rng = Random(seed)
        self.customers = {n: (rng.randint(1, 5), rng.random() < 0.05) for n in range(1, customers + 1)}
        """number → (owner, deleted)"""
        self.campaigns = {
            n: {"owner": rng.randint(1, 5), "status": rng.randrange(4), "deleted": rng.random() < 0.1, "count": n * 7}
            for n in range(1, campaigns + 1)
        }
        self.memberships = {
            (customer, campaign): (rng.random() < 0.9, rng.randrange(10**6))
            for customer in self.customers
            for campaign in rng.sample(range(1, campaigns + 1), memberships_each)
        }
        """(customer, campaign) → (present, minute of enrolment)"""

    def events(self, duplicates: float = 0.0) -> list[Event]:
        """Return every event, a share of them repeated, in random order."""
        events = [*self._customers(), *self._campaigns(), *self._memberships()]
        events += self._rng.sample(events, int(len(events) * duplicates))
        self._rng.shuffle(events)
        return events

    def customer_rows(self) -> set[tuple[Any, ...]]:
        """Return the expected (customer_id, owner_id, deleted) of the customers."""
        return {(customer_id(n), owner_id(owner), deleted) for n, (owner, deleted) in self.customers.items()}

    def campaign_rows(self) -> set[tuple[Any, ...]]:
        """Return the expected (campaign_id, owner_id, status, deleted, contacts_total) of the campaigns."""
        return {
            (campaign_id(n), owner_id(campaign["owner"]), campaign["status"], campaign["deleted"], campaign["count"])
            for n, campaign in self.campaigns.items()
        }

    def membership_rows(self) -> set[tuple[Any, ...]]:
        """Return the expected (customer_id, campaign_id, enrolled_at, present, owner_id, status, deleted)."""
        rows = set()
        for (customer, number), (present, minute) in self.memberships.items():
            campaign = self.campaigns[number]
            enrolled_at = EPOCH + timedelta(minutes=minute)
            ids = (customer_id(customer), campaign_id(number))
            owner, deleted = owner_id(campaign["owner"]), not present or campaign["deleted"]
            rows.add((*ids, enrolled_at, present, owner, campaign["status"], deleted))
        return rows

    def summary_rows(self) -> set[tuple[Any, ...]]:
        """Return the expected (customer_id, owner_id, status, deleted, memberships)."""
        counted = Counter((row[0], row[4], row[5], row[6]) for row in self.membership_rows())
        return {(*key, number) for key, number in counted.items()}

    def _customers(self) -> Iterator[Event]:
        for n, (owner, deleted) in self.customers.items():
            yield published("customer.upserted.v1", 1, customer=n, owner_id=owner_id(9))
            yield published("customer.upserted.v1", 2, customer=n, owner_id=owner_id(owner), deleted=deleted)

    def _campaigns(self) -> Iterator[Event]:
        for n, campaign in self.campaigns.items():
            final = STATUSES[campaign["status"]]
            owner = owner_id(campaign["owner"])
            yield published("campaign.upserted.v1", 2, campaign=n, owner_id=owner, status="draft")
            yield published("campaign.upserted.v1", 1, campaign=n, owner_id=owner_id(9), status="done")
            yield published("campaign.status_changed.v1", 3, campaign=n, status=final)
            yield published("campaign.deleted.v1", 1, campaign=n)
            yield published("campaign.deleted.v1" if campaign["deleted"] else "campaign.restored.v1", 2, campaign=n)
            for version in (1, 2):
                count = campaign["count"] if version == 2 else 0
                yield published("campaign.counters_changed.v1", version, campaign=n, contacts_total=count)

    def _memberships(self) -> Iterator[Event]:
        for (customer, campaign), (present, minute) in self.memberships.items():
            ids = {"customer": customer, "campaign": campaign}
            enrolled_at = (EPOCH + timedelta(minutes=minute)).isoformat()
            yield published("target.enrolled.v1", 2, **ids, enrolled_at=enrolled_at)
            yield published("target.removed.v1" if not present else "target.restored.v1", 3, **ids)
