"""API keys: creation, rotation, revocation and lookup. Only a hash of each key is stored.

Writes: control.api_key, control.audit. Reads: control.api_key.
Invariants: creating, rotating and revoking a key writes its audit row in the same transaction, with the key id, never
the key. A key contains 160 random bits, so one round of SHA-256 is enough; comparison is constant-time.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final, Literal, Protocol

import asyncpg
from msgspec import Struct

from projections.maintenance import audit

PREFIX: Final = "mbr"
"""Makes a leaked key recognisable to people and scanners."""
KEY_ID_BYTES: Final = 6
SECRET_BYTES: Final = 20
_FORMAT: Final = re.compile(
    rf"\A({PREFIX}_([0-9a-f]{{{2 * KEY_ID_BYTES}}})_[0-9a-f]{{{2 * SECRET_BYTES}}})([0-9a-f]{{8}})?\Z"
)
"""A key, its id, and its checksum, which keys made before the checksum lack."""

Scope = Literal["read", "operate"]
"""What a key allows: to read customers' campaigns; to use the console and the endpoints behind it."""
READ_ONLY: Final[tuple[Scope, ...]] = ("read",)


class ApiKey(Struct, frozen=True):
    """An API key as stored, without its secret."""

    key_id: str
    user_id: str
    is_admin: bool
    label: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """The hour of the last use."""
    replaced_by: str | None
    """The key that a rotation made in its place."""


class Holder(Struct, frozen=True):
    """The user that a valid key belongs to, and what the key allows."""

    user_id: str
    is_admin: bool
    scopes: frozenset[Scope]
    valid_s: float | None
    """How long it is still valid; None: without a limit."""


Invalidity = Literal["unknown", "revoked", "expired"]
"""Why a well-formed key is not valid. Only the holder of the whole key learns that it is revoked or expired."""


class _Connection(Protocol):
    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None: ...


def key_id_of(key: str) -> str | None:
    """Return the public part of a well-formed key; None for anything else, such as a mistyped key."""
    match = _FORMAT.match(key)
    if match is None or (match[3] is not None and match[3] != _checksum(match[1])):
        return None
    return match[2]


async def create(
    connection: asyncpg.Connection,
    user_id: str,
    *,
    is_admin: bool,
    label: str,
    actor: str,
    scopes: Collection[Scope] = READ_ONLY,
    ttl: timedelta | None = None,
) -> str:
    """Create a key for a user and return it; it cannot be shown again. Owns the transaction."""
    async with connection.transaction():
        key = await _insert(connection, user_id, scopes, is_admin=is_admin, label=label, ttl=ttl)
        detail = _audit_detail(str(key_id_of(key)), user_id, is_admin, label)
        await audit.record(connection, actor, "api_key.create", detail + _limits(scopes, ttl))
    return key


async def rotate(
    connection: asyncpg.Connection, key_id: str, *, grace: timedelta, ttl: timedelta | None, actor: str
) -> str | None:
    """Create a key like this one and return it; the old one stays valid for `grace`. Owns the transaction.

    Returns None unless the key is valid and was not rotated before. Without `ttl` the new key gets the lifetime that
    the old one was created with.
    """
    async with connection.transaction():
        old = await connection.fetchrow(
            "SELECT user_id::text, scopes, is_admin, label, coalesce($2, expires_at - created_at) AS ttl "
            "FROM control.api_key WHERE key_id = $1 AND revoked_at IS NULL AND replaced_by IS NULL "
            "AND (expires_at IS NULL OR expires_at > now()) FOR UPDATE",
            key_id,
            ttl,
        )
        if old is None:
            return None
        key = await _insert(connection, **dict(old))
        new_id = str(key_id_of(key))
        await connection.execute(
            "UPDATE control.api_key SET replaced_by = $2, "
            "expires_at = least(coalesce(expires_at, 'infinity'), now() + $3::interval) WHERE key_id = $1",
            key_id,
            new_id,
            grace,
        )
        detail = _audit_detail(key_id, old["user_id"], old["is_admin"], old["label"])
        until = f"; replaced by {new_id}, valid for another {grace.total_seconds():.0f} s"
        await audit.record(connection, actor, "api_key.rotate", detail + until)
    return key


