"""A producer's own PostgreSQL database with an outbox, and a broker with the stream."""

from collections.abc import AsyncIterator

import asyncpg
import nats as nats_py
import pytest

from campaign_membership_client.outbox import CREATE, TABLE, statement
from consumers import stream
from ops.devstack.servers.nats import NatsServer
from ops.devstack.servers.postgres import PostgresServer


@pytest.fixture
async def producer_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """The URL of an empty database with an outbox table."""
    server = await asyncpg.connect(postgres.url)
    await server.execute("CREATE DATABASE producer")
    url = postgres.url.rpartition("/")[0] + "/producer"
    connection = await asyncpg.connect(url)
    await connection.execute(statement(CREATE, TABLE))
    await connection.close()
    yield url
    await server.execute("DROP DATABASE producer WITH (FORCE)")
    await server.close()


@pytest.fixture
async def producer(producer_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the producer's database."""
    connection = await asyncpg.connect(producer_url)
    yield connection
    await connection.close()


@pytest.fixture
async def broker(nats: NatsServer) -> NatsServer:
    """A broker with the stream."""
    client = await nats_py.connect(nats.url)
    await stream.create(client, replicas=1)
    await client.close()
    return nats
