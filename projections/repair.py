"""Re-derives the rows of one customer or one campaign from its own events, and shows and writes what differs.

The expected rows are made in temporary tables, by the fold and the very statements that write a generation. The
caller reads the events, in one transaction, in this order: `prepare`, `offer` what is read beforehand, then
`generations.hold_still`, `offer` what came since, `find`, `apply`. Only from `hold_still` on does the projector wait.

Writes: the generation that is repaired, and only the rows that were shown.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, Literal, NamedTuple

import asyncpg

from projections import fan_out, notices
from projections.differences import Comparison, Difference, Part
from projections.events import SUBJECT_ROOT, Message
from projections.fan_out import FanOut
from projections.projector import read_batch, write_registers
from projections.queries import Generation, blocks, writes

EXPECTED: Final = Generation("pg_temp")
"""PostgreSQL's name of a session's own schema of temporary tables."""


class Entity(NamedTuple):
    """What is repaired: a customer or a campaign, with everything that hangs on it."""

    kind: Literal["customer", "campaign"]
    id: str

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects of all events that its rows follow from."""
        if self.kind == "customer":
            return f"{SUBJECT_ROOT}.customer.{self.id}", f"{SUBJECT_ROOT}.target.{self.id}.*"
        return (
            f"{SUBJECT_ROOT}.campaign.{self.id}",
            f"{SUBJECT_ROOT}.counters.{self.id}",
            f"{SUBJECT_ROOT}.target.*.{self.id}",
        )


async def prepare(connection: asyncpg.Connection, held: Generation) -> None:
    """Make the temporary tables; they go with the caller's transaction."""
    await connection.execute(_statements(held)["expected_tables"])


async def offer(connection: asyncpg.Connection, messages: Sequence[Message]) -> None:
    """Fold events of the entity into the expected rows. What cannot be read is parked already, and left out."""
    await write_registers(connection, writes(EXPECTED), read_batch(messages).registers)


async def find(connection: asyncpg.Connection, held: Generation, entity: Entity) -> list[Difference]:
    """Return the rows that differ; once, for it completes the expected rows, and fan-outs of the held ones."""
    await fan_out.level_recorded(connection, held, None)
    complete = _complete_customer if entity.kind == "customer" else _complete_campaign
    scopes = await complete(connection, held, entity)
    comparison = Comparison(connection, held, EXPECTED)
    return [each for table, scope in scopes for each in await comparison.find(Part(table, scope), entity.id)]


async def apply(connection: asyncpg.Connection, held: Generation, differences: Sequence[Difference]) -> None:
    """Write the rows as `find` has shown them, in the same transaction."""
    await Comparison(connection, held, EXPECTED).write(differences)
    await notices.tell_flush(connection)


async def has_rows(connection: asyncpg.Connection, name: Generation, entity: Entity) -> bool:
    """Say whether a generation, or the expected rows, hold anything of the entity."""
    for table in (entity.kind, "membership"):
        # Both names come from closed sets.
        found = f"SELECT EXISTS (SELECT FROM {name}.{table} WHERE {entity.kind}_id = $1)"  # noqa: S608
        if await connection.fetchval(found, entity.id):
            return True
    return False


async def _complete_customer(
    connection: asyncpg.Connection, held: Generation, _entity: Entity
) -> list[tuple[str, str]]:
    borrowed = await connection.fetch(_statements(held)["borrow_campaigns"])
    await fan_out.level(connection, writes(EXPECTED), (FanOut(row["campaign_id"]) for row in borrowed), None)
    return [(table, "customer_id = $1::uuid") for table in ("customer", "membership", "customer_summary")]


async def _complete_campaign(connection: asyncpg.Connection, held: Generation, entity: Entity) -> list[tuple[str, str]]:
    statements = {name: text.replace("{campaign}", f"'{entity.id}'::uuid") for name, text in _statements(held).items()}
    await connection.execute(statements["count_members"])
    return [
        ("campaign", "campaign_id = $1::uuid"),
        ("membership", "campaign_id = $1::uuid"),
        ("customer_summary", f"$1::uuid IS NOT NULL AND customer_id IN ({statements['members']})"),
    ]


@cache
def _statements(held: Generation) -> Mapping[str, str]:
    return {
        name: text.replace("{held}", held).rstrip(";") for name, text in blocks("projections", "repair.sql").items()
    }
