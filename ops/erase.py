"""`membership erase`: removes a customer from the stream and from every generation, so that no rebuild brings it back.

The order makes it safe to be killed anywhere. How many messages the stream lacks is recorded first, in the database and
in the stream's metadata, so that no projector takes the purge for a loss; then the subjects are purged; then the rows
are deleted, and both records are completed with the number of messages that were removed. The same command finishes
what was begun.
"""

import asyncpg
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers import loss_check, stream
from consumers.client import BrokerSilent, connect_reconnecting
from consumers.stream import StreamState
from ops.actor import actor
from ops.terminal import counted, fail
from projections.errors import JobRefused, MembershipError, StreamMissing, StreamRefused
from projections.maintenance import audit, erasure, jobs
from projections.maintenance.erasure import Tally
from projections.maintenance.jobs import Job
from projections.maintenance.repair import Entity, has_rows
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store import database
from projections.store.checkpoint import Checkpoint
from projections.store.database import UNAVAILABLE


class ErasureInterrupted(MembershipError):
    """An erasure has begun, and part of it may be done; it has to be finished."""

    code = "erasure_interrupted"

    def __init__(self, customer_id: str, problem: BaseException) -> None:
        super().__init__(
            f"The erasure was begun and is not finished: {stream.explain(problem)}. "
            "Until it is finished no rebuild, verify or repair runs. Run the same command again: "
            f"`membership erase --customer {customer_id} --yes`."
        )


async def erase(connection: asyncpg.Connection, settings: Settings, customer_id: str) -> int:
    """Erase a customer; return the exit code."""
    begun = await _begun(connection, customer_id)
    try:
        client = await connect_reconnecting(settings.nats_url, "membership-erase")
        try:
            return await _erase(connection, client, settings, customer_id)
        finally:
            await client.close()
    except (BrokerSilent, NatsError, NatsTimeoutError) as problem:
        if begun:
            raise ErasureInterrupted(customer_id, problem) from None
        raise problem if isinstance(problem, BrokerSilent) else BrokerSilent(problem) from None


async def _erase(connection: asyncpg.Connection, client: Client, settings: Settings, customer_id: str) -> int:
    await jobs.take_lock(connection)
    await jobs.take_helpers_lock(connection)  # of a job that was killed a moment ago, and may still be writing
    live = await checkpoints.read(connection, await checkpoints.live_generation(connection))
    if await stream.fetch_state(client) is None:
        raise StreamMissing(stream.STREAM, live.position)
    state = await stream.verify(client, live, settings.stream_replicas)
    # One that was begun with another database may have purged everything already; this command completes its record.
    begun = await _begun(connection, customer_id) or state.tally.erasing_from is not None
    if not begun and not await _exists(connection, client, live, customer_id):
        return fail(f"There is no customer {customer_id}: neither an event nor a row speaks of it. Nothing was erased.")
    job = await jobs.open_or_resume(connection, "erase", "purge", actor())
    try:
        with database.closed_is_unavailable(connection):
            messages, rows = await _carry_out(connection, client, settings, live, job=job, customer_id=customer_id)
    except (NatsError, NatsTimeoutError, StreamRefused, *UNAVAILABLE) as problem:
        raise ErasureInterrupted(customer_id, problem) from None
    print(
        f"Erased {counted(messages, 'message')} and {counted(rows, 'row')}. Backups were not touched; "
        "an event published from now on makes the customer known again."
    )
    return 0


async def _exists(connection: asyncpg.Connection, client: Client, live: Checkpoint, customer_id: str) -> bool:
    for subject in erasure.subjects(customer_id):
        if await stream.count(client, subject):
            return True
    return await has_rows(connection, live.generation, Entity("customer", customer_id))


async def _carry_out(
    connection: asyncpg.Connection, client: Client, settings: Settings, live: Checkpoint, *, job: Job, customer_id: str
) -> tuple[int, int]:
    """Remove messages and rows; return how many of each."""
    state = await stream.verify(client, live, settings.stream_replicas)
    await erasure.begin(connection, job, customer_id, state.created, state.missing)
    await _announce(connection, client, state)
    await _purge(client, customer_id)
    await jobs.enter(connection, job, "rows")
    async with connection.transaction():
        rows = await erasure.remove_rows(connection, customer_id)
        # Again, now that no projector commits: what was published since the first purge has no rows any more.
        await _purge(client, customer_id)
        after = await stream.verify(client, live, settings.stream_replicas)
        await _complete_tally(client, after)
        messages = await erasure.conclude(connection, job, after.missing)
        what = f"{counted(messages, 'message')} and {counted(rows, 'row')} of one customer"
        await audit.record(connection, actor(), "erase", what)
        await jobs.finish(connection, job, "done", what)
    return messages, rows


async def _announce(connection: asyncpg.Connection, client: Client, state: StreamState) -> None:
    """Let the stream say that an erasure is under way; one that was interrupted has said so already."""
    if state.tally.erasing_from is None:
        known = await loss_check.tally_of(connection, state)
        await stream.record_tally(client, Tally(known.erased, known.acknowledged, state.missing))


async def _complete_tally(client: Client, after: StreamState) -> None:
    """Add what is missing since the announcement to the stream's tally, and end the announcement, in one change."""
    tally = after.tally
    if tally.erasing_from is not None:
        erased = tally.erased + after.missing - tally.erasing_from
        await stream.record_tally(client, Tally(erased, tally.acknowledged))


async def _purge(client: Client, customer_id: str) -> None:
    for subject in erasure.subjects(customer_id):
        await stream.purge(client, subject)


async def _begun(connection: asyncpg.Connection, customer_id: str) -> bool:
    """Say whether this very erasure was begun before; raises `JobRefused` if it was another one."""
    for job in await jobs.unfinished(connection):
        if job.kind == "erase" and job.erased_customer is not None:
            if str(job.erased_customer) != customer_id:
                raise JobRefused(
                    f"The erasure of customer {job.erased_customer} was interrupted. Finish it first: "
                    f"`membership erase --customer {job.erased_customer} --yes`."
                )
            return True
    return False
