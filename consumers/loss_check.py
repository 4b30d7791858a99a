"""Distinguishes lost messages from erased ones: a hole in the stream must be explained before the projector passes it.

JetStream does not report which positions have no message, only how many. So an erasure is recorded in the stream's
metadata before it purges messages, and an operator may acknowledge a loss; any further missing message was lost.

After a restore from a backup made before an erasure, fewer messages are missing than are recorded. A later loss would
be taken for the erasure, so nothing is applied until the erasure is repeated.

Reads: the stream's state and metadata, control.erasure, control.acknowledged_loss. Writes: the stream's metadata, when
this database has recorded more erased messages than the stream has.
Fails: `StreamLostMessages`, `StreamRestored`; nats-py's errors when the broker is unavailable.
"""

from typing import NamedTuple

import asyncpg
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError

from consumers import stream
from consumers.stream import StreamState
from projections.errors import StreamLostMessages, StreamMissing, StreamRefused, StreamRestored
from projections.maintenance import erasure
from projections.maintenance.erasure import Tally

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def tally_of(connection: asyncpg.Connection, state: StreamState) -> Tally:
    """Return the tally of the stream merged with that of this database."""
    return state.tally.merged(await erasure.recorded(connection, state.created))


class Account(NamedTuple):
    """How the messages missing from the stream compare with what is recorded."""

    tally: Tally
    """Merged from the stream and this database."""
    lost: int
    """Positions that have no message and no recorded reason."""
    returned: int
    """Messages recorded as erased or lost that are in the stream again."""


async def account(client: Client, connection: asyncpg.Connection, state: StreamState) -> Account:
    """Compare what is missing with what is recorded in the stream and in this database."""
    recorded = await erasure.recorded(connection, state.created)
    if state.tally.merged(recorded).returned(state.missing):
        # An erasure may have ended since the state was read; a state newer than the record includes its purge.
        state = await stream.fetch_state(client) or state
    tally = state.tally.merged(recorded)
    return Account(tally, tally.unexplained(state.missing), tally.returned(state.missing))


async def require_no_loss_ahead(
    client: Client, connection: asyncpg.Connection, state: StreamState, after: int, pending: int
) -> None:
    """Raise `StreamLostMessages` if messages after a position are missing unexplained, before any more are applied.

    `state` was read before `pending`, the number of messages after `after`, so messages published in between can only
    make the hole look smaller; `require_no_loss_within` finds the remainder when the next message arrives.
    """
    known = await account(client, connection, state)
    await _copy_tally(client, known.tally, state)
    if known.returned:
        raise StreamRestored(stream.STREAM, known.returned)
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
    # Two attempts: the broker reads the configuration before the state, so an erasure may be recorded and purge
    # messages in between. The second request is later than that record.
    for _ in range(2):
        state = await stream.fetch_state(client)
        if state is None:
            raise StreamMissing(stream.STREAM, after)
        known = await account(client, connection, state)
        if known.returned:
            raise StreamRestored(stream.STREAM, known.returned)
        if known.lost == 0:
            return
    raise StreamLostMessages(stream.STREAM, min(known.lost, hole), after, to)


async def _copy_tally(client: Client, tally: Tally, state: StreamState) -> None:
    """Copy to the stream what only this database has recorded, as after an erasure by an older release.

    A failure is only logged: this database has its own numbers, and the next term tries again.
    """
    if (tally.erased, tally.acknowledged) == (state.tally.erased, state.tally.acknowledged):
        return
    try:
        await stream.update_tally(client, lambda current: current.tally.raised(tally))
    except (NatsError, NatsTimeoutError, StreamRefused) as problem:
        log.warning("tally_not_copied", detail=str(problem) or "no answer")
