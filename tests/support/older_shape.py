"""Gives a generation the tables of the last release, in which a campaign's row holds its counters and its card."""

from typing import Final

import asyncpg

from projections.store.queries import Generation, statements

MIGRATION: Final = "0006_narrow_counters"
NEWER: Final = "newer"
COUNTERS: Final = (
    "contacts_total",
    "contacts_contacted",
    "contacts_remaining",
    "contacts_to_recall",
    "contacts_failed",
    "contacts_succeeded",
    "progress",
)
CAMPAIGN: Final = (
    "definition_version",
    "owner_id",
    "created_at",
    "name_key",
    "goal_key",
    "agent_name_key",
    "display_json",
    "status_version",
    "status",
    "deletion_version",
    "deleted",
)
ZERO_IF_UNKNOWN: Final = ("definition_version", "status_version", "deletion_version", *COUNTERS)


async def give_older_shape(connection: asyncpg.Connection, name: Generation) -> None:
    """Replace a generation by one of the last release with the same rows, as before the migration that followed.

    older_generation.sql is that release's generation.sql, unchanged.
    """
    older = statements("tests.support", "older_generation.sql", generation=name)
    async with connection.transaction():
        await connection.execute(f"ALTER SCHEMA {name} RENAME TO {NEWER}")
        await connection.execute(older["tables"])
        await _copy_campaigns(connection, name)
        for table in ("customer", "membership", "customer_summary", "parked_event"):
            await _copy(connection, name, table)
        await connection.execute(f"DROP SCHEMA {NEWER} CASCADE")
        for block in older.keys() - {"tables"}:
            await connection.execute(older[block])
        await connection.execute("DELETE FROM membership_migration WHERE name = $1", MIGRATION)


async def _copy_campaigns(connection: asyncpg.Connection, name: Generation) -> None:
    """Copy campaigns with their counters; the last release also had a row for a campaign known by its counters only."""
    defaults = {"deleted": "false"} | dict.fromkeys(ZERO_IF_UNKNOWN, "0")
    values = [f"coalesce({column}, {defaults[column]})" if column in defaults else column for column in CAMPAIGN]
    counters = [f"coalesce({column}, 0)" for column in COUNTERS]
    await connection.execute(
        f"INSERT INTO {name}.campaign (campaign_id, {', '.join(CAMPAIGN)}, counters_version, {', '.join(COUNTERS)}) "  # noqa: S608 - fixed names
        f"SELECT campaign_id, {', '.join(values)}, coalesce(version, 0), {', '.join(counters)} "
        f"FROM {NEWER}.campaign FULL JOIN {NEWER}.campaign_counters USING (campaign_id)"
    )


async def _copy(connection: asyncpg.Connection, name: Generation, table: str) -> None:
    columns = await connection.fetchval(
        "SELECT string_agg(attname, ', ') FROM pg_attribute "
        "WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = ''",
        f"{name}.{table}",
    )
    await connection.execute(
        f"INSERT INTO {name}.{table} ({columns}) SELECT {columns} FROM {NEWER}.{table}"  # noqa: S608 - fixed names
    )
