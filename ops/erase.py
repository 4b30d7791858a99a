"""`membership erase`: removes a customer from the stream and from every generation, so that no rebuild restores it.

The order makes it safe to kill at any point. First the number of messages missing from the stream is recorded, in the
database and in the stream's metadata, so that no projector mistakes the purge for a loss. Then the subjects are purged.
Then the rows are deleted, and both records are completed with the number of removed messages. The same command
finishes an interrupted erasure. The record in the metadata, the mark, has a fingerprint of the customer: a command with
another database can also finish the erasure, but only for the same customer.

After a restore from a backup made before an erasure, the same command repeats the erasure: messages that are counted
already are not counted twice.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import asyncpg
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers import stream
from consumers.broker_access import BrokerAccess
from consumers.client import BrokerUnavailable, connect_reconnecting
from consumers.stream import StreamState
from ops.actor import actor
from ops.terminal import fail
from projections.errors import JobRefused, MembershipError, StreamMissing, StreamRefused
from projections.maintenance import audit, erasure, jobs, sentences
from projections.maintenance.erasure import Tally
from projections.maintenance.jobs import Job
from projections.maintenance.repair import Entity, has_rows
from projections.maintenance.sentences import counted
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store import database
from projections.store.checkpoint import Checkpoint
from projections.store.database import UNAVAILABLE


class ErasureInterrupted(MembershipError):
    """An erasure was interrupted; part of it may be done, and it must be finished."""

    code = "erasure_interrupted"

    def __init__(self, customer_id: str, problem: BaseException) -> None:
        super().__init__(
            f"The erasure was begun and is not finished: {stream.explain(problem)}. "
            "Until it is finished no rebuild, verify or repair runs. Run the same command again: "
            f"`membership erase --customer {customer_id} --yes`."
        )


class NothingToErase(MembershipError):
    """There is no such customer."""

    code = "nothing_to_erase"

    def __init__(self, customer_id: str) -> None:
        super().__init__(sentences.nothing_to_erase(customer_id))


class Erased(NamedTuple):
    """How much an erasure removed."""

    messages: int
    rows: int

    @property
    def sentence(self) -> str:
        """What the erasure did."""
        return sentences.erased(self.messages, self.rows)


Begun = Callable[[Job], Awaitable[None]]
"""Called with the job of an erasure that begins or is resumed, before anything is removed."""


async def _nothing(_job: Job) -> None: ...


async def erase(connection: asyncpg.Connection, settings: Settings, customer_id: str) -> int:
    """Erase a customer; return the exit code."""
    try:
        erased = await erase_customer(connection, settings, customer_id, by=actor())
    except NothingToErase as problem:
        return fail(str(problem))
    print(erased.sentence)
    return 0


async def erase_customer(
    connection: asyncpg.Connection, settings: Settings, customer_id: str, *, by: str, begun: Begun = _nothing
) -> Erased:
    """Erase a customer, or finish its interrupted erasure.

    Raises `NothingToErase`, `JobRefused`, `BrokerUnavailable`, and `ErasureInterrupted` once something may be removed.
    """
    was_begun = await _was_begun(connection, customer_id)
    try:
        client = await connect_reconnecting(BrokerAccess.of(settings), "membership-erase")
        try:
            return await _erase(connection, client, settings, customer_id, by=by, begun=begun)
        finally:
            await client.close()
    except (BrokerUnavailable, NatsError, NatsTimeoutError) as problem:
        if was_begun:
            raise ErasureInterrupted(customer_id, problem) from None
        raise problem if isinstance(problem, BrokerUnavailable) else BrokerUnavailable(problem) from None


async def count(connection: asyncpg.Connection, settings: Settings, customer_id: str) -> Erased:
    """Return how many messages and rows an erasure would remove now; change nothing."""
    try:
        client = await connect_reconnecting(BrokerAccess.of(settings), "membership-erase")
        try:
            subjects = erasure.subjects(await _roots(connection, client, customer_id))
            messages = sum([await stream.count(client, subject) for subject in subjects])
        finally:
            await client.close()
    except (NatsError, NatsTimeoutError) as problem:
        raise BrokerUnavailable(problem) from None
    return Erased(messages, await erasure.count_rows(connection, customer_id))


async def _erase(
    connection: asyncpg.Connection, client: Client, settings: Settings, customer_id: str, *, by: str, begun: Begun
) -> Erased:
    await jobs.take_lock(connection)
    await jobs.take_helpers_lock(connection)  # a job killed a moment ago may still be writing
    live = await checkpoints.read(connection, await checkpoints.live_generation(connection))
    if await stream.fetch_state(client) is None:
        raise StreamMissing(stream.STREAM, live.position)
    state = await stream.verify(client, live, settings.stream_replicas)
    # An erasure begun with another database may already have purged everything; this command completes its record.
    _require_same_customer(state, customer_id)
    was_begun = await _was_begun(connection, customer_id) or state.tally.erasing_from is not None
    if not was_begun and not await _exists(connection, client, live, customer_id):
        raise NothingToErase(customer_id)
    job = await jobs.open_or_resume(connection, "erase", "purge", by)
    await begun(job)
    try:
        with database.closed_is_unavailable(connection):
            return await _carry_out(connection, client, settings, live, job=job, customer_id=customer_id, by=by)
    except (NatsError, NatsTimeoutError, StreamRefused, *UNAVAILABLE) as problem:
        raise ErasureInterrupted(customer_id, problem) from None


async def _exists(connection: asyncpg.Connection, client: Client, live: Checkpoint, customer_id: str) -> bool:
    for subject in erasure.subjects(await _roots(connection, client, customer_id)):
        if await stream.count(client, subject):
            return True
    return await has_rows(connection, live.generation, Entity("customer", customer_id))


async def _carry_out(
    connection: asyncpg.Connection,
    client: Client,
    settings: Settings,
    live: Checkpoint,
    *,
    job: Job,
    customer_id: str,
    by: str,
) -> Erased:
    """Remove messages and rows; return the number of each."""
    state = await stream.verify(client, live, settings.stream_replicas)
    await erasure.begin(connection, job, customer_id, state.created, state.missing)
    await _mark_erasing(connection, client, state.created, customer_id)
    await _purge(client, await _roots(connection, client, customer_id))
    await jobs.enter(connection, job, "rows")
    async with connection.transaction():
        roots = await _roots(connection, client, customer_id)
        rows = await erasure.remove_rows(connection, customer_id)
        # Purge again while no projector can commit: events published since the first purge have lost their rows too.
        await _purge(client, roots)
        after = await stream.verify(client, live, settings.stream_replicas)
        await _complete_tally(client, customer_id)
        messages = await erasure.conclude(connection, job, after.created, after.missing)
        summary = f"{counted(messages, 'message')} and {counted(rows, 'row')} of one customer"
        await audit.record(connection, by, "erase", summary)
        await jobs.finish(connection, job, "done", summary)
    return Erased(messages, rows)


async def _mark_erasing(connection: asyncpg.Connection, client: Client, created: str, customer_id: str) -> None:
    """Mark the stream as being erased from, unless an interrupted erasure of this customer has already marked it."""
    recorded = await erasure.recorded(connection, created)

    def mark(current: StreamState) -> Tally:
        _require_same_customer(current, customer_id)
        if current.tally.erasing_from is not None:
            return current.tally
        counts = current.tally.raised(recorded)
        fingerprint = erasure.fingerprint(current.created, customer_id)
        return Tally(counts.erased, counts.acknowledged, current.missing, fingerprint)

    await stream.update_tally(client, mark)


async def _complete_tally(client: Client, customer_id: str) -> None:
    """Add the messages removed since the mark to the stream's tally and clear the mark, in one change."""

    def complete(current: StreamState) -> Tally:
        return current.tally.completed(current.missing) if _is_of(current, customer_id) else current.tally

    await stream.update_tally(client, complete)


