"""The bounded cache of one worker of the API: pages by request, the cards they show, and responses made from both.

A page depends on a set of tags: its customer, and for some orders and searches also campaigns. Its cards depend on
their campaigns. The projector's notices carry the tags that a batch changed, and arrive in commit order. So whatever is
still cached after the notice of position N is exact at N, whatever position it was read at, and a page whose cards are
all exact at N is one snapshot of the read model. So what a replica returned may be cached as well, unless a change that
it lacks was reported.

Invariants: a page or card read from a snapshot is cached only if no notice received since then invalidates it; while
the listening connection is down, nothing is cached and nothing is served from the cache.
Why two queues: a page must be requested twice before it can displace frequently requested ones, so a flood of distinct
requests passes through the small queue only.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from projections.store.notices import campaign_tag
from service.cards import Card, CardStore
from service.representation import PageContent, Representation

BYTES_MAX: Final = 128 * 1024 * 1024
"""Limit of pages, responses and cards together; a share of the 300 MB that a process may use. The record of changed
tags takes up to 15 MB more."""
PROBATION_SHARE: Final = 0.2
RESPONSES_SHARE: Final = 0.15
"""Responses may use whatever is free, and keep this share when pages need memory as well."""
PAGE_OVERHEAD_BYTES: Final = 520
"""What Python adds to a page: its key and its entries in two dictionaries. Measured, rounded up."""
CARD_REFERENCE_BYTES: Final = 8
TAG_BYTES: Final = 220
"""What a further tag of a page takes in the index."""
RESPONSE_OVERHEAD_BYTES: Final = 1_800
"""What a response takes besides its body: headers, entity tag, link. Measured, rounded up."""
PAGES_PER_TAG_MAX: Final = 2_000
"""Pages that depend on the same tag, the newest ones: a change of it removes them in one step, in some 30 ms."""
CHANGED_TAGS_MAX: Final = 100_000
"""Tags whose last change is recorded; beyond this number, everything read before now counts as changed."""
ANY_CAMPAIGN: Final = "g*"
"""A tag that changes with every campaign, for pages whose order depends on campaigns that they do not show."""
ANY_DEFINITION: Final = "d*"
"""A tag that changes with every campaign's definition: its texts and its creation time."""
_ANY: Final = {"g": ANY_CAMPAIGN, "d": ANY_DEFINITION}


class PageRead(NamedTuple):
    """A page as it was read, in one snapshot, without its cards."""

    content: PageContent
    campaign_ids: Sequence[str]
    tags: tuple[str, ...]
    """What the order and the totals depend on; the cards' contents are tracked apart."""
    position: int


class CachedPage(Struct, gc=False, eq=False):
    """A page without its items: the cards it shows, and everything else that its body states."""

    key: str
    content: PageContent
    cards: tuple[Card, ...]
    tags: tuple[str, ...]
    position: int
    """The position of the snapshot that the page was read from."""
    size: int
    responses: tuple[Representation, ...] = ()
    """The last responses made of the page, one for each content coding, all of the same revision."""
    responses_bytes: int = 0
    cached: bool = True
    verified: int = 0
    """The version of the cards at which the page was last found to be exact."""
    revision: int = 0
    """The sum of the revisions of its cards then."""
    too_large: bool = False
    """Whether its items exceed what may be sent without reserved memory: then only this fact is cached."""


def key_of(scope: str | None, path: str, query: bytes) -> str:
    """Return the key of a request: requests with equal keys get equal pages.

    A query contains no line break and a scope is a UUID, so no two requests share a key.
    """
    return f"{query.decode('latin-1')}\n{scope or ''}\n{path}"


