"""Damages rows as disks, manual edits and old bugs do: a changed value or a deleted row."""

from random import Random
from typing import NamedTuple

import asyncpg

KEYS = {
    "customer": ("customer_id",),
    "campaign": ("campaign_id",),
    "campaign_counters": ("campaign_id",),
    "membership": ("customer_id", "campaign_id"),
    "customer_summary": ("customer_id", "owner_id", "status", "deleted"),
}
CHANGES = {
    "customer": ["deleted = NOT deleted", "version = version + 1", "owner_id = gen_random_uuid()"],
    "campaign": [
        "name_key = name_key || '!'",
        "status = (status + 1) % 4",
        "deleted = NOT deleted",
        "display_json = replace(display_json, 'name', 'Name')",
        "created_at = now()",
    ],
    "campaign_counters": ["contacts_total = contacts_total + 1", "progress = progress + 0.25", "version = version + 1"],
    "membership": [
        "enrolled_at = enrolled_at + interval '1 microsecond'",
        "status = (status + 1) % 4",
        "present = NOT present",
        "owner_id = gen_random_uuid()",
        "source = coalesce(source, '') || 'x'",
        "target_id = gen_random_uuid()",
        "campaign_deleted = NOT campaign_deleted",
        "presence_version = presence_version + 1",
    ],
    "customer_summary": ["memberships = memberships + 1", "memberships = memberships - 1"],
}
COMPLETE = {
    "customer": "version > 0",
    "campaign": "definition_version > 0",
    "campaign_counters": "true",
    "membership": "enrolled_at IS NOT NULL AND owner_id IS NOT NULL",
    "customer_summary": "true",
}


class Damage(NamedTuple):
    """A damaged row: its table, its key, and the change."""

    table: str
    key: dict[str, object]
    change: str


async def damage(connection: asyncpg.Connection, schema: str, rng: Random, number: int) -> list[Damage]:
    """Damage `number` different rows of a generation and return them."""
    damages: list[Damage] = []
    while len(damages) < number:
        table = rng.choice(list(KEYS))
        row = await _any_row(connection, schema, table, rng)
        key = {name: row[name] for name in KEYS[table]}
        json_key = {name: _json_value(value) for name, value in key.items()}
        if any((earlier.table, earlier.key) == (table, json_key) for earlier in damages):
            continue
        change = rng.choice([*CHANGES[table], "DELETE"])
        where = " AND ".join(f"{name} = ${index}" for index, name in enumerate(key, start=1))
        verb = f"DELETE FROM {schema}.{table}" if change == "DELETE" else f"UPDATE {schema}.{table} SET {change}"  # noqa: S608
        assert (await connection.execute(f"{verb} WHERE {where}", *key.values())).endswith(" 1")
        damages.append(Damage(table, json_key, change))
    return damages


async def _any_row(connection: asyncpg.Connection, schema: str, table: str, rng: Random) -> asyncpg.Record:
    order = ", ".join(KEYS[table])
    rows = await connection.fetch(
        f"SELECT {order} FROM {schema}.{table} WHERE {COMPLETE[table]} ORDER BY {order}"  # noqa: S608
    )
    return rng.choice(rows)


def _json_value(value: object) -> object:
    return value if isinstance(value, int | bool) else str(value)
