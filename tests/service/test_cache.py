"""Cached responses are exact at the position they are served with; the cache is bounded and withstands floods."""

from hypothesis import given, settings
from hypothesis import strategies as st

from service.cache import Cache, Key
from service.representation import Representation

TAGS = ("c1", "c2", "g1", "g2", "g3")


def key(number: int) -> Key:
    return Key(None, f"/customers/{number}/campaigns", b"", gzip=False)


def response_at(position: int, size: int = 100) -> Representation:
    return Representation(b"x" * size, '"tag"', position)


def enabled_cache(bytes_max: int = 10**6, position: int = 0) -> Cache:
    cache = Cache(bytes_max)
    cache.enable(position)
    return cache


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.sets(st.sampled_from(TAGS))),
        st.tuples(st.just("notify"), st.integers(1, 3)),
        st.tuples(st.just("begin"), st.integers(0, 3), st.frozensets(st.sampled_from(TAGS), min_size=1)),
        st.tuples(st.just("end"), st.integers(0, 3)),
        st.tuples(st.just("get"), st.integers(0, 3)),
        st.tuples(st.just("flush")),
        st.tuples(st.just("reconnect")),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=1500, deadline=None)
def test_no_response_is_older_than_the_position_it_is_served_with(  # noqa: C901 - one arm a step
    steps: list[tuple[object, ...]],
) -> None:
    """As in a real process: notices arrive late, reads take time, and lookups happen at any moment."""
    cache = enabled_cache()
    commits: list[set[str]] = []
    notified = 0
    changed = dict.fromkeys(TAGS, 0)
    reading: dict[int, tuple[Representation, frozenset[str], int | None]] = {}
    tags_of: dict[int, frozenset[str]] = {}
    for name, *arguments in steps:
        match name:
            case "commit":
                commits.append(arguments[0])  # type: ignore[arg-type]
                changed |= dict.fromkeys(commits[-1], len(commits))
            case "notify":
                for _ in range(arguments[0]):  # type: ignore[call-overload]
                    if notified < len(commits):
                        notified += 1
                        cache.invalidate(commits[notified - 1], notified)
                        cache.advance(notified)
            case "begin":
                reading[arguments[0]] = (response_at(len(commits)), arguments[1], cache.begin_read())  # type: ignore[index,assignment]
            case "end" if arguments[0] in reading:
                representation, tags, cache_token = reading.pop(arguments[0])
                tags_of[arguments[0]] = tags
                cache.put(key(arguments[0]), representation, tags, cache_token)
            case "get":
                cached = cache.get(key(arguments[0]))  # type: ignore[arg-type]
                if cached is not None:
                    last_change = max(at for tag in tags_of[arguments[0]] for at in [_last(commits, tag, cached[1])])  # type: ignore[index]
                    assert cached[0].position >= last_change
            case "flush":
                cache.flush()
            case "reconnect":
                cache.disable()
                assert cache.begin_read() is None
                notified = len(commits)
                cache.enable(notified)


def _last(commits: list[set[str]], tag: str, through: int) -> int:
    return max((at for at, tags in enumerate(commits[:through], start=1) if tag in tags), default=0)


def test_a_campaign_change_drops_only_the_pages_that_show_it() -> None:
    cache = enabled_cache()
    cache.put(key(1), response_at(0), frozenset({"c1", "g1"}), cache.begin_read())
    cache.put(key(2), response_at(0), frozenset({"c2", "g2"}), cache.begin_read())
    cache.invalidate(["g1"], 1)
    cache.advance(1)
    assert cache.get(key(1)) is None
    assert cache.get(key(2)) == (response_at(0), 1)


def test_a_flood_of_distinct_requests_does_not_evict_useful_entries() -> None:
    cache = enabled_cache(bytes_max=200_000)
    useful = range(20)
    for number in useful:
        cache.put(key(number), response_at(0), frozenset({"c1"}), cache.begin_read())
        assert cache.get(key(number)) is not None
    for number in range(1_000, 6_000):
        cache.put(key(number), response_at(0), frozenset({"c2"}), cache.begin_read())
        assert cache.bytes_used <= 200_000
    assert all(cache.get(key(number)) for number in useful)


def test_invalidated_entries_are_removed_completely() -> None:
    cache = enabled_cache()
    for number in range(100):
        cache.put(key(number), response_at(0), frozenset({f"c{number}", "g"}), cache.begin_read())
    cache.invalidate(["g"], 1)
    assert cache.bytes_used == 0
    assert cache._by_tag == {}


def test_a_response_too_large_for_the_small_queue_is_not_cached() -> None:
    cache = enabled_cache(bytes_max=10_000)
    cache.put(key(1), response_at(0, size=9_000), frozenset({"c1"}), cache.begin_read())
    assert cache.get(key(1)) is None


def test_a_lagging_servers_response_is_not_cached_after_a_flush() -> None:
    """The flush was notified at position 9; a standby that has applied 8 still returns the earlier state."""
    cache = enabled_cache(position=5)
    cache.flush(9)
    cache.advance(9)
    cache.put(key(1), response_at(8), frozenset({"c1"}), cache.begin_read())
    assert cache.get(key(1)) is None
    cache.put(key(1), response_at(9), frozenset({"c1"}), cache.begin_read())
    assert cache.get(key(1)) == (response_at(9), 9)


def test_a_tags_text_is_shared_by_its_entries_and_freed_with_them() -> None:
    cache = enabled_cache()
    for number in range(3):
        cache.put(key(number), response_at(0), frozenset({"c" + str(10**12)}), cache.begin_read())
    tags = [cache._probation[key(number)].tags[0] for number in range(3)]
    assert tags[0] is tags[1] is tags[2]
    cache.flush()
    assert all(tag is not tags[0].name for tag in cache._by_tag)


def test_a_lower_limit_evicts_entries_beyond_it() -> None:
    cache = enabled_cache()
    for number in range(100):
        cache.put(key(number), response_at(0), frozenset({"c1"}), cache.begin_read())
    cache.limit(20_000)
    assert 0 < cache.bytes_used <= 20_000
