"""A minimal HTTP/1.1 client on one connection: cheap enough not to distort what is measured."""

import asyncio
import re
from types import TracebackType
from typing import Final, NamedTuple, Self

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_POSITION: Final = re.compile(rb"(?i)\r\nmembership-position: *(\d+)")


class Endpoint(NamedTuple):
    """The port of a system, a token it accepts, and the content codings that callers accept."""

    port: int
    token: str
    accept_encoding: str = ""

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"


class Reply(NamedTuple):
    """A response with status 200."""

    body: bytes
    position: int
    """The value of `Membership-Position`; 0 without that header."""


class Refused(Exception):
    """A response with status 503."""


class Caller:
    """Sends one request after another; use as an async context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._endpoint.port)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def get(self, path: str, headers: str = "") -> Reply:
        """Return the response if it is a 200; raise otherwise, because anything else would falsify the figure.

        Raises `Refused` for a 503, after which the connection can be used again.
        """
        token, accepted = self._endpoint.token, self._endpoint.accept_encoding
        headers += f"Accept-Encoding: {accepted}\r\n" if accepted else ""
        request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n{headers}\r\n"
        self._writer.write(request.encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        length, position = _LENGTH.search(head), _POSITION.search(head)
        is_refused = head.startswith(b"HTTP/1.1 503 ")
        if not (is_refused or head.startswith(b"HTTP/1.1 200 ")) or length is None:
            raise RuntimeError(f"{path}: {head.decode()}")
        body = await self._reader.readexactly(int(length[1]))
        if is_refused:
            raise Refused(path)
        return Reply(body, int(position[1]) if position else 0)
