"""A nats-py client that no message's bytes can stop.

nats-py 2.16 decodes subjects and header lines strictly inside its read loop; the server checks neither, so one message
on an ill-formed subject would end the reading of the whole connection, for ever. Both are made readable here, and
the message is parked like any other that cannot be applied.

It also hands the messages of a reading over as they come off the wire: nats-py would spend most of the time of reading
a stream on headers that only a parked message's row ever shows, on a queue and a task between itself and us, and on
taking every message out of the front of its buffer in four steps.

Source: nats.aio.client.Client._process_msg, ._build_message and ._process_headers, nats.protocol.parser.Parser;
tests/consumers/test_intake.py publishes such messages by hand through a real server.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Final
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import AuthorizationError
from nats.errors import Error as NatsError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from projections.error_text import error_text
from projections.errors import MembershipError

CONNECT_TIMEOUT_S = 2
CONNECT_RECONNECTING_S = 5.0
RECONNECT_S = 0.25
ILL_FORMED_HEADERS = "Ill-Formed-Headers"
"""The one header of a message whose headers cannot be read: all of them, escaped."""
_HEADER_PREAMBLE = b"NATS/1.0\r\n"
"""How headers begin that hold no status: those of a published message."""
WHOLE_BYTES_MAX: Final = 64 * 1024
"""A larger message is put together by nats-py, whose buffer grows in place; ours is copied with every read."""
_LINE_END: Final = b"\r\n"
_DELIVERY: Final = re.compile(rb"H?MSG ([^ \r\n]+) ([0-9]+) ([^ \r\n]+) (?:([0-9]+) )?([0-9]+)\r\n")
"""A message with a reply subject as the server writes it: subject, subscription, reply, size of headers, whole size."""


class LazyHeaders(Mapping[str, str]):
    """A message's headers, read when they are first looked at."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @cached_property
    def _parsed(self) -> dict[str, str]:
        try:
            return Client._parse_header_lines(self._raw.removeprefix(_HEADER_PREAMBLE))  # noqa: SLF001 - what it overrides uses it
        except (ValueError, IndexError):
            return {ILL_FORMED_HEADERS: self._raw.decode(errors="backslashreplace")}

    def __getitem__(self, name: str) -> str:
        return self._parsed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parsed)

    def __len__(self) -> int:
        return len(self._parsed)


Sink = Callable[[bytes, bytes, bytes, bytes | None], bool]
"""Takes (subject, reply, body, headers) of a message as they came, or says False: then it goes nats-py's way."""


class SinkParser(Parser):
    """Cuts whole messages for a sink out of what was read; all else, and the rest of that read, is left to nats-py."""

    def __init__(self, client: Client, sinks: Mapping[int, Sink]) -> None:
        super().__init__(client)
        self._sinks = sinks

    async def parse(self, data: bytes = b"") -> None:
        """Take what the connection has read, in pieces cut anywhere."""
        if self.state == AWAITING_CONTROL_LINE and self._sinks:
            data = self._deliver(bytes(self.buf) + data if self.buf else data)
            self.buf.clear()
            if not _is_incomplete_delivery(data):
                await super().parse(data)
            else:
                self.buf.extend(data)
        else:
            await super().parse(data)

    def _deliver(self, read: bytes) -> bytes:
        """Give messages to their sinks up to the first that is not whole or has none; return the rest."""
        at = 0
        length = len(read)
        match = _DELIVERY.match
        sinks = self._sinks
        while found := match(read, at):
            subject, subscription, reply, header_bytes, all_bytes = found.groups()
            sink = sinks.get(int(subscription))
            begins = found.end()
            ends = begins + int(all_bytes)
            if sink is None or ends + len(_LINE_END) > length:
                break
            body_begins = begins + int(header_bytes) if header_bytes else begins
            headers = read[begins:body_begins] if header_bytes else None
            if not sink(subject, reply, read[body_begins:ends], headers):
                break
            at = ends + len(_LINE_END)
        return read[at:] if at else read


