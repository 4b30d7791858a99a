"""Cached pages and cards are exact at the position they are served with; the cache is bounded and withstands floods."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.store.notices import campaign_tag
from service.cache import (
    ANY_CAMPAIGN,
    ANY_DEFINITION,
    PAGES_PER_TAG_MAX,
    RESPONSE_OVERHEAD_BYTES,
    Cache,
    CachedPage,
    PageRead,
    key_of,
)
from service.cached_responses import Target, cached_response
from service.cards import CARD_BYTES_MAX, CARD_OVERHEAD_BYTES, NOT_CACHED
from service.content_codings import COMPRESS_BYTES_MIN, ContentCoding
from service.representation import PageContent, Representation

CAMPAIGNS = tuple(f"00000000-0000-4000-8000-{number:012x}" for number in range(3))
TAGS = ("c1", "c2", *map(campaign_tag, CAMPAIGNS), *(f"d{campaign[-12:]}" for campaign in CAMPAIGNS))


def path(number: int) -> str:
    return f"/customers/00000000-0000-4000-8000-{number:012x}/campaigns"


def key(number: int) -> str:
    return key_of(None, path(number), b"")


def page_at(position: int, *tags: str, campaigns: Sequence[str] = ()) -> PageRead:
    return PageRead(PageContent(0), campaigns, tags or ("c1",), position)


def enabled_cache(bytes_max: int = 10**6, position: int = 0) -> Cache:
    cache = Cache(bytes_max)
    cache.enable(position)
    return cache


def put(cache: Cache, number: int, read: PageRead) -> CachedPage | None:
    return cache.put(key(number), read, cache.begin_read())


class Process:
    """A database whose commits change tags, and a cache that receives its notices late."""

    def __init__(self) -> None:
        self.cache = enabled_cache()
        self.commits: list[frozenset[str]] = []
        self.notified = 0
        self.reading: dict[int, tuple[PageRead, int | None]] = {}
        self.fetching: tuple[list[tuple[str, bytes | None]], int, int | None] | None = None

    def last_change(self, tag: str, through: int) -> int:
        """The last position up to `through` at which the tag changed; any campaign's change counts for `g*`."""
        commits = enumerate(self.commits[:through], start=1)
        return max((at for at, tags in commits if tag in tags or (tag[1] == "*" and _has(tags, tag[0]))), default=0)

    def json(self, campaign: str, at: int) -> bytes | None:
        """The campaign's card at a position; two of them are worth compressing, and some are too large."""
        changed = self.last_change(campaign_tag(campaign), at)
        return None if changed % 7 == 6 else b"%0500d" % changed

    def commit(self, tags: frozenset[str]) -> None:
        definitions = {tag for tag in tags if tag[0] == "d"}
        self.commits.append(tags | {"g" + tag[1:] for tag in definitions})

    def notify(self, count: int) -> None:
        for _ in range(min(count, len(self.commits) - self.notified)):
            self.notified += 1
            self.cache.invalidate(self.commits[self.notified - 1], self.notified)
            self.cache.advance(self.notified)

    def notify_in_part(self) -> None:
        """Deliver one of the several notices of a batch."""
        if self.notified < len(self.commits) and (tags := sorted(self.commits[self.notified])):
            self.cache.invalidate(tags[:1], self.notified + 1)

    def limit(self, bytes_max: int) -> None:
        self.cache.limit(bytes_max)

    def snapshot(self, lag: int) -> int:
        """The position that a read sees: the last commit's, or an earlier one on a replica."""
        return max(0, len(self.commits) - lag)

    def put_together(self, number: int, read: PageRead, lag: int) -> None:
        """Read and cache a page together with its cards."""
        at, token = self.snapshot(lag), self.cache.begin_read()
        if self.cache.put(key(number), read._replace(position=at), token) is not None:
            self.cache.put_cards([(campaign, self.json(campaign, at)) for campaign in read.campaign_ids], at, token)

    def begin_page(self, number: int, read: PageRead, lag: int) -> None:
        self.reading[number] = read._replace(position=self.snapshot(lag)), self.cache.begin_read()

    def end_page(self, number: int) -> None:
        if number in self.reading:
            self.cache.put(key(number), *self.reading.pop(number))

    def begin_cards(self, lag: int) -> None:
        if self.fetching is None and self.cache.cards._anything_wanted.is_set():
            wanted, at = self.cache.cards.take_wanted(2), self.snapshot(lag)
            assert wanted
            self.fetching = [(campaign, self.json(campaign, at)) for campaign in wanted], at, self.cache.begin_read()

    def end_cards(self) -> None:
        if self.fetching is not None:
            self.cache.put_cards(*self.fetching)
            self.fetching = None

    def flush(self) -> None:
        self.cache.flush()

    def reconnect(self) -> None:
        self.cache.disable()
        assert self.cache.begin_read() is None
        self.notified = len(self.commits)
        self.cache.enable(self.notified)

    def respond(self, number: int, coding: ContentCoding | None) -> None:
        """Serve a cached page, as the fast path does: what is kept is what would be made of the cards now."""
        page = self.cache.get(key(number))
        if page is not None:
            target = Target(path(number), b"", coding)
            served = cached_response(self.cache, page, target, keep=True)
            assert served == cached_response(self.cache, page, target, keep=False)
            page.responses, kept = (), page.responses
            assert served == cached_response(self.cache, page, target, keep=False)
            page.responses = kept

    def check(self, number: int) -> None:
        page = self.cache.get(key(number))
        if page is None:
            return
        at = self.cache.applied_through
        assert all(self.last_change(tag, at) <= page.position <= at for tag in page.tags)
        assert [card.json for card in page.cards] == [self.json(card.campaign_id, at) for card in page.cards]


