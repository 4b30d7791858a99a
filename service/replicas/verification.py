"""Decides whether a server may be read as a replica: it must be a standby of the primary, with the same database.

A physical standby has its primary's system identifier, and each database has the same object id on both. So neither a
server of another cluster nor another database of the same cluster, of which both have a generation `g1`, is mistaken
for a replica.
"""

from typing import Final, Protocol

import asyncpg
from msgspec import Struct

from projections.errors import MembershipError

SETTING: Final = "MEMBERSHIP_READ_DATABASE_URL"
IDENTITY: Final = """
SELECT
    system_identifier,
    (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS database_oid,
    current_database()::text AS database,
    pg_is_in_recovery() AS standby
FROM pg_control_system()
"""


class Identity(Struct, frozen=True):
    """Which cluster and database a connection reads, and whether the server is a standby."""

    system_identifier: int
    database_oid: int
    database: str
    standby: bool


class _Connection(Protocol):
    async def fetchrow(self, query: str, /) -> asyncpg.Record | None: ...


class ReplicaRefused(MembershipError):
    """A server named as a replica is not one of this primary, or may not be read."""

    code = "replica_refused"


async def identity_of(connection: _Connection) -> Identity:
    """Return the identity of the server and database."""
    row = await connection.fetchrow(IDENTITY)
    assert row is not None  # noqa: S101 - the statement always returns one row
    return Identity(*row.values())


def require_replica(place: str, replica: Identity, primary: Identity) -> None:
    """Raise `ReplicaRefused`, with a sentence that names the setting and the fix, unless it is one of this primary."""
    if replica.system_identifier != primary.system_identifier:
        raise ReplicaRefused(
            f"{place} in {SETTING} is not a replica of the server in MEMBERSHIP_DATABASE_URL: its system identifier is "
            f"{replica.system_identifier}, and the primary's is {primary.system_identifier}. Name a standby that "
            "pg_basebackup made from that primary."
        )
    if replica.database_oid != primary.database_oid:
        raise ReplicaRefused(
            f"{place} in {SETTING} is read in database {replica.database}, which is another one than "
            f"{primary.database} in MEMBERSHIP_DATABASE_URL. Name the same database in both."
        )
    if not replica.standby:
        raise primary_named(place)


def primary_named(place: str) -> ReplicaRefused:
    """Return the refusal of a server that is not a standby."""
    return ReplicaRefused(
        f"{place} in {SETTING} is not a standby: it is the primary, or was promoted. Name standbys only; the primary "
        "is read by itself when no replica can answer."
    )


def another_generation(place: str, own: str | None, live: str | None) -> str:
    """Return why a replica is not read whose live generation is not the primary's."""
    return (
        f"{place} in {SETTING} has generation {own} live, and the primary has {live}: it is read once it has "
        "replayed the switch. If it stays behind, check its replication."
    )


def not_readable(place: str, problem: asyncpg.PostgresError) -> ReplicaRefused:
    """Return the refusal of a server whose tables this user may not read, or that has none."""
    return ReplicaRefused(
        f"{place} in {SETTING} cannot be read: {problem}. Name the database of MEMBERSHIP_DATABASE_URL and a user that "
        "may read its tables; roles and grants are made on the primary."
    )
