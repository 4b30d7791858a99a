"""Inspects a running system's generations and rows."""

from tests.support.known_outcome import Dataset
from tests.support.processes import System

LIVE = "SELECT generation FROM control.live"


async def live(system: System) -> str:
    """Return the name of the live generation."""
    return str((await system.fetch(LIVE))[0]["generation"])


async def assert_dataset_rows(system: System, dataset: Dataset) -> None:
    """Compare every table of the live generation with the dataset's known outcome."""
    name = await live(system)
    expected = {
        "customer_id::text, owner_id::text, deleted FROM {}.customer": dataset.customer_rows(),
        "campaign_id::text, owner_id::text, status, deleted, coalesce(campaign_counters.contacts_total, 0) "
        "FROM {0}.campaign LEFT JOIN {0}.campaign_counters USING (campaign_id)": dataset.campaign_rows(),
        "customer_id::text, campaign_id::text, enrolled_at, present, owner_id::text, status, deleted "
        "FROM {}.membership": dataset.membership_rows(),
        "customer_id::text, owner_id::text, status, deleted, memberships "
        "FROM {}.customer_summary": dataset.summary_rows(),
    }
    for columns, rows in expected.items():
        actual = await system.fetch(f"SELECT {columns.format(name)}")
        assert {tuple(row.values()) for row in actual} == rows, columns
        assert len(actual) == len(rows), columns
