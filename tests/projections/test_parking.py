"""A parked event leaves only by being applied or by a decision that is written down."""

import asyncpg
import pytest

from projections.maintenance import parking
from projections.maintenance.parking import Filter, NotParked
from projections.store.queries import Generation
from tests.support.builders import message, published
from tests.support.read_model import applied, empty, rows

G1 = Generation("g1")


async def parked(connection: asyncpg.Connection, *positions: int) -> None:
    batch = [message(position, "membership.nothing.at.all", b"{}") for position in positions]
    await applied(connection, await empty(connection), batch)


async def mend(connection: asyncpg.Connection, position: int) -> None:
    """Stand in for a release that can read it: what is kept becomes an event this one reads."""
    subject, body = published("target.enrolled.v1", position)
    await connection.execute(
        "UPDATE g1.parked_event SET subject = $2, body = $3 WHERE position = $1", position, subject, body
    )


async def deeds(connection: asyncpg.Connection) -> list[tuple[str, int, str]]:
    found = await connection.fetch("SELECT action, position, detail FROM control.audit ORDER BY audit_id")
    return [tuple(row.values()) for row in found]


async def test_a_retry_applies_what_can_be_read_now_and_keeps_the_rest(connection: asyncpg.Connection) -> None:
    await parked(connection, 1, 2)
    await mend(connection, 2)
    retried = await parking.retry(connection, [1, 2], "tester")
    assert (retried.applied, list(retried.still_parked)) == ([2], [1])
    assert await parking.positions(connection, G1, Filter()) == [1]
    assert len((await rows(connection))["membership"]) == 1
    assert await deeds(connection) == [("parked.retry", 2, "applied"), ("parked.retry", 1, "still unknown_subject")]


async def test_a_retry_of_what_is_not_parked_changes_nothing_and_says_so(connection: asyncpg.Connection) -> None:
    await parked(connection, 1, 2)
    await mend(connection, 2)
    with pytest.raises(NotParked, match=r"position 7\. .*only reached position 2"):
        await parking.retry(connection, [2, 7], "tester")
    assert await parking.positions(connection, G1, Filter()) == [1, 2]
    assert await deeds(connection) == []


async def test_a_discard_is_a_decision_with_a_reason(connection: asyncpg.Connection) -> None:
    await parked(connection, 1, 2)
    with pytest.raises(NotParked, match="position 9"):
        await parking.discard(connection, [1, 9], "why not", "tester")
    assert await parking.positions(connection, G1, Filter()) == [1, 2]
    await parking.discard(connection, [1], "a test", "tester")
    assert await parking.positions(connection, G1, Filter()) == [2]
    assert await deeds(connection) == [("parked.discard", 1, "a test")]
    assert await connection.fetchval("SELECT reason FROM control.discarded_event WHERE position = 1") == "a test"


async def test_filters_choose_by_reason_and_by_the_beginning_of_the_subject(connection: asyncpg.Connection) -> None:
    bad = [message(1, "membership.nothing", b"{}"), message(2, published("customer.upserted.v1", 1)[0], b"{]")]
    await applied(connection, await empty(connection), bad)
    assert await parking.reasons(connection, G1, Filter()) == {"invalid_json": 1, "unknown_subject": 1}
    assert await parking.positions(connection, G1, Filter(reason="invalid_json")) == [2]
    assert await parking.positions(connection, G1, Filter(subject_prefix="membership.noth")) == [1]
    assert await parking.positions(connection, G1, Filter("invalid_json", "membership.noth")) == []
