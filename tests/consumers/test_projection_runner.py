"""A permanently closed broker connection ends the process, so that its supervisor starts a new one."""

import asyncio

import pytest

from consumers.projection_runner import BrokerConnectionLost, run
from projections.settings import load

INFO = b'INFO {"server_id":"x","version":"2.15.1","proto":1,"headers":true,"max_payload":1048576}\r\n'


async def test_a_permanently_closed_broker_connection_ends_the_process(database_url: str) -> None:
    async def expire(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(INFO)
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
            elif line.startswith(b"PUB"):
                writer.write(b"-ERR 'User Authentication Expired'\r\n")
        writer.close()

    broker = await asyncio.start_server(expire, "127.0.0.1", 0)
    port = broker.sockets[0].getsockname()[1]
    settings = load(
        {"database_url", "nats_url"},
        {"MEMBERSHIP_DATABASE_URL": database_url, "MEMBERSHIP_NATS_URL": f"nats://127.0.0.1:{port}"},
    )
    with pytest.raises(BrokerConnectionLost, match="permanently"):
        async with asyncio.timeout(20):
            await run(settings)
    broker.close()
