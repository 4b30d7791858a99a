"""Settings of replicated servers for tests, and the pausing of a standby's replay."""

from urllib.parse import urlsplit

import asyncpg

from ops.devstack.servers.postgres import PostgresServer

QUICK = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "wal_receiver_status_interval": "1s"}
"""Settings for a primary and its standbys. Commits are written at once, as a standby receives only what was written."""


def in_database(server: PostgresServer, name: str) -> str:
    """Return the URL of a database of a server."""
    return urlsplit(server.url)._replace(path=f"/{name}").geturl()


async def pause_replay(standby: PostgresServer) -> None:
    """Stop applying what the primary sends; reads continue from the state as it is."""
    await run(standby.url, "SELECT pg_wal_replay_pause()")
    while await run(standby.url, "SELECT pg_get_wal_replay_pause_state()") != "paused":
        pass  # each round is a query; the replay pauses at the next record


async def resume_replay(standby: PostgresServer) -> None:
    """Apply what has been received."""
    await run(standby.url, "SELECT pg_wal_replay_resume()")


async def run(url: str, statement: str, *values: object) -> object:
    """Run a statement and return its value."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement, *values)
    finally:
        await connection.close()
