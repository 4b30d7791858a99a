"""Compares rows that are held with rows as the stream would have them, names each column, and writes the difference.

Reads: two schemas of one shape, in the caller's snapshot. Writes: on request, exactly the rows that were shown.
Statements: differences.sql. Invariants: what `find` shows and `write` writes are the same bytes of JSON.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec
from msgspec import Struct

from projections.store.queries import statements

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "parked_event": ("position",),
    "customer": ("customer_id",),
    "campaign": ("campaign_id",),
    "membership": ("customer_id", "campaign_id"),
    "customer_summary": ("customer_id", "owner_id", "status", "deleted"),
}
"""The tables of a generation and what identifies a row of each."""

EVERYTHING: Final = "true"


class Difference(Struct, frozen=True):
    """A row that is not as the stream would have it. `held` or `wanted` is empty where there is no such row."""

    table: str
    held_json: str
    expected_json: str

    @property
    def held(self) -> dict[str, Any]:
        """The row that is there."""
        return msgspec.json.decode(self.held_json) if self.held_json else {}

    @property
    def expected(self) -> dict[str, Any]:
        """The row that should be."""
        return msgspec.json.decode(self.expected_json) if self.expected_json else {}

    @property
    def key(self) -> dict[str, Any]:
        """What identifies the row."""
        row = self.held or self.expected
        return {name: row[name] for name in KEYS[self.table]}

    def columns(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield (column, held, wanted) for each column that differs, of a row that both sides have."""
        held, wanted = self.held, self.expected
        for name in wanted:
            if name in held and held[name] != wanted[name]:
                yield name, held[name], wanted[name]


class Part(NamedTuple):
    """Some rows of a table: all that meet a condition on its columns."""

    table: str
    scope: str = EVERYTHING


class Comparison:
    """Two schemas, compared part by part on one connection."""

    def __init__(self, connection: asyncpg.Connection, held: str, wanted: str) -> None:
        self._connection = connection
        self._held = held
        self._expected = wanted
        self._columns: dict[str, str] = {}

    async def count(self, part: Part, *args: object) -> int:
        """Return how many rows differ."""
        return int(await self._connection.fetchval(await self._statement("count", part), *args))

    async def find(self, part: Part, *args: object, rows_max: int | None = None) -> list[Difference]:
        """Return the rows that differ, in the order of their key, at most `rows_max`."""
        text = await self._statement("rows", part)
        text = text.replace("{rows_max}", "ALL" if rows_max is None else str(rows_max))
        rows = await self._connection.fetch(text, *args)
        return [Difference(part.table, row["held"] or "", row["wanted"] or "") for row in rows]

    async def write(self, differences: Iterable[Difference]) -> None:
        """Make the held rows what `differences` say, in the caller's transaction."""
        by_table: dict[str, list[Difference]] = {}
        for each in differences:
            by_table.setdefault(each.table, []).append(each)
        for table, found in by_table.items():
            await self._replace("remove", table, [each.held_json or each.expected_json for each in found])
            await self._replace("insert", table, [each.expected_json for each in found if each.expected_json])

    async def _replace(self, block: str, table: str, rows: Sequence[str]) -> None:
        if rows:
            await self._connection.execute(await self._statement(block, Part(table)), f"[{','.join(rows)}]")

    async def _statement(self, block: str, part: Part) -> str:
        key = KEYS[part.table]
        text = _statements()[block]
        for token, filling in {
            "{columns}": await self._columns_of(part.table),
            "{same_key}": " AND ".join(f"held.{name} = wanted.{name}" for name in key),
            "{key}": ", ".join(f"coalesce(held.{name}, wanted.{name})" for name in key),
            "{held}": self._held,
            "{wanted}": self._expected,
            "{table}": part.table,
            "{scope}": part.scope,
        }.items():
            text = text.replace(token, filling)
        return text

    async def _columns_of(self, table: str) -> str:
        if table not in self._columns:
            rows = await self._connection.fetch(_statements()["written_columns"], f"{self._held}.{table}")
            self._columns[table] = ", ".join(row["attname"] for row in rows)
        return self._columns[table]


def _statements() -> Mapping[str, str]:
    return statements("projections.maintenance", "differences.sql")
