"""Reads the page for a request from the live generation, after waiting for the position that the caller requested.

Reads: the live generation, through read_model.
Fails: `NotReady`, `ReadModelBehind`, `PageTooLarge`, `PageMemoryBusy`, and what the read pool raises.
Invariants: a page is read in one snapshot of one generation; a switch between generations repeats the read.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from projections.store.queries import Generation
from service import paging
from service.auth import Principal
from service.freshness import Freshness
from service.page_budget import PageBudget, PageMemoryBusy, Reservation
from service.paging import Cursor, CursorAges
from service.parameters import ListRequest, Violation
from service.read_model import reads
from service.read_model.query_batcher import QueryBatcher
from service.read_model.reads import UNRESERVED_BYTES_MAX, After, Page

KEY_BYTES_MAX: Final = 1_000
"""A longer sort key (a very long name) is truncated in the cursor; the rest is read from the campaign that the cursor
names. The limit keeps cursors short enough for the request lines that proxies accept."""
_CHAR_BYTES_MAX: Final = 4
MEMORY_WAIT_SHARE: Final = 0.7
"""Share of a request's remaining time for which it may wait for the memory of a large page; the rest is for reading."""
WAIT_DEFAULT_S: Final = 2.0
WAIT_MAX_S: Final = 10.0
_WAIT: Final = re.compile(r"""(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])""", re.IGNORECASE)

TAMPERED_CURSOR: Final = Violation(
    ("query", "cursor"), "Value error, this is not a cursor of this service; start without one", "value_error"
)
FOREIGN_CURSOR: Final = Violation(
    ("query", "cursor"),
    "Value error, the cursor belongs to a request with another customer, filter, order or caller; "
    "repeat that request's parameters, or start without a cursor",
    "value_error",
)
OLD_CURSOR: Final = Violation(
    ("query", "cursor"), "Value error, the cursor is too old; start without one", "value_error"
)


class PageFound(Struct, frozen=True):
    """A page, the cursor of the next one, and the memory reserved for it if it is large."""

    page: Page
    next_cursor: str | None
    reservation: Reservation | None
    """To be released once the response has been sent."""


class CustomerNotFound(Struct, frozen=True):
    """No such customer exists among those that the caller may see, as of a position."""

    position: int
    parked: str | None


class PositionNotReached(Struct, frozen=True):
    """The requested position was not applied within the allowed wait."""


Outcome = PageFound | CustomerNotFound | PositionNotReached | Violation
"""A violation here is one that only the read model can find: a cursor of another request, or one that is too old."""


def wait_s(prefer: Sequence[str]) -> float:
    """Return how long the caller is prepared to wait (RFC 7240 `wait`): 2 s by default, 10 s at most."""
    match = _WAIT.search(",".join(prefer))
    return min(float(match[1]), WAIT_MAX_S) if match else WAIT_DEFAULT_S


