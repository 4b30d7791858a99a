"""Refused writes: a refused message is parked and the rest applied; a refusal without such a message parks nothing."""

from itertools import count
from typing import Any, cast

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


async def take_over_all(connection: asyncpg.Connection) -> list[Checkpoint]:
    return [await checkpoints.take_over(connection, name) for name in await generations.followed(connection)]


async def refuse_names(connection: asyncpg.Connection, name: Generation = G1) -> None:
    """Make tables refuse a valid event's value, like a constraint that this release does not know."""
    await connection.execute(f"ALTER TABLE {name}.campaign ADD CONSTRAINT by_hand CHECK (name_key <> '{REFUSED}')")


def campaigns(last: int, *refused: int) -> list[Message]:
    """Return events of campaigns with one member each; those in `refused` have the refused name."""
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


async def test_a_refused_message_is_parked_and_the_rest_is_applied(connection: asyncpg.Connection) -> None:
    await refuse_names(connection)
    applied = await apply_to_all(connection, await take_over_all(connection), campaigns(40, 1, 17, 40), CREATED)
    assert [checkpoint.position for checkpoint in applied.checkpoints] == [80]
    assert [parked.message.position for parked in applied.parked] == [position_of(n) for n in (1, 17, 40)]
    tables = await rows(connection)
    (first, *_) = tables["parked_event"]
    assert len(tables["parked_event"]) == 3
    assert first["reason"] == "refused_by_tables"
    assert first["detail"] == 'new row for relation "campaign" violates check constraint "by_hand" (23514).'
    assert (len(tables["campaign"]), len(tables["membership"])) == (37, 40)
    assert sum(row["memberships"] for row in tables["customer_summary"]) == 37
    assert (await checkpoints.read(connection, G1)).position == 80


async def test_a_batch_written_in_parts_gives_the_same_rows(connection: asyncpg.Connection) -> None:
    await generations.create(connection, G2)
    await refuse_names(connection)
    messages = campaigns(30, 11)
    messages += [message(61 + n, *published("campaign.status_changed.v1", 2 + n, status="done")) for n in range(5)]
    applied = await apply_to_all(connection, await take_over_all(connection), messages, CREATED, members_max=2)
    assert not applied.failures
    live, other = await rows(connection, G1), await rows(connection, G2)
    assert (len(live.pop("parked_event")), len(other.pop("parked_event"))) == (1, 0)
    refused = campaign_id(11)
    assert [row for row in live["campaign"] if str(row["campaign_id"]) == refused] == []
    for tables in (live, other):
        tables["campaign"] = [row for row in tables["campaign"] if str(row["campaign_id"]) != refused]
        tables["membership"] = [row for row in tables["membership"] if str(row["campaign_id"]) != refused]
    assert (live["campaign"], live["membership"]) == (other["campaign"], other["membership"])
    assert await parking.positions(connection, G2, parking.Filter()) == []


async def test_the_number_of_refused_messages_parked_is_limited(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "REFUSED_PARKED_MAX", 3)
    await refuse_names(connection)
    current = await take_over_all(connection)
    for number in range(1, 4):
        one = message(number, *published("campaign.upserted.v1", 1, campaign=number, name=REFUSED))
        current = (await apply_to_all(connection, current, [one], CREATED)).checkpoints
    fourth = message(4, *published("campaign.upserted.v1", 1, campaign=4, name=REFUSED))
    with pytest.raises(TablesRefuse, match="by_hand"):
        await apply_to_all(connection, current, [fourth], CREATED)
    assert len((await rows(connection))["parked_event"]) == 3
    assert (await checkpoints.read(connection, G1)).position == 3


async def test_a_retry_applies_a_refused_message_once_tables_accept_it(connection: asyncpg.Connection) -> None:
    await refuse_names(connection)
    await apply_to_all(connection, await take_over_all(connection), campaigns(3, 2), CREATED)
    retried = await parking.retry(connection, [position_of(2)], "tester")
    assert (retried.applied, list(retried.still_parked)) == ([], [position_of(2)])
    await connection.execute("ALTER TABLE g1.campaign DROP CONSTRAINT by_hand")
    retried = await parking.retry(connection, [position_of(2)], "tester")
    assert (retried.applied, retried.still_parked) == ([position_of(2)], {})
    tables = await rows(connection)
    assert (len(tables["campaign"]), tables["parked_event"]) == (3, [])


async def use_role_without_insert(connection: asyncpg.Connection, name: Generation) -> None:
    """Switch to a role with all rights except inserting into one generation's memberships."""
    await connection.execute(f"DO $$ BEGIN CREATE ROLE {ROLE}; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    for schema in ("control", "g1", "g2"):
        await connection.execute(
            f"GRANT USAGE ON SCHEMA {schema} TO {ROLE}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {ROLE}"
        )
    await connection.execute(f"REVOKE INSERT ON {name}.membership FROM {ROLE}")
    await connection.execute(f"SET ROLE {ROLE}")


async def test_a_live_generation_without_a_right_is_retried(connection: asyncpg.Connection) -> None:
    await generations.create(connection, G2)
    await use_role_without_insert(connection, G1)
    current = await take_over_all(connection)
    with pytest.raises(TablesRefuse, match="permission denied") as refusal:
        await apply_to_all(connection, current, campaigns(1), CREATED)
    assert not refusal.value.damaged
    assert await generations.followed(connection) == [G1, G2]
    await connection.execute(f"RESET ROLE; GRANT INSERT ON g1.membership TO {ROLE}; SET ROLE {ROLE}")
    applied = await apply_to_all(connection, current, campaigns(1), CREATED)
    assert [checkpoint.position for checkpoint in applied.checkpoints] == [2, 2]


async def test_another_generation_without_a_right_does_not_stop_the_live_one(connection: asyncpg.Connection) -> None:
    await generations.create(connection, G2)
    await use_role_without_insert(connection, G2)
    applied = await apply_to_all(connection, await take_over_all(connection), campaigns(1), CREATED)
    assert [checkpoint.generation for checkpoint in applied.checkpoints] == [G1]
    assert [checkpoint.generation for checkpoint in applied.failures] == [G2]


async def test_a_refusal_by_all_generations_marks_none_as_damaged(connection: asyncpg.Connection) -> None:
    await generations.create(connection, G2)
    for name in (G1, G2):
        await connection.execute(f"ALTER TABLE {name}.membership RENAME present TO oops")
    with pytest.raises(TablesRefuse, match="present") as refusal:
        await apply_to_all(connection, await take_over_all(connection), campaigns(1), CREATED)
    assert not refusal.value.damaged


@pytest.mark.parametrize("with_other", [False, True], ids=["alone", "with another generation"])
async def test_statements_mixed_up_by_a_pooler_damage_no_generation(
    connection: asyncpg.Connection, with_other: bool
) -> None:
    if with_other:
        await generations.create(connection, G2)
    current = await take_over_all(connection)
    # A pooler may assign a server connection on which another client has prepared statements of the same names.
    unique_id = cast("Any", connection)._get_unique_id("stmt")
    taken = int(unique_id.strip("_").rsplit("_", 1)[1], 16)
    names = (f"__asyncpg_stmt_{number:x}__" for number in count(taken + 1))
    await connection.execute("".join(f"PREPARE {next(names)} AS SELECT 1;" for _ in range(500)))
    with pytest.raises(asyncpg.DuplicatePreparedStatementError):
        await apply_to_all(connection, current, campaigns(1), CREATED)
