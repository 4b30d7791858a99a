"""Servers with TLS: nats-server with a TLS block, and a TLS endpoint in front of the embedded PostgreSQL.

PostgreSQL from its wheel is built without TLS, so the endpoint answers the client's SSLRequest, does the handshake, and
passes the bytes on, as PgBouncer does.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from ops.devstack.servers.nats import NatsServer
from tests.support.certificates import Authority, Certificate
from tests.support.processes import System

SSL_REQUEST: Final = bytes.fromhex("0000000804d2162f")
"""PostgreSQL's message by which a client asks for TLS."""
CHUNK_BYTES: Final = 65_536


class SecureNatsServer(NatsServer):
    """nats-server with more configuration, such as TLS or users; its URL has the scheme `tls`."""

    def __init__(self, store_dir: Path, configuration: str) -> None:
        super().__init__(store_dir)
        self.configuration = configuration

    @property
    def url(self) -> str:
        """The URL for clients that verify the name `localhost`."""
        return f"tls://localhost:{self.port}"

    def _prepare(self) -> Iterator[float]:
        yield from super()._prepare()
        with self._configuration.open("a", encoding="utf-8") as file:
            file.write(self.configuration)


class SecureSystem(System):
    """A system whose processes get more settings."""

    def __init__(self, database_url: str, broker: NatsServer, folder: Path, settings: dict[str, str]) -> None:
        super().__init__(database_url, broker, folder)
        self._settings = settings

    @property
    def environment(self) -> dict[str, str]:
        """The processes' environment variables."""
        return super().environment | self._settings


def tls_block(certificate: Certificate, client_ca: Path | None = None) -> str:
    """Return nats-server's TLS configuration; with `client_ca`, clients need a certificate."""
    verify = f"ca_file: {json.dumps(str(client_ca))}, verify: true, " if client_ca else ""
    files = f"cert_file: {json.dumps(str(certificate.path))}, key_file: {json.dumps(str(certificate.key))}"
    return f"tls {{ {verify}{files} }}\n"


@asynccontextmanager
async def postgres_with_tls(
    port: int, certificate: Certificate, client_ca: Authority | None = None
) -> AsyncIterator[int]:
    """Serve PostgreSQL's port with TLS; yield the new port. With `client_ca`, clients need a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path, certificate.key)
    if client_ca:
        context.load_verify_locations(client_ca.path)
        context.verify_mode = ssl.CERT_REQUIRED
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await _serve(reader, writer, context, port)
        finally:
            writer.close()
            connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(connections):
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, port: int
) -> None:
    if await reader.readexactly(len(SSL_REQUEST)) != SSL_REQUEST:
        return  # a client without TLS, or one that cancels a statement
    writer.write(b"S")
    await writer.drain()
    await writer.start_tls(context)
    upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await asyncio.gather(_pass_on(reader, upstream_writer), _pass_on(upstream_reader, writer))
    finally:
        upstream_writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    writer.close()
