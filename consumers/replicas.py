"""The replicas of the stream: which server leads, how far the others are behind, and whether a majority is in contact.

A leader that the network has cut off from the other servers continues to answer, with the last state it knew; measured,
for more than 15 s. So its answers do not prove a loss while it has no majority.
"""

from typing import Any, Final

from msgspec import Struct
from nats.errors import Error as NatsError

SILENCE_MAX_S: Final = 5.0
"""How long a replica may be silent and still count as in contact. It answers its leader every second; nats-server
elects another leader after 4 to 9 s without one."""
_CANNOT_PLACE: Final = {10005, 10074}
"""JetStream's codes for a number of replicas that it has no servers for: in a cluster, and on a single server."""


class Replica(Struct, frozen=True):
    """One server that keeps a copy of the stream."""

    name: str
    leader: bool
    current: bool
    """Whether it has everything that the leader has, as of its last answer."""
    lag: int
    """Operations that it is behind."""
    in_contact: bool
    """Whether it leads, or answered the leader within `SILENCE_MAX_S`."""


class Replication(Struct, frozen=True):
    """How the stream is replicated, as one server reports it."""

    wanted: int = 1
    """The number of replicas in the stream's configuration."""
    replicas: tuple[Replica, ...] = ()
    """The leader first; those that are being added are not in it yet."""

    @property
    def has_quorum(self) -> bool:
        """Whether a leader is in contact with a majority; without one nothing is stored, and states may be old."""
        present = sum(replica.in_contact for replica in self.replicas)
        return any(replica.leader for replica in self.replicas) and 2 * present > len(self.replicas)

    @property
    def silent(self) -> list[str]:
        """The names of the replicas that are not in contact with the leader."""
        return [replica.name for replica in self.replicas if not replica.in_contact]


def replication_of(information: dict[str, Any]) -> Replication:
    """Read the broker's stream information."""
    cluster = information.get("cluster") or {"leader": ""}  # a server that reports no cluster is alone
    name = cluster.get("leader")
    leader = [Replica(name, leader=True, current=True, lag=0, in_contact=True)] if name is not None else []
    followers = [_follower(replica) for replica in cluster.get("replicas") or [] if not replica.get("pending")]
    return Replication(information["config"]["num_replicas"], (*leader, *followers))


def _follower(replica: dict[str, Any]) -> Replica:
    return Replica(
        replica["name"],
        leader=False,
        current=replica.get("current", False),
        lag=replica.get("lag", 0),
        in_contact=_is_in_contact(replica),
    )


def _is_in_contact(replica: dict[str, Any]) -> bool:
    """Return whether a follower answered recently. `active` is the time since; 0 with `current` false means never."""
    active_s = replica.get("active", 0) / 1e9
    never = not replica.get("current") and not active_s
    return not replica.get("offline") and not never and active_s <= SILENCE_MAX_S


class QuorumLost(NatsError):
    """The server that answered has no majority of the stream's replicas, so its state may be old. Temporary."""

    def __init__(self, stream: str, replication: Replication) -> None:
        self.replication = replication
        self.sentence = quorum_sentence(stream, replication)
        super().__init__(self.sentence)

    def __str__(self) -> str:
        return self.sentence


def quorum_sentence(stream: str, replication: Replication) -> str:
    """Return what a lost quorum means, without a full stop."""
    silent = ", ".join(replication.silent)
    found = f"its leader hears nothing from {silent}" if silent else "it has no leader"
    return (
        f"stream {stream} has lost its quorum: it has {replication.wanted} replicas, and {found}. "
        "Nothing is stored until a majority of the servers is in contact; no acknowledged event is lost by that. Start "
        "the missing servers with the storage that they had"
    )


def problem(stream: str, replication: Replication, setting: int) -> str:
    """Return a sentence if the replicas need an operator; `setting` is MEMBERSHIP_STREAM_REPLICAS."""
    if not replication.has_quorum:
        sentence = quorum_sentence(stream, replication)
        return f"{sentence[0].upper()}{sentence[1:]}."
    if replication.silent:
        return (
            f"Of the {replication.wanted} replicas of stream {stream}, the leader hears nothing from "
            f"{', '.join(replication.silent)}. Events are still stored and applied, but no longer if one more fails. "
            'Start that server again, or replace it: see docs/operations.md, "Replicas of the stream".'
        )
    if replication.wanted < setting:
        noun = "replica" if replication.wanted == 1 else "replicas"
        return (
            f"Stream {stream} has {replication.wanted} {noun} instead of the {setting} of MEMBERSHIP_STREAM_REPLICAS. "
            "The projector raises the number when it starts; its log says why it could not."
        )
    return ""


def cannot_place(error: dict[str, Any]) -> bool:
    """Return whether JetStream refused because it has too few servers for the replicas."""
    return error.get("err_code") in _CANNOT_PLACE
