"""The campaign cards that one API process remembers, shared by all remembered pages that show them.

A card is a campaign's JSON object as the API shows it, counters included. A commit that changes a campaign makes one
card outdated, not every page that shows it; `card_fetcher.py` fetches outdated cards again, many in one statement.

Invariants: a card is exact at every position from its `exact_from` to the last position whose notices were processed.
It is kept only while a page uses it.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from projections.store.notices import campaign_tag

OUTDATED: Final = 1 << 62
"""`exact_from` of a card that must be fetched: higher than any position."""
UNKEPT: Final = OUTDATED + 1
"""`exact_from` of a campaign whose card is not kept, because it is too large or the campaign is unknown."""
CARD_BYTES_MAX: Final = 32 * 1024
"""A larger card is not kept. 200 of this size are the most that one statement returns, 6.5 MB."""
CARD_OVERHEAD_BYTES: Final = 500
"""What Python adds to a card's JSON: the object, its id, its tag, its digest and its entry. Measured, rounded up."""


class Card(Struct, gc=False, eq=False):
    """One campaign's card. Pages hold the object itself, so a new content reaches all of them at once."""

    campaign_id: str
    json: bytes = b""
    digest: bytes = b""
    exact_from: int = OUTDATED
    """The position from which the content is exact; `OUTDATED` or `UNKEPT` if it may not be shown."""
    revision: int = 0
    """Incremented with each new content."""
    pages: int = 0
    """How many remembered pages show the card."""


class CardStore:
    """Cards by campaign. Not thread-safe: used from one event loop, and only `wait_for_wanted` waits."""

    def __init__(self) -> None:
        self._by_tag: dict[str, list[Card]] = {}
        """Campaigns whose ids have the same end share a tag, so they are outdated together."""
        self._wanted: dict[str, None] = {}
        self._anything_wanted = asyncio.Event()
        self.bytes_used = 0
        """Size of all cards, overhead included."""

    def acquire(self, campaign_ids: Iterable[str]) -> tuple[Card, ...]:
        """Return the cards for a page, in its order; those not remembered will be fetched."""
        return tuple([self._acquire(campaign_id) for campaign_id in campaign_ids])

    def release(self, cards: Iterable[Card]) -> None:
        """Take a page's cards back; a card that no other page shows is dropped."""
        for card in cards:
            card.pages -= 1
            if not card.pages:
                self._drop(card)

    def invalidate(self, tag: str) -> None:
        """Mark the campaigns of this tag as outdated, and have them fetched again."""
        for card in self._by_tag.get(tag, ()):
            card.exact_from = OUTDATED
            self._want(card)

    def put(self, campaign_id: str, json: bytes | None, position: int) -> None:
        """Set a card's content as of `position`; None if it cannot be kept. The caller knows that it is current."""
        card = self._find(campaign_id)
        if card is None:
            return
        self.bytes_used += len(json or b"") - len(card.json)
        if json is None:
            card.json, card.exact_from = b"", UNKEPT
            return
        if json != card.json:
            card.json, card.digest = json, digest(json)
            card.revision += 1
        card.exact_from = position

    def clear(self) -> None:
        """Forget all cards. Pages that still hold some are no longer remembered either."""
        self._by_tag.clear()
        self._wanted.clear()
        self.bytes_used = 0

    async def wait_for_wanted(self) -> None:
        """Wait until a card must be fetched."""
        await self._anything_wanted.wait()

    def take_wanted(self, limit: int) -> list[str]:
        """Return the campaigns whose cards must be fetched, the longest waiting first."""
        taken = list(itertools.islice(self._wanted, limit))
        for campaign_id in taken:
            del self._wanted[campaign_id]
        if not self._wanted:
            self._anything_wanted.clear()
        return taken

    def want_again(self, campaign_ids: Sequence[str]) -> None:
        """Have cards fetched that were taken, but could not be read, unless they are no longer shown."""
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

    def _drop(self, card: Card) -> None:
        tag = campaign_tag(card.campaign_id)
        cards = self._by_tag.get(tag)
        if cards is None or card not in cards:  # forgotten by `clear`
            return
        cards.remove(card)
        if not cards:
            del self._by_tag[tag]
        self._wanted.pop(card.campaign_id, None)
        self.bytes_used -= len(card.json) + CARD_OVERHEAD_BYTES


def digest(json: bytes) -> bytes:
    """Return the part of a page's entity tag that one item determines."""
    return hashlib.blake2b(json, digest_size=16).digest()
