"""Answers from memory, before routing: who asks is checked first, always; then the very same request's answer is sent.

What cannot be answered for certain here is left to the application: other methods and paths, two kinds of
credentials, API keys, credentials not verified a moment ago, a position that has not been heard of yet.
"""

from typing import Final

from litestar.types import HTTPScope

from service import answers, metrics
from service.auth import Authenticator
from service.cache import Cache, Key
from service.replies import Reply, reply

_BEFORE: Final = "/customers/"
_BEHIND: Final = "/campaigns"
_OWN: Final = frozenset((b"x-api-key", b"prefer", b"origin"))
"""Headers that change what has to be done; a request that has one goes the long way."""
_HITS: Final = metrics.CACHE.labels("hit")
_MISSES: Final = metrics.CACHE.labels("miss")


class HotPath:
    """Knows the answers that this process remembers."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.authenticator: Authenticator | None = None
        """Who says who asks; the application brings it when it starts."""

    def recall(self, scope: HTTPScope) -> Reply | None:
        """Return the answer to a request; None where the application has to find it."""
        path = scope["path"]
        if scope["method"] != "GET" or not path.startswith(_BEFORE) or not path.endswith(_BEHIND):
            return None
        found = self._recall(scope, path)
        (_MISSES if found is None else _HITS).inc()
        return found

    def _recall(self, scope: HTTPScope, path: str) -> Reply | None:
        listed = scope["headers"]
        given = dict(listed)
        authorization = given.get(b"authorization")
        authenticator = self.authenticator
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
        return reply(answer, position, given.get(b"if-none-match", b"").decode("latin-1"))


def _reached(position: int, wanted: bytes) -> bool:
    return not wanted or (wanted.isdigit() and len(wanted) < 19 and int(wanted) <= position)  # noqa: PLR2004 - int64
