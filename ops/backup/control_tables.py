"""Copies the control tables that the stream does not explain out of a database and into an empty one.

Everything else in the database is derived: a projector writes it again from the stream.
Reads and writes: the tables of `TABLES`. Invariants: all tables are read in one transaction, and restored in one.
Fails: `DatabaseNotEmpty`, `BackupTooNew`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg

from ops.backup.manifest import DatabasePart, TablePart, writing
from projections.errors import MembershipError


class ControlTable(NamedTuple):
    """A table to copy: which rows, and which columns refer to derived tables."""

    name: str
    rows: str = "true"
    derived_columns: tuple[str, ...] = ()


TABLES: Final = (
    ControlTable("job", "state <> 'open'", ("generation",)),
    ControlTable("erasure", "job_id IN (SELECT job_id FROM control.job WHERE state <> 'open')"),
    ControlTable("acknowledged_loss"),
    ControlTable("api_key"),
    ControlTable("signing_key"),
    ControlTable("audit"),
    ControlTable("discarded_event"),
)
"""In the order in which they refer to each other. An open job belongs to a generation that is not in the backup."""

DERIVED: Final[Mapping[str, str]] = {
    "generation": "a restored database has one generation, written by the projector",
    "live": "the same",
    "checkpoint": "the projector starts at position 0 of the restored stream",
    "fan_out": "work in progress on a generation",
    "sample": "measured again every few seconds",
    "stream_report": "the same",
    "plan": "the audit has what was run",
    "job_review": "what comparisons found in generations that are not in the backup",
    "runner": "which process runs",
}
"""Tables of schema control that are not in a backup, and why."""

_MADE_BY_THE_API: Final = "signing_key"
"""An API that is already running creates it: replaced, so that cursors from before the restore stay valid."""


class DatabaseNotEmpty(MembershipError):
    """The database to restore into is in use."""

    code = "database_not_empty"

    def __init__(self, found: str) -> None:
        super().__init__(
            f"The database is not empty: {found}. A backup is restored into a new database, after `membership "
            "migrate`. Nothing was written."
        )


class BackupTooNew(MembershipError):
    """A backup has tables or columns that this release lacks."""

    code = "backup_too_new"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The backup has {name}, which this database lacks: restore it with the release that made it, "
            "or a newer one. Nothing was written."
        )


async def copy_out(connection: asyncpg.Connection, folder: Path) -> DatabasePart:
    """Write every table to a CSV file in `folder`."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        names = await connection.fetch("SELECT name FROM public.membership_migration ORDER BY name")
        tables = [await _copy_out(connection, folder, table) for table in TABLES]
    return DatabasePart(tuple(row["name"] for row in names), tuple(tables))


async def _copy_out(connection: asyncpg.Connection, folder: Path, table: ControlTable) -> TablePart:
    columns = [name for name in await _columns(connection, table.name) if name not in table.derived_columns]
    listed = ", ".join(f'"{name}"' for name in columns)
    query = f"SELECT {listed} FROM control.{table.name} WHERE {table.rows} ORDER BY 1"  # noqa: S608 - our own names
    name = f"{table.name}.csv"
    with writing(folder, name) as file:

        async def write(chunk: bytes) -> None:
            file.write(chunk)

        status = await connection.copy_from_query(query, output=write, format="csv", header=True)
        return TablePart(table.name, tuple(columns), int(status.split()[-1]), file.finished(name))


async def require_empty(connection: asyncpg.Connection, part: DatabasePart) -> None:
    """Require that nothing was applied or recorded, and that every column of the backup exists."""
    position = await connection.fetchval("SELECT max(position) FROM control.checkpoint")
    if position:
        raise DatabaseNotEmpty(f"events up to position {position} are applied")
    known = {table.name for table in TABLES}
    for table in part.tables:
        if table.table not in known:
            raise BackupTooNew(f"the table {table.table!r}")
        existing = await _columns(connection, table.table)
        for column in table.columns:
            if column not in existing:
                raise BackupTooNew(f"the column {table.table}.{column}")
        if table.table != _MADE_BY_THE_API and await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM control.{table.table})"  # noqa: S608 - a name of TABLES
        ):
            raise DatabaseNotEmpty(f"control.{table.table} has rows")


async def copy_in(connection: asyncpg.Connection, folder: Path, part: DatabasePart) -> int:
    """Write the rows of a backup into an empty database, in the caller's transaction; return their number."""
    await connection.execute(f"DELETE FROM control.{_MADE_BY_THE_API}")  # noqa: S608 - our own name
    for table in part.tables:
        await connection.copy_to_table(
            table.table,
            schema_name="control",
            source=folder / table.file.name,
            columns=table.columns,
            format="csv",
            header=True,
        )
        await _advance_sequences(connection, table.table)
    return sum(table.rows for table in part.tables)


async def _advance_sequences(connection: asyncpg.Connection, table: str) -> None:
    """Make the next identity larger than every restored one."""
    identities = await connection.fetch(
        "SELECT attname AS name FROM pg_attribute WHERE attrelid = $1::text::regclass AND attidentity <> ''",
        f"control.{table}",
    )
    for row in identities:
        await connection.execute(
            f"SELECT setval(pg_get_serial_sequence('control.{table}', '{row['name']}'), max({row['name']})) "  # noqa: S608
            f"FROM control.{table} HAVING max({row['name']}) IS NOT NULL"
        )


async def _columns(connection: asyncpg.Connection, table: str) -> list[str]:
    """Return a table's columns in order; empty if it does not exist."""
    rows = await connection.fetch(
        "SELECT attname AS name FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 "
        "AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        f"control.{table}",
    )
    return [row["name"] for row in rows]
