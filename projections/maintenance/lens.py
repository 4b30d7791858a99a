"""Reads one customer or one campaign for operators, and says in a sentence how a campaign is.

Reads: customer, campaign, campaign_counters, membership, control.fan_out. Statements: lens.sql.
"""

from collections.abc import Mapping
from typing import Any, Final

import asyncpg
from msgspec import Struct

from projections.model.events import Instant
from projections.model.quoting import quoted
from projections.store.queries import Generation, statements

COUNTERS: Final = (
    "contacts_total",
    "contacts_contacted",
    "contacts_remaining",
    "contacts_to_recall",
    "contacts_failed",
    "contacts_succeeded",
    "progress",
)


class CustomerRow(Struct, frozen=True):
    """A customer that exists."""

    owner_id: str | None
    """None while the customer is known from enrolments only."""
    deleted: bool
    version: int


class CampaignState(Struct, frozen=True, kw_only=True):
    """A campaign, as far as anything of it is known."""

    campaign_id: str
    known: bool
    """Whether an event of the campaign or an enrolment in it is applied."""
    defined: bool
    owner_id: str | None
    name: str | None
    status: str | None
    deleted: bool
    counters_version: int | None
    """None if no counter event is applied."""
    counters: Mapping[str, int | float]
    members: int
    """Enrolments in it, present or removed."""
    resumes_at: str | None
    """The customer at which the pending copy of its keys goes on; None if none is pending."""

    @property
    def sentence(self) -> str:
        """Return how the campaign is."""
        return f"{_state_sentence(self)}{_PENDING if self.resumes_at else ''}"


class Member(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A customer in a campaign."""

    customer_id: str
    enrolled_at: Instant | None = None
    """Absent if only a removal or a restoration is known."""
    present: bool
    """False after a removal."""


_PENDING: Final = " Its last change of owner, status or deletion is still being copied; answers are exact meanwhile."


def _state_sentence(campaign: CampaignState) -> str:
    enrolments = "1 enrolment" if campaign.members == 1 else f"{campaign.members:,} enrolments"
    if not campaign.known:
        return "Nothing is known of this campaign: no event of it, and no enrolment in it, is applied."
    if not campaign.defined:
        return f"No definition of this campaign is applied yet, so no list shows it. It has {enrolments}."
    name = quoted(campaign.name or "")
    if campaign.deleted:
        return f"{name} is deleted, so lists show it only with their deleted entries. It has {enrolments}."
    return f"{name} is {campaign.status} and has {enrolments}."


async def read_customer(connection: asyncpg.Connection, name: Generation, customer_id: str) -> CustomerRow | None:
    """Return a customer; None if there is no such customer."""
    row = await connection.fetchrow(_statements(name)["customer"], customer_id)
    return None if row is None else CustomerRow(**row)


async def read_campaign(connection: asyncpg.Connection, name: Generation, campaign_id: str) -> CampaignState:
    """Return a campaign, known or not."""
    row = await connection.fetchrow(_statements(name)["campaign"], campaign_id)
    assert row is not None  # noqa: S101 - the statement returns one row
    values: dict[str, Any] = dict(row)
    counters = {counter: values.pop(counter) for counter in COUNTERS}
    values["known"] = values["known"] or values["members"] > 0
    return CampaignState(campaign_id=campaign_id, counters=counters, **values)


async def read_members(
    connection: asyncpg.Connection, name: Generation, campaign_id: str, after: str, rows_max: int
) -> list[Member]:
    """Return the customers in a campaign after one of them, in the order of their ids."""
    rows = await connection.fetch(_statements(name)["members"], campaign_id, after, rows_max)
    return [Member(**row) for row in rows]


def _statements(name: Generation) -> Mapping[str, str]:
    return statements("projections.maintenance", "lens.sql", generation=name)
