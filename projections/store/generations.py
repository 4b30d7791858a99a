"""Generations of the read model: create, follow, switch, roll back and drop them.

Writes: schemas `g1`, `g2`, …; control.generation, control.live, the epoch of control.checkpoint.
Invariants: exactly one generation is live. The projector moves every following generation in the same transaction as
the live one: once at the same position, they stay so at every commit, and a switch between them updates one row.
Fails: `NothingToRollBackTo`, `GenerationNotReady`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal

import asyncpg
from msgspec import Struct

from projections.errors import GenerationNotReady, NothingToRollBackTo
from projections.store import notices
from projections.store.queries import Generation, for_generation, generation, statements

State = Literal["filling", "following", "broken", "dropped"]

INDEXES: Final[Mapping[str, str]] = {
    "key_of_campaign": "campaign_pkey",
    "key_of_campaign_counters": "campaign_counters_pkey",
    "campaign_by_name_prefix": "campaign_by_name_prefix",
    "campaign_by_created_at": "campaign_by_created_at",
    "campaign_by_created_at_desc": "campaign_by_created_at_desc",
    "campaign_by_text": "campaign_by_text",
    "key_of_membership": "membership_pkey",
    "membership_by_enrolled_at": "membership_by_enrolled_at",
    "membership_by_campaign": "membership_by_campaign",
    "key_of_customer": "customer_pkey",
    "key_of_customer_summary": "customer_summary_pkey",
}
"""The blocks of generation.sql that follow the tables, in order, and the index that each creates."""

DROP_WAIT_S: Final = 0.05
"""How long a drop waits for readers of the generation before it gives up until later; it blocks the projector
meanwhile."""


class GenerationStatus(Struct, frozen=True):
    """A generation that is not dropped, and its position."""

    generation: str
    state: State
    live: bool
    position: int
    follows_until: datetime | None


class Origin(Struct, frozen=True):
    """When a generation was created, and whether a rollback would switch to it."""

    created_at: datetime
    is_previous: bool


def definition(name: Generation) -> Mapping[str, str]:
    """Return the statements of generation.sql for one generation."""
    return statements("projections.store", "generation.sql", generation=name)


async def create(connection: asyncpg.Connection, name: Generation, state: State = "following") -> None:
    """Create a generation's empty, indexed tables, its record and checkpoint; the caller owns the transaction."""
    await create_bare(connection, name, state)
    for step in (*INDEXES, "statistics"):
        await connection.execute(definition(name)[step])


async def create_bare(connection: asyncpg.Connection, name: Generation, state: State) -> None:
    """Create a generation's tables without keys, its record and checkpoint; the caller owns the transaction."""
    await connection.execute(definition(name)["tables"])
    await connection.execute("INSERT INTO control.generation (generation, state) VALUES ($1, $2)", name, state)
    await connection.execute("INSERT INTO control.checkpoint (generation) VALUES ($1)", name)


async def next_name(connection: asyncpg.Connection) -> Generation:
    """Return a name that no generation has ever had."""
    number = await connection.fetchval("SELECT max(substr(generation, 2)::bigint) FROM control.generation")
    return generation(f"g{number + 1}")


async def statuses(connection: asyncpg.Connection) -> list[GenerationStatus]:
    """Return all generations that are not dropped, the live one first."""
    rows = await connection.fetch(
        "SELECT generation, state, live.generation IS NOT NULL AS live, position, follows_until "
        "FROM control.generation INNER JOIN control.checkpoint USING (generation) "
        "LEFT JOIN control.live USING (generation) "
        "ORDER BY live DESC, length(generation), generation"
    )
    return [GenerationStatus(*row.values()) for row in rows]


async def origins(connection: asyncpg.Connection) -> dict[str, Origin]:
    """Return the origin of each generation that is not dropped, by name."""
    rows = await connection.fetch(
        "SELECT generation.generation, created_at, live.previous IS NOT NULL AND state = 'following' AS is_previous "
        "FROM control.generation LEFT JOIN control.live ON live.previous = generation.generation "
        "WHERE state <> 'dropped'"
    )
    return {row["generation"]: Origin(row["created_at"], row["is_previous"]) for row in rows}


async def followed(connection: asyncpg.Connection) -> list[Generation]:
    """Return the generations to which the projector applies events, in the order of locking their checkpoints."""
    return sorted(generation(status.generation) for status in await statuses(connection) if status.state == "following")


async def start_following(
    connection: asyncpg.Connection, name: Generation, *, broken: Generation | None = None
) -> None:
    """Make the projector follow `name` from its next batch on. Owns the transaction; idempotent.

    Increasing the epochs makes a projector with the old list of generations start a new term. `broken` names a
    generation that is no longer followed: its tables cannot be read, so they must not delay the new one.
    """
    async with connection.transaction():
        if broken is not None:
            await mark_broken(connection, broken)
        await connection.execute("UPDATE control.generation SET state = 'following' WHERE generation = $1", name)
        await bump_epochs(connection)


async def bump_epochs(connection: asyncpg.Connection) -> None:
    """Make the projector start a new term: it reads uncommitted messages again.

    In the caller's transaction; no projector commits until it ends.
    """
    await lock_checkpoints(connection)
    await connection.execute(
        "UPDATE control.checkpoint SET epoch = epoch + 1 FROM control.generation "
        "WHERE generation.generation = checkpoint.generation AND state <> 'filling'"
    )


