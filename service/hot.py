"""Answers from memory, before routing: who asks is checked first, always; then the very same request's answer is sent.

What this layer cannot answer for certain it leaves to the application: other methods and paths, two kinds of
credentials, API keys, credentials not verified a moment ago, a position that has not been heard of yet.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from service import answers, metrics
from service.auth import Authenticator
from service.cache import Answer, Cache, Key

_BEFORE: Final = "/customers/"
_BEHIND: Final = "/campaigns"
_SINGLE: Final = frozenset((b"authorization", b"membership-min-position"))
_LISTS: Final = frozenset((b"accept-encoding", b"if-none-match"))
_OWN: Final = frozenset((b"x-api-key", b"prefer", b"origin"))
"""Headers that change what has to be done; a request that has one goes the long way."""


class HotPath:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, cache: Cache, authenticator: Callable[[], Authenticator | None]) -> None:
        self._app = app
        self._cache = cache
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope)
        if found is None:
            if _is_listing(scope):
                metrics.CACHE.labels("miss").inc()
            await self._app(scope, receive, send)
            return
        metrics.CACHE.labels("hit").inc()
        await _send(send, *found)

    def _find(self, scope: Scope) -> tuple[Answer, int, str] | None:
        authenticator = self._authenticator()
        if authenticator is None or not _is_listing(scope):
            return None
        given = _headers(scope["headers"])
        if given is None:
            return None
        principal = authenticator.remembered(given[b"authorization"])
        if principal is None:
            return None
        gzip = answers.accepts_gzip(given.get(b"accept-encoding", b"").decode("latin-1"))
        found = self._cache.find(Key(principal.scope, scope["path"], scope["query_string"], gzip))
        if found is None or not _reached(found[1], given.get(b"membership-min-position", b"")):
            return None
        return *found, given.get(b"if-none-match", b"").decode("latin-1")


def _is_listing(scope: Scope) -> bool:
    if scope["type"] != ScopeType.HTTP or scope["method"] != "GET":
        return False
    path = scope["path"]
    return path.startswith(_BEFORE) and path.endswith(_BEHIND)


def _headers(given: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes] | None:
    """Return the headers that matter here, lists joined; None if one of them, or the lack of one, asks for more."""
    found: dict[bytes, bytes] = {}
    for name, value in given:
        if name in _OWN or (name in _SINGLE and name in found):
            return None
        if name in _SINGLE or name in _LISTS:
            found[name] = found[name] + b"," + value if name in found else value
    return found if b"authorization" in found else None


def _reached(position: int, wanted: bytes) -> bool:
    return not wanted or (wanted.isdigit() and len(wanted) < 19 and int(wanted) <= position)  # noqa: PLR2004 - int64


async def _send(send: Send, answer: Answer, position: int, held: str) -> None:
    headers: list[tuple[bytes, bytes]] = [
        (b"etag", answer.tag.encode()),
        (b"membership-position", b"%d" % position),
    ]
    if answer.link:
        headers.append((b"link", answer.link.encode()))
    status, body = 200, answer.body
    if held and answers.is_current(answer.tag, held):
        status, body = 304, b""
    else:
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if answer.gzip:
            headers.append((b"content-encoding", b"gzip"))
    start: Any = {"type": "http.response.start", "status": status, "headers": headers}
    end: Any = {"type": "http.response.body", "body": body, "more_body": False}
    await send(start)
    await send(end)
