"""Serves cached pages before routing: it always checks the credentials first, then looks up the exact request.

The listing endpoint or the application handles everything else: other methods and paths, two kinds of credentials, API
keys, credentials that were not verified recently, and a position to wait for (which may be that of a parked event).
While PostgreSQL does not answer the liveness probe, nothing is served from the cache.

Expensive reads of known callers wait here for their slot, so that rejecting them costs neither routing nor parsing.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final

from litestar.types import HTTPScope

from service import metrics
from service.access_log import Facts
from service.auth import Authenticator, Principal
from service.cache import Cache, key_of
from service.cached_responses import PATH_PREFIX, PATH_SUFFIX, Target, cached_response
from service.content_codings import negotiated_coding
from service.paging import CursorAges
from service.rate_limit import CallerLimits, Quota
from service.read_model.admission import Admission
from service.read_model.liveness import Liveness
from service.read_model.query_batcher import QueryBatcher
from service.representation import RawResponse, respond

_BYPASS_HEADERS: Final = frozenset((b"x-api-key", b"prefer", b"origin", b"membership-min-position"))
"""A request with one of these headers needs more than a cache lookup."""
_EXPENSIVE: Final = re.compile(rb"(?:^|&)(?:q|date_from|date_to|sort_field)=(?!enrolled_at(?:&|$)|&|$)")
"""Parameters that need a custom plan. A read whose parameter names are percent-encoded waits for its slot later."""
_ADMITTED: Final[AbstractAsyncContextManager[object]] = nullcontext()
_HITS: Final = metrics.CACHE.labels("answer", "hit")


class FastPath:
    """Looks up requests in the cache, and admits expensive ones."""

    def __init__(self, cache: Cache, cursor_ages: CursorAges) -> None:
        self._cache = cache
        self._cursor_ages = cursor_ages
        self.authenticator: Authenticator | None = None
        """Set at startup, as are the next three; None before."""
        self.liveness: Liveness | None = None
        self.admission: Admission | None = None
        self.batcher: QueryBatcher | None = None
        self.caller_limits: CallerLimits | None = None
        """None: callers may send any number of requests."""

    def lookup(self, scope: HTTPScope, headers: dict[bytes, bytes]) -> RawResponse | None:
        """Return the cached response to a request; None when the application must handle it.

        `headers` are the request's, none of them repeated.
        """
        if not is_listing(scope):
            return None
        principal = self._known_caller(headers)
        if principal is None or self.liveness is None or not self.liveness.answering:
            return None
        path, query = scope["path"], scope["query_string"]
        page = self._cache.get(key_of(principal.scope, path, self._cursor_ages.cached_query(query)))
        if page is None:
            return None
        coding = negotiated_coding(headers.get(b"accept-encoding", b"").decode("latin-1"))
        representation = cached_response(self._cache, page, Target(path, query, coding), keep=True)
        if representation is None:
            return None
        _HITS.inc()
        if_none_match = headers.get(b"if-none-match", b"").decode("latin-1")
        return respond(representation, self._cache.applied_through, if_none_match)

    def facts(self, scope: HTTPScope, headers: dict[bytes, bytes], *, refused: bool) -> Facts:
        """Return who was refused, or answered from the cache with how many rows."""
        principal = self._known_caller(headers)
        if refused or principal is None:
            return Facts("" if principal is None else principal.user_id, cache=None if refused else "hit")
        query = self._cursor_ages.cached_query(scope["query_string"])
        page = self._cache.find(key_of(principal.scope, scope["path"], query))
        return Facts(principal.user_id, None if page is None else len(page.cards), "hit")

    def spend(self, scope: HTTPScope, headers: dict[bytes, bytes]) -> Quota | None:
        """Count a listing of a known caller against its limit; None without a limit, and for any other request.

        `headers` are the request's, none of them repeated.
        """
        if self.caller_limits is None or not is_listing(scope):
            return None
        caller = self._known_caller(headers)
        return None if caller is None else self.caller_limits.spend(caller.user_id)

    def refuses(self, scope: HTTPScope, headers: dict[bytes, bytes]) -> bool:
        """Return whether a listing would be refused for want of a waiting place, after routing and parsing.

        `headers` are the request's, none of them repeated. An unknown caller is refused where its read begins.
        """
        if self.admission is None or self.batcher is None or not (self.admission.busy or self.batcher.is_full):
            return False
        if not is_listing(scope) or (caller := self._known_caller(headers)) is None:
            return False
        if _EXPENSIVE.search(scope["query_string"]):
            return self.admission.is_full_for(caller.user_id)
        return self.batcher.is_full_for(caller.user_id)

    def admitted(self, scope: HTTPScope) -> AbstractAsyncContextManager[object]:
        """Hold a slot for an expensive read of a known caller; admit any other request. Raises `Overloaded`."""
        if self.admission is None or not is_listing(scope) or not _EXPENSIVE.search(scope["query_string"]):
            return _ADMITTED
        caller = self._caller(scope)
        return _ADMITTED if caller is None else self.admission.admitted(caller.user_id)

    def _caller(self, scope: HTTPScope) -> Principal | None:
        """Return the caller, if its token was verified recently and the request needs no special handling."""
        fields = list(scope["headers"])
        headers = dict(fields)
        # Only the application interprets repeated headers.
        return self._known_caller(headers) if len(headers) == len(fields) else None

    def _known_caller(self, headers: dict[bytes, bytes]) -> Principal | None:
        authorization = headers.get(b"authorization")
        if authorization is None or self.authenticator is None or not _BYPASS_HEADERS.isdisjoint(headers):
            return None
        return self.authenticator.cached_principal(authorization)


def is_listing(scope: HTTPScope) -> bool:
    """Return whether a request is for a customer's campaigns."""
    path = scope["path"]
    is_get = scope["method"] == "GET"
    return is_get and path.startswith(PATH_PREFIX) and path.endswith(PATH_SUFFIX) and "/" not in customer_segment(path)


def is_limited(path: str) -> bool:
    """Return whether requests to a path count against a caller's rate limit."""
    return path.startswith(PATH_PREFIX)


def is_plain_listing(scope: HTTPScope, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request without repeated headers is a listing that needs neither routing nor CORS."""
    return b"origin" not in headers and is_listing(scope)


def customer_segment(path: str) -> str:
    """Return the customer's id as sent in a listing's path; a slash if it is empty."""
    return path[len(PATH_PREFIX) : -len(PATH_SUFFIX)] or "/"
