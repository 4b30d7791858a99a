"""Creating and revoking an API key is audited in the same transaction, without the key itself."""

import asyncpg
import pytest

from projections import api_keys
from projections.maintenance import audit

USER = "0e000000-0000-4000-8000-000000000001"


async def audit_entries(connection: asyncpg.Connection) -> list[tuple[str, str, str]]:
    return [(row["actor"], row["action"], row["detail"]) for row in await audit.entries(connection, 10)]


async def test_creating_and_revoking_a_key_are_audited(connection: asyncpg.Connection) -> None:
    key = await api_keys.create(connection, USER, is_admin=True, label="crm", actor="ann@host")
    key_id = str(api_keys.key_id_of(key))
    assert await api_keys.revoke(connection, key_id, actor="bob@host")
    detail = f"key {key_id} of user {USER}, admin, label 'crm'"
    entries = await audit_entries(connection)
    assert entries == [("bob@host", "api_key.revoke", detail), ("ann@host", "api_key.create", detail)]
    assert key.rsplit("_", 1)[1] not in repr(entries)


async def test_revoking_nothing_is_not_audited(connection: asyncpg.Connection) -> None:
    key_id = str(api_keys.key_id_of(await api_keys.create(connection, USER, is_admin=False, label="", actor="ann")))
    assert await api_keys.revoke(connection, key_id, actor="ann")
    before = await audit_entries(connection)
    assert await api_keys.revoke(connection, key_id, actor="ann")
    assert not await api_keys.revoke(connection, "nothing", actor="ann")
    assert await audit_entries(connection) == before


async def test_a_failed_audit_entry_prevents_the_key_change(connection: asyncpg.Connection) -> None:
    key = await api_keys.create(connection, USER, is_admin=False, label="", actor="ann")
    await connection.execute("ALTER TABLE control.audit ADD CHECK (actor <> 'eve')")
    with pytest.raises(asyncpg.CheckViolationError):
        await api_keys.create(connection, USER, is_admin=False, label="", actor="eve")
    with pytest.raises(asyncpg.CheckViolationError):
        await api_keys.revoke(connection, str(api_keys.key_id_of(key)), actor="eve")
    assert [key.revoked_at for key in await api_keys.listed(connection)] == [None]
