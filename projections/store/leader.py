"""The advisory lock of the projector that writes: its key, and whether a session holds it now."""

from typing import Final

import asyncpg

LOCK_KEY: Final = 0x4D454D42_50524F4A  # "MEMBPROJ"


async def projector_leads(connection: asyncpg.Connection) -> bool:
    """Return whether a session of this database holds the projectors' lock; pg_locks shows its key in two halves."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
            "AND (classid::bigint << 32) | objid::bigint = $1 "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
            LOCK_KEY,
        )
    )
