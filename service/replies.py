"""What goes out: an answer in one representation, and the reply to one caller that is made of it."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from litestar.types import Receive, Scope, Send
from msgspec import Struct

from service.answers import GzipParts, is_current

Header = tuple[bytes, bytes]

SEND_MAX_S: Final = 60.0
"""A caller who needs longer for a large page keeps its memory from others; 50 MB take that long at 7 Mbit/s."""


class Answer(Struct, frozen=True, gc=False):
    """A listing as it goes out, in one representation."""

    body: bytes
    tag: str
    position: int
    """The position of the snapshot it was read from."""
    described: tuple[Header, ...] = ()
    """What says which answer it is, to a caller who holds it already too; but for the position."""
    represented: tuple[Header, ...] = ()
    """What says what the body is."""


class Reply(Struct, frozen=True, gc=False):
    """A whole answer but for what the edge adds. An ASGI application, so that a handler may return it."""

    status: int
    headers: tuple[Header, ...]
    body: bytes

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        await self.send(send)

    async def send(self, send: Send, *added: Header) -> None:
        """Send it with further headers."""
        start: Any = {"type": "http.response.start", "status": self.status, "headers": [*self.headers, *added]}
        end: Any = {"type": "http.response.body", "body": self.body, "more_body": False}
        await send(start)
        await send(end)


class LargeReply(Reply, frozen=True, gc=False):
    """An answer of very many bytes, sent part by part; its memory is released at the end."""

    parts: list[bytes]
    compressed: bool
    release: Callable[[], None]

    async def send(self, send: Send, *added: Header) -> None:
        """Send it with further headers; raises TimeoutError when the caller reads too slowly."""
        try:
            async with asyncio.timeout(SEND_MAX_S):
                await self._send_parts(send, added)
        finally:
            self.parts.clear()
            self.release()

    async def _send_parts(self, send: Send, added: tuple[Header, ...]) -> None:
        start: Any = {"type": "http.response.start", "status": self.status, "headers": [*self.headers, *added]}
        await send(start)
        pack = GzipParts() if self.compressed else None
        self.parts.reverse()
        while self.parts:
            part = self.parts.pop()
            body = part if pack is None else await asyncio.to_thread(pack.add, part)
            if body:
                await send(_body(body, more=True))
        await send(_body(b"" if pack is None else pack.end(), more=False))


def _body(body: bytes, *, more: bool) -> Any:  # noqa: ANN401 - Litestar's message types are narrower than ASGI's
    return {"type": "http.response.body", "body": body, "more_body": more}


def reply(answer: Answer, position: int, if_none_match: str, parked: str | None = None) -> Reply:
    """Return the reply that says the answer holds at `position`; without a body if the caller holds it already."""
    stated = (*answer.described, *standing(position, parked))
    if if_none_match and is_current(answer.tag, if_none_match):
        return Reply(304, stated, b"")
    return Reply(200, (*stated, *answer.represented), answer.body)


def standing(position: int, parked: str | None) -> tuple[Header, ...]:
    """Return the headers that say where the read model stands, and why the position asked for is parked, if it is."""
    return (at(position),) if parked is None else (at(position), (b"membership-parked", parked.encode("ascii")))


def at(position: int) -> Header:
    """Return the header that says which position an answer is exact at."""
    return b"membership-position", b"%d" % position
