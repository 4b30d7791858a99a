"""Reads that wait for PostgreSQL: a bounded number, shared among callers, taken in turn."""

import asyncio
from collections import Counter

import pytest

from service.read_model.admission import Overloaded
from service.read_model.waiting import WaitingReads

PLACES = 8


def owners_of(waiting: WaitingReads, reads_max: int) -> list[str]:
    """Take a batch; return whose reads are in it."""
    return [str(read.values[0]) for read in waiting.take(reads_max)[1]]


async def filled(*owners: str, places: int = PLACES) -> tuple[WaitingReads, list[asyncio.Future[object]]]:
    waiting = WaitingReads(places)
    return waiting, [waiting.add("page", (owner,), owner) for owner in owners]  # type: ignore[misc]


async def test_a_batch_takes_the_callers_in_turn() -> None:
    waiting, _ = await filled(*"aaaaaa", "b", "c")
    assert owners_of(waiting, 4) == ["a", "b", "c", "a"]
    assert owners_of(waiting, 4) == ["a"] * 4
    assert not waiting


async def test_no_more_reads_wait_than_there_are_places() -> None:
    waiting, futures = await filled(*"aaaaaaaa")
    assert waiting.is_full
    assert waiting.is_full_for("a")
    with pytest.raises(Overloaded):
        waiting.add("page", ("a",), "a")
    assert len(list(waiting)) == PLACES
    assert not any(future.done() for future in futures)


async def test_a_new_caller_takes_the_newest_place_of_the_busiest() -> None:
    waiting, futures = await filled(*"aaaaaabb")
    assert not waiting.is_full_for("c")
    waiting.add("page", ("c",), "c")
    assert [future.done() for future in futures] == [False] * 5 + [True] + [False] * 2
    assert isinstance(futures[5].exception(), Overloaded)
    assert Counter(owners_of(waiting, PLACES)) == {"a": 5, "b": 2, "c": 1}


async def test_callers_with_equal_shares_do_not_displace_each_other() -> None:
    waiting, futures = await filled(*"abcdefgh")
    with pytest.raises(Overloaded):
        waiting.add("page", ("i",), "i")
    assert not any(future.done() for future in futures)


async def test_a_caller_is_counted_over_all_statements() -> None:
    waiting = WaitingReads(PLACES)
    for number in range(PLACES):
        waiting.add(f"statement {number % 2}", ("a",), "a")
    waiting.add("statement 0", ("b",), "b")
    assert owners_of(waiting, 2) == ["a", "b"]
    assert owners_of(waiting, PLACES) == ["a"] * 3
    assert owners_of(waiting, PLACES) == ["a"] * 3
    assert not waiting.is_full


async def test_a_read_that_was_given_up_is_not_sent() -> None:
    waiting, futures = await filled("a", "b")
    futures[0].cancel()
    assert owners_of(waiting, PLACES) == ["b"]
    assert not waiting
