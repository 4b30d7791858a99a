"""Answers from memory, before routing: who asks is checked first, always; then the very same request's answer is sent.

What cannot be answered for certain here is left to the application: other methods and paths, two kinds of
credentials, API keys, credentials not verified a moment ago, a position that has not been heard of yet.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from litestar.types import HTTPScope

from service import answers, metrics
from service.auth import Authenticator
from service.cache import Cache, Header, Key

_BEFORE: Final = "/customers/"
_BEHIND: Final = "/campaigns"
_OWN: Final = frozenset((b"x-api-key", b"prefer", b"origin"))
"""Headers that change what has to be done; a request that has one goes the long way."""
_HITS: Final = metrics.CACHE.labels("hit")
_MISSES: Final = metrics.CACHE.labels("miss")


class Recalled(NamedTuple):
    """A whole answer but for what differs from one exchange to the next."""

    status: int
    headers: tuple[Header, ...]
    body: bytes


class HotPath:
    """Knows the answers that this process remembers."""

    def __init__(self, cache: Cache, authenticator: Callable[[], Authenticator | None]) -> None:
        self._cache = cache
        self._authenticator = authenticator

    def recall(self, scope: HTTPScope) -> Recalled | None:
        """Return the answer to a request; None where the application has to find it."""
        path = scope["path"]
        if scope["method"] != "GET" or not path.startswith(_BEFORE) or not path.endswith(_BEHIND):
            return None
        found = self._recall(scope, path)
        (_MISSES if found is None else _HITS).inc()
        return found

    def _recall(self, scope: HTTPScope, path: str) -> Recalled | None:
        listed = scope["headers"]
        given = dict(listed)
        authorization = given.get(b"authorization")
        authenticator = self._authenticator()
        # A header that comes twice means more than this layer knows.
        if authorization is None or authenticator is None or len(given) != len(list(listed)) or _OWN & given.keys():
            return None
        principal = authenticator.remembered(authorization)
        if principal is None:
            return None
        accepted = given.get(b"accept-encoding")
        gzip = accepted is not None and answers.accepts_gzip(accepted.decode("latin-1"))
        found = self._cache.find(Key(principal.scope, path, scope["query_string"], gzip))
        if found is None:
            return None
        answer, position = found
        if not _reached(position, given.get(b"membership-min-position", b"")):
            return None
        at = (b"membership-position", b"%d" % position)
        held = given.get(b"if-none-match")
        if held is not None and answers.is_current(answer.tag, held.decode("latin-1")):
            return Recalled(304, (*answer.described, at), b"")
        return Recalled(200, (*answer.described, *answer.represented, at), answer.body)


def _reached(position: int, wanted: bytes) -> bool:
    return not wanted or (wanted.isdigit() and len(wanted) < 19 and int(wanted) <= position)  # noqa: PLR2004 - int64
