"""Checks that the stream is complete, before rows are derived from it again.

Reads: the stream's state, control tables. Fails: `StreamRefused` and its kinds, `JobRefused` during an erasure.
"""

import asyncpg

from consumers import loss_check, stream
from consumers.client import TolerantClient
from consumers.stream import StreamState
from projections.errors import JobRefused, StreamIncomplete, StreamMissing
from projections.maintenance import jobs
from projections.store.checkpoint import Checkpoint


async def require_complete_stream(
    connection: asyncpg.Connection, client: TolerantClient, live: Checkpoint
) -> StreamState:
    """Return the stream's state; refuse another one, and one that has lost messages which nobody has acknowledged."""
    state = await stream.identify(client, live)
    if state is None:
        raise StreamMissing(stream.STREAM, live.position)
    if any(job.kind == "erase" for job in await jobs.unfinished(connection)):
        raise JobRefused("An erasure is under way or was interrupted. Finish it first: the same `membership erase`.")
    require_no_erasure_elsewhere(state)
    if lost := await loss_check.unexplained(connection, state):
        raise StreamIncomplete(stream.STREAM, lost, state.first_position, state.last_position)
    return state


def require_no_erasure_elsewhere(state: StreamState) -> None:
    """Raise `JobRefused` while the stream says that an erasure is under way."""
    if state.tally.erasing_from is not None:
        raise JobRefused(
            f"Stream {stream.STREAM} says that an erasure is under way or was interrupted, begun with another "
            "database. Finish it first: the same `membership erase`, with either database."
        )
