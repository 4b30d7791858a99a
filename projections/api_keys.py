"""API keys: creation, listing, revocation and lookup. Only a hash of each key is stored.

Writes: control.api_key, control.audit. Reads: control.api_key.
Invariants: creating and revoking a key writes its audit row in the same transaction, with the key id, never the key.
A key contains 160 random bits, so one round of SHA-256 is enough; comparison is constant-time.
"""

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import Final, Protocol

import asyncpg
from msgspec import Struct

from projections.maintenance import audit

PREFIX: Final = "mbr"
"""Makes a leaked key recognisable to people and scanners."""
KEY_ID_BYTES: Final = 6
SECRET_BYTES: Final = 20
_FORMAT: Final = re.compile(rf"\A{PREFIX}_([0-9a-f]{{{2 * KEY_ID_BYTES}}})_[0-9a-f]{{{2 * SECRET_BYTES}}}\Z")


class ApiKey(Struct, frozen=True):
    """An API key as stored, without its secret."""

    key_id: str
    user_id: str
    is_admin: bool
    label: str
    created_at: datetime
    revoked_at: datetime | None


class _Connection(Protocol):
    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None: ...


def key_id_of(key: str) -> str | None:
    """Return the public part of a well-formed key; None for anything else."""
    match = _FORMAT.match(key)
    return match[1] if match else None


async def create(connection: asyncpg.Connection, user_id: str, *, is_admin: bool, label: str, actor: str) -> str:
    """Create a key for a user and return it; it cannot be shown again. Owns the transaction."""
    key_id = secrets.token_hex(KEY_ID_BYTES)
    key = f"{PREFIX}_{key_id}_{secrets.token_hex(SECRET_BYTES)}"
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO control.api_key (key_id, key_sha256, user_id, is_admin, label) VALUES ($1, $2, $3, $4, $5)",
            key_id,
            _hash(key),
            user_id,
            is_admin,
            label,
        )
        await audit.record(connection, actor, "api_key.create", _audit_detail(key_id, user_id, is_admin, label))
    return key


async def listed(connection: asyncpg.Connection) -> list[ApiKey]:
    """Return all keys, including revoked ones, oldest first."""
    rows = await connection.fetch(
        "SELECT key_id, user_id::text, is_admin, label, created_at, revoked_at FROM control.api_key ORDER BY created_at"
    )
    return [ApiKey(**dict(row)) for row in rows]


async def revoke(connection: asyncpg.Connection, key_id: str, *, actor: str) -> bool:
    """Revoke a key; return False when the id does not exist. Owns the transaction.

    Revoking again keeps the first time and adds nothing to the audit.
    """
    async with connection.transaction():
        row = await connection.fetchrow(
            "UPDATE control.api_key SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL "
            "RETURNING user_id::text, is_admin, label",
            key_id,
        )
        if row is not None:
            await audit.record(connection, actor, "api_key.revoke", _audit_detail(key_id, *row))
            return True
        return bool(await connection.fetchval("SELECT true FROM control.api_key WHERE key_id = $1", key_id))


def _audit_detail(key_id: str, user_id: str, is_admin: bool, label: str) -> str:
    """Return the audit detail for a key."""
    admin = ", admin" if is_admin else ""
    return f"key {key_id} of user {user_id}{admin}{label and f', label {label!r}'}"


async def find(connection: _Connection, key: str) -> tuple[str, bool] | None:
    """Return (user id, is admin) of a valid key; None for a malformed, unknown, revoked or wrong key."""
    key_id = key_id_of(key)
    if key_id is None:
        return None
    row = await connection.fetchrow(
        "SELECT key_sha256, user_id::text, is_admin FROM control.api_key WHERE key_id = $1 AND revoked_at IS NULL",
        key_id,
    )
    if row is None or not hmac.compare_digest(row["key_sha256"], _hash(key)):
        return None
    return row["user_id"], row["is_admin"]


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
