"""Plans a correction: which events of one entity have a too high version, and which of the others are stored again.

Versions are counted per subject, so an entity's events are exactly the messages on one subject.

Reads: the stream, the live generation's parked and the discarded events. Fails: `CorrectionRefused`.
"""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

import asyncpg

from consumers.client import TolerantClient
from consumers.replay import replay
from projections.errors import MembershipError
from projections.maintenance import erasure
from projections.maintenance.repair import Entity
from projections.model.attributes import read_attributes
from projections.model.decode import decode
from projections.model.events import SUBJECT_ROOT, CountersChanged, Message, Position, Unreadable
from projections.store.checkpoint import Checkpoint
from projections.store.queries import Generation, for_generation

KEPT_MAX: Final = 10_000
"""Events of one entity that are stored again at most: a history shows no more of them."""
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024
CHUNK_EVENTS: Final = 5_000


class CorrectionRefused(MembershipError):
    """A correction cannot be made exactly in the current state; nothing was changed."""

    code = "correction_refused"


class Versioned(NamedTuple):
    """What has one sequence of versions: a subject, and the entity whose rows are derived from it."""

    subject: str
    entity: Entity

    @property
    def anonymous(self) -> str:
        """A description for the audit, which outlives erasures and names no customer."""
        family = self.subject.split(".")[1]
        return (
            f"the {family} events of campaign {self.entity.id}" if self.entity.kind == "campaign" else f"one {family}"
        )


def versioned(customer: str | None, campaign: str | None, *, counters: bool) -> Versioned:
    """Return what the options of the command name."""
    if customer and campaign:
        return Versioned(f"{SUBJECT_ROOT}.target.{customer}.{campaign}", Entity("customer", customer))
    if customer:
        return Versioned(f"{SUBJECT_ROOT}.customer.{customer}", Entity("customer", customer))
    family = "counters" if counters else "campaign"
    return Versioned(f"{SUBJECT_ROOT}.{family}.{campaign}", Entity("campaign", str(campaign)))


class Plan(NamedTuple):
    """A correction, as of a position: every event of the entity up to it is either removed or kept."""

    through: Position
    removed: list[Message]
    """Events above the limit."""
    kept: list[Message]
    """Events that are stored again, in order: all distinct ones; of counters, only the one with the highest version."""
    highest: int
    """The highest version among the kept; 0 without any."""


async def make_plan(
    connection: asyncpg.Connection,
    client: TolerantClient,
    subject: str,
    above: int,
    live: Checkpoint,
) -> Plan:
    """Read the messages on a subject up to an applied position, and divide them."""
    removed: list[Message] = []
    kept = _Kept()
    source = replay(client, Position(0), live.position, events_max=CHUNK_EVENTS, subject=subject)
    async with aclosing(source) as batches:
        async for batch in batches:
            await _require_applied(connection, batch.messages, live.generation)
            for message in batch.messages:
                version = _version(message)
                if version > above:
                    removed.append(message)
                else:
                    kept.add(message, version)
    return Plan(live.position, removed, list(kept.messages.values()), kept.highest)


def version_of(message: Message) -> int:
    """Return the version of a valid event."""
    return _version(message)


class _Kept:
    """Collects what is kept of a subject, within the limits."""

    def __init__(self) -> None:
        self.messages: dict[bytes | str, Message] = {}
        self.highest = 0
        self._bytes = 0

    def add(self, message: Message, version: int) -> None:
        if isinstance(decode(message.subject, message.body), CountersChanged):
            if version > self.highest:  # of equal versions the first wins
                self.messages = {"": message}
        elif message.body not in self.messages:
            self.messages[message.body] = message
            self._bytes += len(message.body)
        self.highest = max(self.highest, version)
        if len(self.messages) > KEPT_MAX or self._bytes > KEPT_BYTES_MAX:
            raise CorrectionRefused(
                f"This entity has more than {KEPT_MAX:,} events or {KEPT_BYTES_MAX // 2**20} MiB of them. Nothing was "
                "changed. Publish its state with versions above the wrong one instead."
            )


def _version(message: Message) -> int:
    event = decode(message.subject, message.body)
    if isinstance(event, Unreadable):
        raise CorrectionRefused(
            f"The event at position {message.position} ({read_attributes(message.body).id or 'without an id'}) cannot "
            "be applied, so its version is unknown. Nothing was changed."
        )
    return event.version


async def _require_applied(connection: asyncpg.Connection, messages: Sequence[Message], live: Generation) -> None:
    """Refuse parked and discarded events: their rows name positions that a correction would remove."""
    query = for_generation("SELECT position FROM {generation}.parked_event WHERE position = any($1::bigint[])", live)
    positions = {message.position for message in messages}
    parked = {row["position"] for row in await connection.fetch(query, list(positions))}
    aside = parked | (positions & set(await erasure.discarded_positions(connection)))
    if aside:
        raise CorrectionRefused(
            f"Events of this entity are parked or discarded, at positions {', '.join(map(str, sorted(aside)))}. "
            "Nothing was changed. Publish its state with versions above the wrong one instead."
        )
