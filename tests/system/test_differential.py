"""Compares the running service, from JetStream to HTTP, with a reference that shares no code with it.

Every test publishes its own histories, shuffled, with repetitions and invalid messages, so tests may share the system.
"""

import os
from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest

from tests.support.api_fuzz import (
    PageWalk,
    RequestCase,
    expected_response,
    invalid_cursor_cases,
    kinds,
    request_cases,
    too_rare,
)
from tests.support.differential import (
    DifferentialRun,
    System,
    api_client,
    assert_no_differences,
    in_batches,
    response_differences,
)
from tests.support.random_history import History
from tests.support.reference_model import SORT_FIELDS, Principal, Reference

REQUESTS = int(os.environ.get("MEMBERSHIP_TEST_REQUESTS", "1500"))
SEEDS = range(int(os.environ.get("MEMBERSHIP_TEST_SEEDS", "2")))
WALK_SEEDS = range(1000, 1000 + len(SEEDS))
"""Other histories than those of SEEDS: the broker drops a message id that it has just seen."""
EARLY_SHARE = 0.25
"""Share of the requests that are sent when only half the history has arrived, and again at the end."""
WALK_CONCURRENCY_MAX = 8


def assert_all_kinds_covered(reference: Reference, requests: Sequence[RequestCase]) -> None:
    counts = Counter(kind for request in requests for kind in kinds(request, expected_response(reference, request)))
    assert not too_rare(counts, len(requests)), "too few of these kinds for a meaningful comparison"


@pytest.mark.parametrize("seed", SEEDS)
async def test_responses_and_parked_events_equal_the_references(system: System, seed: int) -> None:
    history = History(seed)
    requests = request_cases(history, seed, REQUESTS)
    early = requests[: int(REQUESTS * EARLY_SHARE)]
    late = requests[: REQUESTS - len(early)]
    delivery = history.delivery(seed)
    run = DifferentialRun(system)
    async with api_client(system) as api:
        await run.publish(delivery[: len(delivery) // 2])
        differences = await response_differences(api, run.reference, early)
        await run.publish(delivery[len(delivery) // 2 :])
        assert run.reference.model == history.final()
        differences += await response_differences(api, run.reference, late)
    assert_all_kinds_covered(run.reference, late)
    assert_no_differences(await run.parking_differences() + differences, f"history {seed}")


@pytest.mark.parametrize("seed", WALK_SEEDS)
async def test_the_pages_of_a_listing_add_up_to_the_references_listing(system: System, seed: int) -> None:
    history = History(seed)
    run = DifferentialRun(system)
    await run.publish(history.delivery(seed))
    async with api_client(system) as api:

        async def walk(request: RequestCase) -> list[PageWalk]:
            walks = [PageWalk(api, run.reference, request) for _ in range(3)]
            await walks[0].by_cursor()
            await walks[1].by_links()
            await walks[2].by_offset()
            return walks

        walks_by_listing = await in_batches(walk, listings(history), WALK_CONCURRENCY_MAX)
    walks = [walk for listing_walks in walks_by_listing for walk in listing_walks]
    assert_no_differences([text for walk in walks for text in walk.differences], f"history {seed}")
    assert sum(walk.pages for walk in walks) > 2 * len(walks), "hardly any listing had two pages"


@pytest.mark.parametrize("seed", WALK_SEEDS)
async def test_a_cursor_is_valid_only_for_its_request_and_caller(system: System, seed: int) -> None:
    history = History(seed + 1000)
    run = DifferentialRun(system)
    await run.publish(history.delivery(seed))
    owner = Principal(owner_of_first(history), is_admin=False)
    admin = Principal(history.stranger, is_admin=True)
    request = RequestCase(admin, f"/customers/{history.customers[0]}/campaigns", (("limit", "2"),))
    async with api_client(system) as api:
        cursor = (await api.send(request)).json()["meta"]["next_cursor"]
        for case in invalid_cursor_cases(request, cursor, [owner]):
            response = await api.send(case)
            assert response.status_code == 422, f"{case.target} as {case.principal}: {response.text}"
            assert "detail" in response.json()


def owner_of_first(history: History) -> str:
    _, customer = history.final()["customer"][history.customers[0]]
    owner: str = customer["owner_id"]
    return owner


def listings(history: History) -> list[RequestCase]:
    """Return listings to walk: each order, for admins and owners, with and without deleted, q and dates."""
    principals = (Principal(history.stranger, is_admin=True), Principal(owner_of_first(history), is_admin=False))
    flags = ((), (("include_deleted", "true"),), (("only_deleted", "true"),))
    filters = ((), (("q", "e"),), (("date_from", "2024-03-01"), ("date_to", "2024-03-08")))
    path = f"/customers/{history.customers[0]}/campaigns"
    requests = []
    for number, (name, direction) in enumerate(product(SORT_FIELDS, ("asc", "desc"))):
        for principal_number, principal in enumerate(principals):
            variant = number + principal_number * 5
            pairs = (
                ("sort_field", name),
                ("sort_dir", direction),
                ("limit", str((2, 3, 5, 7)[variant % 4])),
                *flags[variant // 3 % 3],
                *filters[variant // 2 % 3],
                ("include_aggregations", "yes"),
            )
            requests.append(RequestCase(principal, path, pairs))
    return requests
