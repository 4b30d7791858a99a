"""A nats-py client whose read loop continues whatever bytes a message contains.

nats-py 2.16 decodes subjects and header lines strictly inside its read loop, and the server checks neither, so one
message on an ill-formed subject would stop the whole connection permanently. This client escapes both, and the
message is parked like any other that cannot be applied.

It also passes a subscription's messages directly from the parser to a function, the sink. nats-py spends most of its
reading time on headers that are shown only for parked messages, on a queue and a task between its parser and its
caller, and on removing every message from the front of its buffer in four steps.

It also refuses a server without TLS where TLS is required, to which nats-py would send the password all the same.

Source: nats.aio.client.Client._process_msg, ._build_message, ._process_headers, ._process_info and
._process_connect_init, nats.protocol.parser.Parser;
tests/consumers/test_intake.py publishes such messages by hand through a real server.
"""

import asyncio
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from consumers.broker_access import BrokerAccess, TlsRefused
from projections.errors import MembershipError

CONNECT_TIMEOUT_S = 2
CONNECT_RECONNECTING_S = 5.0
RECONNECT_S = 0.25
ILL_FORMED_HEADERS = "Ill-Formed-Headers"
"""The only header of a message whose headers cannot be parsed; its value is the raw headers, escaped."""
_HEADER_PREAMBLE = b"NATS/1.0\r\n"
"""The first line of headers without a status: those of a published message."""
WHOLE_BYTES_MAX: Final = 64 * 1024
"""nats-py assembles larger messages: its buffer grows in place, while ours is copied on every read."""
_LINE_END: Final = b"\r\n"
_DELIVERY: Final = re.compile(rb"H?MSG ([^ \r\n]+) ([0-9]+) ([^ \r\n]+) (?:([0-9]+) )?([0-9]+)\r\n")
"""A message with a reply subject on the wire: subject, subscription, reply, header size, total size."""


class LazyHeaders(Mapping[str, str]):
    """A message's headers, parsed on first access."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @cached_property
    def _parsed(self) -> dict[str, str]:
        try:
            return Client._parse_header_lines(self.raw.removeprefix(_HEADER_PREAMBLE))  # noqa: SLF001 - nats-py's own parser
        except (ValueError, IndexError):
            return {ILL_FORMED_HEADERS: self.raw.decode(errors="backslashreplace")}

    def __getitem__(self, name: str) -> str:
        return self._parsed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parsed)

    def __len__(self) -> int:
        return len(self._parsed)


WITHOUT_FILES: Final = BrokerAccess("")
"""No certificate and no credential file, for a client that gets its URL when it connects."""

Sink = Callable[[bytes, bytes, bytes, bytes | None], bool]
"""Accepts the raw (subject, reply, body, headers) of a message; returns False to leave the message to nats-py."""


class SinkParser(Parser):
    """Extracts complete messages for sinks from the data read; leaves the rest of that read to nats-py's parser."""

    def __init__(self, client: Client, sinks: Mapping[int, Sink]) -> None:
        super().__init__(client)
        self._sinks = sinks

    async def parse(self, data: bytes = b"") -> None:
        """Parse data from the connection, split at any byte."""
        if self.state == AWAITING_CONTROL_LINE and self._sinks:
            data = self._deliver(bytes(self.buf) + data if self.buf else data)
            self.buf.clear()
            if not _is_incomplete_delivery(data):
                await super().parse(data)
            else:
                self.buf.extend(data)
        else:
            await super().parse(data)

    def _deliver(self, data: bytes) -> bytes:
        """Pass messages to their sinks up to the first that is incomplete or has no sink; return the rest."""
        offset = 0
        length = len(data)
        match_delivery = _DELIVERY.match
        sinks = self._sinks
        while match := match_delivery(data, offset):
            subject, subscription, reply, header_bytes, total_bytes = match.groups()
            sink = sinks.get(int(subscription))
            start = match.end()
            end = start + int(total_bytes)
            if sink is None or end + len(_LINE_END) > length:
                break
            body_start = start + int(header_bytes) if header_bytes else start
            headers = data[start:body_start] if header_bytes else None
            if not sink(subject, reply, data[body_start:end], headers):
                break
            offset = end + len(_LINE_END)
        return data[offset:] if offset else data


def _is_incomplete_delivery(data: bytes) -> bool:
    """Return whether `data` is the beginning of a message small enough to be assembled here."""
    match = _DELIVERY.match(data)
    return match is not None and len(data) < match.end() + int(match[5]) + len(_LINE_END) <= WHOLE_BYTES_MAX