async def listed(connection: asyncpg.Connection) -> list[ApiKey]:
    """Return all keys, including revoked ones, oldest first."""
    return _keys(await connection.fetch(f"{_SELECT} ORDER BY created_at, key_id"))


async def page(connection: asyncpg.Connection, before: str | None, limit: int) -> list[ApiKey]:
    """Return keys created before another one, newest first."""
    return _keys(
        await connection.fetch(
            f"{_SELECT} WHERE $1::text IS NULL OR (created_at, key_id) < "  # noqa: S608 - fixed
            "(SELECT created_at, key_id FROM control.api_key WHERE key_id = $1) "
            "ORDER BY created_at DESC, key_id DESC LIMIT $2",
            before,
            limit,
        )
    )


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


async def find(connection: _Connection, key: str) -> Holder | Invalidity:
    """Return whom a well-formed key identifies, or why it is not valid."""
    row = await connection.fetchrow(
        "SELECT key_sha256, user_id::text, is_admin, scopes, revoked_at IS NOT NULL AS revoked, "
        "extract(epoch FROM expires_at - now())::float8 AS valid_s FROM control.api_key WHERE key_id = $1",
        key_id_of(key),
    )
    if row is None or not hmac.compare_digest(row["key_sha256"], _hash(key)):
        return "unknown"
    if row["revoked"]:
        return "revoked"
    if row["valid_s"] is not None and row["valid_s"] <= 0:
        return "expired"
    return Holder(row["user_id"], row["is_admin"], frozenset(row["scopes"]), row["valid_s"])


async def record_use(connection: _Connection, key_ids: Collection[str]) -> None:
    """Record that these keys were used in this hour. Idempotent, and writes each key at most once an hour."""
    await connection.fetchrow(
        "UPDATE control.api_key SET last_used_at = date_trunc('hour', now()) WHERE key_id = ANY ($1::text []) "
        "AND (last_used_at IS NULL OR last_used_at < date_trunc('hour', now()))",
        list(key_ids),
    )


_SELECT: Final = (
    "SELECT key_id, user_id::text, is_admin, label, scopes, created_at, expires_at, revoked_at, last_used_at, "
    "replaced_by FROM control.api_key"
)


def _keys(rows: list[asyncpg.Record]) -> list[ApiKey]:
    return [ApiKey(**{**dict(row), "scopes": tuple(row["scopes"])}) for row in rows]


async def _insert(
    connection: asyncpg.Connection,
    user_id: str,
    scopes: Collection[Scope],
    *,
    is_admin: bool,
    label: str,
    ttl: timedelta | None,
) -> str:
    key_id = secrets.token_hex(KEY_ID_BYTES)
    key = f"{PREFIX}_{key_id}_{secrets.token_hex(SECRET_BYTES)}"
    key += _checksum(key)
    await connection.execute(
        "INSERT INTO control.api_key (key_id, key_sha256, user_id, is_admin, label, scopes, expires_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, now() + $7::interval)",
        key_id,
        _hash(key),
        user_id,
        is_admin,
        label,
        sorted(set(scopes), reverse=True),
        ttl,
    )
    return key


def _audit_detail(key_id: str, user_id: str, is_admin: bool, label: str) -> str:
    """Return the audit detail for a key."""
    admin = ", admin" if is_admin else ""
    return f"key {key_id} of user {user_id}{admin}{label and f', label {label!r}'}"


def _limits(scopes: Collection[Scope], ttl: timedelta | None) -> str:
    """Return what a new key may do and for how long, where that is not the default."""
    named = f", scopes {' '.join(sorted(set(scopes), reverse=True))}" if set(scopes) != {"read"} else ""
    return named + (f", valid for {ttl.total_seconds():.0f} s" if ttl else "")


def _checksum(key: str) -> str:
    """Return eight digits that reveal a mistyped key without a query. They add no secrecy and need none."""
    return f"{zlib.crc32(key.encode()):08x}"


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
