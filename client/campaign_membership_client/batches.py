"""Publishes events to the stream, fast and repeatable: in atomic batches, one by one where a batch is refused.

Writes: the stream. Reads: its messages at the positions of duplicates. With `sync_interval: always` an atomic batch
costs one fsync, single messages cost one each, so many events are published in batches. The broker refuses a whole
batch when it has seen any of its ids; its events are then published one by one, and the acks mark the duplicates. The
broker compares only ids and drops any event with a used id, so each duplicate is compared with the stored event.
Invariants: an event is stored once per message id within the broker's duplicate window; receipts are in the order of
the publications. Fails: `EventRefused`, `BrokerFull`; `Unstored` with nats-py's error after the deadline.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from campaign_membership_client.errors import BrokerFull, EventRefused
from campaign_membership_client.event import Publication

BATCH_EVENTS_MAX: Final = 1_000
"""JetStream's limit for an atomic batch."""
WINDOW_EVENTS: Final = 256
"""Acks awaited concurrently when events are published one by one."""
READS_MAX: Final = 32
"""Stored messages read concurrently to compare duplicates: at most 8 MiB of bodies."""
READ_TIMEOUT_S: Final = 2.0
"""How long the first read of a stored message may take; after a failure duplicates are no longer compared."""
RETRY_S: Final = 0.25
SERVER_ERROR: Final = 500
"""Error codes from this one up are about the broker's state, which may be transient, not about the event."""
FULL_CODES: Final = frozenset({10002, 10023, 10028, 10047, 10077})
"""JetStream's errors for a limit of account, server or stream: resources, memory, storage, size of the stream."""
NO_RESPONDERS: Final = (NoRespondersError, NoStreamResponseError)


class Deadlines(Struct, frozen=True):
    """How long publishing waits."""

    ack_s: float = 5.0
    """For one acknowledgement; then the event is sent again with the same id."""
    retry_s: float = 30.0
    """For a batch while the broker does not answer; then an error is raised."""


class Receipt(NamedTuple):
    """An event's position in the stream. A duplicate was stored before, at an earlier position."""

    msg_id: str
    position: int
    """A reader's `min_position`: the answer then includes this event."""
    duplicate: bool
    differs: bool | None = False
    """Whether a duplicate is another event than the stored one; None if the stored one could not be read."""


class Unstored(Exception):
    """A batch was not stored before the deadline; `problem` is the last error of nats-py."""

    def __init__(self, problem: BaseException, subject: str) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.subject = subject

    @property
    def unanswered(self) -> bool:
        """Whether nothing listens on the subject: no stream owns it, or JetStream is off."""
        return isinstance(self.problem, NO_RESPONDERS)


class Sender:
    """Publishes to one stream over one connection."""

    def __init__(
        self, client: Client, stream: str, deadlines: Deadlines, ignored: frozenset[str] = frozenset()
    ) -> None:
        self._client = client
        self._stream = stream
        self._deadlines = deadlines
        self._comparison = _Comparison(client, stream, ignored)

    async def send(self, batch: Sequence[Publication]) -> list[Receipt]:
        """Publish at most BATCH_EVENTS_MAX events, retrying until all are acknowledged; compare the duplicates."""
        return await self._comparison.compare(batch, await self._stored(batch))

    async def _stored(self, batch: Sequence[Publication]) -> list[Receipt]:
        deadline = time.monotonic() + self._deadlines.retry_s
        while True:
            try:
                return await publish_atomic(self._client, batch, self._deadlines.ack_s) or await self._singly(batch)
            except (NatsError, OSError) as problem:  # nats-py's timeout is an OSError too
                unanswered = isinstance(problem, NO_RESPONDERS) and await self._is_absent()
                if self._client.is_closed or unanswered or time.monotonic() > deadline:
                    raise Unstored(problem, batch[0].subject) from None
                await asyncio.sleep(RETRY_S)

    async def _is_absent(self) -> bool:
        """Return whether the stream is known not to exist: a starting JetStream leaves a publish unanswered too."""
        return await stream_exists(self._client, self._stream) is False

    async def _singly(self, batch: Sequence[Publication]) -> list[Receipt]:
        receipts: list[Receipt] = []
        for start in range(0, len(batch), WINDOW_EVENTS):
            window = batch[start : start + WINDOW_EVENTS]
            receipts += await asyncio.gather(*(self._publish_one(event) for event in window))
        return receipts

    async def _publish_one(self, publication: Publication) -> Receipt:
        headers = {"Nats-Msg-Id": publication.msg_id}
        try:
            ack = await self._client.jetstream().publish(
                publication.subject,
                publication.body,
                timeout=self._deadlines.ack_s,
                stream=self._stream,
                headers=headers,
            )
        except MaxPayloadError:
            reason = f"its {len(publication.body)} bytes are more than the broker accepts"
            raise EventRefused(publication.msg_id, publication.subject, reason) from None
        except APIError as problem:
            raise _refusal(publication, problem) from None
        return Receipt(publication.msg_id, ack.seq, bool(ack.duplicate))


