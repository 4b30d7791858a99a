"""`Recorder`: takes the place of a `Publisher` in a producer's tests, without a broker.

It encodes and validates like a publisher and behaves like the stream: positions rise, and an id is stored once.
"""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from types import TracebackType
from typing import Self

from campaign_membership_client.batches import Receipt, is_same_json
from campaign_membership_client.errors import VersionReused
from campaign_membership_client.event import Event, Publication, prepare
from campaign_membership_client.outbox import Connection
from campaign_membership_client.publisher import NOT_COMPARED, EventMethods


class Recorder(EventMethods):
    """Keeps what it is given; `events` are in order, without duplicates."""

    def __init__(self, source: str = "test") -> None:
        self.source = source
        self.events: list[Event] = []
        self.publications: list[Publication] = []
        self._positions: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        """Connect to nothing."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what was recorded."""

    async def publish(self, event: Event) -> Receipt:
        """Record a valid event; raises `InvalidEvent` and `VersionReused` as a publisher does."""
        receipt = self._record(event)
        if receipt.differs:
            raise VersionReused(receipt.msg_id, receipt.position)
        return receipt

    async def enqueue(self, connection: Connection, *events: Event) -> None:  # noqa: ARG002 - nothing is written
        """Record events as published, whatever becomes of the transaction."""
        for event in events:
            self._record(event)

    async def publish_many(self, many: Iterable[Event] | AsyncIterable[Event]) -> AsyncGenerator[Receipt, None]:
        """Record events and yield their receipts."""
        if isinstance(many, AsyncIterable):
            async for event in many:
                yield self._record(event)
        else:
            for event in many:
                yield self._record(event)

    def _record(self, event: Event) -> Receipt:
        publication = prepare(event, self.source)
        known = self._positions.get(publication.msg_id)
        if known is not None:
            same = is_same_json(self.publications[known - 1].body, publication.body, NOT_COMPARED)
            return Receipt(publication.msg_id, known, duplicate=True, differs=not same)
        self.events.append(event)
        self.publications.append(publication)
        self._positions[publication.msg_id] = len(self.events)
        return Receipt(publication.msg_id, len(self.events), duplicate=False)
