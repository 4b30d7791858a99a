"""A parked event is removed only by applying it or by a recorded discard."""

import asyncpg
import pytest

from projections.maintenance import parking
from projections.maintenance.parking import Filter, NotParked
from projections.store.queries import Generation
from tests.support.builders import message, published
from tests.support.read_model import applied, empty, rows

G1 = Generation("g1")


async def park_unreadable(connection: asyncpg.Connection, *positions: int) -> None:
    batch = [message(position, "membership.nothing.at.all", b"{}") for position in positions]
    await applied(connection, await empty(connection), batch)


async def make_readable(connection: asyncpg.Connection, position: int) -> None:
    """Simulate a release that can read the event: replace the stored message with a valid one."""
    subject, body = published("target.enrolled.v1", position)
    await connection.execute(
        "UPDATE g1.parked_event SET subject = $2, body = $3 WHERE position = $1", position, subject, body
    )


async def audit_entries(connection: asyncpg.Connection) -> list[tuple[str, int, str]]:
    entries = await connection.fetch("SELECT action, position, detail FROM control.audit ORDER BY audit_id")
    return [tuple(row.values()) for row in entries]


async def test_a_retry_applies_readable_events_and_keeps_the_rest(connection: asyncpg.Connection) -> None:
    await park_unreadable(connection, 1, 2)
    await make_readable(connection, 2)
    retried = await parking.retry(connection, [1, 2], "tester")
    assert (retried.applied, list(retried.still_parked)) == ([2], [1])
    assert await parking.positions(connection, G1, Filter()) == [1]
    assert len((await rows(connection))["membership"]) == 1
    assert await audit_entries(connection) == [
        ("parked.retry", 2, "applied"),
        ("parked.retry", 1, "still unknown_subject"),
    ]


async def test_a_retry_of_an_unparked_position_is_refused_unchanged(connection: asyncpg.Connection) -> None:
    await park_unreadable(connection, 1, 2)
    await make_readable(connection, 2)
    with pytest.raises(NotParked, match=r"position 7\. .*only reached position 2"):
        await parking.retry(connection, [2, 7], "tester")
    assert await parking.positions(connection, G1, Filter()) == [1, 2]
    assert await audit_entries(connection) == []


async def test_a_discard_is_recorded_with_its_reason(connection: asyncpg.Connection) -> None:
    await park_unreadable(connection, 1, 2)
    with pytest.raises(NotParked, match="position 9"):
        await parking.discard(connection, [1, 9], "why not", "tester")
    assert await parking.positions(connection, G1, Filter()) == [1, 2]
    await parking.discard(connection, [1], "a test", "tester")
    assert await parking.positions(connection, G1, Filter()) == [2]
    assert await audit_entries(connection) == [("parked.discard", 1, "a test")]
    assert await connection.fetchval("SELECT reason FROM control.discarded_event WHERE position = 1") == "a test"


async def test_filters_select_by_reason_and_subject_prefix(connection: asyncpg.Connection) -> None:
    bad = [message(1, "membership.nothing", b"{}"), message(2, published("customer.upserted.v1", 1)[0], b"{]")]
    await applied(connection, await empty(connection), bad)
    assert await parking.reasons(connection, G1, Filter()) == {"invalid_json": 1, "unknown_subject": 1}
    assert await parking.positions(connection, G1, Filter(reason="invalid_json")) == [2]
    assert await parking.positions(connection, G1, Filter(subject_prefix="membership.noth")) == [1]
    assert await parking.positions(connection, G1, Filter("invalid_json", "membership.noth")) == []


async def test_filters_select_by_type_and_source_whatever_the_body_is(connection: asyncpg.Connection) -> None:
    bodies = [
        b'{"type": "a.v1", "source": "crm"}',
        b'{"type": "a.v1"}',
        b'{"type": 7, "source": "crm"}',
        b"[1]",
        b"\xff{",
        b'{"type": "\\u0000"}',
        b"[" * 20_000,
        b'"a.v1"',
    ]
    batch = [message(position, "membership.nothing", body) for position, body in enumerate(bodies, start=1)]
    await applied(connection, await empty(connection), batch)
    assert await parking.positions(connection, G1, Filter(type="a.v1")) == [1, 2]
    assert await parking.positions(connection, G1, Filter(source="crm")) == [1, 3]
    assert await parking.positions(connection, G1, Filter(type="a.v1", source="")) == [2]
    assert await parking.positions(connection, G1, Filter(type="")) == [3, 4, 5, 6, 7, 8]
    newest = await parking.newest(connection, G1, Filter(type=""), 2)
    assert [row["position"] for row in newest] == [8, 7]
