"""Cursors older than configured are refused; by default they state no age and never expire."""

from pathlib import Path

import httpx
import pytest

from service.paging import Cursor, CursorAges, DatedCursor, read_cursor, write_cursor
from tests.support.processes import System, eventually
from tests.support.scenario import Scenario, another_api, locs, path_of

KEY = b"k" * 32
MAX_S = 100
TOO_OLD = "Value error, the cursor is too old; start without one"


class Clock:
    """A time that only the test changes."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def sent_and_returned(ages: CursorAges) -> Cursor:
    """Return a new cursor as a caller would send it back."""
    cursor = read_cursor(write_cursor(ages.cursor(b"request", None, "campaign"), KEY), KEY)
    assert cursor is not None
    return cursor


def test_without_a_limit_a_cursor_states_no_time() -> None:
    ages = CursorAges(0)
    cursor = sent_and_returned(ages)
    assert not isinstance(cursor, DatedCursor)
    assert not ages.is_too_old(cursor)
    assert ages.cached_query(b"limit=1") == b"limit=1"


def test_a_cursor_expires_after_three_quarters_to_all_of_the_limit() -> None:
    clock = Clock()
    ages = CursorAges(MAX_S, clock)
    for began_s in range(1_000, 1_000 + MAX_S):
        clock.now_s = began_s
        cursor = sent_and_returned(ages)
        clock.now_s = began_s + 0.75 * MAX_S
        assert not ages.is_too_old(cursor)
        clock.now_s = began_s + MAX_S + 0.1
        assert ages.is_too_old(cursor)


def test_a_cursor_without_a_time_is_too_old_once_there_is_a_limit() -> None:
    assert CursorAges(MAX_S).is_too_old(sent_and_returned(CursorAges(0)))
    assert not CursorAges(0).is_too_old(sent_and_returned(CursorAges(MAX_S)))


async def test_an_old_cursor_is_refused_and_a_new_page_has_a_valid_one(
    scenario: Scenario, system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = scenario.member_of(*(scenario.campaign(f"listed {number}") for number in range(3)))
    await scenario.publish_and_wait()
    undated = (await scenario.page(customer, limit=1))["meta"]["next_cursor"]
    monkeypatch.setenv("MEMBERSHIP_CURSOR_AGE_MAX_S", "4")
    async with another_api(system, tmp_path) as client:

        async def page(cursor: str | None = None) -> httpx.Response:
            parameters = {"limit": "1"} if cursor is None else {"limit": "1", "cursor": cursor}
            return await client.get(path_of(customer), params=parameters, headers=scenario.as_admin())

        async def is_refused(cursor: str) -> bool:
            reply = await page(cursor)
            if reply.status_code == 200:
                return False
            assert locs(reply) == [["query", "cursor"]]
            return bool(reply.json()["detail"][0]["msg"] == TOO_OLD)

        assert await is_refused(undated)
        first = (await page()).json()["meta"]["next_cursor"]
        await eventually(lambda: is_refused(first), "the cursor is too old")
        second = (await page()).json()["meta"]["next_cursor"]
        assert second != first, "a page from memory has a cursor of its period"
        assert (await page(second)).status_code == 200
