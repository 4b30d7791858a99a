"""`membership repair`: derives one customer or campaign again from its events, shows the row diff and writes it."""

import json
from collections.abc import AsyncGenerator

import asyncpg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from rich.console import Console

from consumers import loss_check
from consumers.broker_access import BrokerAccess
from consumers.client import BrokerUnavailable, TolerantClient, connect_reconnecting
from consumers.replay import replay
from ops.actor import actor
from ops.row_diff import describe_difference
from ops.stream_check import only_copy_warning, require_complete_stream
from projections.maintenance import repair as repairs
from projections.maintenance import sentences
from projections.maintenance.differences import Difference
from projections.maintenance.repair import Entity, Repaired
from projections.model.batch import BatchBuilder
from projections.model.events import Position
from projections.settings import Settings
from projections.store import checkpoint as checkpoints

CHUNK_EVENTS = 5_000


async def repair(
    connection: asyncpg.Connection, settings: Settings, entity: Entity, *, dry_run: bool, as_json: bool
) -> int:
    """Show the differing rows and, unless `dry_run`, write them; return the exit code."""
    repaired = await derive(connection, settings, entity, by=actor(), dry_run=dry_run)
    # Printed after the transaction, so that a slow terminal does not delay the projector.
    (differences, position), acknowledged = repaired
    if as_json:
        _print_json(differences, position, written=bool(differences) and not dry_run)
    else:
        _show(differences)
        print(_summary(entity, differences, position, dry_run=dry_run, acknowledged=acknowledged))
    return 0


async def derive(
    connection: asyncpg.Connection, settings: Settings, entity: Entity, *, by: str, dry_run: bool
) -> tuple[Repaired, int]:
    """Return the differing rows, which are written unless `dry_run`, and how many lost messages are acknowledged.

    Raises `BrokerUnavailable`, and the refusals of a repair.
    """
    try:
        client = await connect_reconnecting(BrokerAccess.of(settings), "membership-repair")
        try:
            return await _derive(connection, client, entity, by=by, dry_run=dry_run)
        finally:
            await client.close()
    except (NatsError, NatsTimeoutError) as problem:
        raise BrokerUnavailable(problem) from None


async def _derive(
    connection: asyncpg.Connection, client: TolerantClient, entity: Entity, *, by: str, dry_run: bool
) -> tuple[Repaired, int]:
    live = await checkpoints.live_generation(connection)
    state = await require_complete_stream(connection, client, await checkpoints.read(connection, live))
    acknowledged = (await loss_check.tally_of(connection, state)).acknowledged

    def source(subject: str, after: Position, through: Position) -> AsyncGenerator[BatchBuilder, None]:
        return replay(client, after, through, events_max=CHUNK_EVENTS, subject=subject)

    try:
        repaired = await repairs.repair(connection, entity, source, actor=by, dry_run=dry_run)
    except TimeoutError:
        raise BrokerUnavailable("the last events did not arrive in time") from None
    return repaired, acknowledged


def _print_json(differences: list[Difference], position: int, *, written: bool) -> None:
    rows = [{"table": row.table, "held": row.held or None, "wanted": row.expected or None} for row in differences]
    print(json.dumps({"position": position, "written": written, "differences": len(differences), "rows": rows}))


def _show(differences: list[Difference]) -> None:
    """Print each row as it is and as it is written: the JSON passed to PostgreSQL."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for difference in differences:
        console.print(describe_difference(difference))
        if difference.held_json:
            console.print(f"- {difference.held_json}", style="red")
        if difference.expected_json:
            console.print(f"+ {difference.expected_json}", style="green")


def _summary(
    entity: Entity, differences: list[Difference], position: Position, *, dry_run: bool, acknowledged: int
) -> str:
    if not differences:
        return sentences.nothing_differs(entity.kind, entity.id, position)
    warning = only_copy_warning(acknowledged)
    if dry_run:
        return f"{sentences.would_repair(len(differences), position)} {warning or 'Run without --dry-run to write.'}"
    kept = " The lines above that begin with - show the old rows." if warning else ""
    return sentences.repaired(len(differences), position) + kept
