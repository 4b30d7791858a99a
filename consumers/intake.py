"""Reads the stream in order after a position, as fast as nats-py can, and stops as soon as the order is uncertain.

It has its own pull loop: nats-py's `fetch` costs a task and a timer per message, and its ordered consumer stops the
connection's read loop on the newer ack subjects. Here the client passes each message from the parser to a buffer, and
one pull at a time keeps a credit of messages in flight.

Reads: JetStream, through an ephemeral consumer without acks: only the checkpoint in PostgreSQL records progress.
Invariants: batches are contiguous in consumer sequence; after any interruption (a gap, a reconnect, silence, a refused
pull) the subscription ends with `Interrupted`, and the caller opens a new one at the checkpoint.
Memory: at most `BUFFER_BYTES_MAX`, or one message larger than `PULL_BYTES_MAX` in place of the last pull; less if the
caller limits the pulls.
"""

import asyncio
import time
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import StatusCode

from consumers.client import LazyHeaders, TolerantClient, readable
from consumers.stream import REQUEST_TIMEOUT_S, STREAM
from projections.errors import MembershipError
from projections.model.events import Message, Position

PULL_EVENTS: Final = 8_000
"""Messages requested by one pull; half of them, buffered, keep the caller busy until the next pull's arrive."""
PULL_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes requested by one pull. The broker counts body, headers and subjects. A larger message is pulled alone."""
BUFFER_BYTES_MAX: Final = 2 * PULL_BYTES_MAX
"""Bounds memory when messages are huge: a pull is sent only when all that it may bring fits into the buffer."""
SLICE_BYTES: Final = 64 * 1024
"""A list of messages ends when it reaches this size: deriving the search texts of large messages takes milliseconds,
for the largest up to 50."""
PULL_EXPIRES_S: Final = 30
HEARTBEAT_S: Final = 1
SILENCE_MAX_S: Final = 3 * HEARTBEAT_S
INACTIVE_CONSUMER_S: Final = 30
_ACK_PREFIX: Final = b"$JS.ACK."
_TOO_LARGE: Final = "Message Size Exceeds MaxBytes"
"""How nats-server ends a pull whose remaining bytes are fewer than the next message has; it skips no message."""


class Interrupted(MembershipError):
    """The order of the next messages is uncertain; read again from the checkpoint."""

    code = "intake_interrupted"


def read_reply(reply: bytes) -> tuple[int, int, int, int]:
    """Return position, consumer sequence, time in nanoseconds and messages pending from an ack subject of either form.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<position>.<sequence>.<time>.<pending>`, or the same after
    `$JS.ACK.<domain>.<account>.`, optionally followed by a token. `msg.metadata` would cost ten times as much, and a
    named tuple a third more.
    """
    tokens = reply.split(b".")
    first = 5 if len(tokens) == 9 else 7  # noqa: PLR2004 - the two forms above
    return int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 2]), int(tokens[first + 3])


class OrderedSubscription:
    """An uninterrupted, ordered subscription after a position, on all subjects or one. An async context manager."""

    def __init__(
        self, client: TolerantClient, after: Position, subject: str = "", pull_bytes_max: int | None = None
    ) -> None:
        self.position = after
        """The last position returned by `next_batch`."""
        self.pending = 0
        """Messages the broker had not yet delivered when the last one arrived."""
        self.pending_at_start = 0
        """Messages in the stream after the start position when the subscription opened."""
        self._client = client
        self._after = after
        self._subject = subject
        self._pull_bytes_max = pull_bytes_max or PULL_BYTES_MAX
        self._buffer_bytes_max = 2 * pull_bytes_max if pull_bytes_max else BUFFER_BYTES_MAX
        self._inbox = client.new_inbox()
        self._consumer = self._inbox.rsplit(".", 1)[-1]
        self._buffer: deque[Message] = deque()
        self._buffered_bytes = 0
        self._arrived = asyncio.Event()
        self._last_activity = self._checked_at = time.monotonic()
        self._stalled = False
        self._interruption: str | None = None
        self._sequence = 0
        self._credit = 0
        """Messages that the open pull may still bring; 0 when none is open."""
        self._credit_bytes = 0
        """The same in bytes, as the broker counts; below 0 after a message that was pulled alone."""
        self._next_is_too_large = False
        """Whether the next message is larger than `PULL_BYTES_MAX`."""
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> Self:
        # The pulls bound what is pending; nats-py's own limit would drop messages.
        self._subscription = await self._client.subscribe(self._inbox, cb=self._on_status, pending_bytes_limit=0)
        self._client.attach_sink(self._subscription, self._on_delivery)
        try:
            await self._create_consumer()
            await self._pull()
        except BaseException:
            await self._unsubscribe()  # __aexit__ is not called when __aenter__ raises
            raise
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._unsubscribe()
        if self._client.is_connected:
            await self._client.publish(f"$JS.API.CONSUMER.DELETE.{STREAM}.{self._consumer}", b"")

    async def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._client.detach_sink(self._subscription)
            if self._client.is_connected:
                await self._subscription.unsubscribe()

    def interrupt(self, reason: str) -> None:
        """End the subscription; also called from outside, as after a reconnect. The first reason is kept."""
        self._interruption = self._interruption or reason
        self._arrived.set()

    @property
    def caught_up(self) -> bool:
        """Whether everything the broker had to deliver has been returned."""
        return self.pending == 0 and not self._buffer

    @property
    def has_buffered(self) -> bool:
        """Whether messages have arrived that were not returned yet."""
        return bool(self._buffer)

    @property
    def interruption(self) -> str:
        """Why the subscription ended; empty while it is open."""
        return self._interruption or ""

    async def check_pending(self, every_s: float) -> None:
        """Ask the broker, at most every `every_s`, how many messages are pending: some may be, though none arrive.

        A consumer that is gone, or has pending messages and delivers none, interrupts the subscription.
        """
        if time.monotonic() - self._checked_at < every_s or self._interruption is not None:
            return
        self._checked_at = time.monotonic()
        subject = f"$JS.API.CONSUMER.INFO.{STREAM}.{self._consumer}"
        reply = await self._client.request(subject, b"", timeout=REQUEST_TIMEOUT_S)
        response = msgspec.json.decode(reply.data)
        if "error" in response:
            self.interrupt(f"the consumer is gone: {response['error'].get('description')}")
        elif response["num_pending"] > 0 and not self._buffer and self._stalled:
            self.interrupt(f"{response['num_pending']} messages are pending, but none arrived")
        else:
            self.pending = response["num_pending"]
            self._stalled = response["num_pending"] > 0

    async def next_batch(self, events_max: int, wait_s: float) -> list[Message]:
        """Return the next messages, at most `events_max`; an empty list if none arrive within `wait_s`.

        A list also ends with the message that makes it reach `SLICE_BYTES`. Returns buffered messages without waiting
        for more: the next batch accumulates while this one is written. Raises `Interrupted` after everything that
        arrived in order has been returned.
        """
        deadline = time.monotonic() + wait_s
        while not self._buffer and self._interruption is None and (remaining_s := deadline - time.monotonic()) > 0:
            await self._top_up()
            await self._wait(remaining_s)
        messages = self._take(events_max)
        if messages:
            self.position = messages[-1].position
            self._stalled = False
        elif self._interruption is not None:
            raise Interrupted(self._interruption)
        await self._top_up()
        return messages

    def _take(self, events_max: int) -> list[Message]:
        messages: list[Message] = []
        size = 0
        while self._buffer and len(messages) < events_max and size < SLICE_BYTES:
            message = self._buffer.popleft()
            messages.append(message)
            size += len(message.body) + message.header_bytes
        self._buffered_bytes -= size
        return messages

    async def _top_up(self) -> None:
        """Send the next pull once the last one has ended and the buffer has room for what it may bring."""
        has_room = (
            len(self._buffer) <= PULL_EVENTS // 2
            and self._buffered_bytes <= self._buffer_bytes_max - self._pull_bytes_max
        )
        if self._credit == 0 and has_room and self._interruption is None:
            await self._pull()

    async def _wait(self, wait_s: float) -> None:
        """Wait for a message, a status or an interruption; missing heartbeats are an interruption."""
        self._arrived.clear()
        with suppress(TimeoutError):
            # Not wait_for: in Python 3.11 it loses a cancellation that arrives together with the result.
            async with asyncio.timeout(wait_s):
                await self._arrived.wait()
        silent_s = time.monotonic() - self._last_activity
        if silent_s > SILENCE_MAX_S:
            self.interrupt(f"nothing arrived for {silent_s:.1f} s, not even a heartbeat")

    async def _create_consumer(self) -> None:
        request = {
            "stream_name": STREAM,
            "config": {
                "name": self._consumer,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self._after + 1,
                "ack_policy": "none",
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": INACTIVE_CONSUMER_S * 10**9,
                **({"filter_subject": self._subject} if self._subject else {}),
            },
        }
        subject = f"$JS.API.CONSUMER.CREATE.{STREAM}.{self._consumer}"
        reply = await self._client.request(subject, msgspec.json.encode(request), timeout=REQUEST_TIMEOUT_S)
        response = msgspec.json.decode(reply.data)
        if "error" in response:
            raise Interrupted(f"the broker refused a consumer: {response['error'].get('description')}")
        self.pending = self.pending_at_start = response["num_pending"]

    async def _pull(self) -> None:
        self._credit, self._credit_bytes = (1, 0) if self._next_is_too_large else (PULL_EVENTS, self._pull_bytes_max)
        request = {
            "batch": self._credit,
            "max_bytes": self._credit_bytes,
            "expires": PULL_EXPIRES_S * 10**9,
            "idle_heartbeat": HEARTBEAT_S * 10**9,
        }
        self._next_is_too_large = False
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{self._consumer}"
        await self._client.publish(subject, msgspec.json.encode(request), reply=self._inbox)

    def _on_delivery(self, subject: bytes, reply: bytes, body: bytes, headers: bytes | None) -> bool:
        """Buffer a delivery; return False for anything else. An event's headers cannot be mistaken for a status."""
        if not reply.startswith(_ACK_PREFIX):
            return False
        self._last_activity = time.monotonic()
        position, sequence, time_ns, pending = read_reply(reply)
        if self._interruption is None and sequence != self._sequence + 1:
            self.interrupt(f"delivery {sequence} arrived after delivery {self._sequence}")
        if self._interruption is None:
            self._sequence = sequence
            self.pending = pending
            header_bytes = len(headers) if headers else 0
            lazy_headers = LazyHeaders(headers) if headers else None
            size = len(body) + header_bytes
            self._buffered_bytes += size
            self._credit_bytes -= size + len(subject) + len(reply)
            # A pull whose bytes are used up exactly ends without a status.
            self._credit = self._credit - 1 if self._credit_bytes else 0
            self._buffer.append(
                Message(Position(position), readable(subject), body, time_ns, lazy_headers, header_bytes)
            )
        self._arrived.set()
        return True

    async def _on_status(self, message: Msg) -> None:
        self._last_activity = time.monotonic()
        self._read_status(message)
        self._arrived.set()

    def _read_status(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status")
        undelivered = headers.get("Nats-Pending-Messages")
        if undelivered is not None and status != StatusCode.CONTROL_MESSAGE:
            # The pull ended, by time or by bytes; _top_up sends the next one.
            self._next_is_too_large = int(undelivered) == PULL_EVENTS and headers.get("Description") == _TOO_LARGE
            self._credit = 0
        elif status not in (StatusCode.CONTROL_MESSAGE, StatusCode.REQUEST_TIMEOUT, StatusCode.NO_MESSAGES):
            self.interrupt(f"the broker ended the pull: {status} {headers.get('Description', '')}".rstrip())
