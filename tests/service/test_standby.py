"""With several hosts in the URL, reads go to the primary: a standby lags, so its responses must not be cached."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import asyncpg
import pytest

from ops.devstack.servers.postgres import PostgresServer
from ops.devstack.servers.standby import StandbyServer
from projections.store import database
from tests.support.processes import eventually

SOON_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for this module, which a standby may copy."""
    with TemporaryDirectory(prefix="membership-primary-") as folder:
        server = PostgresServer(Path(folder) / "data", settings={"fsync": "off"})
        server.start()
        yield server
        server.stop()


@pytest.fixture
def standby_port(server: PostgresServer) -> Iterator[int]:
    """The port of a hot standby of the server."""
    with TemporaryDirectory(prefix="membership-standby-") as folder:
        standby = StandbyServer(Path(folder) / "data", server)
        standby.start()
        yield standby.port
        standby.stop()


async def test_reads_go_to_the_primary_unless_the_url_selects_another(
    server: PostgresServer, standby_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGTARGETSESSIONATTRS", raising=False)
    parts = urlsplit(server.url)
    credentials = parts.netloc.rpartition("@")[0]
    url = f"postgresql://{credentials}@127.0.0.1:{standby_port},127.0.0.1:{parts.port}{parts.path}"

    async def in_recovery(url: str) -> bool | None:
        with suppress(*database.UNAVAILABLE):
            pool = await database.open_pool(
                url, connections_max=1, statement_timeout_s=5, name="test-standby", planner=database.CUSTOM_PLANS
            )
            row = await pool.fetchrow("SELECT pg_is_in_recovery() AS standby")
            await pool.close()
            return bool(row and row["standby"])
        return None

    async def standby_answers() -> bool:
        return bool(await in_recovery(url + "?target_session_attrs=standby"))

    await eventually(standby_answers, "the standby answers and is used when requested", SOON_S)
    assert await in_recovery(url) is False
    connection = await database.connect(url, "test-standby")
    assert await connection.fetchval("SELECT pg_is_in_recovery()") is False
    await connection.close()
    only_standby = f"postgresql://{credentials}@127.0.0.1:{standby_port}{parts.path}"
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await database.connect(only_standby, "test-standby")


def test_responses_are_cached_only_if_reads_go_to_the_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGTARGETSESSIONATTRS", raising=False)
    url = "postgresql://a:1,b:2/membership"
    assert database.reads_from_primary(url)
    assert database.reads_from_primary(url + "?target_session_attrs=read-write")
    assert not database.reads_from_primary(url + "?target_session_attrs=any")
    assert not database.reads_from_primary(url + "?target_session_attrs=prefer-standby")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "standby")
    assert not database.reads_from_primary(url)
