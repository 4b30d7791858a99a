"""A bare HTTP/1.1 caller on one connection: cheap enough not to be what is measured."""

import asyncio
from types import TracebackType
from typing import Self

from benchmarks.stack import Stack


class Caller:
    """Asks one thing after the other; use as an async context manager."""

    def __init__(self, stack: Stack) -> None:
        self._port = stack.port
        self._token = stack.token

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def get(self, path: str, headers: str = "") -> bytes:
        """Return the body of a 200; anything else is an error, for it would make the figure a lie."""
        head = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {self._token}\r\n{headers}\r\n"
        self._writer.write(head.encode())
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(answer.decode())
        length = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return await self._reader.readexactly(length)
