"""Holds the running service, from JetStream to HTTP, against a reference that shares no code with it.

Every test publishes worlds of its own, scrambled, repeated and vandalised, so it may share the system with others.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import product
from typing import Protocol, TypeVar

import httpx
import nats
import pytest

from tests.system.asking import (
    Asker,
    Question,
    Walk,
    compare,
    expected_of,
    kinds,
    misuses,
    questions,
    too_rare,
)
from tests.system.reference import SORT_FIELDS, Principal, Reference
from tests.system.world import Publication, World

REQUESTS = int(os.environ.get("MEMBERSHIP_TEST_REQUESTS", "1500"))
SEEDS = range(int(os.environ.get("MEMBERSHIP_TEST_SEEDS", "2")))
WALK_SEEDS = range(1000, 1000 + len(SEEDS))
"""Other worlds than those of SEEDS: the broker swallows a message id that it has just seen."""
EARLY_SHARE = 0.25
"""How many of the requests are asked when only half the world has arrived, and again at the end."""
PUBLISHED_AT_ONCE_MAX = 200
ASKED_AT_ONCE_MAX = 16
WALKED_AT_ONCE_MAX = 8
TIMEOUT_S = 30
SHOWN_MAX = 10

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


class Telling:
    """Publishes deliveries and lets the reference follow them in the order that the stream gave them."""

    def __init__(self, system: System) -> None:
        self.reference = Reference()
        self.told: dict[int, Publication] = {}
        """Position → what stands there."""
        self._system = system

    async def tell(self, publications: Sequence[Publication]) -> None:
        """Publish, apply to the reference, and wait until the service has applied it all too."""
        connection = await nats.connect(self._system.nats_url)
        try:
            stream = connection.jetstream()

            async def publish(one: Publication) -> tuple[int, Publication]:
                headers = {"Nats-Msg-Id": one.msg_id}
                receipt = await stream.publish(
                    one.subject, one.body, timeout=TIMEOUT_S, stream="MEMBERSHIP", headers=headers
                )
                assert not receipt.duplicate, f"the broker has seen message id {one.msg_id}"
                return receipt.seq, one

            placed = dict(await in_batches(publish, publications, PUBLISHED_AT_ONCE_MAX))
        finally:
            await connection.close()
        for position, publication in sorted(placed.items(), key=lambda each: each[0]):
            self.reference.apply(publication.subject, publication.body, position)
        self.told |= placed
        await self._system.settled(max(placed))

    async def parked_otherwise(self) -> list[str]:
        """Name what the service parked and the reference did not, or the reverse."""
        parked = await self._system.parked_positions() & self.told.keys()
        ours = self.reference.parked.keys()
        missing = [f"not parked at {at}: {self._named(at)}" for at in sorted(ours - parked)]
        return missing + [f"parked at {at}: {self._named(at)}" for at in sorted(parked - ours)]

    def _named(self, position: int) -> str:
        publication = self.told[position]
        return f"{publication.spoiled or 'a good event'}, {publication.subject} {publication.body[:300]!r}"


async def in_batches(act: Callable[[Given], Awaitable[Result]], on: Sequence[Given], at_once_max: int) -> list[Result]:
    """Act on all, so many at a time; results come in the order of what was acted on."""
    results: list[Result] = []
    for start in range(0, len(on), at_once_max):
        results += await asyncio.gather(*(act(each) for each in on[start : start + at_once_max]))
    return results


@asynccontextmanager
async def asking(system: System) -> AsyncIterator[Asker]:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        yield Asker(client, system.api_url, system.jwt_secret)


async def differing(asker: Asker, reference: Reference, asked: Sequence[Question]) -> list[str]:
    """Ask all questions; return an account of every answer that is not the reference's."""

    async def ask(question: Question) -> str:
        return compare(expected_of(reference, question), await asker.ask(question))

    return [found for found in await in_batches(ask, asked, ASKED_AT_ONCE_MAX) if found]


def demand_none(found: list[str], about: str) -> None:
    if found:
        shown = "\n".join(found[:SHOWN_MAX])
        pytest.fail(f"{about}: {len(found)} differences, the first of them:\n{shown}", pytrace=False)


def demand_interesting(reference: Reference, asked: Sequence[Question]) -> None:
    counted = Counter(kind for each in asked for kind in kinds(each, expected_of(reference, each)))
    assert not too_rare(counted, len(asked)), "these came up too rarely for the comparison to mean much"


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_answer_is_the_references_and_what_cannot_apply_is_parked(system: System, seed: int) -> None:
    world = World(seed)
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
    world = World(seed)
    telling = Telling(system)
    await telling.tell(world.scrambled(seed))
    async with asking(system) as asker:

        async def walk(question: Question) -> list[Walk]:
            walks = [Walk(asker, telling.reference, question) for _ in range(3)]
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
    world = World(seed + 1000)
    telling = Telling(system)
    await telling.tell(world.scrambled(seed))
    owner = Principal(owner_of_first(world), is_admin=False)
    admin = Principal(world.stranger, is_admin=True)
    question = Question(admin, f"/customers/{world.customers[0]}/campaigns", (("limit", "2"),))
    async with asking(system) as asker:
        cursor = (await asker.ask(question)).json()["meta"]["next_cursor"]
        for misuse in misuses(question, cursor, [owner]):
            response = await asker.ask(misuse)
            assert response.status_code == 422, f"{misuse.target} as {misuse.principal}: {response.text}"
            assert "detail" in response.json()


def owner_of_first(world: World) -> str:
    _, customer = world.final()["customer"][world.customers[0]]
    owner: str = customer["owner_id"]
    return owner


def listings(world: World) -> list[Question]:
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
            made.append(Question(principal, path, pairs))
    return made