class PageReader:
    """Reads pages from the live generation."""

    def __init__(
        self, batcher: QueryBatcher, freshness: Freshness, budget: PageBudget, cursor_ages: CursorAges
    ) -> None:
        self._batcher = batcher
        self._freshness = freshness
        self._budget = budget
        self._cursor_ages = cursor_ages
        self._signing_key = b""

    async def read_cursor(self, text: str) -> Cursor | None:
        """Decode a cursor; None when this service did not sign it."""
        return paging.read_cursor(text, await self.signing_key())

    async def read(
        self,
        request: ListRequest,
        principal: Principal,
        cursor: Cursor | None,
        prefer: Sequence[str],
        deadline: asyncio.Timeout,
        *,
        keys_only: bool = False,
    ) -> Outcome:
        """Return the page that the caller may see; with `keys_only`, without its cards.

        The caller chooses how long to wait for a position, so that wait extends the request's deadline.
        """
        fingerprint = paging.fingerprint(request, principal)
        if cursor is not None and cursor.request != fingerprint:
            return FOREIGN_CURSOR
        if cursor is not None and self._cursor_ages.is_too_old(cursor):
            return OLD_CURSOR
        position = request.min_position
        if position is not None and not await self._freshness.wait_within(
            position, wait_s(prefer), principal.user_id, deadline
        ):
            return PositionNotReached()
        stated = self._freshness.stated
        page = await self._read_live(request, principal.scope, cursor, keys_only=keys_only)
        if page.items_bytes <= UNRESERVED_BYTES_MAX:
            return await self._outcome(request, principal, fingerprint, page, None, stated=stated)
        reservation = await self._budget.reserve(page.items_bytes, _memory_wait_s(deadline), principal.user_id)
        try:
            page = await self._read_live(request, principal.scope, cursor, page.items_bytes)
            outcome = await self._outcome(request, principal, fingerprint, page, reservation, stated=stated)
        except BaseException:
            reservation.release()
            raise
        if not isinstance(outcome, PageFound):
            reservation.release()
        return outcome

    async def _outcome(
        self,
        request: ListRequest,
        principal: Principal,
        fingerprint: bytes,
        page: Page,
        reservation: Reservation | None,
        *,
        stated: int,
    ) -> Outcome:
        position = request.min_position
        if position is not None and page.position < position:  # the read model went back: it was restored or replaced
            self._freshness.reset_position()
            return PositionNotReached()
        self._freshness.state(page.position, stated)
        if not _is_visible(page, request, principal):
            return CustomerNotFound(page.position, page.parked)
        return PageFound(page, await self._next_cursor(page, fingerprint), reservation)

    async def _read_live(
        self,
        request: ListRequest,
        scope: str | None,
        cursor: Cursor | None,
        items_bytes_max: int = UNRESERVED_BYTES_MAX,
        *,
        keys_only: bool = False,
    ) -> Page:
        """Read a page, again if the pointer to the live generation moved; raises `PageMemoryBusy`.

        A page for which memory was reserved may have grown beyond the reservation in the meantime.
        """

        async def read(name: Generation) -> Page | None:
            after = None if cursor is None else await self._after(name, request, cursor)
            page = await reads.read_page(
                self._batcher, name, request, scope, after, items_bytes_max=items_bytes_max, keys_only=keys_only
            )
            if UNRESERVED_BYTES_MAX < items_bytes_max < page.items_bytes:
                raise PageMemoryBusy
            return page if page.live_generation == name else None

        return await self._freshness.read_live(read)

    async def _after(self, name: Generation, request: ListRequest, cursor: Cursor) -> After:
        key = cursor.key
        if request.sort_field == "name" and key is not None and _may_be_truncated(key):
            key = await reads.name_key_of(self._batcher, name, cursor.campaign_id, key)
        return After(key, cursor.campaign_id)

    async def _next_cursor(self, page: Page, fingerprint: bytes) -> str | None:
        if not page.has_next or page.last_campaign_id is None:
            return None
        key = None if page.last_key is None else _truncate(page.last_key)
        return paging.write_cursor(
            self._cursor_ages.cursor(fingerprint, key, page.last_campaign_id), await self.signing_key()
        )

    async def signing_key(self) -> bytes:
        """Return the key with which all API processes sign cursors."""
        self._signing_key = self._signing_key or await reads.cursor_key(self._batcher)
        return self._signing_key


def _memory_wait_s(deadline: asyncio.Timeout) -> float:
    now = asyncio.get_running_loop().time()
    return ((deadline.when() or now) - now) * MEMORY_WAIT_SHARE


def _truncate(key: str) -> str:
    """Return the beginning of a sort key, in whole characters."""
    return key.encode()[:KEY_BYTES_MAX].decode(errors="ignore")


def _may_be_truncated(key: str) -> bool:
    return len(key.encode()) > KEY_BYTES_MAX - _CHAR_BYTES_MAX


def _is_visible(page: Page, request: ListRequest, principal: Principal) -> bool:
    """Return whether the customer exists for this caller: one of another owner is treated like an unknown one."""
    if not page.known or (principal.scope is not None and page.owner_id != principal.scope):
        return False
    return not page.deleted or request.deletion_filter is not False