def _is_incomplete_delivery(rest: bytes) -> bool:
    """Whether this is the beginning of a message that is worth waiting for."""
    found = _DELIVERY.match(rest)
    return found is not None and len(rest) < found.end() + int(found[5]) + len(_LINE_END) <= WHOLE_BYTES_MAX


class TolerantClient(Client):
    """A client that escapes what it cannot decode, and can hand a subscription's messages over at once."""

    def __init__(self) -> None:
        super().__init__()
        self._sinks: dict[int, Sink] = {}
        self._ps = SinkParser(self, self._sinks)

    def attach_sink(self, subscription: Subscription, sink: Sink) -> None:
        """Give the messages of a subscription to `sink`, within the read loop: it must be quick and must not raise."""
        self._sinks[subscription._id] = sink  # noqa: SLF001 - nats-py's own key of a subscription

    def detach_sink(self, subscription: Subscription) -> None:
        """End the handing over."""
        self._sinks.pop(subscription._id, None)  # noqa: SLF001 - the same

    async def close(self) -> None:
        """Close for good; without a connection, discard what is pending: nats-py would write it to a closed socket."""
        if not self.is_connected:
            self._pending.clear()
            self._pending_data_size = 0
        await super().close()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        sink = self._sinks.get(sid)
        if sink is None or not sink(subject, reply, data, headers):
            await super()._process_msg(sid, subject, reply, data, headers)

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
    """Return bytes as text, with what is not UTF-8 escaped."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="backslashreplace")


async def connect_once(nats_url: str, name: str) -> TolerantClient:
    """Connect for one command; raises nats-py's errors within seconds when the broker is away."""
    client = TolerantClient()
    await client.connect(
        [url.strip() for url in nats_url.split(",")],
        name=name,
        allow_reconnect=False,
        connect_timeout=CONNECT_TIMEOUT_S,
        max_reconnect_attempts=1,  # this also bounds the first connect; 0 would mean for ever
        reconnect_time_wait=0,
        error_cb=_ignore_error,
    )
    return client


class BrokerSilent(MembershipError):
    """The broker could not be reached when a command was to begin."""

    code = "broker_silent"

    def __init__(self, problem: object, nats_url: str = "") -> None:
        self.problem = problem
        super().__init__(f"{broker_problem(problem, nats_url)}. Nothing was begun.")


def broker_hosts(nats_url: str) -> str:
    """Return the hosts and ports of NATS URLs for a message, without user and password."""
    return ", ".join(urlsplit(url.strip()).netloc.rpartition("@")[2] for url in nats_url.split(","))


def broker_problem(problem: object, nats_url: str = "") -> str:
    """Return why a broker cannot be used, as a sentence without its full stop; names the hosts, never a password."""
    broker = f"The broker at {broker_hosts(nats_url)}" if nats_url else "The broker"
    if isinstance(problem, AuthorizationError) or "authorization violation" in str(problem).lower():
        return f"{broker} refuses the user and password, or the token, of MEMBERSHIP_NATS_URL"
    return f"{broker} does not answer: {error_text(problem)}"


async def connect_reconnecting(nats_url: str, name: str) -> TolerantClient:
    """Connect for a job: at once or not at all (`BrokerSilent`); from then on the connection is restored for ever."""
    client = TolerantClient()
    try:
        probe = await connect_once(nats_url, name)
        await probe.close()
        async with asyncio.timeout(CONNECT_RECONNECTING_S):
            await client.connect(
                [url.strip() for url in nats_url.split(",")],
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_S,  # type: ignore[arg-type]  # a fraction of a second works
                error_cb=_ignore_error,
            )
    except (NatsError, OSError) as problem:
        raise BrokerSilent(problem, nats_url) from None
    return client


async def _ignore_error(_problem: Exception) -> None:
    """Let the caller say it once, instead of nats-py at every attempt."""
