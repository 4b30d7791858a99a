"""The use case of `GET /customers/{customer_id}/campaigns`: from the undecoded HTTP request to the response.

The order of the checks is part of the contract: credentials, then parameters, then the customer. Contains no routing;
`routes.py` translates to and from Litestar.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Final, assert_never

from msgspec import Struct

from projections.store.notices import campaign_tag, customer_tag
from service import paging, representation
from service.auth import Authenticator
from service.cache import Cache, Key
from service.page_reader import CustomerNotFound, PageFound, PageReader, PositionNotReached
from service.paging import Cursor
from service.parameters import ListRequest, Pair, Violation, parse, query_pairs
from service.problems import problem_reply, unprocessable
from service.read_model.admission import caller
from service.representation import RawResponse, position_headers, respond

TAMPERED_CURSOR: Final = Violation(
    ("query", "cursor"), "Value error, this is not a cursor of this service; start without one", "value_error"
)
CACHEABLE_SORT_FIELDS: Final = frozenset({"enrolled_at", "status"})
_ID: Final = re.compile(rb'"id":"([0-9a-f-]{36})"')


class ListCall(Struct, frozen=True):
    """A request with nothing decoded. Repeated headers are lists, in their order."""

    customer_id: str
    path: str
    query: bytes
    authorization: list[str]
    api_key: list[str]
    min_position: str | None
    prefer: list[str]
    if_none_match: str
    accept_encoding: str


class ListCampaigns:
    """Answers requests for a customer's campaigns."""

    def __init__(
        self, authenticator: Authenticator, pages: PageReader, cache: Cache, *, answer_within_s: float
    ) -> None:
        self._authenticator = authenticator
        self._pages = pages
        self._cache = cache
        self._answer_within_s = answer_within_s
        """From a request's arrival to its response; a wait that the caller requested is added."""

    async def respond(self, call: ListCall) -> RawResponse:
        """Return the response; raises `Unauthenticated`, and what the page reader raises."""
        # One deadline covers every queue: all requests that wait for an unresponsive database fail together.
        async with asyncio.timeout(self._answer_within_s) as deadline:
            principal = await self._authenticator.principal(call.authorization, call.api_key)
            caller.set(principal.user_id)
            pairs = query_pairs(call.query)
            request, cursor = await self._parse(call, pairs)
            if not isinstance(request, ListRequest):
                return unprocessable(request)
            cache_token = self._cache.begin_read()
            outcome = await self._pages.read(request, principal, cursor, call.prefer, deadline)
            match outcome:
                case PageFound():
                    total = outcome.page.total(deleted=request.deletion_filter)
                    link = paging.links(pairs, request, total, outcome.next_cursor)
                    gzip_accepted = representation.accepts_gzip(call.accept_encoding)
                    key = Key(principal.scope, call.path, call.query, gzip_accepted)
                    return await self._found(call, request, outcome, link=link, key=key, cache_token=cache_token)
                case CustomerNotFound(position, parked):
                    return problem_reply("customer_not_found", *position_headers(position, parked))
                case PositionNotReached():
                    return problem_reply("position_not_reached")
                case Violation():
                    return unprocessable([outcome])
                case _:
                    assert_never(outcome)

    async def _parse(
        self, call: ListCall, pairs: list[Pair]
    ) -> tuple[ListRequest | Sequence[Violation], Cursor | None]:
        """Parse the parameters; a cursor of another service is reported together with all other violations."""
        parsed = parse(call.customer_id, pairs, call.min_position)
        text = dict(pairs).get("cursor")
        if text is None:
            return parsed, None
        cursor = await self._pages.read_cursor(text)
        if cursor is None:
            others = [] if isinstance(parsed, ListRequest) else [v for v in parsed if v.loc != TAMPERED_CURSOR.loc]
            return [*others, TAMPERED_CURSOR], None
        return parsed, cursor

    async def _found(
        self,
        call: ListCall,
        request: ListRequest,
        found: PageFound,
        *,
        link: str,
        key: Key,
        cache_token: int | None,
    ) -> RawResponse:
        """Represent a page; a large one is sent in parts and never cached."""
        page = found.page
        parts = representation.body_parts(request, page, found.next_cursor)
        if found.reservation is not None:
            return await representation.respond_large(
                parts,
                page.position,
                link,
                if_none_match=call.if_none_match,
                parked=page.parked,
                gzip_accepted=key.gzip,
                release=found.reservation.release,
            )
        represented = await representation.represent(parts, page.position, link, gzip_accepted=key.gzip)
        if is_cacheable(request):
            self._cache.put(key, represented, cache_tags(request, parts), cache_token)
        return respond(represented, page.position, call.if_none_match, page.parked)


def is_cacheable(request: ListRequest) -> bool:
    """Return whether the response depends only on the customer's memberships and the campaigns on the page.

    Sorting or searching by a campaign's own fields depends on all campaigns of the customer, shown or not.
    """
    return request.sort_field in CACHEABLE_SORT_FIELDS and request.q is None


def cache_tags(request: ListRequest, parts: list[bytes]) -> frozenset[str]:
    """Return the tags on which a response depends. Stage ids are among them, which is harmless."""
    ids = (campaign_id for part in parts for campaign_id in _ID.findall(part))
    return frozenset({customer_tag(request.customer_id), *(campaign_tag(found.decode()) for found in ids)})
