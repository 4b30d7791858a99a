"""Inspects a running system's generations and rows."""

from tests.support.known_outcome import Dataset
from tests.support.processes import System

LIVE = "SELECT generation FROM control.live"


async def live(system: System) -> str:
    return str((await system.fetch(LIVE))[0]["generation"])


async def demand_the_towns_rows(system: System, town: Dataset) -> None:
    """Hold every table of the live generation against what the generator decided."""
    name = await live(system)
    wanted = {
        "customer_id::text, owner_id::text, deleted FROM {}.customer": town.customer_rows(),
        "campaign_id::text, owner_id::text, status, deleted, contacts_total FROM {}.campaign": town.campaign_rows(),
        "customer_id::text, campaign_id::text, enrolled_at, present, owner_id::text, status, deleted "
        "FROM {}.membership": town.membership_rows(),
        "customer_id::text, owner_id::text, status, deleted, memberships FROM {}.customer_summary": town.summary_rows(),
    }
    for columns, rows in wanted.items():
        found = await system.fetch(f"SELECT {columns.format(name)}")
        assert {tuple(row.values()) for row in found} == rows, columns
        assert len(found) == len(rows), columns
