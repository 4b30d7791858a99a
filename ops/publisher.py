"""Publishes events to the stream, fast and repeatable: in atomic batches, one by one where a batch is refused.

Writes: stream MEMBERSHIP. Reads: its messages at the positions of duplicates. With `sync_interval: always` an atomic
batch costs one fsync, single messages cost one each, so many events are published in batches. The broker refuses a
whole batch when it has seen any of its ids; its events are then published one by one, and the acks mark the duplicates.
The broker compares only ids and drops any event with a used id, so each duplicate is compared with the stored event.
Invariants: an event is stored once per message id within the broker's duplicate window; receipts are in the order of
the publications. Fails: `StreamNotCreated`, `JetStreamOff`, `BrokerUnavailable`, `PublishRefused`.
"""

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from consumers.broker_access import BrokerAccess
from consumers.client import BrokerUnavailable, connect_reconnecting
from consumers.stream import STREAM, exists, explain_unstored
from projections.error_text import error_text
from projections.errors import MembershipError

PUBLISH_AGAIN: Final = "Publish again once it works: events already stored are not stored twice."
"""What a producer can do when the broker fails: what was stored stays stored."""
BATCH_EVENTS_MAX: Final = 1_000
"""JetStream's limit for an atomic batch."""
WINDOW_EVENTS: Final = 256
"""Acks awaited concurrently when events are published one by one."""
READS_MAX: Final = 32
"""Stored messages read concurrently to compare duplicates: at most 8 MiB of bodies."""
READ_TIMEOUT_S: Final = 2.0
"""How long the first read of a stored message may take; after a failure duplicates are no longer compared."""
ACK_TIMEOUT_S: Final = 5.0
RETRY_DEADLINE_S: Final = 30.0
"""How long a batch is retried while the broker does not answer."""
RETRY_S: Final = 0.25
SERVER_ERROR: Final = 500
"""Error codes from this one up are about the broker's state, which may be transient, not about the event."""


class StreamNotCreated(MembershipError):
    """There is no stream to publish to; only a database shows whether there ever was one."""

    code = "stream_absent"

    def __init__(self, *, never_applied: bool = False) -> None:
        create = "`membership project` creates it; start one and publish again."
        super().__init__(
            f"There is no stream {STREAM} yet, and the database has applied nothing. {create}"
            if never_applied
            else f"There is no stream {STREAM} on this broker. In a new installation {create} If events were published "
            "before, the stream was deleted or this is another broker: check MEMBERSHIP_NATS_URL, or restore the "
            "stream from its backup."
        )


class JetStreamOff(MembershipError):
    """The broker answers, but JetStream does not."""

    code = "jetstream_off"

    def __init__(self, broker: BrokerAccess | str) -> None:
        hosts = (BrokerAccess(broker) if isinstance(broker, str) else broker).hosts
        super().__init__(
            f"The broker at {hosts} runs without JetStream: it is not enabled, or nats-server "
            "disabled it after an error, such as a full disk; nats-server's log names the error. Remove the cause, "
            "restart nats-server, then publish again: events already stored are not stored twice."
        )


class PublishRefused(MembershipError):
    """The broker refuses to store an event; a retry would be refused too."""

    code = "publish_refused"


class Publication(NamedTuple):
    """An event to publish: its subject, message id and JSON."""

    subject: str
    msg_id: str
    body: bytes


class Receipt(NamedTuple):
    """An event's position in the stream. A duplicate was stored before, at an earlier position."""

    msg_id: str
    position: int
    duplicate: bool
    differs: bool | None = False
    """Whether a duplicate is another event than the stored one; None if the stored one could not be read."""


async def publish_events(broker: BrokerAccess | str, publications: Iterable[Publication]) -> AsyncIterator[Receipt]:
    """Publish in order and yield a receipt for each, in order; consumes `publications` lazily."""
    client = await _connect(broker)
    comparison = _Comparison(client)
    try:
        remaining = iter(publications)
        while batch := list(itertools.islice(remaining, BATCH_EVENTS_MAX)):
            for receipt in await comparison.compare(batch, await publish_batch(client, broker, batch)):
                yield receipt
    finally:
        await client.close()


async def _connect(broker: BrokerAccess | str) -> Client:
    try:
        return await connect_reconnecting(broker, "membership-publish")
    except BrokerUnavailable as problem:
        raise BrokerUnavailable(problem.problem, broker, PUBLISH_AGAIN) from None


