"""The embedded servers start, restart on the same port with the same data, and leave no process behind."""

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import asyncpg
import nats as nats_py
import pytest

from ops.devstack.servers import child
from ops.devstack.servers.child import EmbeddedFailed, EmbeddedMissing
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.postgres import PostgresServer
from ops.devstack.stack import run_dev
from tests.support.processes import eventually, free_port

BACKENDS = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL server that a test may break."""
    server = PostgresServer(tmp_path / "new folder" / "postgres", settings={"fsync": "off", "work_mem": "7MB"})
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def stored_row(database: PostgresServer) -> str:
    """A row that must survive; the fixture is the statement that selects it."""
    await _fetch(database, "CREATE TABLE kept (number int)")
    await _fetch(database, "INSERT INTO kept VALUES (42)")
    return "SELECT number FROM kept"


async def _fetch(server: PostgresServer, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


async def _values(server: PostgresServer, statement: str) -> list[object]:
    return [row[0] for row in await _fetch(server, statement)]


def _is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return sys.platform != "linux"


async def test_the_url_is_of_a_utf8_database_named_membership(database: PostgresServer) -> None:
    rows = await _fetch(
        database,
        "SELECT current_database() AS name, pg_encoding_to_char(encoding) AS encoding, datcollate AS collation,"
        " current_setting('work_mem') AS work_mem, current_setting('listen_addresses') AS listens"
        " FROM pg_database WHERE datname = current_database()",
    )
    assert dict(rows[0]) == {
        "name": "membership",
        "encoding": "UTF8",
        "collation": "C",
        "work_mem": "7MB",
        "listens": "127.0.0.1",
    }


async def test_a_wrong_password_is_refused(database: PostgresServer) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(database.url.replace("membership:", "membership:x"))


def test_the_password_file_is_readable_by_its_owner_only(database: PostgresServer) -> None:
    assert stat.S_IMODE((database.data_dir / "password").stat().st_mode) == 0o600


async def test_a_restarted_server_keeps_its_url_and_its_rows(database: PostgresServer, stored_row: str) -> None:
    url = database.url
    database.stop()
    database.start()
    assert database.url == url
    assert await _values(database, stored_row) == [42]


async def test_a_killed_server_with_busy_backends_restarts(database: PostgresServer, stored_row: str) -> None:
    connection = await asyncpg.connect(database.url)
    backend = connection.get_server_pid()
    sleeping_query = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0)
    os.kill(database.pid, signal.SIGKILL)
    database.start()
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await sleeping_query
    connection.terminate()
    assert not _is_running(backend)
    assert await _values(database, stored_row) == [42]


async def test_a_killed_server_restarts_although_a_zombie_has_its_pid(
    database: PostgresServer, stored_row: str
) -> None:
    with child.launch(["/bin/true"], database.log, account=database._account) as zombie:
        await eventually(lambda: not _is_running(zombie.pid), "it has ended and is a zombie")
        os.kill(database.pid, signal.SIGKILL)
        pidfile = database.cluster / "postmaster.pid"
        pidfile.write_text(pidfile.read_text().replace(str(database.pid), str(zombie.pid)))
        database.start()
        assert await _values(database, stored_row) == [42]


async def test_a_stopped_server_leaves_no_process(database: PostgresServer) -> None:
    rows = await _fetch(database, BACKENDS)
    pids = [database.pid, *(row["pid"] for row in rows)]
    assert len(pids) > 2
    assert all(map(_is_running, pids))
    database.stop()
    assert not any(map(_is_running, pids))
    assert not database.running


async def test_stop_ends_the_backends_of_a_killed_server(database: PostgresServer) -> None:
    rows = await _fetch(database, BACKENDS)
    os.kill(database.pid, signal.SIGKILL)
    database.stop()
    assert not any(_is_running(row["pid"]) for row in rows)


async def test_another_server_object_can_use_the_same_folder(database: PostgresServer, stored_row: str) -> None:
    database.stop()
    other = PostgresServer(database.data_dir, port=database.port)
    other.start()
    try:
        assert await _values(other, stored_row) == [42]
    finally:
        other.stop()


def test_an_invalid_setting_is_reported_from_the_log(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", settings={"fsync": "off", "shared_buffers": "much"})
    with pytest.raises(EmbeddedFailed, match='invalid value for parameter "shared_buffers": "much"'):
        server.start()
    assert not server.running


def test_an_interrupted_first_start_is_repeated(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", settings={"fsync": "off"})
    steps = cast("Generator[float]", server.starting())
    for _ in range(3):
        next(steps)
    steps.close()
    server.stop()
    server.start()
    server.stop()


def test_missing_wheels_are_reported_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedMissing, match=r"PostgreSQL is not installed.*campaign-membership\[dev\]"):
        PostgresServer(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(EmbeddedMissing, match=r"nats-server is not installed.*make setup"):
        NatsServer(tmp_path).start()


async def test_dev_without_its_wheels_reports_the_fix_and_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert await run_dev(port=0, data_dir=tmp_path / "data", demo=False) == 2
    assert "PostgreSQL is not installed. Run `make setup`" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another account")
async def test_a_link_in_a_folder_closed_to_others_works_for_root(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir(mode=0o700)
    link = tmp_path / "closed" / "link"
    link.symlink_to(tmp_path / "open")
    server = PostgresServer(link / "postgres", settings={"fsync": "off"})
    server.start()
    try:
        assert len(await _fetch(server, "SELECT 1")) == 1
    finally:
        server.stop()
    assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o700


async def test_a_restarted_or_killed_nats_server_keeps_url_and_messages(nats: NatsServer) -> None:
    url = nats.url
    client = await nats_py.connect(url)
    await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
    await client.jetstream().publish("kept", b"42")
    await client.close()
    nats.stop()
    nats.start()
    os.kill(nats.pid, signal.SIGKILL)
    nats.stop()
    nats.start()
    assert nats.url == url
    client = await nats_py.connect(url)
    assert (await client.jetstream().get_msg("KEPT", 1)).data == b"42"
    await client.close()


def test_a_stopped_nats_server_is_gone_and_stop_is_repeatable(nats: NatsServer) -> None:
    nats.stop()
    nats.stop()
    assert not _is_running(nats.pid)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", nats.port)) != 0


def test_a_port_in_use_is_reported_from_the_servers_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "START_DEADLINE_S", 0.5)
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        server = NatsServer(tmp_path / "nats", port=taken.getsockname()[1])
        with pytest.raises(EmbeddedFailed, match="address already in use"):
            server.start()
    assert not server.running


PARENT = """
import sys
from pathlib import Path
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.postgres import PostgresServer
servers = PostgresServer(Path(sys.argv[1]) / "p", settings={"fsync": "off"}), NatsServer(Path(sys.argv[1]) / "n")
for server in servers:
    server.start()
print(*(server.pid for server in servers), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent ends")
async def test_the_servers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220, S603
        [sys.executable, "-c", PARENT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    await eventually(lambda: not any(map(_is_running, pids)), "both servers are gone")
