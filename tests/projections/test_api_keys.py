"""API keys: what makes one valid, for what and how long; each change is audited, without the key itself."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from projections import api_keys
from projections.api_keys import ApiKey, Holder, Scope
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


async def create(
    connection: asyncpg.Connection, *scopes: Scope, ttl: timedelta | None = None, label: str = ""
) -> tuple[str, str]:
    """Create a key; return its id and the key."""
    key = await api_keys.create(
        connection, USER, is_admin=False, label=label, actor="ann", scopes=scopes or ("read",), ttl=ttl
    )
    return str(api_keys.key_id_of(key)), key


async def stored(connection: asyncpg.Connection, key_id: str) -> ApiKey:
    return next(key for key in await api_keys.listed(connection) if key.key_id == key_id)


async def expire(connection: asyncpg.Connection, key_id: str) -> None:
    await connection.execute("UPDATE control.api_key SET expires_at = now() WHERE key_id = $1", key_id)


async def test_a_key_is_valid_for_its_user_scopes_and_time(connection: asyncpg.Connection) -> None:
    _, plain = await create(connection)
    assert await api_keys.find(connection, plain) == Holder(USER, False, frozenset({"read"}), None)
    _, operator = await create(connection, "operate", "read", ttl=timedelta(hours=1))
    found = await api_keys.find(connection, operator)
    assert isinstance(found, Holder)
    assert found.scopes == {"read", "operate"}
    assert found.valid_s is not None
    assert 3500 < found.valid_s <= 3600


async def test_only_the_whole_key_reveals_that_it_is_no_longer_valid(connection: asyncpg.Connection) -> None:
    revoked_id, revoked = await create(connection)
    expired_id, expired = await create(connection)
    await api_keys.revoke(connection, revoked_id, actor="ann")
    await expire(connection, expired_id)
    assert await api_keys.find(connection, revoked) == "revoked"
    assert await api_keys.find(connection, expired) == "expired"
    for key_id in (revoked_id, expired_id, "0" * 12):
        assert await api_keys.find(connection, f"mbr_{key_id}_{'0' * 40}") == "unknown"


async def test_a_changed_character_is_noticed_without_a_query(connection: asyncpg.Connection) -> None:
    key_id, key = await create(connection)
    for place in range(len("mbr_"), len(key)):
        if key[place] != "_":
            mistyped = key[:place] + ("0" if key[place] != "0" else "1") + key[place + 1 :]
            assert api_keys.key_id_of(mistyped) is None
    for malformed in (key[:-1], key + "0", key.upper(), key + "\n", f"mbr_{key_id}_", ""):
        assert api_keys.key_id_of(malformed) is None


async def test_a_key_from_before_the_checksum_stays_valid(connection: asyncpg.Connection) -> None:
    key_id, key = await create(connection)
    old = key[:-8]
    await connection.execute(
        "UPDATE control.api_key SET key_sha256 = sha256($2) WHERE key_id = $1", key_id, old.encode()
    )
    assert api_keys.key_id_of(old) == key_id
    assert isinstance(await api_keys.find(connection, old), Holder)


async def test_a_rotated_key_and_its_successor_are_valid_together(connection: asyncpg.Connection) -> None:
    key_id, old = await create(connection, "operate", ttl=timedelta(days=30), label="crm")
    new = await api_keys.rotate(connection, key_id, grace=timedelta(hours=1), ttl=None, actor="bob")
    assert new is not None
    new_id = str(api_keys.key_id_of(new))
    for key, valid_s in ((old, 3_600), (new, 30 * 86_400)):
        found = await api_keys.find(connection, key)
        assert isinstance(found, Holder)
        assert found.scopes == {"operate"}
        assert found.valid_s == pytest.approx(valid_s, abs=60)
    assert (await stored(connection, new_id)).label == "crm"
    assert (await stored(connection, key_id)).replaced_by == new_id
    actor, action, detail = (await audit_entries(connection))[0]
    assert (actor, action) == ("bob", "api_key.rotate")
    assert detail == f"key {key_id} of user {USER}, label 'crm'; replaced by {new_id}, valid for another 3600 s"
    assert new.rsplit("_", 1)[1] not in detail


async def test_a_rotation_never_prolongs_the_old_key(connection: asyncpg.Connection) -> None:
    key_id, _ = await create(connection, ttl=timedelta(minutes=1))
    assert await api_keys.rotate(connection, key_id, grace=timedelta(days=1), ttl=timedelta(days=1), actor="ann")
    expires_at = (await stored(connection, key_id)).expires_at
    assert expires_at is not None
    assert expires_at < datetime.now(UTC) + timedelta(minutes=2)


async def test_only_a_valid_key_is_rotated_and_only_once(connection: asyncpg.Connection) -> None:
    revoked, _ = await create(connection)
    expired, _ = await create(connection)
    rotated, _ = await create(connection)
    await api_keys.revoke(connection, revoked, actor="ann")
    await expire(connection, expired)
    grace = timedelta(hours=1)
    assert await api_keys.rotate(connection, rotated, grace=grace, ttl=None, actor="ann")
    before = await api_keys.listed(connection)
    for key_id in (revoked, expired, rotated, "nothing"):
        assert await api_keys.rotate(connection, key_id, grace=grace, ttl=None, actor="ann") is None
    assert await api_keys.listed(connection) == before


async def test_the_last_use_is_recorded_by_the_hour_and_once(connection: asyncpg.Connection) -> None:
    used, _ = await create(connection)
    unused, _ = await create(connection)
    await api_keys.record_use(connection, [used, "nothing"])
    last_used_at = (await stored(connection, used)).last_used_at
    assert last_used_at is not None
    assert (last_used_at.minute, last_used_at.second) == (0, 0)
    assert (await stored(connection, unused)).last_used_at is None
    row_version = "SELECT xmin::text FROM control.api_key WHERE key_id = $1"
    before = await connection.fetchval(row_version, used)
    await api_keys.record_use(connection, [used])
    hour_changed = (await stored(connection, used)).last_used_at != last_used_at
    assert hour_changed or await connection.fetchval(row_version, used) == before
