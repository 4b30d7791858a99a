"""Migrates a database to this release: forward only, one process at a time; applied files never change.

Writes: the control schema and, on the first run, generation g1, which becomes the live one.
Invariants: a migration and its record are written in one transaction; a later run repeats nothing.
Fails: `MigrationChanged` when an applied file was edited; asyncpg's LockNotAvailableError when a table is busy.
"""

import hashlib
from importlib.resources import files
from typing import Final, NamedTuple

import asyncpg

from projections.errors import DatabaseNotMigrated, DatabaseTooOld, MigrationChanged
from projections.store import generations
from projections.store.queries import Generation

LOCK_KEY: Final = 0x4D454D42_4D494752  # "MEMBMIGR"
LOCK_TIMEOUT_S: Final = 5
FIRST_GENERATION: Final = Generation("g1")
SERVER_VERSION_MIN: Final = (18, 0)
"""The summaries are updated with RETURNING of old and new values, which PostgreSQL 18 introduced."""

_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS public.membership_migration (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class Migration(NamedTuple):
    """A migration file of this folder."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return the migrations in the order of application."""
    folder = files("projections.store.migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [Migration(name.removesuffix(".sql"), folder.joinpath(name).read_text(encoding="utf-8")) for name in names]


async def migrate(connection: asyncpg.Connection) -> list[str]:
    """Apply the missing migrations and return their names; safe to repeat and to run concurrently."""
    await _require_version(connection)
    await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
    await connection.execute("SET client_min_messages = warning")
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
    try:
        await connection.execute(_LEDGER)
        applied = [migration.name for migration in migrations() if await _apply(connection, migration)]
        return applied + await _first_generation(connection)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)


async def require_migrated(connection: asyncpg.Connection) -> None:
    """Raise `DatabaseNotMigrated` unless every migration of this release is applied."""
    ledger = await connection.fetchval("SELECT to_regclass('public.membership_migration') IS NOT NULL")
    rows = await connection.fetch("SELECT name FROM public.membership_migration") if ledger else []
    missing = [migration.name for migration in migrations() if migration.name not in {row["name"] for row in rows}]
    if missing:
        raise DatabaseNotMigrated([f"migration {name}" for name in missing])


async def _require_version(connection: asyncpg.Connection) -> None:
    version = connection.get_server_version()
    if (version.major, version.minor) < SERVER_VERSION_MIN:
        raise DatabaseTooOld(SERVER_VERSION_MIN[0], f"{version.major}.{version.minor}")


async def _apply(connection: asyncpg.Connection, migration: Migration) -> bool:
    async with connection.transaction():
        applied_sha256 = await connection.fetchval(
            "SELECT sha256 FROM public.membership_migration WHERE name = $1", migration.name
        )
        if applied_sha256 == migration.sha256:
            return False
        if applied_sha256 is not None:
            raise MigrationChanged(migration.name)
        await connection.execute(migration.text)
        await connection.execute(
            "INSERT INTO public.membership_migration (name, sha256) VALUES ($1, $2)",
            migration.name,
            migration.sha256,
        )
    return True


async def _first_generation(connection: asyncpg.Connection) -> list[str]:
    async with connection.transaction():
        if await connection.fetchval("SELECT count(*) FROM control.live"):
            return []
        await generations.create(connection, FIRST_GENERATION)
        await connection.execute("INSERT INTO control.live (generation) VALUES ($1)", FIRST_GENERATION)
        await connection.execute(
            "INSERT INTO control.signing_key (purpose, key) "
            "VALUES ('cursor', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'))"
        )
    return [f"generation {FIRST_GENERATION}"]
