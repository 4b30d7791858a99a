"""Distinguishes lost messages from erased ones: a hole in the stream must be explained before the projector passes it.

JetStream does not report which positions have no message, only how many. So an erasure announces itself in the
stream's metadata before it purges, and an operator may acknowledge a loss; any further missing message was lost.

Reads: the stream's state and metadata, control.erasure, control.acknowledged_loss. Writes: the stream's metadata, when
this database has recorded more erased messages than the stream has.
Fails: `StreamLostMessages`; nats-py's errors when the broker is unavailable.
"""

import asyncpg
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers import stream
from consumers.stream import StreamState
from projections.errors import StreamLostMessages, StreamMissing, StreamRefused
from projections.maintenance import erasure
from projections.maintenance.erasure import Tally

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def tally_of(connection: asyncpg.Connection, state: StreamState) -> Tally:
    """Return the tally of the stream merged with that of this database."""
    return state.tally.merged(await erasure.recorded(connection, state.created))


async def unexplained(connection: asyncpg.Connection, state: StreamState) -> int:
    """Return how many positions have no message and no recorded reason."""
    return (await tally_of(connection, state)).unexplained(state.missing)


async def require_no_loss_ahead(
    client: Client, connection: asyncpg.Connection, state: StreamState, after: int, pending: int
) -> None:
    """Raise `StreamLostMessages` if messages after a position are missing unexplained, before any more are applied.

    `state` was read before `pending`, the number of messages after `after`, so messages published in between can only
    make the hole look smaller; `require_no_loss_within` finds the remainder when the next message arrives.
    """
    await _copy_tally(client, connection, state)
    hole = state.last_position - after - pending
    if hole > 0:
        await _require_explained(client, connection, hole, after, state.last_position)


async def require_no_loss_within(
    client: Client, connection: asyncpg.Connection, after: int, position: int, events: int
) -> None:
    """Raise `StreamLostMessages` if a batch has an unexplained hole. A batch without holes costs one subtraction."""
    hole = position - after - events
    if hole > 0:
        await _require_explained(client, connection, hole, after, position)


async def _require_explained(client: Client, connection: asyncpg.Connection, hole: int, after: int, to: int) -> None:
    # Twice: the broker reads the configuration before the state, so an erasure may announce itself and purge in
    # between. The second request is later than that announcement.
    for _ in range(2):
        state = await stream.fetch_state(client)
        if state is None:
            raise StreamMissing(stream.STREAM, after)
        lost = await unexplained(connection, state)
        if lost == 0:
            return
    raise StreamLostMessages(stream.STREAM, min(lost, hole), after, to)


async def _copy_tally(client: Client, connection: asyncpg.Connection, state: StreamState) -> None:
    """Copy to the stream what only this database has recorded, as after an erasure by an older release.

    A failure is only logged: this database has its own numbers, and the next term tries again.
    """
    tally = await tally_of(connection, state)
    if (tally.erased, tally.acknowledged) == (state.tally.erased, state.tally.acknowledged):
        return
    try:
        await stream.record_tally(client, Tally(tally.erased, tally.acknowledged, state.tally.erasing_from))
    except (NatsError, NatsTimeoutError, StreamRefused) as problem:
        log.warning("tally_not_copied", detail=str(problem) or "no answer")
