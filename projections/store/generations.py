"""Generations of the read model: made beside the live one, followed, switched to, switched back from, dropped.

Writes: schemas `g1`, `g2`, …; control.generation, control.live, the epoch of control.checkpoint.
Invariants: exactly one generation is live. Every generation that follows is moved by the projector in one transaction
with the live one, so once level they are level at every commit, and a switch between them is an update of one row.
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
"""The blocks of generation.sql that follow the tables, in order, and the index that each of them makes."""

DROP_WAIT_S: Final = 0.05
"""How long a drop waits for readers that still look at the generation, before it leaves it for later: the projector
waits as long."""


class GenerationStatus(Struct, frozen=True):
    """One generation that is not dropped, and where it stands."""

    generation: str
    state: State
    live: bool
    position: int
    follows_until: datetime | None


def definition(name: Generation) -> Mapping[str, str]:
    """Return the statements of generation.sql for one generation."""
    return statements("projections.store", "generation.sql", generation=name)


async def create(connection: asyncpg.Connection, name: Generation, state: State = "following") -> None:
    """Make a generation's empty tables with all indexes, its record and checkpoint; the caller owns the transaction."""
    await create_bare(connection, name, state)
    for step in (*INDEXES, "statistics"):
        await connection.execute(definition(name)[step])


async def create_bare(connection: asyncpg.Connection, name: Generation, state: State) -> None:
    """Make a generation's tables without keys, its record and checkpoint; the caller owns the transaction."""
    await connection.execute(definition(name)["tables"])
    await connection.execute("INSERT INTO control.generation (generation, state) VALUES ($1, $2)", name, state)
    await connection.execute("INSERT INTO control.checkpoint (generation) VALUES ($1)", name)


async def next_name(connection: asyncpg.Connection) -> Generation:
    """Return a name that no generation ever had."""
    number = await connection.fetchval("SELECT max(substr(generation, 2)::bigint) FROM control.generation")
    return generation(f"g{number + 1}")


async def statuses(connection: asyncpg.Connection) -> list[GenerationStatus]:
    """Return all generations that are there, the live one first."""
    rows = await connection.fetch(
        "SELECT generation, state, live.generation IS NOT NULL AS live, position, follows_until "
        "FROM control.generation INNER JOIN control.checkpoint USING (generation) "
        "LEFT JOIN control.live USING (generation) "
        "ORDER BY live DESC, length(generation), generation"
    )
    return [GenerationStatus(*row.values()) for row in rows]


async def followed(connection: asyncpg.Connection) -> list[Generation]:
    """Return the generations that the projector applies events to, in the order in which their checkpoints lock."""
    found = [generation(each.generation) for each in await statuses(connection) if each.state == "following"]
    return sorted(found)


async def start_following(
    connection: asyncpg.Connection, name: Generation, *, broken: Generation | None = None
) -> None:
    """Let the projector follow `name` from its next batch on. Owns the transaction; twice is once.

    Raising the epochs makes a projector that still holds the old roster start its term anew. `broken` names a
    generation that it follows no longer: its tables cannot be read, so they must not hold up the new one.
    """
    async with connection.transaction():
        if broken is not None:
            await mark_broken(connection, broken)
        await connection.execute("UPDATE control.generation SET state = 'following' WHERE generation = $1", name)
        await bump_epochs(connection)


async def bump_epochs(connection: asyncpg.Connection) -> None:
    """Make the projector start its term anew: what it has read and not committed, it reads again.

    In the caller's transaction; from here to its end no projector commits.
    """
    await lock_checkpoints(connection)
    await connection.execute(
        "UPDATE control.checkpoint SET epoch = epoch + 1 FROM control.generation "
        "WHERE generation.generation = checkpoint.generation AND state <> 'filling'"
    )


async def lock_checkpoints(connection: asyncpg.Connection) -> None:
    """Keep every projector from committing until the caller's transaction has ended.

    All who lock several checkpoints lock them in this order, so none waits for another in a circle. One that is being
    filled is left out: its job holds it for as long as a comparison takes, and nobody else moves it.
    """
    await connection.execute(
        "SELECT FROM control.checkpoint INNER JOIN control.generation USING (generation) "
        "WHERE state <> 'filling' ORDER BY generation COLLATE \"C\" FOR UPDATE OF checkpoint"
    )


async def switch(connection: asyncpg.Connection, to: Generation, *, old_follows_s: float | None) -> None:
    """Point readers at `to`, in the caller's transaction; the old generation follows for `old_follows_s`.

    Raises `GenerationNotReady` unless `to` is another one, follows, and stands where the live one stands, or beyond a
    broken one. `old_follows_s` of None leaves the old generation's time as it is.
    """
    await lock_checkpoints(connection)
    found = {each.generation: each for each in await statuses(connection)}
    old = next(each for each in found.values() if each.live)
    new = found.get(to)
    level = new is not None and (
        new.position == old.position or (old.state == "broken" and new.position > old.position)
    )
    if to == old.generation:
        raise GenerationNotReady(to, "it is live already")
    if new is None or new.state != "following" or not level:
        where = "it is gone" if new is None else f"it is {new.state} at position {new.position}"
        raise GenerationNotReady(to, f"{where}, while {old.generation} is live at position {old.position}")
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
        # A rollback goes one step back: what was replaced before that is only a burden on the projector now.
        await connection.execute(
            "UPDATE control.generation SET follows_until = now() "
            "WHERE state IN ('following', 'broken') AND generation NOT IN ($1, $2)",
            to,
            old.generation,
        )
    await notices.notify_flush(connection)


async def state_of(connection: asyncpg.Connection, name: str) -> State:
    """Return the state of a generation, which may be dropped."""
    state: State = await connection.fetchval("SELECT state FROM control.generation WHERE generation = $1", name)
    return state


async def previous(connection: asyncpg.Connection) -> Generation:
    """Return the generation a rollback points back at; raises `NothingToRollBackTo`."""
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
    """Let a generation follow until another rebuild replaces it: an operator may want it back."""
    await connection.execute("UPDATE control.generation SET follows_until = NULL WHERE generation = $1", name)


async def expired(connection: asyncpg.Connection) -> list[Generation]:
    """Return the generations whose time to follow is over."""
    rows = await connection.fetch(
        "SELECT generation FROM control.generation LEFT JOIN control.live USING (generation) "
        "WHERE state IN ('following', 'broken') AND follows_until < now() AND live.generation IS NULL"
    )
    return [generation(row["generation"]) for row in rows]


async def drop(connection: asyncpg.Connection, name: Generation) -> bool:
    """Drop a generation for good, unless it is live or readers are still at it: then False. Owns the transaction."""
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{int(DROP_WAIT_S * 1000)}ms'")
            await connection.execute("SET LOCAL client_min_messages = warning")
            await lock_checkpoints(connection)  # whoever would switch to it waits, and then finds it gone
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
    """Take a generation out of the roster, for an event could not be written to it."""
    await connection.execute("UPDATE control.generation SET state = 'broken' WHERE generation = $1", name)


async def mark_recovered(connection: asyncpg.Connection, name: Generation) -> None:
    """Put a broken generation back into the roster, for its tables can be written again; no other state changes."""
    await connection.execute(
        "UPDATE control.generation SET state = 'following' WHERE generation = $1 AND state = 'broken'", name
    )
