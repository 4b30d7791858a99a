"""Reads from the stream on a connection of its own, and says in a sentence why it could not."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from nats.errors import Error as NatsError

from consumers import replicas, stream
from consumers.broker_access import CONNECTION_REFUSED, BrokerAccess
from consumers.client import TolerantClient, connect_once
from consumers.lag import Lag
from projections.error_text import error_text
from projections.errors import MembershipError, StreamRefused, StreamRestored
from projections.maintenance.status import loss_sentence
from projections.settings import Settings

Found = TypeVar("Found")


async def read_stream(
    settings: Settings, name: str, read: Callable[[TolerantClient], Awaitable[Found]]
) -> tuple[Found | None, str]:
    """Return what `read` finds, or None and a sentence; `name` is the connection's."""
    try:
        client = await connect_once(BrokerAccess.of(settings), name)
        try:
            return await read(client), ""
        finally:
            await client.close()
    except StreamRefused as refused:
        return None, str(refused)
    except MembershipError as problem:
        return None, f"The broker cannot be queried: {error_text(problem)}."
    except CONNECTION_REFUSED as problem:
        return None, f"{BrokerAccess.of(settings).problem(problem)}."
    except (NatsError, OSError) as problem:  # nats-py's timeout is an OSError too
        return None, f"The broker cannot be queried: {stream.explain(problem)}."


def stream_sentence(measured: Lag, replicas_wanted: int = 1) -> str:
    """Return a sentence if messages are missing from the stream or in it again, or its replicas need an operator."""
    if measured.returned:
        return str(StreamRestored(stream.STREAM, measured.returned))
    replication = measured.replication
    problem = "" if replication is None else replicas.problem(stream.STREAM, replication, replicas_wanted)
    return loss_sentence(stream.STREAM, measured.missing) or problem
