"""Holds the running service, from JetStream to HTTP, against a reference that shares no code with it.

Every test publishes worlds of its own, scrambled, repeated and vandalised, so it may share the system with others.
"""

import os
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Protocol, TypeVar

import pytest

from tests.support.api_fuzz import (
    PageWalk,
    RequestCase,
    expected_of,
    invalid_cursor_cases,
    kinds,
    questions,
    too_rare,
)
from tests.support.differential import Telling, asking, demand_none, differing, in_batches
from tests.support.random_history import History
from tests.support.reference_model import SORT_FIELDS, Principal, Reference

REQUESTS = int(os.environ.get("MEMBERSHIP_TEST_REQUESTS", "1500"))
SEEDS = range(int(os.environ.get("MEMBERSHIP_TEST_SEEDS", "2")))
WALK_SEEDS = range(1000, 1000 + len(SEEDS))
"""Other worlds than those of SEEDS: the broker swallows a message id that it has just seen."""
EARLY_SHARE = 0.25
"""How many of the requests are asked when only half the world has arrived, and again at the end."""
WALKED_AT_ONCE_MAX = 8
Given = TypeVar("Given")
Result = TypeVar("Result")


class System(Protocol):
    """What the `system` fixture gives: a running broker, projector and API."""

    api_url: str
    nats_url: str
    jwt_secret: str

    async def settled(self, position: int) -> None:
        """Return once the API has applied this stream position."""

    async def parked_positions(self) -> set[int]:
        """Return the positions of all parked events."""


def demand_interesting(reference: Reference, asked: Sequence[RequestCase]) -> None:
    counted = Counter(kind for each in asked for kind in kinds(each, expected_of(reference, each)))
    assert not too_rare(counted, len(asked)), "these came up too rarely for the comparison to mean much"


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_answer_is_the_references_and_what_cannot_apply_is_parked(system: System, seed: int) -> None:
    world = History(seed)
    asked = questions(world, seed, REQUESTS)
    early = asked[: int(REQUESTS * EARLY_SHARE)]
    late = asked[: REQUESTS - len(early)]
    delivery = world.scrambled(seed)
    telling = Telling(system)
    async with asking(system) as asker:
        await telling.tell(delivery[: len(delivery) // 2])
        found = await differing(asker, telling.reference, early)
        await telling.tell(delivery[len(delivery) // 2 :])
        assert telling.reference.model == world.final()
        found += await differing(asker, telling.reference, late)
    demand_interesting(telling.reference, late)
    demand_none(await telling.parked_otherwise() + found, f"world {seed}")


@pytest.mark.parametrize("seed", WALK_SEEDS)
async def test_all_pages_end_to_end_are_the_references_whole_listing(system: System, seed: int) -> None:
    world = History(seed)
    telling = Telling(system)
    await telling.tell(world.scrambled(seed))
    async with asking(system) as asker:

        async def walk(question: RequestCase) -> list[PageWalk]:
            walks = [PageWalk(asker, telling.reference, question) for _ in range(3)]
            await walks[0].by_cursor()
            await walks[1].by_links()
            await walks[2].by_offset()
            return walks

        walked = await in_batches(walk, listings(world), WALKED_AT_ONCE_MAX)
    walks = [each for three in walked for each in three]
    demand_none([found for walking in walks for found in walking.found], f"world {seed}")
    assert sum(walking.pages for walking in walks) > 2 * len(walks), "hardly any listing had two pages"


@pytest.mark.parametrize("seed", WALK_SEEDS)
async def test_a_cursor_serves_only_the_request_and_the_caller_it_was_made_for(system: System, seed: int) -> None:
    world = History(seed + 1000)
    telling = Telling(system)
    await telling.tell(world.scrambled(seed))
    owner = Principal(owner_of_first(world), is_admin=False)
    admin = Principal(world.stranger, is_admin=True)
    question = RequestCase(admin, f"/customers/{world.customers[0]}/campaigns", (("limit", "2"),))
    async with asking(system) as asker:
        cursor = (await asker.ask(question)).json()["meta"]["next_cursor"]
        for misuse in invalid_cursor_cases(question, cursor, [owner]):
            response = await asker.ask(misuse)
            assert response.status_code == 422, f"{misuse.target} as {misuse.principal}: {response.text}"
            assert "detail" in response.json()


def owner_of_first(world: History) -> str:
    _, customer = world.final()["customer"][world.customers[0]]
    owner: str = customer["owner_id"]
    return owner


def listings(world: History) -> list[RequestCase]:
    """Return listings worth walking: each order, for admins and owners, with and without deleted, q and dates."""
    principals = (Principal(world.stranger, is_admin=True), Principal(owner_of_first(world), is_admin=False))
    flags = ((), (("include_deleted", "true"),), (("only_deleted", "true"),))
    filters = ((), (("q", "e"),), (("date_from", "2024-03-01"), ("date_to", "2024-03-08")))
    path = f"/customers/{world.customers[0]}/campaigns"
    made = []
    for number, (name, direction) in enumerate(product(SORT_FIELDS, ("asc", "desc"))):
        for nth, principal in enumerate(principals):
            drawn = number + nth * 5
            pairs = (
                ("sort_field", name),
                ("sort_dir", direction),
                ("limit", str((2, 3, 5, 7)[drawn % 4])),
                *flags[drawn // 3 % 3],
                *filters[drawn // 2 % 3],
                ("include_aggregations", "yes"),
            )
            made.append(RequestCase(principal, path, pairs))
    return made