class Cache:
    """Caches pages. Not thread-safe: used from one event loop, and only `wait_for_progress` waits."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self.cards = CardStore()
        self._probation: OrderedDict[str, CachedPage] = OrderedDict()
        self._protected: OrderedDict[str, CachedPage] = OrderedDict()
        self._with_responses: OrderedDict[CachedPage, None] = OrderedDict()
        """Pages that hold responses; the least recently requested first."""
        self._by_tag: dict[str, str | dict[str, None]] = {}
        """The keys of the pages that depend on a tag: usually one, otherwise the oldest first."""
        self._changed: dict[str, int] = {}
        self._floor = 0
        """The lowest position of a page that may be cached."""
        self._applied_through = 0
        self._enabled = False
        self._flushes = 0
        self._cards_version = 1
        """Incremented with every change of a card, so that a page needs to look at its cards only after one."""
        self._pages_bytes = 0
        self._responses_bytes = 0
        self._progress: asyncio.Future[None] | None = None

    @property
    def bytes_used(self) -> int:
        """Size of all pages, responses and cards, overhead included."""
        return self._pages_bytes + self._responses_bytes + self.cards.bytes_used

    @property
    def applied_through(self) -> int:
        """The position up to which all changes have been reported."""
        return self._applied_through

    def enable(self, position: int) -> None:
        """Start caching: the listener will report every commit after `position`."""
        self.flush()
        self._enabled = True
        self._applied_through = self._floor = position

    def disable(self) -> None:
        """Stop caching: invalidations may be missed from now on. Changes reported before still count."""
        self._drop_all()
        self._enabled = False

    def flush(self, position: int = 0) -> None:
        """Drop everything, and do not cache what is being read.

        With a `position`, anything up to it may have changed: an older snapshot, from a lagging server, is not cached.
        """
        self._drop_all()
        self._changed.clear()
        self._floor = max(self._applied_through, position)

    def last_change(self, tags: Iterable[str]) -> int:
        """Return the position from which a snapshot contains every reported change of `tags`."""
        return max(self._floor, max((self._changed.get(tag, 0) for tag in tags), default=0))

    def _drop_all(self) -> None:
        self._flushes += 1
        for pages in (self._probation, self._protected):
            for page in pages.values():
                page.cached = False
            pages.clear()
        self._with_responses.clear()
        self._by_tag.clear()
        self.cards.clear()
        self._pages_bytes = self._responses_bytes = 0
        self._on_progress()

    def invalidate(self, tags: Iterable[str], position: int) -> None:
        """Drop the pages that depend on any of `tags`, which the batch that ends at `position` changed.

        Cards of changed campaigns are fetched again.
        """
        kinds: set[str] = set()
        for tag in tags:
            kinds.add(tag[0])
            self._invalidate_tag(tag, position)
            if tag[0] == "g":
                self.cards.invalidate(tag, position)
                self._cards_version += 1
        for kind in kinds & _ANY.keys():
            self._invalidate_tag(_ANY[kind], position)
        if len(self._changed) > CHANGED_TAGS_MAX:
            self._changed.clear()
            self._floor = max(self._floor, position)
        self._on_progress()

    def advance(self, position: int) -> None:
        """Record that all changes up to `position` have been reported."""
        self._applied_through = max(self._applied_through, position)
        self._on_progress()

    def limit(self, bytes_max: int) -> None:
        """Change the size limit; evict what exceeds it."""
        self._bytes_max = bytes_max
        self._evict()

    def get(self, key: str) -> CachedPage | None:
        """Return a page that is exact at `applied_through`, cards included."""
        page = self.find(key)
        return page if page is not None and self.is_exact(page) else None

    def find(self, key: str) -> CachedPage | None:
        """Return a page that may lack the current content of some cards, or the notice of its position."""
        page = self._protected.get(key)
        if page is not None:
            self._protected.move_to_end(key)
            return page
        page = self._probation.pop(key, None)
        if page is not None:
            self._protected[key] = page
        return page

    def is_exact(self, page: CachedPage) -> bool:
        """Return whether a cached page and all its cards are exact at `applied_through`."""
        if page.verified == self._cards_version:
            return page.cached
        applied_through = self._applied_through
        if page.position > applied_through or not page.cached:
            return False
        revision = 0
        for card in page.cards:
            if card.exact_from > applied_through:
                return False
            revision += card.revision
        page.verified, page.revision = self._cards_version, revision
        return True

    def begin_read(self) -> int | None:
        """Return the token that `put` needs after the read; None while nothing may be cached."""
        return self._flushes if self._enabled else None

    def put(self, key: str, read: PageRead, token: int | None) -> CachedPage | None:
        """Cache a page; None if something it depends on has changed since it was read."""
        if token != self._flushes or not self._enabled or read.position < self._floor:
            return None
        if any(self._changed.get(tag, 0) > read.position for tag in read.tags):
            return None
        cards = self.cards.acquire(read.campaign_ids)
        self._remove(key)
        size = len(key) + read.content.size + PAGE_OVERHEAD_BYTES
        size += CARD_REFERENCE_BYTES * len(cards) + TAG_BYTES * len(read.tags)
        page = CachedPage(key, read.content, cards, read.tags, read.position, size)
        self._probation[key] = page
        self._pages_bytes += size
        for tag in read.tags:
            self._index(tag, key)
        self._evict()
        return page

    def put_cards(self, cards: Iterable[tuple[str, bytes | None]], position: int, token: int | None) -> None:
        """Set the contents of cards read at `position`, unless they have changed since."""
        may_keep = token == self._flushes and self._enabled and position >= self._floor
        for campaign_id, json in cards:
            if may_keep and self._changed.get(campaign_tag(campaign_id), 0) <= position:
                self.cards.put(campaign_id, json, position)
                self._cards_version += 1
            else:
                self.cards.want_again((campaign_id,))
        self._evict()
        self._on_progress()

    def keep_response(self, page: CachedPage, response: Representation) -> None:
        """Keep a response made of a cached page, until one of its cards changes."""
        if not page.cached:
            return
        others = [
            kept for kept in page.responses if kept.revision == response.revision and kept.coding != response.coding
        ]
        page.responses = (*others, response)
        size = sum(len(kept.body) + RESPONSE_OVERHEAD_BYTES for kept in page.responses)
        self._responses_bytes += size - page.responses_bytes
        page.responses_bytes = size
        self._with_responses[page] = None
        self._with_responses.move_to_end(page)
        self._evict()

    def mark_too_large(self, page: CachedPage) -> None:
        """Keep only the fact that a page is too large to be served from here, not its cards."""
        page.too_large = True
        self.cards.release(page.cards)
        page.cards = ()

    def touch_response(self, page: CachedPage) -> None:
        """Record that a response of the page was sent again."""
        self._with_responses.move_to_end(page)

    async def wait_for_progress(self, timeout_s: float) -> None:
        """Wait until a notice was processed or cards were fetched, or until the time is over."""
        if self._progress is None:
            self._progress = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._progress}, timeout=timeout_s)

    def _on_progress(self) -> None:
        if self._progress is not None:
            self._progress.set_result(None)
            self._progress = None

    def _invalidate_tag(self, tag: str, position: int) -> None:
        self._changed[tag] = position
        keys = self._by_tag.get(tag, ())
        for key in (keys,) if isinstance(keys, str) else list(keys):
            page = self._probation.get(key) or self._protected.get(key)
            if page is not None and page.position < position:  # a later snapshot has the change already
                self._remove(key)

    def _evict(self) -> None:
        while self.bytes_used > self._bytes_max:
            if self._with_responses and self._responses_bytes > RESPONSES_SHARE * self._bytes_max:
                self._drop_responses(next(iter(self._with_responses)))
                continue
            # Evict from probation until it is down to its share; then the least recently requested protected page.
            is_small = len(self._probation) <= PROBATION_SHARE * (len(self._probation) + len(self._protected))
            queue = self._protected if is_small and self._protected else self._probation
            if not queue:
                return
            self._remove(next(iter(queue)))

    def _drop_responses(self, page: CachedPage) -> None:
        self._with_responses.pop(page, None)
        self._responses_bytes -= page.responses_bytes
        page.responses = ()
        page.responses_bytes = 0

    def _remove(self, key: str) -> None:
        page = self._probation.pop(key, None) or self._protected.pop(key, None)
        if page is None:
            return
        page.cached = False
        self._pages_bytes -= page.size
        self._drop_responses(page)
        self.cards.release(page.cards)
        for tag in page.tags:
            self._unindex(tag, key)

    def _index(self, tag: str, key: str) -> None:
        keys = self._by_tag.get(tag)
        if keys is None:
            self._by_tag[tag] = key
        elif isinstance(keys, dict):
            if len(keys) >= PAGES_PER_TAG_MAX:
                self._remove(next(iter(keys)))
            keys[key] = None
        elif keys != key:
            self._by_tag[tag] = {keys: None, key: None}

    def _unindex(self, tag: str, key: str) -> None:
        keys = self._by_tag.get(tag)
        if isinstance(keys, dict):
            keys.pop(key, None)
        if not keys or keys == key:
            self._by_tag.pop(tag, None)
