"""Answers from memory, before routing: who asks is checked first, always; then the very same request's answer is sent.

What cannot be answered for certain here is left to the application: other methods and paths, two kinds of
credentials, API keys, credentials not verified a moment ago, a position to wait for (which may be that of a parked
event). Nor is anything answered here while it is unknown whether PostgreSQL answers.

Expensive reads of known callers wait here for their slot: refusing them costs neither routing nor parsing.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from litestar.types import HTTPScope

from service import metrics
from service.auth import Authenticator, Principal
from service.cache import Cache, Key
from service.read_model.admission import Admission
from service.read_model.liveness import Liveness
from service.representation import RawResponse, accepts_gzip, respond

_PATH_PREFIX: Final = "/customers/"
_PATH_SUFFIX: Final = "/campaigns"
_BYPASS_HEADERS: Final = frozenset((b"x-api-key", b"prefer", b"origin", b"membership-min-position"))
"""Headers that change what has to be done; a request that has one goes the long way."""
_EXPENSIVE: Final = re.compile(rb"(?:^|&)(?:q|date_from|date_to|sort_field)=(?!enrolled_at(?:&|$)|&|$)")
"""Parameters that make PostgreSQL plan the read for its values. Spelt otherwise, the read waits for its slot later."""
_HITS: Final = metrics.CACHE.labels("hit")
_MISSES: Final = metrics.CACHE.labels("miss")


class FastPath:
    """Knows the answers that this process remembers, and which requests are expensive."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.authenticator: Authenticator | None = None
        """Set when the application starts, as are the next two."""
        self.liveness: Liveness | None = None
        self.admission: Admission | None = None

    def lookup(self, scope: HTTPScope) -> RawResponse | None:
        """Return the answer to a request; None where the application has to find it."""
        if not _is_listing(scope):
            return None
        found = self._lookup(scope)
        (_MISSES if found is None else _HITS).inc()
        return found

    @asynccontextmanager
    async def admitted(self, scope: HTTPScope) -> AsyncIterator[None]:
        """Hold a slot for an expensive read of a known caller; any other request just passes. Raises `Overloaded`."""
        caller = None
        if self.admission is not None and _is_listing(scope) and _EXPENSIVE.search(scope["query_string"]):
            caller = self._caller(scope)
        if caller is None or self.admission is None:
            yield
            return
        async with self.admission.admitted(caller.user_id):
            yield

    def _lookup(self, scope: HTTPScope) -> RawResponse | None:
        if self.liveness is None or not self.liveness.answering:
            return None
        principal = self._caller(scope)
        if principal is None:
            return None
        given = dict(scope["headers"])
        accepted = given.get(b"accept-encoding")
        gzip = accepted is not None and accepts_gzip(accepted.decode("latin-1"))
        found = self._cache.get(Key(principal.scope, scope["path"], scope["query_string"], gzip))
        if found is None:
            return None
        answer, position = found
        return respond(answer, position, given.get(b"if-none-match", b"").decode("latin-1"))

    def _caller(self, scope: HTTPScope) -> Principal | None:
        """Return who asks, if that is known already and nothing about the request is out of the ordinary."""
        listed = scope["headers"]
        given = dict(listed)
        authorization = given.get(b"authorization")
        # A header that comes twice means more than this layer knows.
        if authorization is None or len(given) != len(list(listed)) or _BYPASS_HEADERS & given.keys():
            return None
        return None if self.authenticator is None else self.authenticator.remembered(authorization)


def _is_listing(scope: HTTPScope) -> bool:
    path = scope["path"]
    return scope["method"] == "GET" and path.startswith(_PATH_PREFIX) and path.endswith(_PATH_SUFFIX)
