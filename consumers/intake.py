"""Reads the stream in order from a position on, as fast as nats-py can, and says so when it is not sure of the order.

An own pull loop: nats-py's `fetch` pays a task and a timer per message, its ordered consumer stops the whole
connection's reader on the newer ack subjects. Here the client hands each message to a buffer as it comes off the wire,
and pull requests keep a credit of messages under way.

Reads: JetStream, through an ephemeral consumer that needs no acks: the checkpoint in PostgreSQL decides everything.
Invariants: batches are contiguous in consumer sequence; after any doubt (a gap, a reconnect, silence, a refused
pull) the reading is over, raises `Interrupted`, and a new one starts from the checkpoint.
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

PULL_EVENTS: Final = 4_000
"""Messages asked for at once; two pulls under way keep the broker busy while a batch is written."""
PULL_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bounds memory against huge bodies; no broker allows a single message larger than this."""
PULL_EXPIRES_S: Final = 30
HEARTBEAT_S: Final = 1
SILENCE_MAX_S: Final = 3 * HEARTBEAT_S
INACTIVE_CONSUMER_S: Final = 30
_ACK_PREFIX: Final = b"$JS.ACK."


class Interrupted(MembershipError):
    """The order of what comes next is in doubt; read again from the checkpoint."""

    code = "intake_interrupted"


def read_reply(reply: bytes) -> tuple[int, int, int, int]:
    """Return position, consumer sequence, time in nanoseconds and messages pending from an ack subject of either form.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<position>.<sequence>.<time>.<pending>`, or the same after
    `$JS.ACK.<domain>.<account>.` and perhaps with a token behind it. `msg.metadata` would cost ten times as much, and
    a name for the four a third more.
    """
    tokens = reply.split(b".")
    at = 5 if len(tokens) == 9 else 7  # noqa: PLR2004 - the two forms above
    return int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 2]), int(tokens[at + 3])


