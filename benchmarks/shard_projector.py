"""A projector that applies one shard of the stream, to try how a read model divided by customer would behave.

Started as `python -m benchmarks.shard_projector NUMBER SHARDS`, with a projector's settings. An experiment and no part
of the service: only a batch's content differs from that of `membership project`.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Final
from zlib import crc32

from consumers import prefetch
from ops.cli import cli
from projections.model.batch import BatchBuilder
from projections.model.events import Message, Position

OF_A_CUSTOMER: Final = ("membership.customer.", "membership.target.")
"""The beginnings of subjects whose third token is a customer's id."""


def shard_of(subject: str, shards: int) -> int | None:
    """Return the shard of a message; None for a campaign's and any other message, which every shard applies."""
    if not subject.startswith(OF_A_CUSTOMER):
        return None
    customer = subject.split(".", 3)[2]
    return crc32(customer.lower().encode("utf-8", "surrogatepass")) % shards


class ShardBatch(BatchBuilder):
    """A batch of which another shard's messages are dropped before they are decoded; its position is past them."""

    def __init__(self, number: int, shards: int, after: Position) -> None:
        super().__init__(after)
        self._number = number
        self._shards = shards

    def add(self, messages: Sequence[Message]) -> None:
        """Decode and fold this shard's messages of the next ones, at least one."""
        applied = [message for message in messages if self._is_mine(message)]
        count = len(self.messages)
        if applied:
            super().add(applied)
        # All are counted: the projector compares their number with the positions they cover.
        self.messages[count:] = messages
        self.position, self.time_ns = messages[-1].position, messages[-1].time_ns
        self.made = None

    def _is_mine(self, message: Message) -> bool:
        return shard_of(message.subject, self._shards) in (None, self._number)


if __name__ == "__main__":
    shard, of = map(int, sys.argv[1:])
    # Replaced in this process only; the service has no such hook.
    prefetch.BatchBuilder = partial(ShardBatch, shard, of)  # type: ignore[assignment,attr-defined] # an import there
    cli(["project"])
