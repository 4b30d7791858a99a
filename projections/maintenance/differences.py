"""Compares held rows with the rows expected from the stream, column by column, and writes the expected ones.

Reads: two schemas, in the caller's snapshot. The expected one has the tables of this release; the held one may be of an
earlier release, which keeps counters as columns of `campaign` and shows them by a view, `campaign_counters`.
Writes: on request, exactly the rows that `find` gave.
Statements: differences.sql. Invariants: `find` returns and `write` writes the same bytes of JSON.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec
from msgspec import Struct

from projections.store import generations
from projections.store.queries import statements

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "parked_event": ("position",),
    "customer": ("customer_id",),
    "campaign": ("campaign_id",),
    "campaign_counters": ("campaign_id",),
    "membership": ("customer_id", "campaign_id"),
    "customer_summary": ("customer_id", "owner_id", "status", "deleted"),
}
"""The tables of a generation and the key columns of each."""

EVERYTHING: Final = "true"

WRITTEN: Final[Mapping[str, str]] = {"campaign": "(definition_version, status_version, deletion_version) <> (0, 0, 0)"}
"""Which rows count, if not all: an earlier release made a campaign's row for counters alone."""

UNSET: Final[Mapping[str, str]] = {"campaign": "DEFAULT", "campaign_counters": "0"}
"""The tables that share rows in a generation of an earlier release, and the value of an unwritten column there."""


class Difference(Struct, frozen=True):
    """A row that differs from the stream. `held` or `expected` is empty where that side has no such row."""

    table: str
    held_json: str
    expected_json: str

    @property
    def held(self) -> dict[str, Any]:
        """The existing row."""
        return msgspec.json.decode(self.held_json) if self.held_json else {}

    @property
    def expected(self) -> dict[str, Any]:
        """The row that follows from the stream."""
        return msgspec.json.decode(self.expected_json) if self.expected_json else {}

    @property
    def key(self) -> dict[str, Any]:
        """The key columns of the row."""
        row = self.held or self.expected
        return {name: row[name] for name in KEYS[self.table]}

    def columns(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield (column, held, expected) for each differing column of a row that exists on both sides."""
        held, expected = self.held, self.expected
        for name in expected:
            if name in held and held[name] != expected[name]:
                yield name, held[name], expected[name]


class Part(NamedTuple):
    """The rows of a table that satisfy a condition on its columns."""

    table: str
    scope: str = EVERYTHING


class Comparison:
    """Two schemas, compared part by part on one connection."""

    def __init__(self, connection: asyncpg.Connection, held: str, expected: str) -> None:
        self._connection = connection
        self._held = held
        self._expected = expected
        self._columns: dict[str, list[str]] = {}

    async def count(self, part: Part, *args: object) -> int:
        """Return the number of rows that differ."""
        return int(await self._connection.fetchval(await self._statement("count", part), *args))

    async def find(self, part: Part, *args: object, rows_max: int | None = None) -> list[Difference]:
        """Return the rows that differ, in key order, at most `rows_max`."""
        text = await self._statement("rows", part)
        text = text.replace("{rows_max}", "ALL" if rows_max is None else str(rows_max))
        rows = await self._connection.fetch(text, *args)
        return [Difference(part.table, row["held"] or "", row["expected"] or "") for row in rows]

    async def write(self, differences: Iterable[Difference]) -> None:
        """Replace the held rows of `differences` with the expected ones, in the caller's transaction."""
        by_table: dict[str, list[Difference]] = {}
        for difference in differences:
            by_table.setdefault(difference.table, []).append(difference)
        for table, rows in by_table.items():
            unexpected = [difference.held_json for difference in rows if not difference.expected_json]
            await self._execute("unset" if await self._shares_rows(table) else "remove", table, unexpected)
            expected = [difference.expected_json for difference in rows if difference.expected_json]
            await self._execute("write", table, expected)

    async def _execute(self, block: str, table: str, rows: Sequence[str]) -> None:
        if rows:
            await self._connection.execute(await self._statement(block, Part(table)), f"[{','.join(rows)}]")

    async def _shares_rows(self, table: str) -> bool:
        """Return whether the held rows of a table are also rows of another one, as in earlier releases."""
        return table in UNSET and await generations.has_counters_in_campaign(self._connection, self._held)

    async def _statement(self, block: str, part: Part) -> str:
        key = KEYS[part.table]
        columns = await self._columns_of(part.table)
        text = _statements()[block]
        for token, value in {
            "{columns}": ", ".join(columns),
            "{assignments}": ", ".join(f"{name} = excluded.{name}" for name in columns),
            "{unwritten}": ", ".join(f"{name} = {UNSET.get(part.table)}" for name in columns if name not in key),
            "{same_unexpected_key}": " AND ".join(f"held.{name} = unexpected.{name}" for name in key),
            "{same_key}": " AND ".join(f"held.{name} = expected.{name}" for name in key),
            "{key}": ", ".join(key),
            "{either_key}": ", ".join(f"coalesce(held.{name}, expected.{name})" for name in key),
            "{held}": self._held,
            "{expected}": self._expected,
            "{table}": part.table,
            "{written}": WRITTEN.get(part.table, EVERYTHING),
            "{scope}": part.scope,
        }.items():
            text = text.replace(token, value)
        return text

    async def _columns_of(self, table: str) -> list[str]:
        if table not in self._columns:
            rows = await self._connection.fetch(_statements()["written_columns"], f"{self._expected}.{table}")
            self._columns[table] = [row["attname"] for row in rows]
        return self._columns[table]


def _statements() -> Mapping[str, str]:
    return statements("projections.maintenance", "differences.sql")
