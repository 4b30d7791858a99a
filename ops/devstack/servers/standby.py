"""A hot standby of an embedded PostgreSQL: a base backup that streams from its primary."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from ops.devstack.servers.postgres import PostgresServer


class StandbyServer(PostgresServer):
    """A server whose cluster is a base backup of a running primary; it has the primary's password and settings."""

    name: ClassVar[str] = "PostgreSQL standby"

    def __init__(self, data_dir: Path, primary: PostgresServer, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(data_dir, settings={**primary.settings, **(settings or {})})
        self._primary = primary

    def _create_cluster(self) -> Iterator[float]:
        unfinished = self.data_dir / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._password.unlink(missing_ok=True)
        shutil.copy(self._primary.data_dir / self._password.name, self._password)
        if self._account:
            shutil.chown(self.data_dir, self._account.uid, self._account.gid)
        options = ("-R", "-X", "stream", "-c", "fast", "--no-sync")
        yield from self._run("pg_basebackup", "-d", self._primary.url, "-D", unfinished, *options)
        unfinished.rename(self.cluster)