def _has(tags: frozenset[str], kind: str) -> bool:
    return any(tag[0] == kind for tag in tags)


PAGES = st.builds(
    page_at,
    st.just(0),
    st.sampled_from(("c1", "c2")),
    st.sampled_from((*TAGS, ANY_CAMPAIGN, ANY_DEFINITION)),
    campaigns=st.lists(st.sampled_from(CAMPAIGNS), unique=True),
)
NUMBERS = st.integers(0, 3)
LAGS = st.sampled_from((0, 0, 1, 3))
CODINGS: tuple[ContentCoding | None, ...] = (None, "gzip", "zstd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.frozensets(st.sampled_from(TAGS))),
        st.tuples(st.just("notify"), st.integers(1, 3)),
        st.tuples(st.just("notify_in_part")),
        st.tuples(st.just("limit"), st.sampled_from((3_000, 10**6))),
        st.tuples(st.just("put_together"), NUMBERS, PAGES, LAGS),
        st.tuples(st.just("begin_page"), NUMBERS, PAGES, LAGS),
        st.tuples(st.just("end_page"), NUMBERS),
        st.tuples(st.just("begin_cards"), LAGS),
        st.tuples(st.just("end_cards")),
        st.tuples(st.just("check"), NUMBERS),
        st.tuples(st.just("respond"), NUMBERS, st.sampled_from(CODINGS)),
        st.tuples(st.just("flush")),
        st.tuples(st.just("reconnect")),
    ),
    max_size=80,
)


@given(STEPS)
@settings(max_examples=1500, deadline=None)
def test_a_cached_page_is_one_snapshot_of_what_was_committed(steps: list[tuple[object, ...]]) -> None:
    """Notices arrive late, reads of pages and cards take time, replicas lag, and lookups happen at any moment."""
    process = Process()
    for name, *arguments in steps:
        getattr(process, str(name))(*arguments)
        assert_accounts_agree(process.cache)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_every_page_becomes_exact_once_its_cards_are_fetched(steps: list[tuple[object, ...]]) -> None:
    process = Process()
    for name, *arguments in steps:
        getattr(process, str(name))(*arguments)
    process.end_cards()
    process.notify(len(process.commits))
    while process.cache.cards._wanted:
        process.begin_cards(lag=0)
        process.end_cards()
    for pages in (process.cache._probation, process.cache._protected):
        for page in pages.values():
            assert process.cache.is_exact(page) or any(card.exact_from == NOT_CACHED for card in page.cards)


def assert_accounts_agree(cache: Cache) -> None:
    """Every byte counter equals the sum over what is held, and no card is kept that no page shows."""
    pages = [*cache._probation.values(), *cache._protected.values()]
    assert cache._pages_bytes == sum(page.size for page in pages)
    responses = [response for page in pages for response in page.responses]
    assert cache._responses_bytes == sum(len(response.body) + RESPONSE_OVERHEAD_BYTES for response in responses)
    for page in pages:
        codings = [response.coding for response in page.responses]
        assert len(codings) == len(set(codings))
    shown = [card for page in pages for card in page.cards]
    kept = [card for cards in cache.cards._by_tag.values() for card in cards]
    assert cache.cards.bytes_used == sum(len(card.json) + CARD_OVERHEAD_BYTES for card in kept)
    assert cache.cards._anything_wanted.is_set() == bool(cache.cards._wanted)
    assert cache.cards._wanted.keys() <= {card.campaign_id for card in kept}
    assert set(cache._with_responses) == {page for page in pages if page.responses}
    assert {id(card) for card in shown} == {id(card) for card in kept}
    assert all(card.pages == sum(other is card for other in shown) for card in kept)
    assert {key for keys in cache._by_tag.values() for key in ({keys} if isinstance(keys, str) else keys)} == {
        page.key for page in pages
    }


