"""Creating and revoking an API key is recorded in the audit, in the same transaction, without the key."""

import asyncpg
import pytest

from projections import api_keys
from projections.maintenance import audit

USER = "0e000000-0000-4000-8000-000000000001"


async def audited(connection: asyncpg.Connection) -> list[tuple[str, str, str]]:
    return [(row["actor"], row["action"], row["detail"]) for row in await audit.entries(connection, 10)]


async def test_a_created_and_a_revoked_key_are_in_the_audit(connection: asyncpg.Connection) -> None:
    key = await api_keys.create(connection, USER, is_admin=True, label="crm", actor="ann@host")
    key_id = str(api_keys.key_id_of(key))
    assert await api_keys.revoke(connection, key_id, actor="bob@host")
    detail = f"key {key_id} of user {USER}, admin, label 'crm'"
    found = await audited(connection)
    assert found == [("bob@host", "api_key.revoke", detail), ("ann@host", "api_key.create", detail)]
    assert key.rsplit("_", 1)[1] not in repr(found)


async def test_what_changes_no_key_is_not_in_the_audit(connection: asyncpg.Connection) -> None:
    key_id = str(api_keys.key_id_of(await api_keys.create(connection, USER, is_admin=False, label="", actor="ann")))
    assert await api_keys.revoke(connection, key_id, actor="ann")
    before = await audited(connection)
    assert await api_keys.revoke(connection, key_id, actor="ann")
    assert not await api_keys.revoke(connection, "nothing", actor="ann")
    assert await audited(connection) == before


async def test_without_its_audit_row_no_key_is_created_or_revoked(connection: asyncpg.Connection) -> None:
    key = await api_keys.create(connection, USER, is_admin=False, label="", actor="ann")
    await connection.execute("ALTER TABLE control.audit ADD CHECK (actor <> 'eve')")
    with pytest.raises(asyncpg.CheckViolationError):
        await api_keys.create(connection, USER, is_admin=False, label="", actor="eve")
    with pytest.raises(asyncpg.CheckViolationError):
        await api_keys.revoke(connection, str(api_keys.key_id_of(key)), actor="eve")
    assert [each.revoked_at for each in await api_keys.listed(connection)] == [None]
