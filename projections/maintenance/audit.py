"""The audit: operators' changes to what readers see. Each entry is written in the transaction of its action.

Writes: control.audit.
"""

import asyncpg


async def record(
    connection: asyncpg.Connection, actor: str, action: str, detail: str, position: int | None = None
) -> None:
    """Record an operator's action, in the transaction of the action."""
    await connection.execute(
        "INSERT INTO control.audit (actor, action, position, detail) VALUES ($1, $2, $3, $4)",
        actor,
        action,
        position,
        detail,
    )


async def entries(connection: asyncpg.Connection, rows_max: int) -> list[asyncpg.Record]:
    """Return (at, actor, action, position, detail) of audit entries, newest first."""
    return await connection.fetch(
        "SELECT at, actor, action, position, detail FROM control.audit ORDER BY audit_id DESC LIMIT $1", rows_max
    )


async def page(
    connection: asyncpg.Connection, before: int | None, action: str | None, rows_max: int
) -> list[asyncpg.Record]:
    """Return (audit_id, at, actor, action, position, detail) of entries before another one, newest first.

    `action` selects the actions whose name begins with it.
    """
    return await connection.fetch(
        "SELECT audit_id, at, actor, action, position, detail FROM control.audit "
        "WHERE ($1::bigint IS NULL OR audit_id < $1) AND ($2::text IS NULL OR starts_with(action, $2)) "
        "ORDER BY audit_id DESC LIMIT $3",
        before,
        action,
        rows_max,
    )
