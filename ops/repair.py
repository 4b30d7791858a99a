"""`membership repair`: re-derives one customer or one campaign from its own events, shows the row diff, writes it."""

import asyncio
import json
from contextlib import aclosing

import asyncpg
from asyncpg.transaction import Transaction
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from rich.console import Console

from consumers.client import BrokerSilent, TolerantClient, connect_lasting
from consumers.replay import replay
from ops.account import actor
from ops.gate import require_whole_stream
from ops.row_diff import described
from ops.terminal import counted, fail
from projections import checkpoint as checkpoints
from projections import erasure, generations, jobs
from projections import repair as repairs
from projections.differences import Difference
from projections.errors import JobRefused
from projections.events import Position
from projections.repair import Entity
from projections.settings import Settings

CHUNK_EVENTS = 5_000
TAIL_MAX_S = 3.0
"""How long the projector is kept waiting for the last events; less than it waits for a lock."""


class ErasedMeanwhile(JobRefused):
    """An erasure and a repair would undo each other."""

    def __init__(self) -> None:
        super().__init__("A customer is being erased, or was just now. Nothing was changed; run this again after it.")


async def repair(
    connection: asyncpg.Connection, settings: Settings, entity: Entity, *, dry_run: bool, as_json: bool
) -> int:
    """Show what differs and, unless `dry_run`, write it; return the exit code."""
    try:
        client = await connect_lasting(settings.nats_url, "membership-repair")
        try:
            return await _repair(connection, client, entity, dry_run=dry_run, as_json=as_json)
        finally:
            await client.close()
    except (NatsError, NatsTimeoutError) as problem:
        raise BrokerSilent(problem) from None


async def _repair(
    connection: asyncpg.Connection,
    client: TolerantClient,
    entity: Entity,
    *,
    dry_run: bool,
    as_json: bool,
) -> int:
    transaction: Transaction | None = connection.transaction()
    assert transaction is not None  # noqa: S101 - for mypy
    await transaction.start()
    try:
        held = await checkpoints.live_generation(connection)
        before = await checkpoints.read(connection, held)
        await require_whole_stream(connection, client, before)
        erasures = await erasure.begun(connection)
        if any(job.kind == "erase" for job in await jobs.unfinished(connection)):
            raise ErasedMeanwhile
        await repairs.prepare(connection, held)
        await _offer(connection, client, entity, Position(0), before.position)
        await generations.hold_still(connection)
        if await erasure.begun(connection) != erasures:  # what was read before may be of whom has been erased
            raise ErasedMeanwhile
        now = await checkpoints.read(connection, held)
        try:
            async with asyncio.timeout(TAIL_MAX_S):
                await _offer(connection, client, entity, before.position, now.position)
        except TimeoutError:
            raise BrokerSilent("the last events did not come in time") from None
        if not any([await repairs.has_rows(connection, each, entity) for each in (held, repairs.EXPECTED)]):
            return fail(f"There is no {entity.kind} {entity.id}: neither an event nor a row speaks of it.")
        found = await repairs.find(connection, held, entity)
        if found and not dry_run:
            await repairs.apply(connection, held, found)
            tables = sorted({each.table for each in found})
            # A campaign is named; a customer is nobody's to read of here, least of all after an erasure.
            whose = f"campaign {entity.id}" if entity.kind == "campaign" else "one customer"
            what = f"{counted(len(found), 'row')} of {whose} in {', '.join(tables)}, generation {held}"
            await jobs.audit(connection, actor(), "repair", what)
            await transaction.commit()
            transaction = None
    finally:
        if transaction is not None:
            await transaction.rollback()
    # Shown when the projector may go on: a pager takes its time.
    if as_json:
        _print_json(found, now.position, written=bool(found) and not dry_run)
    else:
        _show(found)
        print(_summary(entity, found, now.position, dry_run=dry_run))
    return 0


async def _offer(
    connection: asyncpg.Connection, client: TolerantClient, entity: Entity, after: Position, to: Position
) -> None:
    # Subject by subject: no register hears of two, so the order between them means nothing.
    for subject in entity.subjects:
        async with aclosing(replay(client, after, to, events_max=CHUNK_EVENTS, subject=subject)) as stretch:
            async for messages in stretch:
                await repairs.offer(connection, messages)


def _print_json(found: list[Difference], position: int, *, written: bool) -> None:
    rows = [{"table": each.table, "held": each.held or None, "wanted": each.wanted or None} for each in found]
    print(json.dumps({"position": position, "written": written, "differences": len(found), "rows": rows}))


def _show(found: list[Difference]) -> None:
    """Print the rows as they are and as they are written: the same JSON that PostgreSQL is given."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for each in found:
        console.print(described(each))
        if each.held_json:
            console.print(f"- {each.held_json}", style="red")
        if each.wanted_json:
            console.print(f"+ {each.wanted_json}", style="green")


def _summary(entity: Entity, found: list[Difference], position: int, *, dry_run: bool) -> str:
    if not found:
        return f"Every row of {entity.kind} {entity.id} is as the stream has it, at position {position}."
    rows = counted(len(found), "row")
    done = "would change; run it without --dry-run to write them" if dry_run else "written"
    return f"{rows} {done}, as of position {position}."
