"""`Publisher`: sends events to the stream and returns their receipts.

Invariants: an event is validated before it is sent; a receipt means that the broker has stored the event.
Fails: `InvalidEvent` before anything is sent, a `PublishError` when it was not stored. Every call may be repeated.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self

from campaign_membership_client import events, outbox
from campaign_membership_client.batches import BATCH_EVENTS_MAX, Deadlines, Receipt, Sender, Unstored
from campaign_membership_client.connection import Connection
from campaign_membership_client.errors import InvalidEvent, VersionReused
from campaign_membership_client.event import Event, Publication, prepare, version_of
from campaign_membership_client.versions import implausible_version

STREAM: Final = "MEMBERSHIP"
WARNING_PERIOD_S: Final = 60.0
"""How often the log warns of implausible versions: a wrong clock makes all of them implausible."""
NOT_COMPARED: Final = frozenset({"time"})
"""An event without a time gets the current one whenever it is encoded; that makes it no other event."""
_LOG: Final = logging.getLogger("campaign_membership_client")
P = ParamSpec("P")
BATCHES_SENDING: Final = 2
"""Batches sent at the same time: the next one is encoded while the broker writes this one to disk."""
BATCH_BYTES: Final = 4 * 1024 * 1024
"""A batch ends with the event that exceeds this: a thousand of the largest events would need 256 MiB."""


def _sending(build: Callable[P, Event]) -> "Callable[Concatenate[EventMethods, P], Coroutine[Any, Any, Receipt]]":
    """Return a method that sends the event which a function of `events` returns, with the same parameters."""

    async def send(self: "EventMethods", /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        return await self.publish(build(*args, **kwargs))

    send.__name__ = build.__name__
    send.__doc__ = build.__doc__
    return send


class EventMethods(ABC):
    """A method per event type; each takes what the function of the same name in `events` takes."""

    @abstractmethod
    async def publish(self, event: Event) -> Receipt:
        """Send one event and return its receipt."""

    @abstractmethod
    async def enqueue(self, connection: outbox.Connection, *events: Event) -> None:
        """Write events to the outbox in the connection's transaction; a relay publishes them once it is committed."""

    customer_upserted = _sending(events.customer_upserted)
    campaign_upserted = _sending(events.campaign_upserted)
    campaign_status_changed = _sending(events.campaign_status_changed)
    campaign_deleted = _sending(events.campaign_deleted)
    campaign_restored = _sending(events.campaign_restored)
    campaign_counters_changed = _sending(events.campaign_counters_changed)
    enrolled = _sending(events.enrolled)
    removed = _sending(events.removed)
    restored = _sending(events.restored)


class Publisher(EventMethods):
    """A connection to the broker under the name of one source.

    `options` are nats-py's for `connect`, such as `user_credentials` or `tls`.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        source: str,
        stream: str = STREAM,
        deadlines: Deadlines | None = None,
        options: Mapping[str, Any] | None = None,
        outbox_table: str = outbox.TABLE,
    ) -> None:
        self.source = source
        self._deadlines = deadlines or Deadlines()
        self._stream = stream
        self._connection = Connection(servers, options or {}, stream)
        self._sender = Sender(self._connection.client, stream, self._deadlines, NOT_COMPARED)
        self._outbox = outbox.Outbox(source, outbox_table)
        self._warned_at = -WARNING_PERIOD_S

    async def __aenter__(self) -> Self:
        """Connect, and check that the stream owns the subjects; raises a `PublishError`."""
        await self._connection.open(f"campaign-membership-client {self.source}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self._connection.close()

    async def publish(self, event: Event) -> Receipt:
        """Send one event and return its receipt, once it is stored. A repeated call returns the same position.

        Raises `VersionReused` if another event with its id is stored already.
        """
        (receipt,) = await self.send([self.prepare(event)])
        if receipt.differs:
            raise VersionReused(receipt.msg_id, receipt.position)
        return receipt

    async def enqueue(self, connection: outbox.Connection, *events: Event) -> None:
        """Write events to the outbox in the connection's transaction; needs no connection to the broker."""
        await self._outbox.enqueue(connection, *events)

    async def publish_many(self, many: Iterable[Event] | AsyncIterable[Event]) -> AsyncGenerator[Receipt, None]:
        """Send events in batches and yield their receipts in order; reads `many` two batches ahead at most.

        An invalid event ends it, after the receipts of the batches before. Look at `receipt.differs`. After a lost
        connection, positions may be in another order than the events; versions decide, not positions.
        """
        sending: deque[asyncio.Task[list[Receipt]]] = deque()
        batches = self._batches(many)
        try:
            while batch := await anext(batches, None):
                if isinstance(batch, InvalidEvent):
                    break
                sending.append(asyncio.create_task(self.send(batch)))
                if len(sending) == BATCHES_SENDING:
                    for receipt in await sending.popleft():
                        yield receipt
            while sending:
                for receipt in await sending.popleft():
                    yield receipt
            if isinstance(batch, InvalidEvent):
                raise batch
        finally:
            await batches.aclose()
            await _cancelled(sending)

    async def send(self, batch: Sequence[Publication]) -> list[Receipt]:
        """Send up to 1,000 encoded events, as an outbox stores them, and return their receipts in order."""
        try:
            return await self._sender.send(batch)
        except Unstored as unstored:
            raise await self._connection.explain(unstored) from None

    async def _batches(
        self, many: Iterable[Event] | AsyncIterable[Event]
    ) -> AsyncGenerator[list[Publication] | InvalidEvent, None]:
        """Yield encoded batches; an invalid event is the last item, so that earlier batches get their receipts."""
        batch: list[Publication] = []
        size = 0
        async for event in _asynchronous(many):
            try:
                batch.append(self.prepare(event))
            except InvalidEvent as invalid:
                yield invalid
                return
            size += len(batch[-1].body)
            if len(batch) == BATCH_EVENTS_MAX or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def prepare(self, event: Event) -> Publication:
        """Encode and validate an event; raises `InvalidEvent`. Warns in the log of an implausible version."""
        publication = prepare(event, self.source)
        warning = implausible_version(version_of(publication))
        if warning and time.monotonic() - self._warned_at >= WARNING_PERIOD_S:
            self._warned_at = time.monotonic()
            _LOG.warning("%s (%s on %s)", warning, event.type, publication.subject)
        return publication


async def _asynchronous(many: Iterable[Event] | AsyncIterable[Event]) -> AsyncIterator[Event]:
    if isinstance(many, AsyncIterable):
        async for event in many:
            yield event
    else:
        for event in many:
            yield event


async def _cancelled(tasks: Iterable[asyncio.Task[list[Receipt]]]) -> None:
    """Cancel what is still being sent, because the caller wants no more receipts."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
