"""What is remembered is exact at the position it is given out for, bounded, and does not give way to a flood."""

from hypothesis import given, settings
from hypothesis import strategies as st

from service.cache import Cache, Key
from service.representation import Representation

TAGS = ("c1", "c2", "g1", "g2", "g3")


def key(number: int) -> Key:
    return Key(None, f"/customers/{number}/campaigns", b"", gzip=False)


def answer(position: int, size: int = 100) -> Representation:
    return Representation(b"x" * size, '"tag"', position)


def listening(bytes_max: int = 10**6, position: int = 0) -> Cache:
    cache = Cache(bytes_max)
    cache.enable(position)
    return cache


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.sets(st.sampled_from(TAGS))),
        st.tuples(st.just("hear"), st.integers(1, 3)),
        st.tuples(st.just("begin"), st.integers(0, 3), st.frozensets(st.sampled_from(TAGS), min_size=1)),
        st.tuples(st.just("end"), st.integers(0, 3)),
        st.tuples(st.just("find"), st.integers(0, 3)),
        st.tuples(st.just("flush")),
        st.tuples(st.just("relisten")),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=1500, deadline=None)
def test_no_answer_is_older_than_the_position_it_is_given_out_for(  # noqa: C901 - one arm a step
    steps: list[tuple[object, ...]],
) -> None:
    """Commits are told late, reads take their time, answers are looked for at any moment: as in a real process."""
    cache = listening()
    commits: list[set[str]] = []
    heard = 0
    changed = dict.fromkeys(TAGS, 0)
    reading: dict[int, tuple[Representation, frozenset[str], int | None]] = {}
    tags_of: dict[int, frozenset[str]] = {}
    for name, *given_ in steps:
        match name:
            case "commit":
                commits.append(given_[0])  # type: ignore[arg-type]
                changed |= dict.fromkeys(commits[-1], len(commits))
            case "hear":
                for _ in range(given_[0]):  # type: ignore[call-overload]
                    if heard < len(commits):
                        heard += 1
                        cache.invalidate(commits[heard - 1], heard)
                        cache.advance(heard)
            case "begin":
                reading[given_[0]] = (answer(len(commits)), given_[1], cache.begin_read())  # type: ignore[index,assignment]
            case "end" if given_[0] in reading:
                found, tags, before = reading.pop(given_[0])  # type: ignore[call-overload]
                tags_of[given_[0]] = tags  # type: ignore[index]
                cache.put(key(given_[0]), found, tags, before)  # type: ignore[arg-type]
            case "find":
                held = cache.get(key(given_[0]))  # type: ignore[arg-type]
                if held is not None:
                    last_change = max(at for tag in tags_of[given_[0]] for at in [_last(commits, tag, held[1])])  # type: ignore[index]
                    assert held[0].position >= last_change
            case "flush":
                cache.flush()
            case "relisten":
                cache.disable()
                assert cache.begin_read() is None
                heard = len(commits)
                cache.enable(heard)


def _last(commits: list[set[str]], tag: str, through: int) -> int:
    return max((at for at, tags in enumerate(commits[:through], start=1) if tag in tags), default=0)


def test_a_change_of_one_campaign_forgets_the_pages_that_show_it_and_no_other() -> None:
    cache = listening()
    cache.put(key(1), answer(0), frozenset({"c1", "g1"}), cache.begin_read())
    cache.put(key(2), answer(0), frozenset({"c2", "g2"}), cache.begin_read())
    cache.invalidate(["g1"], 1)
    cache.advance(1)
    assert cache.get(key(1)) is None
    assert cache.get(key(2)) == (answer(0), 1)


def test_a_flood_of_distinct_requests_neither_grows_nor_evicts_what_is_asked_for() -> None:
    cache = listening(bytes_max=200_000)
    useful = range(20)
    for number in useful:
        cache.put(key(number), answer(0), frozenset({"c1"}), cache.begin_read())
        assert cache.get(key(number)) is not None
    for number in range(1_000, 6_000):
        cache.put(key(number), answer(0), frozenset({"c2"}), cache.begin_read())
        assert cache.bytes_used <= 200_000
    assert all(cache.get(key(number)) for number in useful)


def test_what_is_forgotten_leaves_nothing_behind() -> None:
    cache = listening()
    for number in range(100):
        cache.put(key(number), answer(0), frozenset({f"c{number}", "g"}), cache.begin_read())
    cache.invalidate(["g"], 1)
    assert cache.bytes_used == 0
    assert cache._by_tag == {}


def test_an_answer_too_large_for_the_small_queue_is_not_held() -> None:
    cache = listening(bytes_max=10_000)
    cache.put(key(1), answer(0, size=9_000), frozenset({"c1"}), cache.begin_read())
    assert cache.get(key(1)) is None


def test_what_a_lagging_server_says_after_a_flush_is_not_remembered() -> None:
    """The flush was notified at position 9; a standby that has applied 8 still shows what was before it."""
    cache = listening(position=5)
    cache.flush(9)
    cache.advance(9)
    cache.put(key(1), answer(8), frozenset({"c1"}), cache.begin_read())
    assert cache.get(key(1)) is None
    cache.put(key(1), answer(9), frozenset({"c1"}), cache.begin_read())
    assert cache.get(key(1)) == (answer(9), 9)


def test_the_text_of_a_tag_is_shared_by_answers_and_freed_with_them() -> None:
    cache = listening()
    for number in range(3):
        cache.put(key(number), answer(0), frozenset({"c" + str(10**12)}), cache.begin_read())
    held = [cache._probation[key(number)].tags[0] for number in range(3)]
    assert held[0] is held[1] is held[2]
    cache.flush()
    assert all(tag is not held[0].name for tag in cache._by_tag)


def test_a_lower_limit_drops_what_is_beyond_it() -> None:
    cache = listening()
    for number in range(100):
        cache.put(key(number), answer(0), frozenset({"c1"}), cache.begin_read())
    cache.limit(20_000)
    assert 0 < cache.bytes_used <= 20_000