def _refusal(publication: Publication, problem: APIError) -> Exception:
    """Return the error for a publication that the broker refused; the same one if a retry may help."""
    reason = str(problem.description or problem).rstrip(".")
    if problem.err_code in FULL_CODES:
        return BrokerFull(reason)
    if (problem.code or 0) >= SERVER_ERROR:
        return problem
    return EventRefused(publication.msg_id, publication.subject, reason)


async def stream_exists(client: Client, stream: str) -> bool | None:
    """Return whether a stream exists; None if JetStream does not answer, or not to this account."""
    try:
        await client.jetstream(timeout=READ_TIMEOUT_S).stream_info(stream)
    except NotFoundError:
        return False
    except (NatsError, OSError):
        return None
    return True


async def publish_atomic(client: Client, batch: Sequence[Publication], ack_s: float) -> list[Receipt] | None:
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
        reply = await client.request(last_event.subject, last_event.body, timeout=ack_s, headers=commit)
    except MaxPayloadError:
        return None  # one by one, the error names the event that is too large
    ack: dict[str, Any] = msgspec.json.decode(reply.data)
    if "error" in ack:
        return None
    first = int(ack["seq"]) - len(batch) + 1
    return [Receipt(event.msg_id, first + index, duplicate=False) for index, event in enumerate(batch)]


class _Comparison:
    """Compares duplicates with what is stored, until such a read fails: an account may not be allowed to read."""

    def __init__(self, client: Client, stream: str, ignored: frozenset[str]) -> None:
        self._client = client
        self._stream = stream
        self._ignored = ignored
        self._readable = True
        self._slots = asyncio.Semaphore(READS_MAX)

    async def compare(self, batch: Sequence[Publication], receipts: Sequence[Receipt]) -> list[Receipt]:
        """Return the receipts, those of duplicates with `differs`."""
        if not any(receipt.duplicate for receipt in receipts):
            return list(receipts)
        compared = (self._compared(event, receipt) for event, receipt in zip(batch, receipts, strict=True))
        return await asyncio.gather(*compared)

    async def _compared(self, event: Publication, receipt: Receipt) -> Receipt:
        if not receipt.duplicate:
            return receipt
        async with self._slots:
            stored = await self._stored(receipt.position)
        same = None if stored is None else is_same_json(stored, event.body, self._ignored)
        return receipt._replace(differs=None if same is None else not same)

    async def _stored(self, position: int) -> bytes | None:
        """Return the body at a position; None if it was erased, or the broker does not allow the read."""
        if not self._readable:
            return None
        try:
            message = await self._client.jetstream(timeout=READ_TIMEOUT_S).get_msg(
                self._stream, seq=position, direct=True
            )
        except NotFoundError:
            return None
        except (NatsError, OSError):  # nats-py's timeout is an OSError too
            self._readable = False
            return None
        return message.data or b""


def is_same_json(stored: bytes, body: bytes, ignored: frozenset[str]) -> bool:
    """Return whether two bodies have the same content but for `ignored`, whatever their spacing and order of fields."""
    if stored == body:
        return True
    try:
        return bool(_content(stored, ignored) == _content(body, ignored))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _content(body: bytes, ignored: frozenset[str]) -> object:
    decoded = msgspec.json.decode(body)
    if isinstance(decoded, dict):
        return {name: value for name, value in decoded.items() if name not in ignored}
    return decoded
