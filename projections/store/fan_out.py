"""Copies a campaign's changed keys to its memberships, a bounded number per transaction; the remainder is recorded.

Writes: membership, customer_summary, control.fan_out. Statements: writes.sql.
Invariants: a copy and the affected summaries change in one statement. A campaign whose memberships have older keys is
recorded in control.fan_out in the transaction that changed it, so readers know to take the keys from the campaign.
A newer change of a campaign supersedes the older one: the current keys are always copied.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from projections.store.queries import Generation, writes

MEMBERS_MAX: Final = 2_000
"""Memberships per transaction: about 50 ms, the delay that this may add to another event."""
CAMPAIGNS_MAX: Final = 100
"""Campaigns per transaction; they share the memberships evenly, so small ones finish at once."""
FIRST_CUSTOMER: Final = UUID(int=0)


class FanOut(NamedTuple):
    """A campaign whose keys must be copied, and the customer at which to resume."""

    campaign_id: UUID
    resumes_at: UUID = FIRST_CUSTOMER


class Propagated(NamedTuple):
    """The result of a fan-out step: the customers whose memberships changed, and the remaining fan-outs."""

    customers: list[str]
    remaining: list[FanOut]


async def propagate(
    connection: asyncpg.Connection, statements: Mapping[str, str], fan_outs: Iterable[FanOut], members_max: int | None
) -> Propagated:
    """Copy keys to about `members_max` memberships (None: to all), in the caller's transaction."""
    remaining = list(fan_outs)
    customers: list[str] = []
    while remaining:
        changed, unfinished = await _chunk(
            connection, statements, remaining[:CAMPAIGNS_MAX], members_max or MEMBERS_MAX
        )
        remaining = unfinished + remaining[CAMPAIGNS_MAX:]
        customers += changed
        if members_max is not None:
            break
    return Propagated(customers, remaining)


async def record(connection: asyncpg.Connection, name: Generation, remaining: Sequence[FanOut]) -> None:
    """Record the remaining fan-outs; a campaign already recorded resumes at its new customer."""
    if remaining:
        await connection.execute(writes(name)["record_fan_outs"], name, *map(list, zip(*remaining, strict=True)))


async def propagate_recorded(connection: asyncpg.Connection, name: Generation, members_max: int | None) -> bool:
    """Continue the recorded fan-outs, in the caller's transaction; return whether any remain.

    Answers do not change: until it is complete, readers take the keys from the campaigns.
    """
    statements = writes(name)
    rows = await connection.fetch(statements["recorded_fan_outs"], name, None if members_max is None else CAMPAIGNS_MAX)
    fan_outs = [FanOut(row["campaign_id"], row["resumes_at"]) for row in rows]
    _, remaining = await propagate(connection, statements, fan_outs, members_max)
    finished = {fan_out.campaign_id for fan_out in fan_outs} - {fan_out.campaign_id for fan_out in remaining}
    await connection.execute(statements["delete_fan_outs"], name, list(finished))
    await record(connection, name, remaining)
    return bool(remaining) or len(fan_outs) == CAMPAIGNS_MAX


async def count(connection: asyncpg.Connection, name: Generation) -> int:
    """Return how many campaigns of a generation have memberships that may carry older keys."""
    return int(await connection.fetchval("SELECT count(*) FROM control.fan_out WHERE generation = $1", name))


async def _chunk(
    connection: asyncpg.Connection, statements: Mapping[str, str], fan_outs: Sequence[FanOut], members_max: int
) -> tuple[list[str], list[FanOut]]:
    """Copy keys to the next members of each campaign; return the changed customers and the unfinished fan-outs."""
    # At least two: the member at which to resume is read again.
    per_campaign_max = max(2, members_max // len(fan_outs))
    members = await connection.fetch(
        statements["next_members"], *map(list, zip(*fan_outs, strict=True)), per_campaign_max
    )
    keys = [[row["customer_id"] for row in members], [row["campaign_id"] for row in members]]
    changed = await connection.fetch(statements["refresh_keys"], *keys)
    seen: dict[UUID, list[UUID]] = {}
    for customer, campaign in zip(*keys, strict=True):
        seen.setdefault(campaign, []).append(customer)
    unfinished = [
        FanOut(campaign, max(customers)) for campaign, customers in seen.items() if len(customers) == per_campaign_max
    ]
    return [row["customer_id"] for row in changed], unfinished
