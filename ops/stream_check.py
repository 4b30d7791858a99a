"""Checks that the stream is complete before rows are derived from it again.

Reads: the stream's state, control tables. Fails: `StreamRefused` and its kinds, `JobRefused` during an erasure.
"""

import asyncpg

from consumers import loss_check, stream
from consumers.client import TolerantClient
from consumers.stream import StreamState
from projections.errors import JobRefused, StreamIncomplete, StreamMissing, StreamRestored
from projections.maintenance import jobs
from projections.maintenance.sentences import counted
from projections.store.checkpoint import Checkpoint


async def require_complete_stream(
    connection: asyncpg.Connection, client: TolerantClient, live: Checkpoint
) -> StreamState:
    """Return the stream's state; refuse another stream, a restored one, and one with unacknowledged losses."""
    state = await stream.identify(client, live)
    if state is None:
        raise StreamMissing(stream.STREAM, live.position)
    if any(job.kind == "erase" for job in await jobs.unfinished(connection)):
        raise JobRefused(
            "An erasure is running or was interrupted. Finish it first: run the same `membership erase` again."
        )
    require_no_erasure_elsewhere(state)
    known = await loss_check.account(client, connection, state)
    if known.returned:
        raise StreamRestored(stream.STREAM, known.returned)
    if known.lost:
        raise StreamIncomplete(stream.STREAM, known.lost, state.first_position, state.last_position)
    return state


def only_copy_warning(acknowledged: int) -> str:
    """Return what to do about differing rows after losses were acknowledged; empty if none were."""
    if not acknowledged:
        return ""
    were = "was" if acknowledged == 1 else "were"
    return (
        f"{counted(acknowledged, 'lost message')} {were} acknowledged: these rows may be the only copy of their data. "
        "Publish that data as new events first."
    )


def require_no_erasure_elsewhere(state: StreamState) -> None:
    """Raise `JobRefused` while the stream is marked as being erased from."""
    if state.tally.erasing_from is not None:
        raise JobRefused(
            f"An erasure from stream {stream.STREAM}, begun with another database, or a correction, is running or was "
            "interrupted. Finish it first: run the same `membership erase` or `membership correct` again, with either "
            "database."
        )