async def lock_checkpoints(connection: asyncpg.Connection) -> None:
    """Prevent every projector from committing until the caller's transaction ends.

    All code that locks several checkpoints uses this order, so there are no deadlocks. A generation being filled is
    excluded: its job holds its checkpoint for the duration of a comparison, and only that job moves it.
    """
    await connection.execute(
        "SELECT FROM control.checkpoint INNER JOIN control.generation USING (generation) "
        "WHERE state <> 'filling' ORDER BY generation COLLATE \"C\" FOR UPDATE OF checkpoint"
    )


async def switch(connection: asyncpg.Connection, to: Generation, *, old_follows_s: float | None) -> None:
    """Make `to` the live generation, in the caller's transaction; the old one follows for `old_follows_s`.

    Raises `GenerationNotReady` unless `to` is another generation, follows, and is at the live one's position, or beyond
    it if the live one is broken. `old_follows_s` of None does not change the old generation's expiry.
    """
    await lock_checkpoints(connection)
    by_name = {status.generation: status for status in await statuses(connection)}
    old = next(status for status in by_name.values() if status.live)
    new = by_name.get(to)
    in_step = new is not None and (
        new.position == old.position or (old.state == "broken" and new.position > old.position)
    )
    if to == old.generation:
        raise GenerationNotReady(to, "it is live already")
    if new is None or new.state != "following" or not in_step:
        reason = "it is gone" if new is None else f"it is {new.state} at position {new.position}"
        raise GenerationNotReady(to, f"{reason}, while {old.generation} is live at position {old.position}")
    await connection.execute(
        "UPDATE control.live SET generation = $1, previous = $2, since = now()", to, old.generation
    )
    await connection.execute("UPDATE control.generation SET follows_until = NULL WHERE generation = $1", to)
    await connection.execute(
        "UPDATE control.checkpoint SET caught_up_at = coalesce(caught_up_at, now()) WHERE generation = $1", to
    )
    if old_follows_s is not None:
        await connection.execute(
            "UPDATE control.generation SET follows_until = now() + make_interval(secs => $2) WHERE generation = $1",
            old.generation,
            old_follows_s,
        )
        # A rollback goes one step back: generations replaced before that only slow the projector down.
        await connection.execute(
            "UPDATE control.generation SET follows_until = now() "
            "WHERE state IN ('following', 'broken') AND generation NOT IN ($1, $2)",
            to,
            old.generation,
        )
    await notices.notify_flush(connection)


async def has_counters_in_campaign(connection: asyncpg.Connection, name: str) -> bool:
    """Return whether a generation has the older shape, in which `campaign_counters` is a view of `campaign`."""
    kind = await connection.fetchval(
        "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)", f"{name}.campaign_counters"
    )
    return bool(kind == "v")


async def state_of(connection: asyncpg.Connection, name: str) -> State:
    """Return the state of a generation, including a dropped one."""
    state: State = await connection.fetchval("SELECT state FROM control.generation WHERE generation = $1", name)
    return state


async def previous(connection: asyncpg.Connection) -> Generation:
    """Return the generation to which a rollback would switch; raises `NothingToRollBackTo`."""
    row = await connection.fetchrow(
        "SELECT previous, state FROM control.live LEFT JOIN control.generation ON generation.generation = previous"
    )
    if row is None or row["previous"] is None:
        raise NothingToRollBackTo("The live generation is the first one: no rebuild has replaced another yet.")
    if row["state"] != "following":
        broken = ": its tables refused an event or could not be read, so it has not followed the stream"
        raise NothingToRollBackTo(
            f"Generation {row['previous']}, which was live before, is {row['state']}"
            f"{broken if row['state'] == 'broken' else ''}. `membership rebuild` makes a new one."
        )
    return generation(row["previous"])


async def clear_expiry(connection: asyncpg.Connection, name: Generation) -> None:
    """Make a generation follow until another rebuild replaces it: an operator may switch back to it."""
    await connection.execute("UPDATE control.generation SET follows_until = NULL WHERE generation = $1", name)


async def expired(connection: asyncpg.Connection) -> list[Generation]:
    """Return the generations whose time to follow has expired."""
    rows = await connection.fetch(
        "SELECT generation FROM control.generation LEFT JOIN control.live USING (generation) "
        "WHERE state IN ('following', 'broken') AND follows_until < now() AND live.generation IS NULL"
    )
    return [generation(row["generation"]) for row in rows]


async def drop(connection: asyncpg.Connection, name: Generation) -> bool:
    """Drop a generation; return False if it is live or still has readers. Owns the transaction."""
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{int(DROP_WAIT_S * 1000)}ms'")
            await connection.execute("SET LOCAL client_min_messages = warning")
            await lock_checkpoints(connection)  # a concurrent switch to it waits, then finds it dropped
            if await connection.fetchval("SELECT EXISTS (SELECT FROM control.live WHERE generation = $1)", name):
                return False
            for table in ("control.fan_out", "control.checkpoint"):
                await connection.execute(f"DELETE FROM {table} WHERE generation = $1", name)  # noqa: S608 - both fixed
            await connection.execute(
                "UPDATE control.generation SET state = 'dropped', follows_until = NULL WHERE generation = $1", name
            )
            await connection.execute(for_generation("DROP SCHEMA IF EXISTS {generation} CASCADE", name))
    except asyncpg.LockNotAvailableError:
        return False
    return True


async def mark_broken(connection: asyncpg.Connection, name: Generation) -> None:
    """Stop following a generation, because an event could not be written to it."""
    await connection.execute("UPDATE control.generation SET state = 'broken' WHERE generation = $1", name)


async def mark_recovered(connection: asyncpg.Connection, name: Generation) -> None:
    """Follow a broken generation again, because its tables can be written again; leave any other state unchanged."""
    await connection.execute(
        "UPDATE control.generation SET state = 'following' WHERE generation = $1 AND state = 'broken'", name
    )
