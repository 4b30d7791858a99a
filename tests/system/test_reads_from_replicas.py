"""The comparisons with the reference, and those of cached answers, with pages read from two replicas."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.replicated import ReplicatedSystem, replicated_system
from tests.system import test_differential as differential
from tests.system import test_hot_answers as hot_answers


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ReplicatedSystem]:
    """A primary, two standbys, projector and API."""
    async with replicated_system(tmp_path_factory.mktemp("replicas"), standbys=2) as system:
        yield system


@pytest.fixture
async def own_system(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ReplicatedSystem]:
    """The same with one standby, for a single test, whose parameter is the delay of the standby."""
    async with replicated_system(tmp_path, apply_delay=getattr(request, "param", "0")) as system:
        yield system


async def test_responses_read_from_replicas_equal_the_references(system: ReplicatedSystem) -> None:
    await differential.test_responses_and_parked_events_equal_the_references(system, seed=5000)
    assert await system.reads("replica") > 2 * await system.reads("primary")


async def test_pages_read_from_replicas_add_up_to_the_references(system: ReplicatedSystem) -> None:
    before = await system.reads("replica")
    await differential.test_the_pages_of_a_listing_add_up_to_the_references_listing(system, seed=6000)
    assert await system.reads("replica") > before + 100


async def test_no_response_is_older_than_its_position_with_a_replica(own_system: ReplicatedSystem) -> None:
    assert await hot_answers.read_while_events_arrive(own_system, seed=3) > 100
    assert await own_system.reads("replica") > 20


@pytest.mark.parametrize("own_system", ["200ms"], indirect=True)
async def test_no_response_is_older_than_its_position_with_a_late_replica(own_system: ReplicatedSystem) -> None:
    assert await hot_answers.read_while_events_arrive(own_system, seed=4) > 50
    assert await own_system.reads("primary") > 20


async def test_a_cached_response_equals_the_full_paths_with_a_replica(own_system: ReplicatedSystem) -> None:
    await hot_answers.test_a_cached_response_equals_the_full_paths_response(own_system)
    assert await own_system.reads("replica") > 5


async def test_a_repair_invalidates_what_was_read_from_a_replica(own_system: ReplicatedSystem) -> None:
    await hot_answers.test_a_repair_and_a_lost_listener_invalidate_the_cache(own_system)


@pytest.mark.parametrize("query", hot_answers.ORDERS)
async def test_cached_orders_follow_all_campaigns_with_a_replica(own_system: ReplicatedSystem, query: str) -> None:
    await hot_answers.test_cached_orders_and_searches_follow_all_campaigns(own_system, query)
