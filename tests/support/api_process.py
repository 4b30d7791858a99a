"""An API as a process of its own, and requests to it on plain connections."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.processes import System, eventually

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def running(system: System, folder: Path, *options: str) -> AsyncIterator[System]:
    """Run another API on the same read model, configured by the current environment and `options`."""
    api = System(system.database_url, system.broker, folder)
    api.launch("serve", None, *options)
    try:
        await eventually(api._ready, "the API is ready")
        yield api
    finally:
        await api.stop()


async def connect(system: System) -> Connection:
    """Open a connection to an API."""
    where = urlsplit(system.api_url)
    return await asyncio.open_connection(where.hostname, where.port)


def request_of(system: System, path: str, *lines: str) -> bytes:
    """Return an admin's request with additional header lines."""
    usual = ("Host: 127.0.0.1", f"Authorization: Bearer {system.admin_token}")
    return "\r\n".join((f"GET {path} HTTP/1.1", *usual, *lines, "", "")).encode()


async def response_on(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and head of the next response, after reading its whole body."""
    head = await reader.readuntil(b"\r\n\r\n")
    match = re.search(rb"\r\ncontent-length: (\d+)", head)
    assert match, head
    await reader.readexactly(int(match[1]))
    return int(head.split()[1]), head