async def publish_batch(client: Client, broker: BrokerAccess | str, batch: Sequence[Publication]) -> list[Receipt]:
    """Publish a batch, retrying until the broker has acknowledged all of it; the ids prevent duplicates."""
    deadline = time.monotonic() + RETRY_DEADLINE_S
    while True:
        try:
            return await _publish_atomic(client, batch) or await _publish_singly(client, batch)
        except (NatsError, OSError) as problem:  # nats-py's timeout is an OSError too
            unanswered = isinstance(problem, (NoRespondersError, NoStreamResponseError))
            if unanswered and await _is_absent(client):
                raise StreamNotCreated from None
            if time.monotonic() > deadline:
                raise await _unstored_error(client, broker, problem) from None
            await asyncio.sleep(RETRY_S)


async def _is_absent(client: Client) -> bool:
    """Return whether the stream does not exist: a starting or disabled JetStream leaves a publish unanswered too."""
    try:
        return not await exists(client)
    except (NatsError, OSError):
        return False


async def _unstored_error(client: Client, broker: BrokerAccess | str, problem: BaseException) -> MembershipError:
    """Return why a batch was not stored in time, as far as the broker reports it."""
    if isinstance(problem, (NoRespondersError, NoStreamResponseError)):
        return JetStreamOff(broker)
    return BrokerUnavailable(await explain_unstored(client, problem), broker, PUBLISH_AGAIN)


async def _publish_atomic(client: Client, batch: Sequence[Publication]) -> list[Receipt] | None:
    """Publish an atomic batch; None for a single event, or if the broker refused the batch."""
    if len(batch) == 1:
        return None
    batch_id = uuid.uuid4().hex
    *others, last = (
        (event, {"Nats-Msg-Id": event.msg_id, "Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)})
        for number, event in enumerate(batch, start=1)
    )
    last_event, last_headers = last
    commit = last_headers | {"Nats-Batch-Commit": "1"}
    try:
        for event, headers in others:
            await client.publish(event.subject, event.body, headers=headers)
        reply = await client.request(last_event.subject, last_event.body, timeout=ACK_TIMEOUT_S, headers=commit)
    except MaxPayloadError:
        return None  # one by one, the error names the event that is too large
    ack: dict[str, Any] = msgspec.json.decode(reply.data)
    if "error" in ack:
        return None
    first = int(ack["seq"]) - len(batch) + 1
    return [Receipt(event.msg_id, first + index, duplicate=False) for index, event in enumerate(batch)]


async def _publish_singly(client: Client, batch: Sequence[Publication]) -> list[Receipt]:
    receipts: list[Receipt] = []
    for start in range(0, len(batch), WINDOW_EVENTS):
        window = batch[start : start + WINDOW_EVENTS]
        receipts += await asyncio.gather(*(_publish_one(client, event) for event in window))
    return receipts


async def _publish_one(client: Client, publication: Publication) -> Receipt:
    headers = {"Nats-Msg-Id": publication.msg_id}
    try:
        ack = await client.jetstream().publish(
            publication.subject, publication.body, timeout=ACK_TIMEOUT_S, stream=STREAM, headers=headers
        )
    except (MaxPayloadError, APIError) as problem:
        if isinstance(problem, APIError) and (problem.code or 0) >= SERVER_ERROR:
            raise
        raise PublishRefused(
            f"The broker refused event {publication.msg_id} on {publication.subject}: {error_text(problem)}."
        ) from None
    return Receipt(publication.msg_id, ack.seq, bool(ack.duplicate))


class _Comparison:
    """Compares duplicates with what is stored, until such a read fails: an account may not be allowed to read."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._readable = True
        self._slots = asyncio.Semaphore(READS_MAX)

    async def compare(self, batch: Sequence[Publication], receipts: Sequence[Receipt]) -> list[Receipt]:
        """Return the receipts, those of duplicates with `differs`."""
        compared = (self._compared(event, receipt) for event, receipt in zip(batch, receipts, strict=True))
        return await asyncio.gather(*compared)

    async def _compared(self, event: Publication, receipt: Receipt) -> Receipt:
        if not receipt.duplicate:
            return receipt
        async with self._slots:
            stored = await self._stored(receipt.position)
        return receipt._replace(differs=None if stored is None else not _is_same_json(stored, event.body))

    async def _stored(self, position: int) -> bytes | None:
        """Return the body at a position; None if it was erased, or the broker does not allow the read."""
        if not self._readable:
            return None
        try:
            message = await self._client.jetstream(timeout=READ_TIMEOUT_S).get_msg(STREAM, seq=position, direct=True)
        except NotFoundError:
            return None
        except (NatsError, OSError):  # nats-py's timeout is an OSError too
            self._readable = False
            return None
        return message.data or b""


def _is_same_json(stored: bytes, body: bytes) -> bool:
    """Return whether two bodies have the same content, whatever their spacing and order of fields."""
    if stored == body:
        return True
    try:
        return bool(msgspec.json.decode(stored) == msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
