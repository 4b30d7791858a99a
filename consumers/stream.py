"""The stream: its configuration, and whether it is still the one to which the checkpoint belongs.

Reads: JetStream's stream API and single messages by position. Writes: creates the stream if it never existed; keeps
the tally of erased and acknowledged messages in the stream's metadata, which every database fed by the stream reads
and which is part of the stream's snapshots.
Fails: `StreamRefused` and its subclasses, when applying the stream could corrupt the read model or lose events;
nats-py's errors when the broker is unavailable.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import APIError

from consumers import replicas as stream_replicas
from consumers.replicas import QuorumLost, Replication
from projections.errors import (
    ReplicasRefused,
    StreamBackupTooOld,
    StreamMissing,
    StreamRecreated,
    StreamRefused,
    StreamRestoring,
    StreamUnsafe,
    StreamWentBack,
)
from projections.maintenance.erasure import Tally
from projections.model.events import SUBJECT_ROOT, Message, Position
from projections.store.checkpoint import Checkpoint

STREAM: Final = "MEMBERSHIP"
DUPLICATE_WINDOW_NS: Final = 120 * 10**9
REQUEST_TIMEOUT_S: Final = 2.0
"""Well below the silence that ends a leader's session; the projector sends a heartbeat between any two requests."""
PROBE_TTL_S: Final = 5
"""How long the broker keeps a consumer that was created only to count messages, if its deletion is lost."""
ERASED_KEY: Final = "membership-erased"
ERASING_KEY: Final = "membership-erasing"
ERASING_CUSTOMER_KEY: Final = "membership-erasing-customer"
ACKNOWLEDGED_KEY: Final = "membership-acknowledged"
CREATED_KEY: Final = "membership-created"
"""When the stream was created from which a restored one was backed up: nats-server 2.15 gives it a new time."""
RESTORING_KEY: Final = "membership-restoring"
"""Set while the stream is restored, and left by a restore that was interrupted."""
RESTORED_KEY: Final = "membership-restored"
"""Where and when a restore ended: the last position of the backup, and the time in nanoseconds since 1970."""
_TALLY_KEYS: Final = {ERASED_KEY, ERASING_KEY, ERASING_CUSTOMER_KEY, ACKNOWLEDGED_KEY}
UPDATES_MAX: Final = 5
"""Attempts to change the tally; each further one means that another process wrote in the same few milliseconds."""
SERVER_KEYS: Final = "_nats."
"""The prefix of the metadata keys that the server itself sets."""
_STREAM_NOT_FOUND: Final = 10059
_SERVER_ERROR: Final = 500
"""From this code on, JetStream's errors describe the broker's state, not the request."""


class StreamState(Struct, frozen=True):
    """The state of the stream as the broker reports it."""

    created: str
    """The stream's identity, only compared for equality: its creation time as the broker formats it, or after a restore
    that of the stream in the backup."""
    first_position: Position
    last_position: Position
    messages: int
    tally: Tally = Tally()
    """Positions without a message that the stream's own metadata accounts for."""
    replication: Replication = Replication()
    restored: tuple[Position, int] | None = None
    """For a stream that came from a backup: its last position then, and when that was, in nanoseconds since 1970."""

    @property
    def missing(self) -> int:
        """The number of positions that no longer hold a message."""
        return self.last_position - self.messages


