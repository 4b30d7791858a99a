"""Tables that refuse: a message at fault is parked and the rest applied; what no message causes parks nothing."""

from itertools import count

import asyncpg
import pytest

from projections.errors import TablesRefuse
from projections.maintenance import parking
from projections.model.events import Message
from projections.store import checkpoint as checkpoints
from projections.store import generations, projector
from projections.store.checkpoint import Checkpoint
from projections.store.projector import apply_to_all
from projections.store.queries import Generation
from tests.support.builders import campaign_id, message, published
from tests.support.read_model import CREATED, rows

G1, G2 = Generation("g1"), Generation("g2")
REFUSED = "refused name"
ROLE = "test_projector_without_rights"


async def held_by_all(connection: asyncpg.Connection) -> list[Checkpoint]:
    return [await checkpoints.take_over(connection, name) for name in await generations.followed(connection)]


async def refuse_names(connection: asyncpg.Connection, name: Generation = G1) -> None:
    """Make tables refuse a valid event's value, as a limit would that this release does not know."""
    await connection.execute(f"ALTER TABLE {name}.campaign ADD CONSTRAINT by_hand CHECK (name_key <> '{REFUSED}')")


def campaigns(last: int, *refused: int) -> list[Message]:
    """Return campaigns of which some have the name that the tables refuse; each has one member."""
    events = [
        event
        for number in range(1, last + 1)
        for event in (
            published(
                "campaign.upserted.v1", 1, campaign=number, name=REFUSED if number in refused else f"name {number}"
            ),
            published("target.enrolled.v1", 1, campaign=number, customer=number),
        )
    ]
    return [message(position, *event) for position, event in enumerate(events, start=1)]


def position_of(campaign: int) -> int:
    return 2 * campaign - 1


async def test_a_message_that_the_tables_refuse_is_parked_and_the_rest_applied(connection: asyncpg.Connection) -> None:
    await refuse_names(connection)
    applied = await apply_to_all(connection, await held_by_all(connection), campaigns(40, 1, 17, 40), CREATED)
    assert [each.position for each in applied.checkpoints] == [80]
    assert [each.message.position for each in applied.parked] == [position_of(n) for n in (1, 17, 40)]
    found = await rows(connection)
    (first, *_) = found["parked_event"]
    assert len(found["parked_event"]) == 3
    assert first["reason"] == "refused_by_tables"
    assert first["detail"] == 'new row for relation "campaign" violates check constraint "by_hand" (23514).'
    assert (len(found["campaign"]), len(found["membership"])) == (37, 40)
    assert sum(row["memberships"] for row in found["customer_summary"]) == 37
    assert (await checkpoints.read(connection, G1)).position == 80


async def test_parts_of_a_batch_leave_the_rows_of_the_whole(connection: asyncpg.Connection) -> None:
    await generations.create(connection, G2)
    await refuse_names(connection)
    messages = campaigns(30, 11)
    messages += [message(61 + n, *published("campaign.status_changed.v1", 2 + n, status="done")) for n in range(5)]
    applied = await apply_to_all(connection, await held_by_all(connection), messages, CREATED, members_max=2)
    assert not applied.failures
    live, other = await rows(connection, G1), await rows(connection, G2)
    assert (len(live.pop("parked_event")), len(other.pop("parked_event"))) == (1, 0)
    refused = campaign_id(11)
    assert [row for row in live["campaign"] if str(row["campaign_id"]) == refused] == []
    for found in (live, other):
        found["campaign"] = [row for row in found["campaign"] if str(row["campaign_id"]) != refused]
        found["membership"] = [row for row in found["membership"] if str(row["campaign_id"]) != refused]
    assert (live["campaign"], live["membership"]) == (other["campaign"], other["membership"])
    assert await parking.positions(connection, G2, parking.Filter()) == []


