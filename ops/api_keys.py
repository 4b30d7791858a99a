"""`membership api-key`: creates, lists and revokes API keys for servers."""

import sys

import asyncpg

from ops.actor import actor
from ops.terminal import fail, format_time, print_table
from projections import api_keys


async def create(connection: asyncpg.Connection, user_id: str, is_admin: bool, label: str) -> int:
    """Create a key and print only the key on standard output, so that it can be piped into a secret store."""
    key = await api_keys.create(connection, user_id, is_admin=is_admin, label=label, actor=actor())
    print(key)
    print("Send it as X-API-Key. It cannot be shown again; keep it safe.", file=sys.stderr)
    return 0


async def list_keys(connection: asyncpg.Connection) -> int:
    """Print all keys, revoked ones included."""
    keys = await api_keys.listed(connection)
    if not keys:
        print("No API keys yet. `membership api-key create --user ID` creates one.")
        return 0
    rows = [
        (
            key.key_id,
            key.user_id,
            "yes" if key.is_admin else "",
            key.label,
            format_time(key.created_at),
            format_time(key.revoked_at) if key.revoked_at else "",
        )
        for key in keys
    ]
    print_table(("key id", "user", "admin", "label", "created", "revoked"), rows, folded=("label",))
    return 0


async def revoke(connection: asyncpg.Connection, key_id: str) -> int:
    """Revoke a key; return 1 when no key has that id."""
    revoked_at = next((key.revoked_at for key in await api_keys.listed(connection) if key.key_id == key_id), None)
    if revoked_at is not None:
        print(f"{key_id} was already revoked, at {format_time(revoked_at)}.")
        return 0
    if not await api_keys.revoke(connection, key_id, actor=actor()):
        return fail(f"There is no API key with the id {key_id!r}. `membership api-key list` shows all keys.")
    print(f"Revoked {key_id}. API processes refuse it within 5 seconds.")
    return 0
