"""A nats-py client that no message's bytes can stop.

nats-py 2.16 decodes subjects and header lines strictly inside its read loop; the server checks neither, so one message
on an ill-formed subject would end the reading of the whole connection, for ever. Both are made readable here, and
the message is parked like any other that cannot be applied.

Source: nats.aio.client.Client._build_message and ._process_headers; tests/consumers/test_intake.py publishes such
messages by hand through a real server.
"""

from nats.aio.client import Client
from nats.aio.msg import Msg

CONNECT_TIMEOUT_S = 2
ILL_FORMED_HEADERS = "Ill-Formed-Headers"
"""The one header of a message whose headers cannot be read: all of them, escaped."""


class TolerantClient(Client):
    """A client that escapes what it cannot decode."""

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        message: Msg = super()._build_message(sid, _readable(subject), _readable(reply), data, headers)
        return message

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError):
            return {ILL_FORMED_HEADERS: headers.decode(errors="backslashreplace")}


def _readable(raw: bytes) -> bytes:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="backslashreplace").encode()
    return raw


async def connect_briefly(nats_url: str, name: str) -> Client:
    """Connect for one command; raises nats-py's errors within seconds when the broker is away."""
    client = TolerantClient()
    await client.connect(
        [url.strip() for url in nats_url.split(",")],
        name=name,
        allow_reconnect=False,
        connect_timeout=CONNECT_TIMEOUT_S,
        max_reconnect_attempts=1,  # this also bounds the first connect; 0 would mean for ever
        reconnect_time_wait=0,
        error_cb=_quiet,
    )
    return client


async def _quiet(_problem: Exception) -> None:
    """Let the caller say it once, instead of nats-py at every attempt."""
