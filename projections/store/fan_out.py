"""Copies a campaign's changed keys to its memberships: a bounded number in a transaction, and what is left is recorded.

Writes: membership, customer_summary, control.fan_out. Statements: writes.sql.
Invariants: a copy and the summaries it moves change in one statement. What carries older keys than its campaign is
recorded in control.fan_out in the transaction that changed the campaign, so a reader can tell, and asks the campaign.
A newer change of a campaign supersedes the older one: copies are always made of the keys as they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from projections.store.queries import Generation, writes

MEMBERS_MAX: Final = 2_000
"""Memberships in one transaction: some 50 ms, which is what another event may have to wait."""
CAMPAIGNS_MAX: Final = 1_000
"""Campaigns in one transaction; they share the members evenly, so small ones are done at once."""
FIRST_CUSTOMER: Final = UUID(int=0)


class FanOut(NamedTuple):
    """A campaign whose keys have to be copied, and the customer to go on at."""

    campaign_id: UUID
    resumes_at: UUID = FIRST_CUSTOMER


class Propagated(NamedTuple):
    """What became of fan-outs: the customers whose memberships were given other keys, and what is left to do."""

    customers: list[str]
    remaining: list[FanOut]


async def propagate(
    connection: asyncpg.Connection, statements: Mapping[str, str], wanted: Iterable[FanOut], members_max: int | None
) -> Propagated:
    """Copy keys to about `members_max` memberships (None: to all), in the caller's transaction."""
    left = list(wanted)
    customers: list[str] = []
    while left:
        reached, unfinished = await _chunk(connection, statements, left[:CAMPAIGNS_MAX], members_max or MEMBERS_MAX)
        left = unfinished + left[CAMPAIGNS_MAX:]
        customers += reached
        if members_max is not None:
            break
    return Propagated(customers, left)


async def record(connection: asyncpg.Connection, name: Generation, left: Sequence[FanOut]) -> None:
    """Record what is left; a campaign that is recorded already goes on where it is said now."""
    if left:
        await connection.execute(writes(name)["record_fan_outs"], name, *map(list, zip(*left, strict=True)))


async def propagate_recorded(connection: asyncpg.Connection, name: Generation, members_max: int | None) -> bool:
    """Go on with what is recorded, in the caller's transaction; say whether something is left after it.

    Answers do not change by it: who reads meanwhile takes the keys from the campaigns.
    """
    statements = writes(name)
    rows = await connection.fetch(statements["recorded_fan_outs"], name, None if members_max is None else CAMPAIGNS_MAX)
    wanted = [FanOut(row["campaign_id"], row["resumes_at"]) for row in rows]
    _, left = await propagate(connection, statements, wanted, members_max)
    finished = {each.campaign_id for each in wanted} - {each.campaign_id for each in left}
    await connection.execute(statements["forget_fan_outs"], name, list(finished))
    await record(connection, name, left)
    return bool(left) or len(wanted) == CAMPAIGNS_MAX


async def count(connection: asyncpg.Connection, name: Generation) -> int:
    """Return how many campaigns a generation has whose memberships may carry older keys than they do."""
    return int(await connection.fetchval("SELECT count(*) FROM control.fan_out WHERE generation = $1", name))


async def _chunk(
    connection: asyncpg.Connection, statements: Mapping[str, str], wanted: Sequence[FanOut], members_max: int
) -> tuple[list[str], list[FanOut]]:
    """Copy keys to the next members of each of these campaigns; return who was reached, and what is unfinished."""
    # Two at least: the member to go on at is among those that come next.
    each_max = max(2, members_max // len(wanted))
    members = await connection.fetch(statements["next_members"], *map(list, zip(*wanted, strict=True)), each_max)
    keys = [[row["customer_id"] for row in members], [row["campaign_id"] for row in members]]
    moved = await connection.fetch(statements["refresh_keys"], *keys)
    if emptied := [row["customer_id"] for row in moved if row["emptied"]]:
        await connection.execute(statements["forget_empty_counts"], emptied)
    seen: dict[UUID, list[UUID]] = {}
    for customer, campaign in zip(*keys, strict=True):
        seen.setdefault(campaign, []).append(customer)
    unfinished = [FanOut(campaign, max(found)) for campaign, found in seen.items() if len(found) == each_max]
    return [row["customer_id"] for row in moved if not row["emptied"]], unfinished
