"""Reads the page for a request from the live generation, after waiting for the position that the caller requested.

Reads: the live generation, through read_model, of a replica or the primary.
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
from service.page_tags import selecting_tags, shown_tags
from service.paging import Cursor, CursorAges
from service.parameters import ListRequest, Violation
from service.read_model import reads
from service.read_model.query_batcher import QueryBatcher
from service.read_model.reads import UNRESERVED_BYTES_MAX, After, Page
from service.replicas.replica_set import ReplicaSet

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
        self,
        batcher: QueryBatcher,
        freshness: Freshness,
        budget: PageBudget,
        cursor_ages: CursorAges,
        replicas: ReplicaSet | None = None,
    ) -> None:
        self._batcher = batcher
        self._freshness = freshness
        self._budget = budget
        self._cursor_ages = cursor_ages
        self._replicas = replicas
        """None: every page is read from the primary."""
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
        if request.min_position is not None and not await self._wait_for_position(
            request.min_position, wait_s(prefer), principal.user_id, deadline
        ):
            return PositionNotReached()
        page, stated = await self._read(request, principal.scope, cursor, keys_only=keys_only)
        if page.items_bytes <= UNRESERVED_BYTES_MAX:
            return await self._outcome(request, principal, fingerprint, page, None, stated=stated)
        reservation = await self._budget.reserve(page.items_bytes, _memory_wait_s(deadline), principal.user_id)
        try:
            page, stated = await self._read(request, principal.scope, cursor, page.items_bytes)
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

    async def _wait_for_position(self, position: int, wait_s: float, caller: str, deadline: asyncio.Timeout) -> bool:
        """Wait until the server that will answer has applied a position; return whether it has.

        A replica applies it after the primary, whose notices cost no query. While they do not arrive, it is queried.
        """
        replicas = self._replicas
        if replicas is None or not replicas.answer_positions:
            return await self._freshness.wait_within(position, wait_s, caller, deadline)
        began = asyncio.get_running_loop().time()
        if self._freshness.listening and not await self._freshness.wait_within(position, wait_s, caller, deadline):
            return False
        left_s = wait_s - (asyncio.get_running_loop().time() - began)
        return await replicas.wait_within(position, max(0.0, left_s), deadline)

    async def _read(
        self,
        request: ListRequest,
        scope: str | None,
        cursor: Cursor | None,
        items_bytes_max: int = UNRESERVED_BYTES_MAX,
        *,
        keys_only: bool = False,
    ) -> tuple[Page, int]:
        """Read a page from a replica if one may answer, otherwise from the primary, again if the pointer moved.

        The second value is what `Freshness.state` needs: a replica's page is compared by what it shows instead. Raises
        `PageMemoryBusy`: a page for which memory was reserved may have grown beyond it in the meantime.
        """

        async def read(batcher: QueryBatcher, name: Generation, *, versioned: bool = True) -> Page:
            after = None if cursor is None else await self._after(batcher, name, request, cursor)
            page = await reads.read_page(
                batcher,
                name,
                request,
                scope,
                after,
                items_bytes_max=items_bytes_max,
                keys_only=keys_only,
                versioned=versioned,
            )
            if UNRESERVED_BYTES_MAX < items_bytes_max < page.items_bytes:
                raise PageMemoryBusy
            return page

        async def read_live(name: Generation) -> Page | None:
            page = await read(self._batcher, name, versioned=False)
            return page if page.live_generation == name else None

        if self._replicas is not None:
            page = await self._replicas.read(
                read, selecting_tags(request), min_position=request.min_position or 0, shown=_shown
            )
            if page is not None:
                return page, 0
        stated = self._freshness.stated
        return await self._freshness.read_live(read_live), stated

    async def _after(self, batcher: QueryBatcher, name: Generation, request: ListRequest, cursor: Cursor) -> After:
        key = cursor.key
        if request.sort_field == "name" and key is not None and _may_be_truncated(key):
            key = await reads.name_key_of(batcher, name, cursor.campaign_id, key)
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


def _shown(page: Page) -> list[str]:
    return shown_tags(page.cards)


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
