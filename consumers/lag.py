"""Compares a checkpoint with the stream: how far it is behind, and what is missing. Always asks the broker.

Reads: the stream's state and metadata, control.erasure, control.acknowledged_loss.
Fails: `StreamRefused` if it is not the checkpoint's stream; nats-py's errors when the broker is unavailable.
"""

import time

import asyncpg
from msgspec import Struct
from nats.aio.client import Client

from consumers import loss_check, stream
from consumers.replicas import Replication
from projections.store.checkpoint import Checkpoint


class Lag(Struct, frozen=True):
    """A stream compared with a checkpoint; all zero while the stream was never created."""

    first_position: int = 0
    """The first position that the stream holds."""
    last_position: int = 0
    events: int = 0
    """Messages after the checkpoint."""
    seconds: float = 0.0
    """Age of the first of them."""
    missing: int = 0
    """Positions without a message that neither an erasure nor an acknowledgement explains."""
    returned: int = 0
    """Messages recorded as erased or lost that are in the stream again."""
    replication: Replication | None = None


async def measure(client: Client, connection: asyncpg.Connection, checkpoint: Checkpoint) -> Lag:
    """Return how far the checkpoint is behind its stream."""
    state = await stream.identify(client, checkpoint)
    if state is None:
        return Lag()
    # Counted, because erased positions are never applied: the last ones would count as lag permanently.
    events = await stream.count_after(client, checkpoint.position) if state.last_position > checkpoint.position else 0
    seconds = await _age_s(client, checkpoint.position) if events else 0.0
    account = await loss_check.account(client, connection, state)
    first, last = state.first_position, state.last_position
    return Lag(first, last, events, seconds, account.lost, account.returned, state.replication)


async def _age_s(client: Client, position: int) -> float:
    """Return the age of the first message after a position."""
    stored_ns = await stream.next_message_time_ns(client, position)
    return 0.0 if stored_ns is None else round(max(0.0, time.time() - stored_ns / 1e9), 3)
