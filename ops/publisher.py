"""Publishes events to the stream, fast and safe to repeat: atomic batches, and one by one where a batch is refused.

Writes: stream MEMBERSHIP. With `sync_interval: always` an atomic batch costs one fsync where a message alone costs
one each, so batches are the way to publish many. The broker refuses a batch whole when it has seen any of its ids;
then its events go one by one, and the acks say which were there already.
Invariants: an event is stored once per message id within the broker's duplicate window; receipts come in the order of
the publications. Fails: `StreamAbsent`, `JetStreamOff`, `BrokerUnavailable`, `PublishRefused`.
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
from nats.js.errors import APIError, NoStreamResponseError

from consumers.client import BrokerSilent, broker_hosts, broker_problem, connect_reconnecting
from consumers.stream import STREAM, exists, explain_unstored
from projections.error_text import error_text
from projections.errors import MembershipError

BATCH_EVENTS_MAX: Final = 1_000
"""JetStream's own limit of an atomic batch."""
WINDOW_EVENTS: Final = 256
"""Acks awaited at once when events go one by one."""
ACK_TIMEOUT_S: Final = 5.0
RETRY_DEADLINE_S: Final = 30.0
"""How long the same events are tried again while the broker does not answer."""
RETRY_S: Final = 0.25
SERVER_ERROR: Final = 500
"""From here on JetStream's codes speak of the broker's state, which may pass, not of the event."""


class StreamNotCreated(MembershipError):
    """There is no stream to publish to; whether there ever was one, only a database can say."""

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
    """The broker answers, but its JetStream does not."""

    code = "jetstream_off"

    def __init__(self, nats_url: str) -> None:
        super().__init__(
            f"The broker at {broker_hosts(nats_url)} runs without JetStream: it is not enabled, or nats-server "
            "switched it off after an error, such as a full disk, which its log names. Make room if it is that, "
            "restart nats-server, then publish again: events that are there already are not stored twice."
        )


class BrokerUnavailable(MembershipError):
    """The broker does not answer; what was published so far stays published, and repeating all is safe."""

    code = "broker_unavailable"

    def __init__(self, nats_url: str, problem: object) -> None:
        super().__init__(
            f"{broker_problem(problem, nats_url)}. Publish again once it works: "
            "events that are there already are not stored twice."
        )


class PublishRefused(MembershipError):
    """The broker will not store an event, and would not if asked again."""

    code = "publish_refused"


class Publication(NamedTuple):
    """What to publish: the event's JSON, on its subject, under its id."""

    subject: str
    msg_id: str
    body: bytes


class Receipt(NamedTuple):
    """Where an event stands in the stream. A duplicate was there already, at an earlier time."""

    msg_id: str
    position: int
    duplicate: bool


async def publish_events(nats_url: str, publications: Iterable[Publication]) -> AsyncIterator[Receipt]:
    """Publish in order and yield a receipt for each, in order; takes from `publications` as it goes."""
    client = await _connect(nats_url)
    try:
        remaining = iter(publications)
        while batch := list(itertools.islice(remaining, BATCH_EVENTS_MAX)):
            for receipt in await publish_batch(client, nats_url, batch):
                yield receipt
    finally:
        await client.close()


async def _connect(nats_url: str) -> Client:
    try:
        return await connect_reconnecting(nats_url, "membership-publish")
    except BrokerSilent as problem:
        raise BrokerUnavailable(nats_url, problem.problem) from None


async def publish_batch(client: Client, nats_url: str, batch: Sequence[Publication]) -> list[Receipt]:
    """Publish a batch until the broker has answered for all of it; the same ids each time, so nothing doubles."""
    gives_up_at = time.monotonic() + RETRY_DEADLINE_S
    while True:
        try:
            return await _publish_atomic(client, batch) or await _publish_singly(client, batch)
        except (NatsError, OSError) as problem:  # nats-py's timeout is an OSError too
            unanswered = isinstance(problem, (NoRespondersError, NoStreamResponseError))
            if unanswered and await _is_absent(client):
                raise StreamNotCreated from None
            if time.monotonic() > gives_up_at:
                raise await _gave_up(client, nats_url, problem) from None
            await asyncio.sleep(RETRY_S)


async def _is_absent(client: Client) -> bool:
    """Ask whether there is no stream: a JetStream that starts, or was switched off, leaves a publish unanswered too."""
    try:
        return not await exists(client)
    except (NatsError, OSError):
        return False


async def _gave_up(client: Client, nats_url: str, problem: BaseException) -> MembershipError:
    """Return why a batch was not stored in time, as far as the broker says."""
    if isinstance(problem, (NoRespondersError, NoStreamResponseError)):
        return JetStreamOff(nats_url)
    return BrokerUnavailable(nats_url, await explain_unstored(client, problem))


async def _publish_atomic(client: Client, batch: Sequence[Publication]) -> list[Receipt] | None:
    """Publish an atomic batch; None when it cannot be one: a lone event, or one that the broker refused."""
    if len(batch) == 1:
        return None
    batch_id = uuid.uuid4().hex
    *others, last = (
        (each, {"Nats-Msg-Id": each.msg_id, "Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)})
        for number, each in enumerate(batch, start=1)
    )
    each, headers = last
    commit = headers | {"Nats-Batch-Commit": "1"}
    try:
        for other, other_headers in others:
            await client.publish(other.subject, other.body, headers=other_headers)
        reply = await client.request(each.subject, each.body, timeout=ACK_TIMEOUT_S, headers=commit)
    except MaxPayloadError:
        return None  # one by one, the one that is too large gets its name
    ack: dict[str, Any] = msgspec.json.decode(reply.data)
    if "error" in ack:
        return None
    first = int(ack["seq"]) - len(batch) + 1
    return [Receipt(each.msg_id, first + place, duplicate=False) for place, each in enumerate(batch)]


async def _publish_singly(client: Client, batch: Sequence[Publication]) -> list[Receipt]:
    receipts: list[Receipt] = []
    for start in range(0, len(batch), WINDOW_EVENTS):
        window = batch[start : start + WINDOW_EVENTS]
        receipts += await asyncio.gather(*(_publish_one(client, each) for each in window))
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