def test_a_campaigns_change_outdates_its_card_and_no_page() -> None:
    cache = enabled_cache()
    page = put(cache, 1, page_at(0, "c1", campaigns=CAMPAIGNS[:1]))
    cache.put_cards([(CAMPAIGNS[0], b"old")], 0, cache.begin_read())
    assert cache.get(key(1)) is page
    cache.invalidate([campaign_tag(CAMPAIGNS[0])], 1)
    cache.advance(1)
    assert cache.get(key(1)) is None
    assert cache.cards.take_wanted(10) == [CAMPAIGNS[0]]
    cache.put_cards([(CAMPAIGNS[0], b"new")], 1, cache.begin_read())
    assert cache.get(key(1)) is page
    assert page is not None
    assert page.cards[0].json == b"new"


def test_a_card_newer_than_the_last_notice_is_not_shown_yet() -> None:
    cache = enabled_cache()
    page = put(cache, 1, page_at(0, "c1", campaigns=CAMPAIGNS[:1]))
    cache.put_cards([(CAMPAIGNS[0], b"of 2")], 2, cache.begin_read())
    assert cache.get(key(1)) is None
    cache.advance(2)
    assert cache.get(key(1)) is page


def test_a_response_is_kept_until_one_of_its_cards_changes() -> None:
    cache = enabled_cache()
    page = put(cache, 1, page_at(0, "c1", campaigns=CAMPAIGNS[:1]))
    assert page is not None
    cache.put_cards([(CAMPAIGNS[0], b"1")], 0, cache.begin_read())
    response = Representation(b"body", '"tag"', revision=page.cards[0].revision)
    cache.keep_response(page, response)
    assert page.responses == (response,)
    assert cache.bytes_used > page.size
    cache.invalidate(["c1"], 1)
    assert cache.bytes_used == 0


def test_a_page_keeps_one_response_for_each_coding() -> None:
    cache, page = cache_with_a_page(card_bytes=COMPRESS_BYTES_MIN)
    served = {coding: response_of(cache, page, coding) for coding in CODINGS}
    assert [response.coding for response in served.values()] == list(CODINGS)
    assert all(response_of(cache, page, coding) is served[coding] for coding in CODINGS)
    cache.keep_response(page, served["gzip"])
    assert len(page.responses) == len(CODINGS)
    assert_accounts_agree(cache)


def test_a_small_response_is_kept_once_for_all_codings() -> None:
    cache, page = cache_with_a_page(card_bytes=10)
    first = response_of(cache, page, "zstd")
    assert first.coding is None
    assert all(response_of(cache, page, coding) is first for coding in CODINGS)
    assert page.responses == (first,)


def test_a_new_content_drops_the_kept_responses_of_all_codings() -> None:
    cache, page = cache_with_a_page(card_bytes=COMPRESS_BYTES_MIN)
    outdated = [response_of(cache, page, coding) for coding in CODINGS]
    cache.put_cards([(CAMPAIGNS[0], b"small")], 0, cache.begin_read())
    small = response_of(cache, page, "gzip")
    assert b"small" in small.body
    assert small not in outdated
    assert page.responses == (small,)
    assert_accounts_agree(cache)


def cache_with_a_page(card_bytes: int) -> tuple[Cache, CachedPage]:
    cache = enabled_cache()
    page = put(cache, 1, page_at(0, "c1", campaigns=CAMPAIGNS[:1]))
    assert page is not None
    cache.put_cards([(CAMPAIGNS[0], b"1" * card_bytes)], 0, cache.begin_read())
    return cache, page


def response_of(cache: Cache, page: CachedPage, coding: ContentCoding | None) -> Representation:
    assert cache.is_exact(page)
    response = cached_response(cache, page, Target(path(1), b"", coding), keep=True)
    assert response is not None
    return response


def test_an_unknown_or_very_large_card_is_remembered_as_unkept() -> None:
    cache = enabled_cache()
    page = put(cache, 1, page_at(0, "c1", campaigns=CAMPAIGNS[:1]))
    assert page is not None
    assert cache.cards.take_wanted(10) == [CAMPAIGNS[0]]
    cache.put_cards([(CAMPAIGNS[0], None)], 0, cache.begin_read())
    assert page.cards[0].exact_from == NOT_CACHED
    assert cache.cards.take_wanted(10) == []
    assert not cache.is_exact(page)


def test_a_card_read_at_a_changes_position_is_not_fetched_again() -> None:
    """A snapshot usually contains a commit before its notice arrives."""
    cache = enabled_cache()
    page = put(cache, 1, page_at(1, "c1", campaigns=CAMPAIGNS[:1]))
    cache.put_cards([(CAMPAIGNS[0], b"new")], 1, cache.begin_read())
    cache.invalidate([campaign_tag(CAMPAIGNS[0]), "c1"], 1)
    cache.advance(1)
    assert cache.get(key(1)) is page
    assert cache.cards.take_wanted(10) == []