class TolerantClient(Client):
    """A client that escapes undecodable bytes and can pass a subscription's messages directly to a sink."""

    def __init__(self, access: BrokerAccess = WITHOUT_FILES) -> None:
        super().__init__()
        self._access = access
        self._sinks: dict[int, Sink] = {}
        self._ps = SinkParser(self, self._sinks)

    def attach_sink(self, subscription: Subscription, sink: Sink) -> None:
        """Pass the messages of a subscription to `sink` inside the read loop: it must be fast and must not raise."""
        self._sinks[subscription._id] = sink  # noqa: SLF001 - nats-py's own key of a subscription

    def detach_sink(self, subscription: Subscription) -> None:
        """Return the subscription's messages to nats-py's own path."""
        self._sinks.pop(subscription._id, None)  # noqa: SLF001 - the same

    async def connect_as(self, name: str, **options: Any) -> None:  # noqa: ANN401 - nats-py's options
        """Connect under a name, with the URLs and credentials of the settings."""
        self._public_nkey = self._access.public_nkey
        await self.connect(self._access.servers, name=name, **self._access.options(), **options)

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The context of the next handshake, from the files as they are now: they may have been renewed."""
        return self._access.tls_context()

    async def close(self) -> None:
        """Close permanently; if disconnected, discard pending data, which nats-py would write to a closed socket."""
        if not self.is_connected:
            self._pending.clear()
            self._pending_data_size = 0
        await super().close()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        sink = self._sinks.get(sid)
        if sink is None or not sink(subject, reply, data, headers):
            await super()._process_msg(sid, subject, reply, data, headers)

    async def _process_connect_init(self) -> None:
        """Close the socket of a failed attempt: nats-py's reconnecting loop opens another and drops it."""
        try:
            await super()._process_connect_init()
        except BaseException:
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call]  # nats-py declares no result
            raise

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Require TLS before anything is sent: `initial_connection` is true for the first line of a connection."""
        if initial_connection and self._access.requires_tls and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise TlsRefused
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        message: Msg = super()._build_message(sid, readable(subject).encode(), readable(reply).encode(), data, headers)
        return message

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError):
            return {ILL_FORMED_HEADERS: headers.decode(errors="backslashreplace")}


def readable(raw: bytes) -> str:
    """Return bytes as text, with invalid UTF-8 escaped."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="backslashreplace")


async def connect_once(broker: BrokerAccess | str, name: str) -> TolerantClient:
    """Connect for one command; raises nats-py's errors within seconds if the broker is unavailable.

    A plain URL is an access without certificates and credential files.
    """
    client = TolerantClient(access_of(broker))
    try:
        await client.connect_as(
            name,
            allow_reconnect=False,
            connect_timeout=CONNECT_TIMEOUT_S,
            max_reconnect_attempts=1,  # also limits the first connect; 0 would mean no limit
            reconnect_time_wait=0,
            error_cb=_ignore_error,
        )
    except asyncio.CancelledError:  # the caller waits no longer; the socket may be open already
        await client.close()
        raise
    return client


class BrokerUnavailable(MembershipError):
    """The broker does not answer, or rejects the credentials; `consequence` says what that means for the command."""

    code = "broker_unavailable"

    def __init__(
        self, problem: object, broker: BrokerAccess | str = "", consequence: str = "Nothing was started."
    ) -> None:
        self.problem = problem
        super().__init__(f"{access_of(broker).problem(problem)}. {consequence}")


async def connect_reconnecting(broker: BrokerAccess | str, name: str) -> TolerantClient:
    """Connect for a job; raises `BrokerUnavailable` if that fails. Later nats-py reconnects without limit."""
    client = TolerantClient(access_of(broker))
    try:
        probe = await connect_once(broker, name)
        await probe.close()
        async with asyncio.timeout(CONNECT_RECONNECTING_S):
            await client.connect_as(
                name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_S,  # a fraction of a second works
                error_cb=_ignore_error,
            )
    except (NatsError, OSError) as problem:
        raise BrokerUnavailable(problem, broker) from None
    return client


def access_of(broker: BrokerAccess | str) -> BrokerAccess:
    """Return an access as it is, and a plain URL as one without files."""
    return BrokerAccess(broker) if isinstance(broker, str) else broker


async def _ignore_error(_problem: Exception) -> None:
    """Silence nats-py, which logs every attempt; the caller reports the problem once."""
