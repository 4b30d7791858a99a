"""Fetches the cards that cached pages need: those of new pages, and those that a commit has changed.

One statement fetches many cards; those that become outdated meanwhile are fetched by the next one. So busy pages stay
in the cache while the counters of their campaigns change.

Reads: the live generation, through read_model, of a replica or the primary.
Writes: this process's cache.
"""

import asyncio
from typing import Final

import asyncpg

from projections.store.database import UNAVAILABLE
from projections.store.notices import campaign_tag
from projections.store.queries import Generation
from service.cache import Cache
from service.cards import CARD_BYTES_MAX
from service.freshness import Freshness, NotReady
from service.read_model import reads
from service.read_model.query_batcher import QueryBatcher
from service.replicas.replica_set import ReplicaSet

CARDS_PER_STATEMENT_MAX: Final = 200
"""As many as the largest page has; the statement then takes a millisecond or two, and returns at most 6.5 MB."""
RETRY_PAUSE_S: Final = 0.2
"""After a failed statement. Reads fail meanwhile, too, and report the problem."""


class CardFetcher:
    """Fetches wanted cards, one statement at a time."""

    def __init__(
        self, batcher: QueryBatcher, freshness: Freshness, cache: Cache, replicas: ReplicaSet | None = None
    ) -> None:
        self._batcher = batcher
        self._freshness = freshness
        self._cache = cache
        self._replicas = replicas

    async def run(self) -> None:
        """Fetch whatever is wanted until this task is cancelled."""
        while True:
            await self._cache.cards.wait_for_wanted()
            campaign_ids = self._cache.cards.take_wanted(CARDS_PER_STATEMENT_MAX)
            try:
                await self._fetch(campaign_ids)
            except Exception as problem:
                self._cache.cards.want_again(campaign_ids)
                if not isinstance(problem, (NotReady, *UNAVAILABLE, asyncpg.PostgresError)):
                    raise  # logged by the supervision, which restarts this task
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _fetch(self, campaign_ids: list[str]) -> None:
        token = self._cache.begin_read()
        if self._replicas is not None:
            campaign_ids = await self._fetch_from_replica(self._replicas, campaign_ids, token)
            if not campaign_ids:
                return
        name = await self._freshness.generation()
        try:
            cards = await reads.read_cards(self._batcher, name, campaign_ids, CARD_BYTES_MAX)
        except reads.GENERATION_GONE:
            await self._freshness.refresh()
            raise
        if cards.live_generation != name:  # the pointer moved: refreshing flushes the cache
            await self._freshness.refresh()
            self._cache.cards.want_again(campaign_ids)
            return
        self._cache.put_cards(cards.by_campaign, cards.position, token)

    async def _fetch_from_replica(self, replicas: ReplicaSet, campaign_ids: list[str], token: int | None) -> list[str]:
        """Fetch the cards whose last change a replica has already; return the others, which the primary has."""
        reached = replicas.nearest_position()
        there = [name for name in campaign_ids if self._cache.last_change((campaign_tag(name),)) <= reached]
        if not there:
            return campaign_ids

        async def read(batcher: QueryBatcher, name: Generation) -> reads.Cards:
            return await reads.read_cards(batcher, name, there, CARD_BYTES_MAX, versioned=True)

        cards = await replicas.read(read, map(campaign_tag, there))
        if cards is None:
            return campaign_ids
        self._cache.put_cards(cards.by_campaign, cards.position, token)
        return [name for name in campaign_ids if name not in set(there)]
