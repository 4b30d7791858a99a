"""The use case of `GET /customers/{customer_id}/campaigns`: from the undecoded HTTP request to the response.

The order of the checks is part of the contract: credentials, then parameters, then the customer. Contains no routing:
`routes.py` and `listing_endpoint.py` translate requests for it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, assert_never

from msgspec import Struct

from service import metrics
from service.access_log import note
from service.auth import Authenticator, Principal
from service.cache import Cache, CachedPage, PageRead, key_of
from service.cached_responses import Target, cached_response
from service.cards import NOT_CACHED, digest
from service.content_codings import negotiated_coding, negotiated_coding_in_parts
from service.page_reader import (
    TAMPERED_CURSOR,
    CustomerNotFound,
    Outcome,
    PageFound,
    PageReader,
    PositionNotReached,
)
from service.page_tags import campaign_id_of, page_tags
from service.paging import Cursor, CursorAges
from service.parameters import ListRequest, Pair, Violation, parse, query_pairs
from service.problems import problem_reply, unprocessable
from service.read_model import reads
from service.read_model.admission import caller
from service.representation import (
    RawResponse,
    Representation,
    page_content,
    page_form,
    position_headers,
    represent,
    respond,
    respond_large,
)

COMPLETE_MAX_S: Final = 0.1
"""How long a page waits for its cards and for the notice of its position. Then it is read again with its cards, in one
statement."""
_HITS: Final = metrics.CACHE.labels("answer", "hit")
_MISSES: Final = metrics.CACHE.labels("answer", "miss")


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
        self,
        authenticator: Authenticator,
        pages: PageReader,
        cache: Cache,
        cursor_ages: CursorAges,
        *,
        search_length_max: int,
        answer_within_s: float,
        may_serve_cached: Callable[[], bool],
    ) -> None:
        self._authenticator = authenticator
        self._pages = pages
        self._cache = cache
        self._cursor_ages = cursor_ages
        self._search_length_max = search_length_max
        self._answer_within_s = answer_within_s
        """From a request's arrival to its response; a wait that the caller requested is added."""
        self._may_serve_cached = may_serve_cached
        """Whether PostgreSQL answers: if not, nothing is served from the cache."""

    async def respond(self, call: ListCall) -> RawResponse:
        """Return the response; raises `Unauthenticated`, `RateLimited`, and what the page reader raises."""
        # One deadline covers every queue: all requests that wait for an unresponsive database fail together.
        async with asyncio.timeout(self._answer_within_s) as deadline:
            principal = await self._authenticator.principal(call.authorization, call.api_key)
            caller.set(principal.user_id)
            pairs = query_pairs(call.query)
            request, cursor = await self._parse(call, pairs)
            if not isinstance(request, ListRequest):
                return unprocessable(request)
            read = Read(call, request, principal, cursor, self._cursor_ages.cached_query(call.query))
            if request.min_position is None and self._may_serve_cached():
                return await self._from_cache(read, deadline) or await self._from_database(read, deadline)
            _MISSES.inc()
            return await self._response(read, await self._page(read, deadline))

    async def _from_cache(self, read: "Read", deadline: asyncio.Timeout) -> RawResponse | None:
        """Respond with a cached page, or one whose cards are cached; None if it must be read with its cards."""
        page, outcome_count = self._cache.find(read.key), _HITS
        if page is None and reads.is_cheap(read.request) and not self._cache.cards.is_backlogged:
            token = self._cache.begin_read()
            if token is None:
                return None
            outcome_count = _MISSES
            outcome = await self._page(read, deadline, keys_only=True)
            if not isinstance(outcome, PageFound):
                _MISSES.inc()
                return await self._response(read, outcome)
            page = self._cache.put(read.key, _page_read(read.request, outcome, outcome.page.campaign_ids), token)
        representation = None if page is None else await self._complete(page, read.target)
        if representation is None:
            return None
        outcome_count.inc()
        note(rows=len(page.cards) if page is not None else None)
        return respond(representation, self._cache.applied_through, read.call.if_none_match)

    async def _from_database(self, read: "Read", deadline: asyncio.Timeout) -> RawResponse:
        """Respond with a page read together with its cards, and cache both.

        An expensive read is always such a read: it must not be repeated because something changed meanwhile.
        """
        _MISSES.inc()
        token = self._cache.begin_read()
        outcome = await self._page(read, deadline)
        if isinstance(outcome, PageFound) and outcome.reservation is None and token is not None:
            cards = [(campaign_id_of(card), card) for card in outcome.page.cards]
            page = _page_read(read.request, outcome, [campaign_id for campaign_id, _ in cards])
            if self._cache.put(read.key, page, token) is not None:
                self._cache.put_cards(cards, page.position, token)
        return await self._response(read, outcome)

    async def _page(self, read: "Read", deadline: asyncio.Timeout, *, keys_only: bool = False) -> Outcome:
        note("miss")
        return await self._pages.read(
            read.request, read.principal, read.cursor, read.call.prefer, deadline, keys_only=keys_only
        )

    async def _complete(self, page: CachedPage, target: Target) -> Representation | None:
        """Return the representation of a cached page once it is exact; None if it is not soon."""
        now = asyncio.get_running_loop().time
        ends = now() + COMPLETE_MAX_S
        while not self._cache.is_exact(page):
            left_s = ends - now()
            if left_s <= 0 or not page.cached or any(card.exact_from == NOT_CACHED for card in page.cards):
                return None
            await self._cache.wait_for_progress(left_s)
        return cached_response(self._cache, page, target, keep=False)

    async def _response(self, read: "Read", outcome: Outcome) -> RawResponse:
        match outcome:
            case PageFound():
                return await self._found(read, outcome)
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
        parsed = parse(call.customer_id, pairs, call.min_position, self._search_length_max)
        text = dict(pairs).get("cursor")
        if text is None:
            return parsed, None
        cursor = await self._pages.read_cursor(text)
        if cursor is None:
            others = [] if isinstance(parsed, ListRequest) else [v for v in parsed if v.loc != TAMPERED_CURSOR.loc]
            return [*others, TAMPERED_CURSOR], None
        return parsed, cursor

    async def _found(self, read: "Read", found: PageFound) -> RawResponse:
        """Represent a page that was read with its cards; a large one is sent in parts."""
        page, customer_id = found.page, read.request.customer_id
        note(rows=len(page.cards))
        content = page_content(read.request, page, found.next_cursor)
        form, target = page_form(read.call.query), read.target
        if found.reservation is not None:
            return await respond_large(
                customer_id,
                form,
                content,
                page.cards,
                page.position,
                if_none_match=read.call.if_none_match,
                parked=page.parked,
                coding=negotiated_coding_in_parts(read.call.accept_encoding),
                release=found.reservation.release,
            )
        represented = represent(customer_id, form, content, page.cards, map(digest, page.cards), coding=target.coding)
        return respond(represented, page.position, read.call.if_none_match, page.parked)


class Read(NamedTuple):
    """A valid request and its caller."""

    call: ListCall
    request: ListRequest
    principal: Principal
    cursor: Cursor | None
    cached_query: bytes
    """The query as the cache knows it."""

    @property
    def key(self) -> str:
        """The key of the page in the cache."""
        return key_of(self.principal.scope, self.call.path, self.cached_query)

    @property
    def target(self) -> Target:
        """What is asked for, in which coding."""
        return Target(self.call.path, self.call.query, negotiated_coding(self.call.accept_encoding))


def _page_read(request: ListRequest, found: PageFound, campaign_ids: Sequence[str]) -> PageRead:
    page = found.page
    tags = page_tags(request, campaign_ids, has_next=page.has_next)
    return PageRead(page_content(request, page, found.next_cursor), campaign_ids, tags, page.position)
