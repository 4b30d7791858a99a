"""A hot standby of an embedded PostgreSQL, made by pg_basebackup, and the pausing of its replay."""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from ops.devstack.servers.postgres import PostgresServer, _programs

QUICK = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "wal_receiver_status_interval": "1s"}
"""Settings for a primary and its standbys. Commits are written at once, as a standby receives only what was written."""


def make_standby(primary: PostgresServer, folder: Path) -> PostgresServer:
    """Return a standby of a running primary, not yet started; its files are in `folder`."""
    standby = PostgresServer(folder, settings=primary.settings)
    folder.mkdir(parents=True)
    copy = ("pg_basebackup", "-d", primary.url, "-D", standby.cluster, "-R", "-X", "stream", "-c", "fast")
    subprocess.run([_programs() / copy[0], *copy[1:]], check=True)  # noqa: S603
    shutil.copy(primary.data_dir / "password", folder / "password")
    owner = primary.cluster.stat()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    return standby


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
