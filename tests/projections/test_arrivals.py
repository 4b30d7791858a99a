"""Every valid event is counted once, as applied or as superseded, however the stream is divided into batches."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.model.arrivals import DECIDING, TYPE_NAMES
from projections.model.batch import read_batch
from projections.model.events import Event, Message, Position
from projections.store import checkpoint as checkpoints
from projections.store import generations
from projections.store.projector import Outcomes, apply_shared_batch, apply_to_all
from projections.store.queries import Generation
from tests.support.builders import ALL_TYPES, message, published
from tests.support.outcomes import WRITES, Published, expected
from tests.support.read_model import CREATED, G1, empty

EVENTS = st.lists(
    st.builds(
        lambda kind, version, customer, campaign: published(kind, version, customer=customer, campaign=campaign),
        st.sampled_from(ALL_TYPES),
        st.integers(1, 4),
        st.integers(1, 2),
        st.integers(1, 2),
    ),
    min_size=1,
    max_size=40,
)


def named(outcomes: Outcomes) -> tuple[Counter[str], Counter[str]]:
    def names(tally: Counter[type[Event]]) -> Counter[str]:
        return Counter({TYPE_NAMES[kind]: count for kind, count in tally.items() if count})

    return names(outcomes.applied), names(outcomes.superseded)


async def counted(connection: asyncpg.Connection, batches: Sequence[Sequence[Message]]) -> Outcomes:
    current = [await empty(connection)]
    total = Outcomes(Counter(), Counter())
    for batch in batches:
        applied = await apply_shared_batch(connection, current, read_batch(batch), CREATED)
        current = applied.checkpoints
        total = total.plus(applied.outcomes)
    return total


def test_every_type_has_a_deciding_register() -> None:
    assert {TYPE_NAMES[kind] for kind in DECIDING} == set(ALL_TYPES) == set(WRITES)


@given(events=EVENTS, cuts=st.sets(st.integers(1, 39), max_size=6))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_outcomes_are_counted_as_one_event_after_the_other(
    connection: asyncpg.Connection, events: list[Published], cuts: set[int]
) -> None:
    messages = [message(position, *event) for position, event in enumerate(events, start=1)]
    edges = sorted({0, len(events), *(cut for cut in cuts if cut < len(events))})
    batches = [messages[start:end] for start, end in pairwise(edges)]
    assert named(await counted(connection, batches)) == expected(events)


async def test_a_duplicate_in_a_later_batch_is_superseded(connection: asyncpg.Connection) -> None:
    for kind in ALL_TYPES:
        event = published(kind, 7)
        applied, superseded = named(await counted(connection, [[message(1, *event)], [message(2, *event)]]))
        assert (applied, superseded) == ({kind: 1}, {kind: 1})


async def test_a_held_version_followed_by_a_newer_one_in_its_batch_is_superseded(
    connection: asyncpg.Connection,
) -> None:
    for kind in ALL_TYPES:
        messages = [message(n, *published(kind, version)) for n, version in enumerate((2, 2, 3, 1), start=1)]
        applied, superseded = named(await counted(connection, [messages[:1], messages[1:]]))
        assert (applied, superseded) == ({kind: 2}, {kind: 2})


async def test_parked_and_refused_messages_are_in_neither_count(connection: asyncpg.Connection) -> None:
    await connection.execute("ALTER TABLE g1.campaign_counters ADD CHECK (contacts_total <> 2)")
    batch = [
        message(1, "membership.customer.nobody", b"{}"),
        *(message(version + 1, *published("campaign.counters_changed.v1", version)) for version in (1, 2, 3)),
        message(5, *published("campaign.counters_changed.v1", 3)),
    ]
    applied, superseded = named(await counted(connection, [batch[:2], batch[2:3], batch[3:]]))
    assert applied == {"campaign.counters_changed.v1": 2}
    assert superseded == {"campaign.counters_changed.v1": 1}


async def test_a_generation_that_catches_up_counts_nothing_twice(connection: asyncpg.Connection) -> None:
    first = await empty(connection)
    messages = [
        message(position, *published("customer.upserted.v1", version))
        for position, version in enumerate((1, 2, 2, 3), start=1)
    ]
    (ahead,) = (await apply_shared_batch(connection, [first], read_batch(messages[:3]), CREATED)).checkpoints
    async with connection.transaction():
        await generations.create(connection, Generation("g2"))
    behind = await checkpoints.take_over(connection, Generation("g2"))
    applied = await apply_to_all(connection, [ahead, behind], messages, CREATED)
    assert [checkpoint.position for checkpoint in applied.checkpoints] == [4, 4]
    assert named(applied.outcomes) == ({"customer.upserted.v1": 1}, {})
    assert (ahead.generation, ahead.position) == (G1, Position(3))