def _is_of(state: StreamState, customer_id: str) -> bool:
    """Return whether a running erasure may be of this customer; without a fingerprint, it may be of any."""
    return state.tally.erasing_customer in (None, erasure.fingerprint(state.created, customer_id))


def _require_same_customer(state: StreamState, customer_id: str) -> None:
    """Raise `JobRefused` while the stream is marked by the erasure of another customer."""
    if state.tally.erasing_from is not None and not _is_of(state, customer_id):
        raise JobRefused(
            f"An erasure of another customer from stream {stream.STREAM}, or a correction, is running or was "
            "interrupted. Finish it first: run `membership erase` for that customer, or the same `membership correct`, "
            "again, with this or the other database. Nothing was erased."
        )


async def _roots(connection: asyncpg.Connection, client: Client, customer_id: str) -> tuple[str, ...]:
    """Return the root subjects of the customer's messages; parked and discarded events show ids in mixed case."""
    subjects = await erasure.parked_subjects(connection, customer_id)
    for position in await erasure.discarded_positions(connection):
        if subject := await stream.subject_at(client, position):
            subjects.add(subject)
    found = {root for subject in subjects if (root := erasure.root_of(subject, customer_id))}
    return (*erasure.roots(customer_id), *sorted(found - set(erasure.roots(customer_id))))


async def _purge(client: Client, roots: tuple[str, ...]) -> None:
    for subject in erasure.subjects(roots):
        await stream.purge(client, subject)


async def _was_begun(connection: asyncpg.Connection, customer_id: str) -> bool:
    """Return whether this erasure was begun before; raise `JobRefused` if another one was."""
    for job in await jobs.unfinished(connection):
        if job.kind == "erase" and job.erased_customer is not None:
            if str(job.erased_customer) != customer_id:
                raise JobRefused(
                    f"The erasure of customer {job.erased_customer} was interrupted. Finish it first: "
                    f"`membership erase --customer {job.erased_customer} --yes`."
                )
            return True
    return False
