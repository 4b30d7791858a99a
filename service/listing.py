"""One request for a customer's campaigns, between credentials and headers: what the read model says to it.

Knows no framework. Refusals come back as values.
"""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from projections.notices import campaign_tag, customer_tag
from projections.queries import Generation
from service import answers, paging, reads
from service.auth import Principal
from service.freshness import Freshness, NotReady
from service.page_budget import PageBudget, PageTooLarge, Reservation
from service.paging import FORM, Cursor
from service.parameters import ListRequest, Violation
from service.reader import Reader
from service.reads import UNRESERVED_BYTES_MAX, After, Page

SWITCHES_MAX: Final = 3
"""More pointer moves within one read are no switches but a fault."""
KEY_BYTES_MAX: Final = 1_000
"""A longer sort key (a very long name) is cut in the cursor, and found again by the campaign it belongs to.

Short enough for the request lines that proxies take."""
_CHAR_BYTES_MAX: Final = 4
WAIT_SHARE: Final = 0.7
"""Of the time that a request has left, what it may wait for the memory of a large page."""
WAIT_DEFAULT_S: Final = 2.0
WAIT_MAX_S: Final = 10.0
_WAIT: Final = re.compile(r"""(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])""", re.IGNORECASE)

FOREIGN_CURSOR: Final = Violation(
    ("query", "cursor"),
    "Value error, the cursor belongs to a request with another customer, filter, order or caller; "
    "repeat that request's parameters, or start without a cursor",
    "value_error",
)


class Listing(Struct, frozen=True):
    """The answer: its body, and what its headers are made of."""

    body: list[bytes]
    """In parts; all of them are the JSON."""
    total: int
    position: int
    next_cursor: str | None
    parked: str | None
    """Why the event at the position that the caller named is not applied, nor will be by itself."""
    reservation: Reservation | None
    """The memory of a large page, to be released once it was sent."""


class NoCustomer(Struct, frozen=True):
    """There is no such customer among those the caller may see, as of a position."""

    position: int
    parked: str | None


class NotReached(Struct, frozen=True):
    """The position asked for was not applied within the wait."""


SORTED_BY_THE_MEMBERSHIP: Final = frozenset({"enrolled_at", "status"})
_ID: Final = re.compile(rb'"id":"([0-9a-f-]{36})"')


def depends_on_its_page_only(request: ListRequest) -> bool:
    """Say whether an answer changes only with its customer's memberships and the campaigns it shows.

    Sorting by or searching in what campaigns say depends on all campaigns of the customer, shown or not.
    """
    return request.sort_field in SORTED_BY_THE_MEMBERSHIP and request.q is None


def tags(request: ListRequest, found: Listing) -> frozenset[str]:
    """Return what an answer depends on. Ids that are no campaign's, of stages, do no harm."""
    shown = (each for part in found.body for each in _ID.findall(part))
    return frozenset({customer_tag(request.customer_id), *(campaign_tag(each.decode()) for each in shown)})


Outcome = Listing | NoCustomer | NotReached | Violation
"""A listing, or why there is none; a violation here is one that only the read model could find."""


def wait_s(prefer: Sequence[str]) -> float:
    """Return how long the caller would wait (RFC 7240 `wait`), the default when it does not say, ten at most."""
    found = _WAIT.search(",".join(prefer))
    return min(float(found[1]), WAIT_MAX_S) if found else WAIT_DEFAULT_S


