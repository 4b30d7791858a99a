"""`membership api-key`: creates, lists, rotates and revokes API keys for servers."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec

from ops.actor import actor
from ops.terminal import fail, format_time, print_table
from projections import api_keys
from projections.api_keys import ApiKey, Scope
from projections.maintenance import sentences


async def create(
    connection: asyncpg.Connection,
    user_id: str,
    *,
    is_admin: bool,
    label: str,
    scopes: Sequence[Scope],
    ttl_s: int | None,
) -> int:
    """Create a key and print only the key on standard output, so that it can be piped into a secret store."""
    key = await api_keys.create(
        connection,
        user_id,
        is_admin=is_admin,
        label=label,
        actor=actor(),
        scopes=scopes,
        ttl=_lifetime(ttl_s),
    )
    print(key)
    print("Send it as X-API-Key. It cannot be shown again; keep it safe.", file=sys.stderr)
    return 0


async def rotate(connection: asyncpg.Connection, key_id: str, *, grace_s: int, ttl_s: int | None) -> int:
    """Create a key in the place of another and print it; return 1 when the other is not a valid key."""
    key = await api_keys.rotate(
        connection, key_id, grace=timedelta(seconds=grace_s), ttl=_lifetime(ttl_s), actor=actor()
    )
    if key is None:
        return fail(
            f"{key_id!r} cannot be rotated: no such key, or one that was revoked, has expired or was rotated before. "
            "`membership api-key list` shows all keys."
        )
    print(key)
    print(
        f"Send it as X-API-Key. It cannot be shown again; keep it safe. {key_id} stays valid for {grace_s} s.",
        file=sys.stderr,
    )
    return 0


async def list_keys(connection: asyncpg.Connection, *, as_json: bool) -> int:
    """Print all keys, revoked ones included."""
    keys = await api_keys.listed(connection)
    if as_json:
        print(msgspec.json.encode(keys).decode())
        return 0
    if not keys:
        print("No API keys yet. `membership api-key create --user ID` creates one.")
        return 0
    rows = [
        (
            key.key_id,
            key.user_id,
            "yes" if key.is_admin else "",
            " ".join(key.scopes),
            key.label,
            format_time(key.created_at),
            format_time(key.expires_at) if key.expires_at else "",
            format_time(key.last_used_at) if key.last_used_at else "",
            _state(key),
        )
        for key in keys
    ]
    headings = ("key id", "user", "admin", "scopes", "name", "created", "expires", "last used", "state")
    print_table(headings, rows, folded=("name",))
    return 0


async def revoke(connection: asyncpg.Connection, key_id: str) -> int:
    """Revoke a key; return 1 when no key has that id."""
    revoked_at = next((key.revoked_at for key in await api_keys.listed(connection) if key.key_id == key_id), None)
    if revoked_at is not None:
        print(sentences.key_was_revoked(key_id, format_time(revoked_at)))
        return 0
    if not await api_keys.revoke(connection, key_id, actor=actor()):
        return fail(sentences.no_such_key(key_id))
    print(sentences.key_revoked(key_id))
    return 0


def _state(key: ApiKey) -> str:
    """Return whether a key is accepted now, and if not, why."""
    if key.revoked_at is not None:
        return f"revoked {format_time(key.revoked_at)}"
    replaced = f", replaced by {key.replaced_by}" if key.replaced_by else ""
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return ("expired" if expired else "valid") + replaced


def _lifetime(ttl_s: int | None) -> timedelta | None:
    return None if ttl_s is None else timedelta(seconds=ttl_s)