class OrderedSubscription:
    """One uninterrupted reading of the stream after a position, of all subjects or one. An async context manager."""

    def __init__(self, client: TolerantClient, after: Position, subject: str = "") -> None:
        self.position = after
        """The last position handed out."""
        self.pending = 0
        """Messages that the broker still had to deliver when the last one came."""
        self.pending_at_start = 0
        """Messages that followed the position that the reading begins after."""
        self._client = client
        self._after = after
        self._subject = subject
        self._inbox = client.new_inbox()
        self._consumer = self._inbox.rsplit(".", 1)[-1]
        self._buffer: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._last_activity = self._checked_at = time.monotonic()
        self._stalled = False
        self._interruption: str | None = None
        self._sequence = 0
        self._credit = 0
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> Self:
        # The pulls bound what may be pending, so nats-py need not, and must not, drop anything.
        self._subscription = await self._client.subscribe(self._inbox, cb=self._on_status, pending_bytes_limit=0)
        self._client.attach_sink(self._subscription, self._on_delivery)
        try:
            await self._create_consumer()
            await self._pull()
            await self._pull()
        except BaseException:
            await self._unsubscribe()  # __aexit__ is not called for what failed to open
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

    def interrupt(self, doubt: str) -> None:
        """End the reading, for a reason seen from outside, such as a reconnect."""
        self._interruption = self._interruption or doubt
        self._arrived.set()

    @property
    def caught_up(self) -> bool:
        """Whether everything the broker had to deliver has been handed out."""
        return self.pending == 0 and not self._buffer

    @property
    def has_buffered(self) -> bool:
        """Whether a message has come that was not handed out yet."""
        return bool(self._buffer)

    @property
    def interruption(self) -> str:
        """Why the reading is over; empty while it is not."""
        return self._interruption or ""

    async def check_pending(self, every_s: float) -> None:
        """Ask the broker, at most every `every_s`, whether it believes to have delivered all: silence can lie.

        A consumer that is gone, or has messages to deliver and delivers none, ends the reading.
        """
        if time.monotonic() - self._checked_at < every_s or self._interruption is not None:
            return
        self._checked_at = time.monotonic()
        subject = f"$JS.API.CONSUMER.INFO.{STREAM}.{self._consumer}"
        reply = await self._client.request(subject, b"", timeout=REQUEST_TIMEOUT_S)
        answer = msgspec.json.decode(reply.data)
        if "error" in answer:
            self.interrupt(f"the consumer is gone: {answer['error'].get('description')}")
        elif answer["num_pending"] > 0 and not self._buffer and self._stalled:
            self.interrupt(f"{answer['num_pending']} messages are pending, but none came")
        else:
            self.pending = answer["num_pending"]
            self._stalled = answer["num_pending"] > 0

    async def next_batch(self, events_max: int, wait_s: float) -> list[Message]:
        """Return the next messages, at most `events_max`; none if none came within `wait_s`.

        Returns what is there at once: while a batch is being written the next one gathers by itself. Raises
        `Interrupted` once everything that is certain was handed out.
        """
        ends = time.monotonic() + wait_s
        while not self._buffer and self._interruption is None and (left_s := ends - time.monotonic()) > 0:
            await self._top_up()
            await self._wait(left_s)
        taken = [self._buffer.popleft() for _ in range(min(events_max, len(self._buffer)))]
        if taken:
            self.position = taken[-1].position
            self._stalled = False
        elif self._interruption is not None:
            raise Interrupted(self._interruption)
        await self._top_up()
        return taken

    async def _top_up(self) -> None:
        """Keep two pulls' worth of messages under way or at hand."""
        while self._credit + len(self._buffer) <= PULL_EVENTS and self._interruption is None:
            await self._pull()

    async def _wait(self, wait_s: float) -> None:
        """Wait for a message, a doubt, or a word of the broker's; the absence of its heartbeats is a doubt."""
        self._arrived.clear()
        with suppress(TimeoutError):
            # Not wait_for: in Python 3.11 it loses a cancellation that comes with what was waited for.
            async with asyncio.timeout(wait_s):
                await self._arrived.wait()
        silent_s = time.monotonic() - self._last_activity
        if silent_s > SILENCE_MAX_S:
            self.interrupt(f"nothing came for {silent_s:.1f} s, not even a heartbeat")

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
        answer = msgspec.json.decode(reply.data)
        if "error" in answer:
            raise Interrupted(f"the broker refused a consumer: {answer['error'].get('description')}")
        self.pending = self.pending_at_start = answer["num_pending"]

    async def _pull(self) -> None:
        request = {
            "batch": PULL_EVENTS,
            "max_bytes": PULL_BYTES_MAX,
            "expires": PULL_EXPIRES_S * 10**9,
            "idle_heartbeat": HEARTBEAT_S * 10**9,
        }
        self._credit += PULL_EVENTS
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{self._consumer}"
        await self._client.publish(subject, msgspec.json.encode(request), reply=self._inbox)

    def _on_delivery(self, subject: bytes, reply: bytes, body: bytes, headers: bytes | None) -> bool:
        """Take a delivery off the wire; False for what is none. An event's own headers cannot pass for a status."""
        if not reply.startswith(_ACK_PREFIX):
            return False
        self._last_activity = time.monotonic()
        position, sequence, time_ns, pending = read_reply(reply)
        if self._interruption is None and sequence != self._sequence + 1:
            self.interrupt(f"delivery {sequence} came after {self._sequence}")
        if self._interruption is None:
            self._sequence = sequence
            self._credit -= 1
            self.pending = pending
            late = LazyHeaders(headers) if headers else None
            self._buffer.append(Message(Position(position), readable(subject), body, time_ns, late))
        self._arrived.set()
        return True

    async def _on_status(self, message: Msg) -> None:
        self._last_activity = time.monotonic()
        self._read_status(message)
        self._arrived.set()

    def _read_status(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status")
        ended = headers.get("Nats-Pending-Messages")
        if ended is not None and status != StatusCode.CONTROL_MESSAGE:
            self._credit -= int(ended)  # a pull is over, by time or by bytes; the next one is asked for as it is needed
        elif status not in (StatusCode.CONTROL_MESSAGE, StatusCode.REQUEST_TIMEOUT, StatusCode.NO_MESSAGES):
            self.interrupt(f"the broker ended the pull: {status} {headers.get('Description', '')}".rstrip())