class CampaignLists:
    """Answers requests from the live generation."""

    def __init__(self, reader: Reader, freshness: Freshness, budget: PageBudget) -> None:
        self._reader = reader
        self._budget = budget
        self._freshness = freshness
        self._signing_key = b""

    async def cursor(self, text: str) -> Cursor | None:
        """Read a cursor; None when this service did not write it."""
        return paging.read_cursor(text, await self._key())

    async def answer(
        self,
        request: ListRequest,
        principal: Principal,
        cursor: Cursor | None,
        prefer: Sequence[str],
        limit: asyncio.Timeout,
    ) -> Outcome:
        """Return what the caller may see, waiting first for the position it asks for.

        `limit` is the request's deadline; the wait is the caller's own wish, so it moves the deadline by its length.
        """
        bound_to = paging.fingerprint(request, principal)
        if cursor is not None and cursor.request != bound_to:
            return FOREIGN_CURSOR
        wanted = request.min_position
        if wanted is not None and not await self._reached(wanted, wait_s(prefer), principal, limit):
            return NotReached()
        page = await self._page(request, principal.scope, cursor)
        if page.items_bytes <= UNRESERVED_BYTES_MAX:
            return await self._outcome(request, principal, bound_to, page, None)
        reservation = await self._budget.reserve(page.items_bytes, _left_s(limit))
        try:
            page = await self._page(request, principal.scope, cursor, page.items_bytes)
            outcome = await self._outcome(request, principal, bound_to, page, reservation)
        except BaseException:
            reservation.release()
            raise
        if not isinstance(outcome, Listing):
            reservation.release()
        return outcome

    async def _outcome(
        self, request: ListRequest, principal: Principal, bound_to: bytes, page: Page, reservation: Reservation | None
    ) -> Outcome:
        wanted = request.min_position
        if wanted is not None and page.position < wanted:  # the read model went back: restored, or begun anew
            self._freshness.forget()
            return NotReached()
        if not _visible(page, request, principal):
            return NoCustomer(page.position, page.parked)
        next_cursor = await self._next_cursor(page, bound_to)
        body = answers.body_of(request, page, next_cursor)
        return Listing(body, answers.total_of(request, page), page.position, next_cursor, page.parked, reservation)

    async def _reached(self, position: int, wait: float, principal: Principal, limit: asyncio.Timeout) -> bool:
        began = asyncio.get_running_loop().time()
        ends = limit.when() or began
        limit.reschedule(ends + wait)
        try:
            return await self._freshness.reached(position, wait, principal.user_id)
        finally:
            limit.reschedule(ends + asyncio.get_running_loop().time() - began)

    async def _page(
        self,
        request: ListRequest,
        scope: str | None,
        cursor: Cursor | None,
        items_bytes_max: int = UNRESERVED_BYTES_MAX,
    ) -> Page:
        """Read a page of the live generation, asking again when the pointer moved meanwhile.

        Raises `PageTooLarge` if a page for which memory was reserved has grown beyond it.
        """
        name = await self._freshness.generation()
        for _ in range(SWITCHES_MAX):
            with suppress(*reads.GENERATION_GONE):
                after = None if cursor is None else await self._after(name, request, cursor)
                page = await reads.read_page(self._reader, name, request, scope, after, items_bytes_max=items_bytes_max)
                if UNRESERVED_BYTES_MAX < items_bytes_max < page.items_bytes:
                    raise PageTooLarge
                if page.live_generation == name:
                    return page
            name = (await self._freshness.refresh()).generation
        raise NotReady

    async def _after(self, name: Generation, request: ListRequest, cursor: Cursor) -> After:
        key = cursor.key
        if request.sort_field == "name" and key is not None and _may_be_cut(key):
            key = await reads.name_key_of(self._reader, name, cursor.campaign_id, key)
        return After(key, cursor.campaign_id)

    async def _next_cursor(self, page: Page, bound_to: bytes) -> str | None:
        if not page.has_next or page.last_campaign_id is None:
            return None
        key = None if page.last_key is None else _cut(page.last_key)
        return paging.write_cursor(Cursor(FORM, bound_to, key, page.last_campaign_id), await self._key())

    async def _key(self) -> bytes:
        self._signing_key = self._signing_key or await reads.cursor_key(self._reader)
        return self._signing_key


def _left_s(limit: asyncio.Timeout) -> float:
    """Return how long a request may wait for memory, so that enough is left to read and to answer."""
    now = asyncio.get_running_loop().time()
    return ((limit.when() or now) - now) * WAIT_SHARE


def _cut(key: str) -> str:
    """Return the beginning of a sort key, whole characters."""
    return key.encode()[:KEY_BYTES_MAX].decode(errors="ignore")


def _may_be_cut(key: str) -> bool:
    return len(key.encode()) > KEY_BYTES_MAX - _CHAR_BYTES_MAX


def _visible(page: Page, request: ListRequest, principal: Principal) -> bool:
    """Say whether the customer exists for this caller: not owned and not there are the same answer."""
    if not page.known or (principal.scope is not None and page.owner_id != principal.scope):
        return False
    return not page.deleted or reads.deletion_wanted(request) is not False
