"""`membership acknowledge-missing`: an operator accepts that messages of the stream are lost, with a reason.

Afterwards the projector passes the gap, and verify, repair and rebuild work on the remaining messages.
After a restore from a backup, the command lowers the record of erased and lost messages to what is missing.
"""

import sys

import asyncpg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers import loss_check, stream
from consumers.broker_access import BrokerAccess
from consumers.client import BrokerUnavailable, TolerantClient, connect_reconnecting
from consumers.loss_check import Account
from consumers.stream import StreamState
from ops.actor import actor
from ops.stream_check import require_no_erasure_elsewhere
from ops.terminal import confirm, fail
from projections.errors import JobRefused, StreamMissing
from projections.maintenance import audit, erasure, jobs
from projections.maintenance.erasure import Tally
from projections.maintenance.sentences import counted
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store.checkpoint import Checkpoint

WITHOUT_APPROVAL = 2
"""The exit code without the operator's approval, as for wrong usage."""


async def acknowledge_missing(connection: asyncpg.Connection, settings: Settings, reason: str, *, yes: bool) -> int:
    """Show what is missing, ask for approval, and record it; return the exit code."""
    try:
        client = await connect_reconnecting(BrokerAccess.of(settings), "membership-acknowledge")
        try:
            return await _acknowledge(connection, client, reason, yes=yes)
        finally:
            await client.close()
    except (NatsError, NatsTimeoutError) as problem:
        raise BrokerUnavailable(problem) from None


async def _acknowledge(connection: asyncpg.Connection, client: TolerantClient, reason: str, *, yes: bool) -> int:
    await jobs.take_lock(connection)  # an erasure changes the same counts
    live = await checkpoints.read(connection, await checkpoints.live_generation(connection))
    state, known = await _examine(connection, client, live)
    if not (known.lost or known.returned):
        print(f"Stream {stream.STREAM} has lost nothing: every missing position is erased or acknowledged already.")
        return 0
    if known.returned:
        print(_description_of_restore(state, known))
    else:
        print(_description(state, live, known.lost, await stream.count_after(client, live.position)))
    if not yes and not await _approved(known):
        return fail("Nothing was acknowledged. Add --yes to acknowledge without a prompt.", WITHOUT_APPROVAL)
    # Read again: with another database, messages may have been erased or acknowledged during the prompt.
    state, current = await _examine(connection, client, live)
    if (current.lost, current.returned) != (known.lost, known.returned):
        raise JobRefused("The stream has changed since these numbers were shown. Run the command again.")
    if current.returned:
        await _lower(connection, client, state, reason)
        print(f"Recorded that {counted(state.missing, 'message')} are missing. Restart the projector if it has ended.")
    else:
        await _record(connection, client, state, current, reason=reason)
        print(f"Acknowledged {counted(current.lost, 'lost message')}. Restart the projector if it has ended.")
    return 0


async def _examine(
    connection: asyncpg.Connection, client: TolerantClient, live: Checkpoint
) -> tuple[StreamState, Account]:
    """Return the stream's state and how it compares with the records; refuse during an erasure."""
    state = await stream.identify(client, live)
    if state is None:
        raise StreamMissing(stream.STREAM, live.position)
    if any(job.kind == "erase" for job in await jobs.unfinished(connection)):
        raise JobRefused("An erasure was interrupted. Finish it first: run the same `membership erase` again.")
    require_no_erasure_elsewhere(state)
    return state, await loss_check.account(client, connection, state)


def _description_of_restore(state: StreamState, known: Account) -> str:
    recorded = known.tally.erased + known.tally.acknowledged
    return (
        f"Stream {stream.STREAM} was restored from a backup: {recorded:,} messages "
        f"are recorded as erased or lost, but only {state.missing:,} are missing. If a customer was erased after that "
        "backup, the customer is back: repeat those erasures with `membership erase` instead of acknowledging. "
        "Acknowledging lowers the record to what is missing now."
    )


def _description(state: StreamState, live: Checkpoint, lost: int, remaining: int) -> str:
    unapplied_max = max(0, state.last_position - live.position - remaining)
    consequence = (
        f"up to {unapplied_max:,} of them lie beyond it, and no read model will contain their data."
        if unapplied_max
        else "none of them lie beyond it. The live generation may contain their data; a rebuilt one will not."
    )
    return (
        f"Stream {stream.STREAM} lacks {counted(lost, 'message')} that no erasure took out. Its first position is "
        f"{state.first_position}, its last {state.last_position}. The live generation has applied position "
        f"{live.position}; {consequence}"
    )


async def _approved(known: Account) -> bool:
    question = "Acknowledge that these messages are lost?"
    if known.returned:
        question = "Are all erasures made since that backup repeated?"
    return sys.stdin.isatty() and await confirm(question)


async def _record(
    connection: asyncpg.Connection, client: TolerantClient, state: StreamState, known: Account, *, reason: str
) -> None:
    """Record in the database, then in the stream; if the second fails, the next leading projector repeats it."""
    lost = known.lost
    acknowledged = known.tally.acknowledged + lost
    async with connection.transaction():
        await erasure.acknowledge(connection, state.created, lost, acknowledged, reason=reason, actor=actor())
        await audit.record(connection, actor(), "acknowledge-missing", f"{counted(lost, 'lost message')}: {reason}")
    await stream.update_tally(client, lambda current: current.tally.raised(Tally(acknowledged=acknowledged)))


async def _lower(connection: asyncpg.Connection, client: TolerantClient, state: StreamState, reason: str) -> None:
    """Reduce the record of a restored stream to what is missing; if the second write fails, run the command again."""
    detail = f"restored stream, {counted(state.missing, 'message')} missing: {reason}"
    async with connection.transaction():
        await erasure.lower(connection, state.created, state.missing, reason=reason, actor=actor())
        await audit.record(connection, actor(), "acknowledge-missing", detail)
    await stream.update_tally(client, lambda current: current.tally.lowered(current.missing))
