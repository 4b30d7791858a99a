"""`membership erase`: takes a customer out of the stream and of every generation, so that no rebuild brings it back.

The order makes it safe to be killed anywhere: what the stream lacks is recorded, then the subjects are purged, then the
rows go, together with the record of how many messages went. The same command finishes what was begun.
"""

import asyncpg
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers import stream
from consumers.client import BrokerSilent, connect_lasting
from ops.account import actor
from ops.terminal import counted, fail
from projections import checkpoint as checkpoints
from projections import erasure, jobs
from projections.errors import JobRefused, StreamMissing
from projections.repair import Entity, has_rows
from projections.settings import Settings


async def erase(connection: asyncpg.Connection, settings: Settings, customer_id: str) -> int:
    """Erase a customer; return the exit code."""
    try:
        client = await connect_lasting(settings.nats_url, "membership-erase")
        try:
            return await _erase(connection, client, settings, customer_id)
        finally:
            await client.close()
    except (NatsError, NatsTimeoutError) as problem:
        raise BrokerSilent(problem) from None


async def _erase(connection: asyncpg.Connection, client: Client, settings: Settings, customer_id: str) -> int:
    await jobs.take_lock(connection)
    await jobs.take_helpers_lock(connection)  # of a job that was killed a moment ago, and may still be writing
    live = await checkpoints.read(connection, await checkpoints.live_generation(connection))
    if await stream.look(client) is None:
        raise StreamMissing(stream.STREAM, live.position)
    state = await stream.verify(client, live, settings.stream_replicas)
    begun = await _begun(connection, customer_id)
    subjects = erasure.subjects(customer_id)
    there = [await stream.count(client, subject) for subject in subjects]
    if (
        not begun
        and not any(there)
        and not await has_rows(connection, live.generation, Entity("customer", customer_id))
    ):
        return fail(f"There is no customer {customer_id}: neither an event nor a row speaks of it. Nothing was erased.")
    job = await jobs.open_or_resume(connection, "erase", "purge", actor())
    await erasure.begin(connection, job, customer_id, state.created, state.missing)
    for subject in subjects:
        await stream.purge(client, subject)
    await jobs.enter(connection, job, "rows")
    async with connection.transaction():
        rows = await erasure.remove_rows(connection, customer_id)
        # Once more, now that nothing is applied: what was published since the first time has no rows any more.
        for subject in subjects:
            await stream.purge(client, subject)
        after = await stream.verify(client, live, settings.stream_replicas)
        messages = await erasure.conclude(connection, job, after.missing)
        what = f"{counted(messages, 'message')} and {counted(rows, 'row')} of one customer"
        await jobs.audit(connection, actor(), "erase", what)
        await jobs.finish(connection, job, "done", what)
    print(
        f"Erased {counted(messages, 'message')} and {counted(rows, 'row')}. Backups were not touched; "
        "an event published from now on makes the customer known again."
    )
    return 0


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
