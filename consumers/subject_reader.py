"""Reads the messages on single subjects of the stream, for processes that mostly do without a broker.

It connects at the first read, and again at the first read after a connection was lost, so that an API worker starts,
and lists, while the broker is down.

Reads: JetStream, through short-lived consumers, one per subject (see docs/decisions/0031-history-by-subject.md).
Fails: `HistoryUnavailable`, at most `silence_max_s` after the broker has last answered, without waiting until the
connection is closed.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
from nats.errors import Error as NatsError

from consumers import stream
from consumers.broker_access import BrokerAccess
from consumers.client import TolerantClient, access_of, connect_once
from consumers.intake import Interrupted, OrderedSubscription
from consumers.newest_messages import Newest, start_of_newest
from projections.errors import StreamRefused
from projections.model.events import Message, Position
from projections.store.checkpoint import Checkpoint
from projections.store.membership_history import HistoryUnavailable

SILENCE_MAX_S: Final = 0.9
"""How long the broker may take for each step; the API promises its 503 within a second."""
SEARCH_MAX_S: Final = 4.0
"""How long the search for the newest messages may take: some ten requests, slower ones on a subject with wildcards."""
NEXT_WAIT_S: Final = 0.2
PULL_BYTES_MAX: Final = 2 * 1024 * 1024
"""Bytes requested by one pull: a worker reads several subjects at the same time, mostly of a few small messages."""
Result = TypeVar("Result")


class SubjectReader:
    """Reads subjects through one connection, which several tasks may share. Implements `StreamReader`."""

    def __init__(self, broker: BrokerAccess | str, name: str, silence_max_s: float = SILENCE_MAX_S) -> None:
        self._access = access_of(broker)
        self._name = name
        self._silence_max_s = silence_max_s
        self._client: TolerantClient | None = None
        self._connecting = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()
        """Subscriptions and connections that are being closed. Each ends within `silence_max_s`."""

    async def count(self, subjects: Sequence[str], applied: Checkpoint) -> list[int]:
        """Return how many messages each subject has; raises `HistoryUnavailable`, also for a stream that is another.

        The stream's leader answers, so that `messages` notices if it reads from a replica that lags behind it.
        """
        client = await self._connected()
        counts = asyncio.gather(*(stream.count(client, subject) for subject in subjects))
        state, found = await self._in_time(asyncio.gather(stream.identify(client, applied), counts), client)
        if state is None:
            raise HistoryUnavailable(f"Stream {stream.STREAM} does not exist.")
        return found

    async def messages(
        self, subject: str, count: int, through: Position, slice_events: int
    ) -> AsyncGenerator[list[Message], None]:
        """Yield the messages on a subject up to a position, in slices, in stream order.

        Raises `HistoryUnavailable` if the subject ends before that position with fewer than `count` messages: a replica
        has answered that does not hold the newest ones yet, or an erasure removes them.
        """
        client = await self._connected()
        subscription = OrderedSubscription(client, Position(0), subject, pull_bytes_max=PULL_BYTES_MAX)
        await self._in_time(subscription.__aenter__(), client)
        try:
            seen = 0
            while not subscription.caught_up and subscription.position < through:
                messages = await self._in_time(_next(subscription, slice_events), client)
                seen += len(messages)
                applied = [message for message in messages if message.position <= through]
                if applied:
                    yield applied
            if subscription.position < through and seen < count:
                raise HistoryUnavailable(f"{count - seen} of the {count} messages on {subject} were not delivered.")
        finally:
            self._end(subscription.__aexit__(None, None, None))

    async def newest(self, subject: str, before: int | None, limit: int) -> list[Message]:
        """Return the last messages on a subject before a position, newest first; raises `HistoryUnavailable`."""
        client = await self._connected()
        start, end = await self._in_time(start_of_newest(client, subject, before, limit), client, SEARCH_MAX_S)
        if start >= end:
            return []
        subscription = OrderedSubscription(client, Position(start - 1), subject, pull_bytes_max=PULL_BYTES_MAX)
        await self._in_time(subscription.__aenter__(), client)
        newest = Newest(limit)
        try:
            while not subscription.caught_up and subscription.position < end - 1:
                messages = await self._in_time(_next(subscription, limit), client)
                newest.add(message for message in messages if message.position < end)
        finally:
            self._end(subscription.__aexit__(None, None, None))
        return newest.messages()

    async def last(self, subject: str) -> Message | None:
        """Return the last message on one subject; None if there is none. Raises `HistoryUnavailable`."""
        client = await self._connected()
        return await self._in_time(stream.last_message(client, subject), client)

    async def close(self) -> None:
        """Disconnect; a later read connects again."""
        if self._client is not None:
            self._abandon(self._client)
        if self._ending:
            await asyncio.wait(self._ending)

    def _abandon(self, client: TolerantClient) -> None:
        """Close a connection in the background; the next read opens another, unless one has done so already."""
        if self._client is client:
            self._client = None
        self._end(client.close())

    def _end(self, closing: Coroutine[Any, Any, None]) -> None:
        """Close something without waiting for it: a silent broker takes no more bytes."""
        task = asyncio.create_task(self._end_in_time(closing), name="end a subscription or connection")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end_in_time(self, closing: Coroutine[Any, Any, None]) -> None:
        with suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(self._silence_max_s):
                await closing

    async def _connected(self) -> TolerantClient:
        """Return the connection, a new one if there is none."""
        return await self._in_time(self._connect())

    async def _connect(self) -> TolerantClient:
        async with self._connecting:  # several reads share one attempt
            if self._client is None or not self._client.is_connected:
                self._client = await connect_once(self._access, self._name)
            return self._client

    async def _in_time(
        self, step: Awaitable[Result], client: TolerantClient | None = None, within_s: float = 0.0
    ) -> Result:
        """Wait for one step of the broker, and translate its errors; `client` is the connection that the step uses.

        The step may take `within_s`, if that is longer than the silence that is allowed.

        A broker that does not answer in time is asked on a new connection next: TCP notices a lost one much later.
        """
        try:
            async with asyncio.timeout(max(self._silence_max_s, within_s)):
                return await step
        except StreamRefused as problem:
            raise HistoryUnavailable(str(problem)) from problem
        except (NatsError, OSError, TimeoutError, Interrupted, msgspec.DecodeError) as problem:
            if isinstance(problem, TimeoutError) and client is not None:
                self._abandon(client)
            raise HistoryUnavailable(f"{self._access.problem(problem)}.") from problem


async def _next(subscription: OrderedSubscription, slice_events: int) -> list[Message]:
    """Return the next messages; the caller limits the wait."""
    while not (messages := await subscription.next_batch(slice_events, NEXT_WAIT_S)):
        pass
    return messages
