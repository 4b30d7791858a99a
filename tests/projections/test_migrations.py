"""Each migration is applied once, also by repeated or concurrent runs, and never from an edited file."""

import asyncio
import re

import asyncpg
import pytest

from projections.errors import DatabaseNotMigrated, MigrationChanged
from projections.store import database, generations, migrations
from projections.store.migrations import Migration, migrate, require_migrated
from projections.store.queries import Generation, blocks, generation, writes
from service.read_model.reads import page_statement
from tests.support.shapes import every_shape

FRAGMENTS = {"before_and_after", "apply_summary_deltas"}


async def test_migrating_again_changes_nothing(connection: asyncpg.Connection) -> None:
    assert await migrate(connection) == []
    await require_migrated(connection)


async def test_concurrent_migrations_apply_each_file_once(database_url: str) -> None:
    admin = await database.connect(database_url, "test")
    await admin.execute("DROP SCHEMA control CASCADE; DROP SCHEMA g1 CASCADE; DROP TABLE membership_migration")
    both = await asyncio.gather(*(database.connect(database_url, "test") for _ in range(2)))
    applied = await asyncio.gather(*(migrate(connection) for connection in both))
    assert sorted(map(len, applied)) == [0, 1 + len(migrations.migrations())]
    for connection in (*both, admin):
        await connection.close()


async def test_an_edited_migration_is_refused_with_its_name(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = [Migration(original.name, original.text + "-- edited") for original in migrations.migrations()]
    monkeypatch.setattr(migrations, "migrations", lambda: edited)
    with pytest.raises(MigrationChanged, match="0001_control"):
        await migrate(connection)


async def test_an_unmigrated_database_is_refused_with_the_fix(connection: asyncpg.Connection) -> None:
    await connection.execute("DROP TABLE membership_migration")
    with pytest.raises(DatabaseNotMigrated, match="membership migrate"):
        await require_migrated(connection)


async def test_a_second_generation_has_the_same_columns(connection: asyncpg.Connection) -> None:
    await generations.create(connection, Generation("g2"))
    columns = (
        "SELECT table_name, column_name, data_type, collation_name, is_nullable, generation_expression "
        "FROM information_schema.columns WHERE table_schema = $1 ORDER BY 1, 2"
    )
    first, second = [await connection.fetch(columns, name) for name in ("g1", "g2")]
    assert first == second
    assert len(first) > 40


@pytest.mark.parametrize("name", ["", "g0", "g1; DROP TABLE x", "G1", "g1\n", "public"])
def test_only_a_valid_generation_name_is_accepted_in_a_statement(name: str) -> None:
    with pytest.raises(ValueError, match="generation"):
        generation(name)


async def test_every_write_statement_prepares(connection: asyncpg.Connection) -> None:
    statements = {name: text for name, text in writes(Generation("g1")).items() if name not in FRAGMENTS}
    assert set(blocks("projections.store", "writes.sql")) - FRAGMENTS == set(statements)
    for name, text in statements.items():
        assert "{" not in text, name
        await connection.prepare(text)


async def test_every_page_statement_prepares(connection: asyncpg.Connection) -> None:
    shapes = every_shape()
    assert len(shapes) == 11 * 2 * (2**7 + 2**5)
    for shape in shapes:
        text = page_statement(Generation("g1"), shape)
        assert not re.search(r"\{\w+\}", text), shape
        assert len(text) < 15_000, "asyncpg would not cache the prepared statement"
        prepared = await connection.prepare(text)
        assert len(prepared.get_parameters()) == (9 if shape.batchable else 13)


async def test_the_name_index_of_every_existing_generation_is_replaced(connection: asyncpg.Connection) -> None:
    await generations.create(connection, Generation("g2"))
    await generations.create_bare(connection, Generation("g3"), "filling")
    for name in ("g1", "g2"):
        await connection.execute(f"DROP INDEX {name}.campaign_by_name_prefix")
        await connection.execute(f"CREATE INDEX campaign_by_name ON {name}.campaign (name_key)")
    await connection.execute("DELETE FROM membership_migration WHERE name = '0004_name_prefix'")
    assert await migrate(connection) == ["0004_name_prefix"]
    indexes = await connection.fetch(
        "SELECT schemaname || '.' || indexname AS name FROM pg_indexes WHERE indexname LIKE 'campaign_by_name%'"
    )
    assert {row["name"] for row in indexes} == {"g1.campaign_by_name_prefix", "g2.campaign_by_name_prefix"}
    migrated, created = [
        await connection.fetchval(
            "SELECT pg_get_expr(indexprs, indrelid) FROM pg_index WHERE indexrelid = $1::regclass", name
        )
        for name in ("g1.campaign_by_name_prefix", "g2.campaign_by_name_prefix")
    ]
    assert migrated == created == '"left"(name_key, 600)'
