"""A nats-py client that no message's bytes can stop.

nats-py 2.16 decodes subjects and header lines strictly inside its read loop; the server checks neither, so one message
on an ill-formed subject would end the reading of the whole connection, for ever. Both are made readable here, and
the message is parked like any other that cannot be applied.

Source: nats.aio.client.Client._build_message and ._process_headers; tests/consumers/test_client.py publishes such
messages by hand through a real server.
"""

from nats.aio.client import Client
from nats.aio.msg import Msg

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
