"""`membership correct`: removes events with a too high version of one entity, so that its later events count again.

The order makes it safe to kill at any point. First the events that stay are stored again, at the end of the stream,
unchanged. Once they are applied, where they change nothing, the stream is marked, as for an erasure, and the subject is
purged up to the position of the plan. Then the count of removed messages is completed, and the rows are derived again
from what the stream holds now. So the stream alone says what is true, and every rebuild agrees. The same command
finishes an interrupted correction.

Writes: the stream and its metadata; the entity's rows in the live generation; control.audit.
Fails: `CorrectionRefused`, `JobRefused`, `StreamRefused` and what `repair` raises.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Final

import asyncpg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers import stream
from consumers.broker_access import BrokerAccess
from consumers.client import BrokerUnavailable, TolerantClient, connect_reconnecting
from consumers.replay import replay
from consumers.stream import StreamState
from ops.actor import actor
from ops.correction_plan import CHUNK_EVENTS, CorrectionRefused, Plan, Versioned, make_plan, version_of
from ops.publisher import BATCH_EVENTS_MAX, Publication, publish_batch
from ops.stream_check import require_complete_stream
from projections.errors import JobRefused, StreamMissing
from projections.maintenance import audit, erasure, jobs
from projections.maintenance import repair as repairs
from projections.maintenance.erasure import Tally
from projections.maintenance.repair import NothingToRepair
from projections.maintenance.sentences import counted
from projections.model.attributes import read_attributes
from projections.model.batch import BatchBuilder
from projections.model.events import Message, Position
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store.checkpoint import Checkpoint

APPLIED_WITHIN_S: Final = 30.0
"""How long the projector may take to apply the events that are stored again."""
POLL_S: Final = 0.1
SHOWN_MAX: Final = 20


async def correct(
    connection: asyncpg.Connection, settings: Settings, what: Versioned, above: int, *, reason: str, dry_run: bool
) -> int:
    """Show what is removed and, unless `dry_run`, remove it; return the exit code."""
    broker = BrokerAccess.of(settings)
    try:
        client = await connect_reconnecting(broker, "membership-correct")
        try:
            await _correct(connection, client, broker, what, above, reason=reason, dry_run=dry_run)
        finally:
            await client.close()
    except (NatsError, NatsTimeoutError) as problem:
        raise BrokerUnavailable(problem, broker, "Run the same command again: it finishes a correction.") from None
    return 0


async def _correct(
    connection: asyncpg.Connection,
    client: TolerantClient,
    broker: BrokerAccess,
    what: Versioned,
    above: int,
    *,
    reason: str,
    dry_run: bool,
) -> None:
    await jobs.take_lock(connection)
    await jobs.take_helpers_lock(connection)
    await _require_no_open_job(connection)
    interrupted = await _was_interrupted(connection, client, what.subject)
    live = await _applied_until_now(connection, client)
    plan = await make_plan(connection, client, what.subject, above, live)
    _show(plan, above)
    if dry_run:
        print("Nothing was changed. Run with --yes to remove them." if plan.removed else "Nothing was changed.")
        return
    if plan.removed:
        await _store_again(connection, client, broker, plan)
    if plan.removed or interrupted:
        counts = f"{counted(len(plan.removed), 'event')} above version {above} of {what.anonymous}"
        await audit.record(connection, actor(), "correct", f"{counts}: {reason}")
        await _remove(client, what.subject, plan.through if plan.removed else None)
    rows = await _derive_rows(connection, client, what)
    print(f"Removed {counted(len(plan.removed), 'event')}; {counted(rows, 'row')} derived again.")


async def _require_no_open_job(connection: asyncpg.Connection) -> None:
    for job in await jobs.unfinished(connection):
        raise JobRefused(
            f"Job {job.job_id}, a {job.kind}, was interrupted, and its rows may hold the wrong version. Finish it with "
            f"the same command, or end it with `membership jobs cancel`. Nothing was changed."
        )


async def _was_interrupted(connection: asyncpg.Connection, client: TolerantClient, subject: str) -> bool:
    """Return whether a correction of this subject was interrupted; require a complete stream otherwise."""
    live = await checkpoints.read(connection, await checkpoints.live_generation(connection))
    state = await stream.identify(client, live)
    if state is None:
        raise StreamMissing(stream.STREAM, live.position)
    if state.tally.erasing_from is not None and _is_of(state, subject):
        return True
    await require_complete_stream(connection, client, live)
    return False


def _is_of(state: StreamState, subject: str) -> bool:
    return state.tally.erasing_customer == erasure.fingerprint(state.created, subject)


async def _store_again(
    connection: asyncpg.Connection, client: TolerantClient, broker: BrokerAccess, plan: Plan
) -> None:
    """Append the kept events, and wait until they are applied, so that purging the first copies loses nothing."""
    run = uuid.uuid4().hex  # of this run only: a repeated run must not get the positions that it is about to purge
    copies = [Publication(each.subject, f"correct-{run}-{each.position}", each.body) for each in plan.kept]
    last = plan.through
    for start in range(0, len(copies), BATCH_EVENTS_MAX):
        receipts = await publish_batch(client, broker, copies[start : start + BATCH_EVENTS_MAX])
        if min(receipt.position for receipt in receipts) <= plan.through:
            raise CorrectionRefused("The broker did not store the remaining events again. Nothing was removed.")
        last = Position(max(last, *(receipt.position for receipt in receipts)))
    await _applied_from(connection, client, last)


async def _applied_until_now(connection: asyncpg.Connection, client: TolerantClient) -> Checkpoint:
    """Return the live checkpoint once everything published before is applied, so that no wrong event is still ahead."""
    state = await stream.fetch_state(client)
    return await _applied_from(connection, client, state.last_position if state else Position(0))


async def _applied_from(connection: asyncpg.Connection, client: TolerantClient, position: Position) -> Checkpoint:
    """Return the live checkpoint once it has reached a position, or the end of the stream, if that was erased."""
    deadline = time.monotonic() + APPLIED_WITHIN_S
    while True:
        live = await checkpoints.read(connection, await checkpoints.live_generation(connection))
        if live.position >= position or await stream.count_after(client, live.position) == 0:
            return live
        if time.monotonic() > deadline:
            raise CorrectionRefused(
                f"The projector has applied the stream up to position {live.position}, not to {position}. Nothing was "
                "removed. Check `membership status`, then run the same command again."
            )
        await asyncio.sleep(POLL_S)


async def _remove(client: TolerantClient, subject: str, through: Position | None) -> None:
    """Purge a subject up to a position, and count what was removed in the stream's metadata; None: finish the count."""

    def mark(current: StreamState) -> Tally:
        if current.tally.erasing_from is not None:
            if not _is_of(current, subject):
                raise JobRefused("An erasure or another correction has begun. Finish it first. Nothing was removed.")
            return current.tally
        fingerprint = erasure.fingerprint(current.created, subject)
        return Tally(current.tally.erased, current.tally.acknowledged, current.missing, fingerprint)

    def complete(current: StreamState) -> Tally:
        return current.tally.completed(current.missing) if _is_of(current, subject) else current.tally

    await stream.update_tally(client, mark)
    if through is not None:
        await stream.purge(client, subject, through)
    await stream.update_tally(client, complete)


