"""Damages rows as disks, hands and old bugs do: another value, a row gone, a row that never was."""

from random import Random
from typing import NamedTuple

import asyncpg

KEYS = {
    "customer": ("customer_id",),
    "campaign": ("campaign_id",),
    "membership": ("customer_id", "campaign_id"),
    "customer_summary": ("customer_id", "owner_id", "status", "deleted"),
}
CHANGES = {
    "customer": ["deleted = NOT deleted", "version = version + 1", "owner_id = gen_random_uuid()"],
    "campaign": [
        "name_key = name_key || '!'",
        "status = (status + 1) % 4",
        "deleted = NOT deleted",
        "contacts_total = contacts_total + 1",
        "progress = progress + 0.25",
        "display_json = replace(display_json, 'name', 'Name')",
        "created_at = now()",
    ],
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
WHOLE = {
    "customer": "version > 0",
    "campaign": "definition_version > 0",
    "membership": "enrolled_at IS NOT NULL AND owner_id IS NOT NULL",
    "customer_summary": "true",
}


class Damage(NamedTuple):
    """A row that is not as it was: its table and key, and what was done to it."""

    table: str
    key: dict[str, object]
    what: str


async def damage(connection: asyncpg.Connection, schema: str, rng: Random, number: int) -> list[Damage]:
    """Damage `number` different rows of a generation and return which."""
    done: list[Damage] = []
    while len(done) < number:
        table = rng.choice(list(KEYS))
        found = await _any_row(connection, schema, table, rng)
        key = {name: found[name] for name in KEYS[table]}
        plain = {name: _plain(value) for name, value in key.items()}
        if any((each.table, each.key) == (table, plain) for each in done):
            continue
        what = rng.choice([*CHANGES[table], "DELETE"])
        where = " AND ".join(f"{name} = ${at}" for at, name in enumerate(key, start=1))
        change = f"DELETE FROM {schema}.{table}" if what == "DELETE" else f"UPDATE {schema}.{table} SET {what}"  # noqa: S608
        assert (await connection.execute(f"{change} WHERE {where}", *key.values())).endswith(" 1")
        done.append(Damage(table, plain, what))
    return done


async def _any_row(connection: asyncpg.Connection, schema: str, table: str, rng: Random) -> asyncpg.Record:
    order = ", ".join(KEYS[table])
    rows = await connection.fetch(
        f"SELECT {order} FROM {schema}.{table} WHERE {WHOLE[table]} ORDER BY {order}"  # noqa: S608
    )
    return rng.choice(rows)


def _plain(value: object) -> object:
    return value if isinstance(value, int | bool) else str(value)
