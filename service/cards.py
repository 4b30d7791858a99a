"""The campaign cards that one worker caches, shared by all cached pages that show them.

A card is a campaign's JSON object as the API shows it, counters included. A commit that changes a campaign makes one
card outdated, not every page that shows it; `card_fetcher.py` fetches outdated cards again, many in one statement.

Invariants: a card is exact at every position from its `exact_from` to the last position whose notices were processed.
It is kept only while a page uses it.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from projections.store.notices import campaign_tag

OUTDATED: Final = 1 << 62
"""`exact_from` of a card that must be fetched: higher than any position."""
NOT_CACHED: Final = OUTDATED + 1
"""`exact_from` of a campaign whose card is not cached, because it is too large or the campaign is unknown."""
CARD_BYTES_MAX: Final = 32 * 1024
"""A larger card is not cached. 200 of this size are the most that one statement returns, 6.5 MB."""
BACKLOG_MAX: Final = 200
"""With more cards waiting to be fetched, a new page would not be complete in time: it is read with its cards."""
CARD_OVERHEAD_BYTES: Final = 500
"""What Python adds to a card's JSON: the object, its id, its tag, its digest and its entry. Measured, rounded up."""


class Card(Struct, gc=False, eq=False):
    """One campaign's card. Pages hold the object itself, so a new content reaches all of them at once."""

    campaign_id: str
    json: bytes = b""
    digest: bytes = b""
    exact_from: int = OUTDATED
    """The position from which the content is exact; `OUTDATED` or `NOT_CACHED` if it may not be shown."""
    revision: int = 0
    """Incremented with each new content."""
    pages: int = 0
    """How many cached pages show the card."""


class CardStore:
    """Cards by campaign. Not thread-safe: used from one event loop, and only `wait_for_wanted` waits."""

    def __init__(self) -> None:
        self._by_tag: dict[str, list[Card]] = {}
        """Campaigns whose ids have the same end share a tag, so they are outdated together."""
        self._wanted: dict[str, None] = {}
        self._anything_wanted = asyncio.Event()
        self.bytes_used = 0
        """Size of all cards, overhead included."""

    @property
    def is_backlogged(self) -> bool:
        """Whether more cards wait to be fetched than a new page can wait for."""
        return len(self._wanted) > BACKLOG_MAX

    def acquire(self, campaign_ids: Iterable[str]) -> tuple[Card, ...]:
        """Return the cards for a page, in its order; those not cached will be fetched."""
        return tuple([self._acquire(campaign_id) for campaign_id in campaign_ids])

    def release(self, cards: Iterable[Card]) -> None:
        """Take a page's cards back; a card that no other page shows is dropped."""
        for card in cards:
            card.pages -= 1
            if not card.pages:
                self._drop(card)

    def invalidate(self, tag: str, position: int) -> None:
        """Have the campaigns of this tag fetched again, unless they were read at `position` or later."""
        for card in self._by_tag.get(tag, ()):
            if not position <= card.exact_from < OUTDATED:
                card.exact_from = OUTDATED
                self._want(card)

    def put(self, campaign_id: str, json: bytes | None, position: int) -> None:
        """Set a card's content as of `position`; None if it was too large. The caller knows that it is current."""
        card = self._find(campaign_id)
        if card is None:
            return
        self._unwant(campaign_id)
        content = json if json is not None and len(json) <= CARD_BYTES_MAX else None
        self.bytes_used += len(content or b"") - len(card.json)
        if content is None:
            card.json, card.exact_from = b"", NOT_CACHED
            return
        if content != card.json:
            card.json, card.digest = content, digest(content)
            card.revision += 1
        card.exact_from = position

    def clear(self) -> None:
        """Drop all cards; the pages that hold them have been dropped, too."""
        self._by_tag.clear()
        self._wanted.clear()
        self._anything_wanted.clear()
        self.bytes_used = 0

    async def wait_for_wanted(self) -> None:
        """Wait until a card must be fetched."""
        await self._anything_wanted.wait()

    def take_wanted(self, limit: int) -> list[str]:
        """Return the campaigns whose cards must be fetched, the longest waiting first; possibly none."""
        taken = list(itertools.islice(self._wanted, limit))
        for campaign_id in taken:
            self._unwant(campaign_id)
        return taken

    def want_again(self, campaign_ids: Iterable[str]) -> None:
        """Queue cards again whose fetch failed, if a page still shows them."""
        for campaign_id in campaign_ids:
            card = self._find(campaign_id)
            if card is not None and card.exact_from == OUTDATED:
                self._want(card)

    def _acquire(self, campaign_id: str) -> Card:
        card = self._find(campaign_id)
        if card is None:
            card = Card(campaign_id)
            self._by_tag.setdefault(campaign_tag(campaign_id), []).append(card)
            self.bytes_used += CARD_OVERHEAD_BYTES
            self._want(card)
        card.pages += 1
        return card

    def _find(self, campaign_id: str) -> Card | None:
        for card in self._by_tag.get(campaign_tag(campaign_id), ()):
            if card.campaign_id == campaign_id:
                return card
        return None

    def _want(self, card: Card) -> None:
        self._wanted[card.campaign_id] = None
        self._anything_wanted.set()

    def _unwant(self, campaign_id: str) -> None:
        self._wanted.pop(campaign_id, None)
        if not self._wanted:
            self._anything_wanted.clear()

    def _drop(self, card: Card) -> None:
        tag = campaign_tag(card.campaign_id)
        cards = self._by_tag.get(tag)
        if cards is None or card not in cards:  # dropped by `clear`
            return
        cards.remove(card)
        if not cards:
            del self._by_tag[tag]
        self._unwant(card.campaign_id)
        self.bytes_used -= len(card.json) + CARD_OVERHEAD_BYTES


def digest(json: bytes) -> bytes:
    """Return the part of a page's entity tag that one item determines."""
    return hashlib.blake2b(json, digest_size=16).digest()