async def _derive_rows(connection: asyncpg.Connection, client: TolerantClient, what: Versioned) -> int:
    def source(subject: str, after: Position, through: Position) -> AsyncGenerator[BatchBuilder, None]:
        return replay(client, after, through, events_max=CHUNK_EVENTS, subject=subject)

    try:
        repaired = await repairs.repair(connection, what.entity, source, actor=actor(), dry_run=False)
    except NothingToRepair:
        return 0
    except TimeoutError:
        raise BrokerUnavailable("the last events did not arrive in time") from None
    return len(repaired.differences)


def _show(plan: Plan, above: int) -> None:
    print(f"{counted(len(plan.removed), 'event')} above version {above}, up to position {plan.through}:")
    for message in plan.removed[:SHOWN_MAX]:
        print(f"  {_line(message)}")
    if len(plan.removed) > SHOWN_MAX:
        print(f"  … and {len(plan.removed) - SHOWN_MAX:,} more")
    kept = f"the highest version is {plan.highest}" if plan.kept else "the entity has no other events"
    print(f"{counted(len(plan.kept), 'other event')} stored again; {kept}.")


def _line(message: Message) -> str:
    attributes = read_attributes(message.body)
    time_text = attributes.time.isoformat().replace("+00:00", "Z") if attributes.time else "no time"
    return (
        f"position {message.position}  {attributes.type}  version {version_of(message)}  {attributes.id}  {time_text}"
    )