async def test_only_so_many_messages_are_parked_one_by_one(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "REFUSED_PARKED_MAX", 3)
    await refuse_names(connection)
    held = await held_by_all(connection)
    for number in range(1, 4):
        one = message(number, *published("campaign.upserted.v1", 1, campaign=number, name=REFUSED))
        held = (await apply_to_all(connection, held, [one], CREATED)).checkpoints
    fourth = message(4, *published("campaign.upserted.v1", 1, campaign=4, name=REFUSED))
    with pytest.raises(TablesRefuse, match="by_hand"):
        await apply_to_all(connection, held, [fourth], CREATED)
    assert len((await rows(connection))["parked_event"]) == 3
    assert (await checkpoints.read(connection, G1)).position == 3


async def test_a_parked_refusal_is_applied_by_a_retry_once_the_tables_accept_it(connection: asyncpg.Connection) -> None:
    await refuse_names(connection)
    await apply_to_all(connection, await held_by_all(connection), campaigns(3, 2), CREATED)
    retried = await parking.retry(connection, [position_of(2)], "tester")
    assert (retried.applied, list(retried.still_parked)) == ([], [position_of(2)])
    await connection.execute("ALTER TABLE g1.campaign DROP CONSTRAINT by_hand")
    retried = await parking.retry(connection, [position_of(2)], "tester")
    assert (retried.applied, retried.still_parked) == ([position_of(2)], {})
    found = await rows(connection)
    assert (len(found["campaign"]), found["parked_event"]) == (3, [])


async def without_right(connection: asyncpg.Connection, name: Generation) -> None:
    """Go on as a role that may do all but write one generation's memberships."""
    await connection.execute(f"DO $$ BEGIN CREATE ROLE {ROLE}; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    for schema in ("control", "g1", "g2"):
        await connection.execute(
            f"GRANT USAGE ON SCHEMA {schema} TO {ROLE}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {ROLE}"
        )
    await connection.execute(f"REVOKE INSERT ON {name}.membership FROM {ROLE}")
    await connection.execute(f"SET ROLE {ROLE}")


async def test_a_live_generation_without_a_right_is_waited_for(connection: asyncpg.Connection) -> None:
    await generations.create(connection, G2)
    await without_right(connection, G1)
    held = await held_by_all(connection)
    with pytest.raises(TablesRefuse, match="permission denied") as refusal:
        await apply_to_all(connection, held, campaigns(1), CREATED)
    assert not refusal.value.damaged
    assert await generations.followed(connection) == [G1, G2]
    await connection.execute(f"RESET ROLE; GRANT INSERT ON g1.membership TO {ROLE}; SET ROLE {ROLE}")
    applied = await apply_to_all(connection, held, campaigns(1), CREATED)
    assert [each.position for each in applied.checkpoints] == [2, 2]


async def test_another_generation_without_a_right_does_not_stop_the_live_one(connection: asyncpg.Connection) -> None:
    await generations.create(connection, G2)
    await without_right(connection, G2)
    applied = await apply_to_all(connection, await held_by_all(connection), campaigns(1), CREATED)
    assert [each.generation for each in applied.checkpoints] == [G1]
    assert [each.generation for each in applied.failures] == [G2]


async def test_what_every_generation_refuses_blames_none_of_them(connection: asyncpg.Connection) -> None:
    await generations.create(connection, G2)
    for name in (G1, G2):
        await connection.execute(f"ALTER TABLE {name}.membership RENAME present TO oops")
    with pytest.raises(TablesRefuse, match="present") as refusal:
        await apply_to_all(connection, await held_by_all(connection), campaigns(1), CREATED)
    assert not refusal.value.damaged


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with another generation"])
async def test_statements_mixed_up_by_a_pooler_blame_no_generation(
    connection: asyncpg.Connection, beside: bool
) -> None:
    if beside:
        await generations.create(connection, G2)
    held = await held_by_all(connection)
    # A pooler hands out a server connection on which another client has prepared statements of the same names.
    taken = int(connection._get_unique_id("stmt").strip("_").rsplit("_", 1)[1], 16)
    names = (f"__asyncpg_stmt_{number:x}__" for number in count(taken + 1))
    await connection.execute("".join(f"PREPARE {next(names)} AS SELECT 1;" for _ in range(500)))
    with pytest.raises(asyncpg.DuplicatePreparedStatementError):
        await apply_to_all(connection, held, campaigns(1), CREATED)
