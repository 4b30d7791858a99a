"""A steady load of publications during a fault: each event is sent again under its id until it is acknowledged.

So whatever happens to the broker, `acknowledged` holds what a careful producer was promised, and nothing else.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import APIError, ServiceUnavailableError

from consumers.broker_access import BrokerAccess
from consumers.client import TolerantClient
from consumers.stream import STREAM
from tests.support.builders import customer_id, published
from tests.support.processes import eventually

WRITERS = 8
ACK_S = 1.0
RETRY_S = 0.05
READS = 100
"""Messages read at the same time."""

READ_S = 30.0
"""How long a cluster may need to read again after a server came back."""


class PublishLoad:
    """Publishes customers 1, 2, 3, … until it is stopped."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = itertools.count(1)
        self._stopping = False
        self.acknowledged: dict[int, int] = {}
        """The position of each acknowledged event, by customer."""
        self.acknowledged_at = 0.0
        """When the last acknowledgement arrived."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Publish while the context is open; afterwards every event begun is acknowledged."""
        clients = [await self._connected() for _ in range(2)]
        writers = [asyncio.create_task(self._write(clients[n % 2])) for n in range(WRITERS)]
        try:
            yield
        finally:
            self._stopping = True
            await asyncio.gather(*writers)
            for client in clients:
                await client.close()

    async def next_acknowledgement(self) -> int:
        """Wait for an event that was begun from now on; return its position."""
        begun = next(self._numbers)

        def later() -> list[int]:
            return [position for number, position in self.acknowledged.items() if number > begun]

        await eventually(later, "an event is acknowledged", 30)
        return min(later())

    async def lost(self) -> list[int]:
        """Return the customers whose acknowledged event is not at its position in the stream."""
        client = await self._connected()
        context = client.jetstream()
        remaining = iter(self.acknowledged.items())
        lost: list[int] = []
        while some := list(itertools.islice(remaining, READS)):
            # From the leader: any replica answers a direct read, also one that is still catching up.
            found = await asyncio.gather(*(_read(context, position) for _, position in some))
            lost += [
                number
                for (number, _), message in zip(some, found, strict=True)
                if not (message.subject or "").endswith(customer_id(number))
            ]
        await client.close()
        return lost

    async def _write(self, client: Client) -> None:
        context = client.jetstream()
        while not self._stopping:
            number = next(self._numbers)
            subject, body = published("customer.upserted.v1", 1, customer=number)
            while number not in self.acknowledged:
                try:
                    headers = {"Nats-Msg-Id": f"load-{number}"}
                    receipt = await context.publish(subject, body, timeout=ACK_S, headers=headers)
                except (NatsError, APIError, OSError):
                    await asyncio.sleep(RETRY_S)
                else:
                    self.acknowledged[number] = receipt.seq
                    self.acknowledged_at = time.monotonic()

    async def _connected(self) -> Client:
        client = TolerantClient(BrokerAccess(self._url))
        await client.connect_as(
            "load",
            connect_timeout=1,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            ping_interval=1,
            max_outstanding_pings=2,
            error_cb=_ignored,
        )
        return client


async def _ignored(_problem: Exception) -> None:
    """Ignore connection errors: the load tries again."""


async def _read(context: JetStreamContext, position: int) -> RawStreamMsg:
    """Read a message from the stream's leader; a server that has just come back is asked again."""
    deadline = time.monotonic() + READ_S
    while True:
        try:
            return await context.get_msg(STREAM, seq=position, direct=False)
        except (ServiceUnavailableError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
