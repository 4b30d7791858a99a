"""Publishes events under the settings of a command: the client's batches, over a connection with the broker's access.

Writes: stream MEMBERSHIP. Reads: its messages at the positions of duplicates.
Invariants: those of `campaign_membership_client.batches`: one message per id, receipts in order.
Fails: `StreamNotCreated`, `JetStreamOff`, `BrokerUnavailable`, `PublishRefused`.
"""

import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

from nats.aio.client import Client

from campaign_membership_client.batches import BATCH_EVENTS_MAX, Deadlines, Receipt, Sender, Unstored, stream_exists
from campaign_membership_client.errors import PUBLISH_AGAIN, BrokerFull, EventRefused
from campaign_membership_client.event import Publication
from consumers.broker_access import BrokerAccess
from consumers.client import BrokerUnavailable, access_of, connect_reconnecting
from consumers.stream import STREAM, explain_unstored
from projections.errors import MembershipError

__all__ = ["BATCH_EVENTS_MAX", "Publication", "Receipt", "publish_batch", "publish_events"]

NOTHING: Final[frozenset[str]] = frozenset()
RETRY_DEADLINE_S: Final = 30.0
"""How long a batch is retried while the broker does not answer."""


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
        super().__init__(
            f"The broker at {access_of(broker).hosts} runs without JetStream: it is not enabled, or nats-server "
            "disabled it after an error, such as a full disk; nats-server's log names the error. Remove the cause, "
            "restart nats-server, then publish again: events already stored are not stored twice."
        )


class PublishRefused(MembershipError):
    """The broker refuses to store an event; a retry would be refused too."""

    code = "publish_refused"


async def publish_events(
    broker: BrokerAccess | str, publications: Iterable[Publication], not_compared: frozenset[str] = NOTHING
) -> AsyncIterator[Receipt]:
    """Publish in order and yield a receipt for each, in order; consumes `publications` lazily.

    Attributes in `not_compared` make a duplicate no other event.
    """
    client = await _connect(broker)
    sender = _sender(client, not_compared)
    try:
        remaining = iter(publications)
        while batch := list(itertools.islice(remaining, BATCH_EVENTS_MAX)):
            for receipt in await _sent(sender, client, broker, batch):
                yield receipt
    finally:
        await client.close()


async def publish_batch(client: Client, broker: BrokerAccess | str, batch: Sequence[Publication]) -> list[Receipt]:
    """Publish at most 1,000 events, retrying until the broker has acknowledged all; the ids prevent duplicates."""
    return await _sent(_sender(client), client, broker, batch)


def _sender(client: Client, not_compared: frozenset[str] = NOTHING) -> Sender:
    return Sender(client, STREAM, Deadlines(retry_s=RETRY_DEADLINE_S), not_compared)


async def _connect(broker: BrokerAccess | str) -> Client:
    try:
        return await connect_reconnecting(broker, "membership-publish")
    except BrokerUnavailable as problem:
        raise BrokerUnavailable(problem.problem, broker, PUBLISH_AGAIN) from None


async def _sent(
    sender: Sender, client: Client, broker: BrokerAccess | str, batch: Sequence[Publication]
) -> list[Receipt]:
    try:
        return await sender.send(batch)
    except (EventRefused, BrokerFull) as refused:
        raise PublishRefused(str(refused)) from None
    except Unstored as unstored:
        raise await _unstored_error(client, broker, unstored) from None


async def _unstored_error(client: Client, broker: BrokerAccess | str, unstored: Unstored) -> MembershipError:
    """Return why a batch was not stored in time, as far as the broker reports it."""
    if unstored.unanswered:
        return StreamNotCreated() if await stream_exists(client, STREAM) is False else JetStreamOff(broker)
    return BrokerUnavailable(await explain_unstored(client, unstored.problem), broker, PUBLISH_AGAIN)