def configuration(replicas: int) -> dict[str, Any]:
    """Return the stream's configuration for JetStream's API: no message expires or is discarded."""
    return {
        "name": STREAM,
        "subjects": [f"{SUBJECT_ROOT}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "num_replicas": replicas,
        "duplicate_window": DUPLICATE_WINDOW_NS,
        "allow_direct": True,
        "deny_delete": True,
        "allow_atomic": True,
    }


async def fetch_state(client: Client) -> StreamState | None:
    """Return the stream's state, None when it does not exist; raises `StreamUnsafe` if it may lose events."""
    reply = await information(client)
    if reply is None:
        return None
    if RESTORING_KEY in (reply["config"].get("metadata") or {}):
        raise StreamRestoring(STREAM)
    _require_safe(reply["config"])
    return _state_of(reply)


async def fetch_restoring(client: Client) -> StreamState | None:
    """Return the state of a stream that is being restored, or whose restore was interrupted; None if there is none."""
    reply = await information(client)
    if reply is None or RESTORING_KEY not in (reply["config"].get("metadata") or {}):
        return None
    return _state_of(reply)


async def finish_restoring(client: Client) -> None:
    """Remove the mark of a stream that is restored completely."""
    reply = await information(client)
    if reply is None:
        raise StreamRefused(f"Stream {STREAM} no longer exists.")
    metadata = {name: value for name, value in reply["config"]["metadata"].items() if name != RESTORING_KEY}
    restored = f"{reply['state']['last_seq']} {time.time_ns()}"
    await _update(client, reply["config"], metadata | {RESTORED_KEY: restored})


def _state_of(reply: dict[str, Any]) -> StreamState:
    state = reply["state"]
    first, last = Position(state["first_seq"]), Position(state["last_seq"])
    metadata = reply["config"].get("metadata") or {}
    return StreamState(
        metadata.get(CREATED_KEY, reply["created"]),
        first,
        last,
        state["messages"],
        _tally_of(reply["config"]),
        stream_replicas.replication_of(reply),
        _restored_of(metadata),
    )


def _restored_of(metadata: dict[str, str]) -> tuple[Position, int] | None:
    position, _, time_ns = metadata.get(RESTORED_KEY, "").partition(" ")
    return (Position(int(position)), int(time_ns)) if position.isdigit() and time_ns.isdigit() else None


async def update_tally(client: Client, change: Callable[[StreamState], Tally]) -> Tally:
    """Change the tally in the stream's metadata and return it.

    The broker has no conditional update, so the result is read back and changed again if another process wrote in
    between. Therefore `change` must be idempotent: applied to a state with its own result, it returns the same tally.
    """
    for _ in range(UPDATES_MAX + 1):
        reply = await information(client)
        if reply is None:
            raise StreamRefused(f"Stream {STREAM} no longer exists.")
        state = _state_of(reply)
        tally = change(state)
        if tally == state.tally:
            return tally
        await _write_tally(client, reply["config"], tally)
    raise StreamRefused(f"The metadata of stream {STREAM} is being changed by other processes. Run the command again.")


async def _write_tally(client: Client, config: dict[str, Any], tally: Tally) -> None:
    """Write the tally; the rest of the configuration is sent back unchanged."""
    other_metadata = {name: value for name, value in (config.get("metadata") or {}).items() if name not in _TALLY_KEYS}
    await _update(client, config, other_metadata | _metadata_of(tally))


async def _update(client: Client, config: dict[str, Any], metadata: dict[str, str]) -> None:
    changed = config | {
        "metadata": {name: value for name, value in metadata.items() if not name.startswith(SERVER_KEYS)}
    }
    reply = await _request(client, f"STREAM.UPDATE.{STREAM}", msgspec.json.encode(changed))
    if "error" in reply:
        raise StreamRefused(
            f"The broker refused to change the metadata of stream {STREAM}: {reply['error'].get('description')}."
        )


def _metadata_of(tally: Tally) -> dict[str, str]:
    values = {
        ERASED_KEY: tally.erased,
        ACKNOWLEDGED_KEY: tally.acknowledged,
        ERASING_KEY: tally.erasing_from,
        ERASING_CUSTOMER_KEY: tally.erasing_customer,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _tally_of(config: dict[str, Any]) -> Tally:
    metadata = config.get("metadata") or {}
    try:
        erased, acknowledged = int(metadata.get(ERASED_KEY, 0)), int(metadata.get(ACKNOWLEDGED_KEY, 0))
        erasing_from = metadata.get(ERASING_KEY)
        return Tally(
            erased,
            acknowledged,
            None if erasing_from is None else int(erasing_from),
            metadata.get(ERASING_CUSTOMER_KEY),
        )
    except ValueError:
        raise StreamRefused(f"The metadata of stream {STREAM} is not a tally of erased messages: {metadata}.") from None


async def information(client: Client) -> dict[str, Any] | None:
    """Return the broker's stream information, with configuration and state; None if the stream does not exist."""
    reply = await _request(client, f"STREAM.INFO.{STREAM}", b"")
    if "error" not in reply:
        return reply
    if reply["error"].get("err_code") == _STREAM_NOT_FOUND:
        return None
    raise StreamRefused(f"The broker refused information about stream {STREAM}: {reply['error'].get('description')}.")


async def create(client: Client, replicas: int) -> StreamState:
    """Create the stream and return its state; safe when another process creates it at the same time."""
    reply = await _request(client, f"STREAM.CREATE.{STREAM}", msgspec.json.encode(configuration(replicas)))
    state = await fetch_state(client)
    if state is None:
        description = reply.get("error", {}).get("description", "no reason given")
        if stream_replicas.cannot_place(reply.get("error", {})):
            raise ReplicasRefused(STREAM, replicas, description)
        raise StreamRefused(f"The broker refused to create stream {STREAM}: {description}.")
    return state


async def raise_replicas(client: Client, replicas: int) -> bool:
    """Raise the number of the stream's replicas, never lower it; return whether that changed anything.

    Raises `ReplicasRefused` if the broker has too few servers. The broker copies the stream in the background.
    """
    reply = await information(client)
    if reply is None or reply["config"]["num_replicas"] >= replicas:
        return False
    config = reply["config"] | {"num_replicas": replicas}
    changed = await _request(client, f"STREAM.UPDATE.{STREAM}", msgspec.json.encode(config))
    if "error" in changed:
        raise ReplicasRefused(STREAM, replicas, changed["error"].get("description", "no reason given"))
    return True


async def verify(client: Client, checkpoint: Checkpoint, replicas: int) -> StreamState:
    """Return the state of the checkpoint's stream; create the stream if nothing was ever applied."""
    return await identify(client, checkpoint) or await create(client, replicas)


async def identify(client: Client, checkpoint: Checkpoint) -> StreamState | None:
    """Return the state of the checkpoint's stream; None if it does not exist and nothing was ever applied.

    Raises subclasses of `StreamRefused`. Compares creation time, last position and the time of the message at the
    checkpoint. Sequences are reused after a loss, so none of the three is enough alone. Raises `QuorumLost` instead of
    reporting a loss if the server that answers has no majority: it may have been cut off before the checkpoint.
    """
    state = await fetch_state(client)
    if state is None:
        if checkpoint.position > 0:
            raise StreamMissing(STREAM, checkpoint.position)
        return None
    if checkpoint.position == 0:
        return state
    if state.created != checkpoint.stream_created:
        raise StreamRecreated(STREAM, str(checkpoint.stream_created), state.created)
    if state.last_position < checkpoint.position:
        raise _went_back(state, checkpoint, f"its last position is {state.last_position}")
    stored_ns = await _stored_time_ns(client, {"seq": checkpoint.position})
    # No message means that it was purged, as by an erasure; after a loss another message takes the position.
    if stored_ns is not None and stored_ns != checkpoint.message_time_ns:
        raise _went_back(state, checkpoint, "another message is at that position now")
    return state


def _went_back(state: StreamState, checkpoint: Checkpoint, found: str) -> Exception:
    """Return why the stream lacks what the checkpoint has applied: an old view, an old backup, or a loss."""
    if not state.replication.has_quorum:
        return QuorumLost(STREAM, state.replication)
    if state.restored is not None:
        position, time_ns = state.restored
        if position < checkpoint.position and (checkpoint.message_time_ns or 0) < time_ns:
            return StreamBackupTooOld(STREAM, position, checkpoint.position)
    return StreamWentBack(STREAM, checkpoint.position, found)


async def count(client: Client, subject: str) -> int:
    """Return how many messages are on a subject, wildcards allowed."""
    reply = await _request(client, f"STREAM.INFO.{STREAM}", msgspec.json.encode({"subjects_filter": subject}))
    if "error" in reply:
        raise StreamRefused(
            f"The broker refused information about stream {STREAM}: {reply['error'].get('description')}."
        )
    return sum((reply["state"].get("subjects") or {}).values())


async def count_after(client: Client, position: int, subject: str | None = None) -> int:
    """Return how many messages (on a subject, wildcards allowed) the stream holds after a position.

    They are counted by a consumer that is created there.
    """
    name = f"membership-count-{uuid.uuid4().hex}"
    config = {
        "name": name,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": position + 1,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": PROBE_TTL_S * 10**9,
        **({} if subject is None else {"filter_subject": subject}),
    }
    request = msgspec.json.encode({"stream_name": STREAM, "config": config})
    reply = await _request(client, f"CONSUMER.CREATE.{STREAM}.{name}", request)
    if "error" in reply:
        raise StreamRefused(f"The broker refused a consumer: {reply['error'].get('description')}.")
    await client.publish(f"$JS.API.CONSUMER.DELETE.{STREAM}.{name}", b"")
    return int(reply["num_pending"])


async def subject_at(client: Client, position: int) -> str | None:
    """Return the subject of the message at a position; None if there is no message."""
    request = msgspec.json.encode({"seq": position})
    reply = await client.request(f"$JS.API.DIRECT.GET.{STREAM}", request, timeout=REQUEST_TIMEOUT_S)
    return (reply.headers or {}).get("Nats-Subject")


async def fetch_bounds(client: Client) -> tuple[int, int] | None:
    """Return the first and the last position of the stream, whatever its settings; None if it does not exist."""
    reply = await information(client)
    return None if reply is None else (reply["state"]["first_seq"], reply["state"]["last_seq"])


async def last_message(client: Client, subject: str) -> Message | None:
    """Return the last message on a subject, without wildcards; None if there is none."""
    body = msgspec.json.encode({"last_by_subj": subject})
    reply = await client.request(f"$JS.API.DIRECT.GET.{STREAM}", body, timeout=REQUEST_TIMEOUT_S)
    headers = reply.headers or {}
    if "Nats-Sequence" not in headers:
        return None
    stored_ns = nanoseconds(headers["Nats-Time-Stamp"])
    return Message(Position(int(headers["Nats-Sequence"])), subject, reply.data, stored_ns)


async def purge(client: Client, subject: str, through: Position | None = None) -> int:
    """Remove the messages on a subject (wildcards allowed), up to a position or all; return how many there were."""
    limit = {} if through is None else {"seq": through + 1}
    reply = await _request(client, f"STREAM.PURGE.{STREAM}", msgspec.json.encode({"filter": subject, **limit}))
    if "error" in reply:
        raise StreamRefused(f"The broker refused to purge {STREAM}: {reply['error'].get('description')}.")
    return int(reply["purged"])


def nanoseconds(rfc3339: str) -> int:
    """Return the broker's RFC 3339 time, which has up to nine decimals, as nanoseconds since 1970."""
    whole, _, rest = rfc3339.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(rest.ljust(9, "0") or 0)


async def next_message_time_ns(client: Client, after: int) -> int | None:
    """Return when the broker stored the first message after a position; None if there is none."""
    return await _stored_time_ns(client, {"seq": after + 1, "next_by_subj": f"{SUBJECT_ROOT}.>"})


async def _stored_time_ns(client: Client, request: dict[str, Any]) -> int | None:
    body = msgspec.json.encode(request)
    reply = await client.request(f"$JS.API.DIRECT.GET.{STREAM}", body, timeout=REQUEST_TIMEOUT_S)
    stamp = (reply.headers or {}).get("Nats-Time-Stamp")
    return None if stamp is None else nanoseconds(stamp)


async def _request(client: Client, call: str, body: bytes) -> dict[str, Any]:
    """Call JetStream's API; raises nats-py's errors for temporary failures: no responders, no cluster leader."""
    reply = await client.request(f"$JS.API.{call}", body, timeout=REQUEST_TIMEOUT_S)
    response: dict[str, Any] = msgspec.json.decode(reply.data)
    error = response.get("error", {})
    if error.get("code", 0) >= _SERVER_ERROR and not stream_replicas.cannot_place(error):
        raise APIError.from_error(error)
    return response


async def exists(client: Client) -> bool:
    """Return whether the stream exists; raises nats-py's errors when JetStream does not answer."""
    return await information(client) is not None


def explain(problem: BaseException) -> str:
    """Return a sentence, without a full stop, for an error that a JetStream request raised."""
    if isinstance(problem, NoRespondersError):
        return f"nothing answers for JetStream on the broker: it is disabled there, or still starting. {_RESTART}"
    if isinstance(problem, APIError) and problem.err_code in _NO_META_LEADER:
        return f"JetStream has no leader in the cluster ({problem.description}). {_START_SERVERS}"
    if isinstance(problem, APIError) and (problem.code or 0) >= _SERVER_ERROR:
        return f"JetStream is unavailable on the broker ({problem.description}). {_RESTART}"
    return str(problem).rstrip(".") or "no answer in time"


async def explain_unstored(client: Client, problem: BaseException) -> str:
    """Like `explain`, for a publication without an answer: after a full disk, a broker answers everything else."""
    try:
        reply = await information(client)
        if reply is None:
            return explain(problem)
        replication = stream_replicas.replication_of(reply)
        if not replication.has_quorum:
            return stream_replicas.quorum_sentence(STREAM, replication)
    except (NatsError, NatsTimeoutError) as request_problem:
        return explain(request_problem)
    except StreamRefused:
        return explain(problem)
    return f"it answers, but stores nothing. {_RESTART}"


_NO_META_LEADER: Final = {10008, 10009}
"""JetStream's codes for a cluster without a leader; a single server never sends them."""
_START_SERVERS: Final = (
    "A majority of its servers is not in contact, or they elect a leader, which takes up to 10 s. Nothing is stored "
    "meanwhile, and no acknowledged event is lost by that: start the missing servers with the storage that they had"
)
_RESTART: Final = (
    "nats-server stops storing when its disk is full, and stores again only after a restart: "
    "check its log and its /healthz, free disk space, restart it"
)

SAFE: Final[Mapping[str, Any]] = {
    "storage": "file",
    "retention": "limits",
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "allow_direct": True,
    "deny_delete": True,
    "allow_rollup_hdrs": False,
    "allow_msg_ttl": False,
    "mirror": None,
    "sources": None,
}
"""Settings under which no event is removed and a message can be read by its position."""
EXPECTED: Final[Mapping[str, Any]] = {
    "subjects": [f"{SUBJECT_ROOT}.>"],
    **SAFE,
    "allow_atomic": True,
    "duplicate_window": DUPLICATE_WINDOW_NS,
}
"""The same and what producers rely on; the projector works without the latter."""
_OMITTED: Final[Mapping[str, Any]] = {"allow_atomic": False, "duplicate_window": 0}
"""What the broker leaves out of its answer."""


def setting_problems(config: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with the settings that are not as `wanted`, by name."""
    found = {name: config.get(name, _OMITTED.get(name, value)) for name, value in wanted.items()}
    return {
        name: f"{name} is {found[name]!r} instead of {value!r}"
        for name, value in wanted.items()
        if found[name] != value
    }


def _require_safe(config: dict[str, Any]) -> None:
    problems = list(setting_problems(config, SAFE).values())
    if f"{SUBJECT_ROOT}.>" not in config.get("subjects", []):
        problems.append(f"subjects are {config.get('subjects')} instead of ['{SUBJECT_ROOT}.>']")
    if problems:
        raise StreamUnsafe(STREAM, problems)