def test_a_page_that_is_too_large_keeps_no_cards() -> None:
    cache = enabled_cache()
    page = put(cache, 1, page_at(0, "c1", campaigns=CAMPAIGNS))
    assert page is not None
    cards = [(campaign, b"x" * CARD_BYTES_MAX) for campaign in CAMPAIGNS]
    cache.put_cards(cards, 0, cache.begin_read())
    cache.mark_too_large(page)
    assert cache.bytes_used == page.size
    assert cache.find(key(1)) is page


def test_a_flood_of_distinct_requests_does_not_evict_useful_pages() -> None:
    cache = enabled_cache(bytes_max=200_000)
    useful = range(20)
    for number in useful:
        put(cache, number, page_at(0, "c1", campaigns=CAMPAIGNS))
        assert cache.find(key(number)) is not None
    for number in range(1_000, 6_000):
        put(cache, number, page_at(0, "c2"))
        assert cache.bytes_used <= 200_000
    assert all(cache.find(key(number)) for number in useful)


def test_responses_are_evicted_before_pages() -> None:
    cache = enabled_cache(bytes_max=400_000)
    pages = [put(cache, number, page_at(0, "c1")) for number in range(100)]
    for page in pages:
        assert page is not None
        cache.keep_response(page, Representation(b"x" * 5_000, '"tag"'))
    assert cache.bytes_used <= 400_000
    assert all(page is not None and page.cached for page in pages)


def test_invalidated_pages_are_removed_completely() -> None:
    cache = enabled_cache()
    for number in range(100):
        put(cache, number, page_at(0, f"c{number}", ANY_CAMPAIGN, campaigns=CAMPAIGNS))
    cache.invalidate([campaign_tag("another")], 1)
    assert cache.bytes_used == 0
    assert cache._by_tag == {}


@pytest.mark.parametrize("tag", ["c1", ANY_DEFINITION])
def test_one_change_removes_a_limited_number_of_pages(tag: str) -> None:
    cache = enabled_cache(bytes_max=10**9)
    for number in range(PAGES_PER_TAG_MAX + 10):
        assert put(cache, number, page_at(0, f"c{number}", tag)) is not None
    kept = [number for number in (0, 9, 10, PAGES_PER_TAG_MAX + 9) if cache.find(key(number)) is not None]
    assert kept == [10, PAGES_PER_TAG_MAX + 9]
    cache.invalidate(["c1", "d1"], 1)
    assert cache.bytes_used == 0


def test_a_lagging_servers_page_is_not_cached_after_a_flush() -> None:
    """The flush was notified at position 9; a standby that has applied 8 still returns the earlier state."""
    cache = enabled_cache(position=5)
    cache.flush(9)
    cache.advance(9)
    assert put(cache, 1, page_at(8, "c1")) is None
    assert put(cache, 1, page_at(9, "c1")) is not None


def test_a_change_reported_before_the_listener_was_lost_still_counts() -> None:
    """Replicas are read meanwhile: none may answer without it."""
    cache = enabled_cache(position=5)
    cache.invalidate(["c1"], 7)
    cache.advance(7)
    cache.disable()
    assert (cache.last_change(["c1"]), cache.last_change(["c2"])) == (7, 5)
    cache.enable(9)
    assert cache.last_change(["c1"]) == 9


def test_a_lower_limit_evicts_pages_beyond_it() -> None:
    cache = enabled_cache()
    for number in range(100):
        put(cache, number, page_at(0, "c1"))
    cache.limit(20_000)
    assert 0 < cache.bytes_used <= 20_000


WAKING: dict[str, Callable[[Cache], object]] = {
    "a notice": lambda cache: cache.invalidate(["c1"], 1),
    "the last notice of a batch": lambda cache: cache.advance(1),
    "cards": lambda cache: cache.put_cards([], 1, cache.begin_read()),
    "a flush": lambda cache: cache.flush(),
}


@pytest.mark.parametrize("step", WAKING)
async def test_whatever_may_complete_a_page_wakes_its_reader(step: str) -> None:
    cache = enabled_cache()
    waiting = asyncio.create_task(cache.wait_for_progress(30))
    await asyncio.sleep(0)
    WAKING[step](cache)
    await asyncio.wait_for(waiting, 5)


def test_requests_with_unusual_characters_have_keys_of_their_own() -> None:
    requests = [(None, "/a?b", b""), (None, "/a", b"b"), (None, "/a", b"b?"), ("s", "/a", b""), (None, "s\n/a", b"")]
    assert len({key_of(*request) for request in requests}) == len(requests)
