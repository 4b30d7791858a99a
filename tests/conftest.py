"""Shared fixtures: one PostgreSQL per session, a fresh database per test, nats-server on demand."""

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import asyncpg
import pytest
import structlog

from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.postgres import PostgresServer
from projections.store import database as databases
from projections.store.migrations import migrate
from tests.support.processes import System

_numbers = itertools.count(1)

# No test is about durability across a power cut, and kill -9 loses nothing with these settings.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for this session.

    Not under pytest's folder: a second pytest closes that to other accounts, and PostgreSQL never runs as root.
    """
    with TemporaryDirectory(prefix="membership-tests-") as folder:
        server = PostgresServer(Path(folder) / "data", settings=FAST)
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
async def template(postgres: PostgresServer) -> str:
    """The name of a migrated database that test databases are copied from."""
    await _execute(postgres.url, "CREATE DATABASE membership_template")
    connection = await databases.connect(_with_database(postgres.url, "membership_template"), "template")
    await migrate(connection)
    await connection.close()
    return "membership_template"


@pytest.fixture
async def database_url(postgres: PostgresServer, template: str) -> AsyncIterator[str]:
    """The URL of a migrated database for this test."""
    name = f"test_{next(_numbers)}"
    await _execute(postgres.url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _with_database(postgres.url, name)
    await _execute(postgres.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's database."""
    connection = await databases.connect(database_url, "test")
    yield connection
    await connection.close()


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server for this test."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _logs_on_standard_output() -> None:
    """Undo what another test of this process has configured."""
    structlog.reset_defaults()


@pytest.fixture(scope="module")
async def system(
    postgres: PostgresServer, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[System]:
    """Projector and API as processes, with a database and a nats-server per module."""
    async with _running_system(postgres, template, tmp_path_factory.mktemp("system")) as system:
        yield system


@pytest.fixture
async def own_system(postgres: PostgresServer, template: str, tmp_path: Path) -> AsyncIterator[System]:
    """The same for a single test, which may break it."""
    async with _running_system(postgres, template, tmp_path) as system:
        yield system


@asynccontextmanager
async def _running_system(postgres: PostgresServer, template: str, folder: Path) -> AsyncIterator[System]:
    name = f"test_{next(_numbers)}"
    await _execute(postgres.url, f"CREATE DATABASE {name} TEMPLATE {template}")
    broker = NatsServer(folder / "nats")
    broker.start()
    system = System(_with_database(postgres.url, name), broker, folder)
    try:
        await system.start()
        yield system
    finally:
        await system.stop()
        broker.stop()
        await _execute(postgres.url, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _with_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()
