"""A made-up town for the operators' tests: who is in which campaign is decided first, and only then told as events.

So what every table must hold at the end is known without folding anything: it is the generator's own word.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

from tests.support.builders import EPOCH, campaign_id, customer_id, owner_id, published

STATUSES = ("draft", "running", "paused", "done")
Told = tuple[str, bytes]


class Dataset:
    """Customers and campaigns with their final state; `events` tells how they came to it."""

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

    def events(self, duplicates: float = 0.0) -> list[Told]:
        """Return every event, shuffled, with a share of them told again."""
        told = [*self._customers(), *self._campaigns(), *self._memberships()]
        told += self._rng.sample(told, int(len(told) * duplicates))
        self._rng.shuffle(told)
        return told

    def customer_rows(self) -> set[tuple[Any, ...]]:
        """What (customer_id, owner_id, deleted) of the customers must be."""
        return {(customer_id(n), owner_id(owner), deleted) for n, (owner, deleted) in self.customers.items()}

    def campaign_rows(self) -> set[tuple[Any, ...]]:
        """What (campaign_id, owner_id, status, deleted, contacts_total) of the campaigns must be."""
        return {
            (campaign_id(n), owner_id(it["owner"]), it["status"], it["deleted"], it["count"])
            for n, it in self.campaigns.items()
        }

    def membership_rows(self) -> set[tuple[Any, ...]]:
        """What (customer_id, campaign_id, enrolled_at, present, owner_id, status, deleted) must be."""
        rows = set()
        for (customer, campaign), (present, minute) in self.memberships.items():
            it = self.campaigns[campaign]
            at = EPOCH + timedelta(minutes=minute)
            gone = not present or it["deleted"]
            rows.add(
                (customer_id(customer), campaign_id(campaign), at, present, owner_id(it["owner"]), it["status"], gone)
            )
        return rows

    def summary_rows(self) -> set[tuple[Any, ...]]:
        """What (customer_id, owner_id, status, deleted, memberships) must be."""
        counted = Counter((row[0], row[4], row[5], row[6]) for row in self.membership_rows())
        return {(*key, number) for key, number in counted.items()}

    def _customers(self) -> Iterator[Told]:
        for n, (owner, deleted) in self.customers.items():
            yield published("customer.upserted.v1", 1, customer=n, owner_id=owner_id(9))
            yield published("customer.upserted.v1", 2, customer=n, owner_id=owner_id(owner), deleted=deleted)

    def _campaigns(self) -> Iterator[Told]:
        for n, it in self.campaigns.items():
            final = STATUSES[it["status"]]
            yield published("campaign.upserted.v1", 2, campaign=n, owner_id=owner_id(it["owner"]), status="draft")
            yield published("campaign.upserted.v1", 1, campaign=n, owner_id=owner_id(9), status="done")
            yield published("campaign.status_changed.v1", 3, campaign=n, status=final)
            yield published("campaign.deleted.v1", 1, campaign=n)
            yield published("campaign.deleted.v1" if it["deleted"] else "campaign.restored.v1", 2, campaign=n)
            for version in (1, 2):
                count = it["count"] if version == 2 else 0
                yield published("campaign.counters_changed.v1", version, campaign=n, contacts_total=count)

    def _memberships(self) -> Iterator[Told]:
        for (customer, campaign), (present, minute) in self.memberships.items():
            given = {"customer": customer, "campaign": campaign}
            at = (EPOCH + timedelta(minutes=minute)).isoformat()
            yield published("target.enrolled.v1", 2, **given, enrolled_at=at)
            yield published("target.removed.v1" if not present else "target.restored.v1", 3, **given)
