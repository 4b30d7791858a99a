"""A primary and a hot standby that streams from it, for tests that promote the standby."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from ops.devstack.servers.postgres import DATABASE, USER, PostgresServer
from tests.support.processes import eventually

NAME = "standby"
"""The standby's application_name, which the primary waits for when it replicates synchronously."""
SETTINGS = {"fsync": "off"}
"""No test is about a power cut; the standby must still confirm each commit, so synchronous_commit stays on."""


class StandbyServer(PostgresServer):
    """A server whose cluster is a base backup of a running primary."""

    def __init__(self, data_dir: Path, primary: PostgresServer) -> None:
        super().__init__(data_dir, settings=SETTINGS)
        self._primary = primary

    def _create_cluster(self) -> Iterator[float]:
        unfinished = self.data_dir / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copy(self._primary.data_dir / "password", self.data_dir / "password")
        if self._account:
            shutil.chown(self.data_dir, self._account.uid, self._account.gid)
        source = f"{self._primary.url}?application_name={NAME}"
        options = ("-R", "-X", "stream", "-c", "fast", "--no-sync")
        yield from self._run("pg_basebackup", "-d", source, "-D", unfinished, *options)
        unfinished.rename(self.cluster)

    def promote(self) -> None:
        """Make this the primary, and wait until it accepts writes; the former one must be stopped before."""
        for _ in self._run("pg_ctl", "promote", "-D", self.cluster, "-w", "-t", "30"):
            pass


class PostgresPair:
    """Both servers, and the URL that names them."""

    def __init__(self, folder: Path) -> None:
        self.primary = PostgresServer(folder / "primary", settings=SETTINGS)
        self.standby = StandbyServer(folder / "standby", self.primary)

    @property
    def url(self) -> str:
        """The URL with both hosts, the first primary first, so that a wrong choice would show."""
        parts = urlsplit(self.primary.url)
        hosts = f"{parts.hostname}:{self.primary.port},{parts.hostname}:{self.standby.port}"
        return f"postgresql://{USER}:{parts.password}@{hosts}/{DATABASE}?target_session_attrs=read-write"

    async def start(self, *, synchronous: bool) -> None:
        """Start both, and wait until the standby streams; synchronously, each commit then waits for it."""
        self.primary.start()
        self.standby.start()
        if synchronous:
            await self.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{NAME}'", "SELECT pg_reload_conf()")
        state = "sync" if synchronous else "async"
        await eventually(lambda: self._streams(state), "the standby streams", 30)

    def stop(self) -> None:
        """Stop both."""
        self.standby.stop()
        self.primary.stop()

    async def execute(self, *statements: str) -> None:
        """Run statements on the first primary."""
        connection = await asyncpg.connect(self.primary.url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    async def _streams(self, state: str) -> bool:
        connection = await asyncpg.connect(self.primary.url)
        found: Sequence[asyncpg.Record] = await connection.fetch(
            "SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming' AND sync_state = $2",
            NAME,
            state,
        )
        await connection.close()
        return bool(found)
