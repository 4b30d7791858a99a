"""Copies the stream out of the broker and back into one, by JetStream's snapshot API: positions and times included.

The broker sends a snapshot in chunks and waits for acknowledgements when too many are outstanding, so neither side
buffers more than its window (8 MiB in nats-server 2.15). A restore sends one chunk at a time.

Reads and writes: stream MEMBERSHIP. Invariants: a snapshot is the stream at one moment, and ends with a message that
says whether it is complete; positions and the messages' times are restored, the stream's creation time is not. A stream
being restored exists from the first chunk on, so it carries a mark that every other command refuses.
Fails: `SnapshotFailed`; nats-py's errors when the broker is unavailable.
Source: nats-server 2.15, jetstream_api.go and stream_backup.go.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import TimeoutError as NatsTimeoutError

from consumers.stream import STREAM
from projections.errors import MembershipError

CHUNK_BYTES: Final = 128 * 1024
"""Below the default limit of a message, 1 MiB."""
RESTORE_CHUNK_BYTES: Final = 16 * 1024
"""Smaller: nats-server gives up when it needs more than five seconds to store a chunk, and with `sync_interval: always`
it syncs every message by itself."""
START_WAIT_S: Final = 30.0
"""How long the broker may prepare a snapshot or the files of a restore."""
CHUNK_WAIT_S: Final = 10.0
"""The longest silence between two chunks; the broker gives up after five seconds without acknowledgements."""
STORE_WAIT_S: Final = 60.0
"""How long the broker may take to store a chunk; it gives up earlier, but says so late."""
FINISH_WAIT_S: Final = 1800.0
"""How long the broker may unpack and index a restored stream."""
PENDING_BYTES_MAX: Final = 64 * 1024 * 1024
"""More than the broker's window; a broker that ignores acknowledgements must not fill the memory."""
_SLOW_DISK: Final = (
    "nats-server gives up when storing a part takes more than five seconds. With `sync_interval: always` it syncs "
    "every message: set `sync_interval: 2m` for the restore, and restart nats-server with `always` afterwards."
)
_COMPLETE: Final = "204"
_NO_STREAM: Final = 10059


class SnapshotFailed(MembershipError):
    """The broker refused or ended a snapshot or a restore."""

    code = "snapshot_failed"


class SnapshotHead(Struct, frozen=True):
    """The stream's configuration and state at the moment of the snapshot, as the broker reports them."""

    config: dict[str, Any]
    state: dict[str, Any]


@asynccontextmanager
async def snapshot(client: Client) -> AsyncIterator[tuple[SnapshotHead, AsyncIterator[bytes]]]:
    """Begin a snapshot; yield its head and its chunks, which end only if the snapshot is complete."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, pending_bytes_limit=PENDING_BYTES_MAX)
    try:
        request = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK_BYTES}
        reply = await _call(client, f"SNAPSHOT.{STREAM}", request)
        yield SnapshotHead(reply["config"], reply["state"]), _chunks(client, subscription)
    finally:
        if client.is_connected:
            await subscription.unsubscribe()


async def _chunks(client: Client, subscription: Subscription) -> AsyncIterator[bytes]:
    while True:
        try:
            message = await subscription.next_msg(timeout=CHUNK_WAIT_S)
        except NatsTimeoutError:
            raise SnapshotFailed(f"The broker has sent no part of the snapshot for {CHUNK_WAIT_S:.0f} s.") from None
        if not message.data:
            headers = message.headers or {}
            status = headers.get("Status", _COMPLETE)
            if status != _COMPLETE:
                raise SnapshotFailed(f"The broker ended the snapshot: {status} {headers.get('Description', '')}.")
            return
        yield message.data
        if message.reply:
            await client.publish(message.reply, b"")


async def restore(client: Client, head: SnapshotHead, chunks: Iterable[bytes]) -> dict[str, Any]:
    """Restore the stream from its snapshot; return the broker's description of it.

    After a failure a part of the stream may exist.
    """
    reply = await _call(client, f"RESTORE.{STREAM}", {"config": head.config, "state": head.state})
    subject = reply["deliver_subject"]
    for chunk in chunks:
        answer = await client.request(subject, chunk, timeout=STORE_WAIT_S)
        if answer.data:
            raise SnapshotFailed(f"The broker ended the restore: {_description(answer.data)}. {_SLOW_DISK}")
    finished = await client.request(subject, b"", timeout=FINISH_WAIT_S)
    return _require_success(finished.data, "refused the restored stream")


async def delete(client: Client) -> None:
    """Delete the stream."""
    reply = await client.request(f"$JS.API.STREAM.DELETE.{STREAM}", b"", timeout=START_WAIT_S)
    _require_success(reply.data, f"refused to delete stream {STREAM}")


async def _call(client: Client, call: str, request: dict[str, Any]) -> dict[str, Any]:
    reply = await client.request(f"$JS.API.STREAM.{call}", msgspec.json.encode(request), timeout=START_WAIT_S)
    response = msgspec.json.decode(reply.data)
    if response.get("error", {}).get("err_code") == _NO_STREAM:
        raise SnapshotFailed(f"There is no stream {STREAM} on this broker, so there is nothing to back up.")
    return _require_success(reply.data, f"refused {call.partition('.')[0].lower()} of stream {STREAM}")


def _require_success(raw: bytes, refusal: str) -> dict[str, Any]:
    response: dict[str, Any] = msgspec.json.decode(raw)
    if "error" in response:
        raise SnapshotFailed(f"The broker {refusal}: {_description(raw)}.")
    return response


def _description(raw: bytes) -> str:
    try:
        response = msgspec.json.decode(raw)
        return str(response["error"]["description"]).rstrip(".")
    except (msgspec.DecodeError, KeyError, TypeError):
        return raw[:200].decode(errors="replace")
