"""Expensive reads: a bounded number at a time, shared among callers, and rejected after a bounded wait."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from service.fast_path import _EXPENSIVE
from service.read_model import admission as admissions
from service.read_model.admission import EXPECTED_WAIT_MAX_S, WAITING_PER_SLOT_MAX, Admission, Overloaded

SLOTS = 4
SOON_S = 5


async def test_a_caller_holds_at_most_half_of_the_slots() -> None:
    admission = Admission(SLOTS)
    greedy = [asyncio.create_task(admission.admit("greedy")) for _ in range(20)]
    await asyncio.sleep(0)
    assert sum(task.done() for task in greedy) == SLOTS // 2
    async with asyncio.timeout(SOON_S), AsyncExitStack() as slots:
        for _ in range(SLOTS // 2):
            await slots.enter_async_context(admission.slot("other"))
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)


async def test_free_slots_go_to_the_waiting_callers_in_turn() -> None:
    admission = Admission(2)
    order: list[str] = []

    async def read(caller: str) -> None:
        async with admission.slot(caller):
            order.append(caller)
            await asyncio.sleep(0)

    await asyncio.gather(*(read(caller) for caller in ["a"] * 8 + ["b"] * 4 + ["c"] * 4))
    assert min(Counter(order[:9])[caller] for caller in "abc") >= 2
    assert admission._free == 2
    assert not admission._holding
    assert not admission._queues


async def test_a_wait_that_times_out_is_rejected_and_leaves_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admissions, "WAIT_MAX_S", 0.01)
    admission = Admission(SLOTS)
    slots = [await admission.admit("greedy") for _ in range(SLOTS // 2)]
    with pytest.raises(Overloaded):
        await admission.admit("greedy")
    for slot in slots:
        slot.release()
        slot.release()
    assert admission._free == SLOTS
    assert not admission._queues
    assert admission._waiting == 0


async def test_a_caller_occupies_at_most_half_of_the_waiting_places() -> None:
    admission = Admission(SLOTS)
    places = SLOTS * WAITING_PER_SLOT_MAX // 2
    greedy = [asyncio.create_task(admission.admit("greedy")) for _ in range(SLOTS // 2 + places)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await admission.admit("greedy")
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)


async def test_the_first_read_of_an_admitted_request_uses_its_slot() -> None:
    admission = Admission(2)
    async with admission.admitted("caller"):
        async with admission.slot("caller"):
            assert admission._free == 1
        assert admission._free == 2, "the slot is free again before the response is sent"
        async with admission.slot("caller"):
            assert admission._free == 1
    assert admission._free == 2


@pytest.mark.parametrize(
    ("query", "expensive"),
    [
        (b"q=a", True),
        (b"limit=5&q=a", True),
        (b"sort_field=name", True),
        (b"date_from=2026-01-01", True),
        (b"", False),
        (b"q=", False),
        (b"sort_field=enrolled_at&limit=5", False),
        (b"sort_dir=asc&cursor=q", False),
        (b"include_deleted=1", False),
    ],
)
def test_expensive_queries_are_recognized_before_parsing(query: bytes, expensive: bool) -> None:
    assert bool(_EXPENSIVE.search(query)) == expensive


async def test_a_read_that_would_wait_too_long_is_rejected_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = Admission(SLOTS)
    monkeypatch.setattr(admission, "_held_s", EXPECTED_WAIT_MAX_S)
    greedy = [asyncio.create_task(admission.admit("greedy")) for _ in range(20)]
    await asyncio.sleep(0)
    rejected = [task for task in greedy if task.done() and task.exception() is not None]
    assert len(rejected) == 20 - SLOTS // 2 - (SLOTS // 2 + 1), "one more than fits into the expected wait"
    assert admission.is_full_for("greedy")
    assert not admission.is_full_for("other")
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)


async def test_the_expected_wait_follows_how_long_reads_hold_a_slot() -> None:
    admission = Admission(SLOTS)
    for _ in range(3):
        async with admission.slot("caller"):
            await asyncio.sleep(0.02)
    grown = admission._held_s
    assert grown > 0
    for _ in range(100):
        async with admission.slot("caller"):
            pass
    assert admission._held_s < grown
