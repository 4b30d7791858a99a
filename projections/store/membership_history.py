"""Reads the history of a membership: its registers from the live generation, its events from the stream.

Reads: customer, campaign, membership, parked_event, control tables; the stream, through `MessageReader`.
Invariants: registers and position are one snapshot, and only events up to that position count, so a verdict and the
events that explain it are of the same moment. Parked events are looked up afterwards: one that is retried at that
moment may already count as applied. The stream is read only after the caller may see the membership.
Memory: one slice of messages; of each event only what is shown of it is kept.
Fails: `HistoryUnavailable` and `HistoryTooLong`; what the connection raises.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

import asyncpg
from msgspec import Struct

from projections.errors import MembershipError
from projections.model.events import SUBJECT_ROOT, CampaignId, CustomerId, Message, Position
from projections.model.explanation import MembershipState
from projections.model.history import HistoryEvent, HistoryFold, SetAside
from projections.store.checkpoint import Checkpoint
from projections.store.queries import Generation, generation, statements

EVENTS_MAX: Final = 10_000
"""Events of one membership that are read for its history: these take a tenth of a second to decode."""
BYTES_MAX: Final = 64 * 1024 * 1024
"""The same in bytes of their bodies: 256 of the largest events."""
SLICE_EVENTS: Final = 250
"""Events that are decoded before other tasks of the process run: about 5 ms."""
BEFORE_ALL_IDS: Final = "00000000-0000-0000-0000-000000000000"
"""Reading after this id begins with the first one."""


class HistoryUnavailable(MembershipError):
    """The stream cannot be read now, or it is not the stream that the read model has applied."""

    code = "history_unavailable"


class HistoryTooLong(MembershipError):
    """There are more events than are read for a history."""

    code = "history_too_long"

    def __init__(self, events_max: int, bytes_max: int) -> None:
        super().__init__(
            f"The history has more than {events_max:,} events, or more than {bytes_max // 1024**2:,} MB of them; "
            "so long a history is not read."
        )


class Reads(Protocol):
    """A connection or a pool of them."""

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:  # noqa: ANN401 - by statement
        """Return all rows."""

    async def fetchrow(self, query: str, *args: Any) -> asyncpg.Record | None:  # noqa: ANN401 - by statement
        """Return the first row."""


class MessageReader(Protocol):
    """Reads the messages on single subjects of the stream. It connects at the first read, so it can be made anytime."""

    async def count(self, subjects: Sequence[str], applied: Checkpoint) -> list[int]:
        """Return how many messages each subject has; raises `HistoryUnavailable`, also for a stream that is another."""

    def messages(
        self, subject: str, count: int, through: Position, slice_events: int
    ) -> AsyncGenerator[list[Message], None]:
        """Yield the messages on a subject (wildcards allowed) up to a position, in slices, in stream order.

        Raises `HistoryUnavailable`, also if the subject ends too early with fewer than `count` messages. Close the
        generator if you leave it early.
        """

    async def close(self) -> None:
        """Disconnect."""


class StreamReader(MessageReader, Protocol):
    """Also reads the newest messages, for operators."""

    async def newest(self, subject: str, before: int | None, limit: int) -> list[Message]:
        """Return the last messages on a subject (wildcards allowed) before a position, newest first.

        Fewer than `limit` only if the stream holds no more, or if they are very large. Raises `HistoryUnavailable`.
        """

    async def last(self, subject: str) -> Message | None:
        """Return the last message on one subject; None if there is none. Raises `HistoryUnavailable`."""


class LiveRegisters(Struct, frozen=True):
    """What one snapshot of the live generation holds about a membership, and whether the caller may see it."""

    live_generation: Generation
    """If it is another than the one that was read, the pointer has moved: read again."""
    checkpoint: Checkpoint
    parked: str | None
    """Why the event at the requested position is parked, if it is."""
    state: MembershipState | None
    """None: there is no such customer or campaign among those that the caller may see."""


async def read_registers(
    reads: Reads,
    name: Generation,
    customer_id: str,
    campaign_id: str,
    *,
    scope: str | None,
    min_position: int | None = None,
) -> LiveRegisters:
    """Return the registers of a membership; `scope` is the owner to whom the caller is restricted, None for an admin.

    Raises UndefinedTableError if the generation is gone.
    """
    row = await reads.fetchrow(_statements(name)["registers"], customer_id, campaign_id, scope, min_position)
    if row is None:
        raise asyncpg.UndefinedTableError(f"generation {name} no longer has a checkpoint")
    checkpoint = Checkpoint(
        name, Position(row["position"]), row["message_time_ns"], row["stream_created"], row["epoch"]
    )
    state = _state(CustomerId(customer_id), CampaignId(campaign_id), row) if _may_see(row, scope) else None
    return LiveRegisters(generation(row["live_generation"]), checkpoint, row["parked"], state)


async def read_memberships(
    reads: Reads, name: Generation, customer_id: str, after: str, limit: int
) -> list[MembershipState]:
    """Return the states of a customer's memberships after a campaign, at most `limit`, in order of campaign."""
    rows = await reads.fetch(_statements(name)["memberships"], customer_id, after, limit)
    return [_state(CustomerId(customer_id), CampaignId(row["campaign_id"]), row) for row in rows]


async def customer_exists(reads: Reads, name: Generation, customer_id: str) -> bool:
    """Return whether a customer event or an enrolment of the customer is applied."""
    return await reads.fetchrow(_statements(name)["customer_exists"], customer_id) is not None


async def read_history(
    reads: Reads,
    reader: MessageReader,
    state: MembershipState,
    applied: Checkpoint,
    *,
    counters: bool = False,
) -> HistoryFold:
    """Return the history of a membership up to a checkpoint; `counters` adds the events of the campaign's counters."""
    fold = HistoryFold()
    shown = [
        f"{SUBJECT_ROOT}.target.{state.customer_id}.{state.campaign_id}",
        f"{SUBJECT_ROOT}.campaign.{state.campaign_id}",
        *([f"{SUBJECT_ROOT}.counters.{state.campaign_id}"] if counters else []),
    ]
    # Events of the customer are not shown, but the sentence names the one that deleted it.
    unshown = [f"{SUBJECT_ROOT}.customer.{state.customer_id}"] if state.verdict == "customer_deleted" else []
    await _add_subjects(reads, reader, fold, shown, applied)
    events = sorted(fold.events, key=_position)
    await _add_subjects(reads, reader, fold, unshown, applied)
    fold.events = events
    return fold


async def _add_subjects(
    reads: Reads, reader: MessageReader, fold: HistoryFold, subjects: Sequence[str], applied: Checkpoint
) -> None:
    """Fold the messages on subjects, one subject after the other; raises `HistoryTooLong` before it reads too many."""
    if not subjects:
        return
    counts = await reader.count(subjects, applied)
    if sum(counts) > EVENTS_MAX:
        raise HistoryTooLong(EVENTS_MAX, BYTES_MAX)
    for subject, count in zip(subjects, counts, strict=True):
        if count:
            await add_subject(reads, reader, fold, subject, applied, count=count)


async def add_subject(
    reads: Reads,
    reader: MessageReader,
    fold: HistoryFold,
    subject: str,
    applied: Checkpoint,
    *,
    count: int = 0,
    events_max: int = EVENTS_MAX,
    bytes_max: int = BYTES_MAX,
    on_slice: Callable[[int], None] | None = None,
) -> None:
    """Fold the messages on a subject (wildcards allowed) up to a checkpoint; at least `count` are expected.

    `on_slice` is called with the number of messages of each slice. Raises `HistoryTooLong`.
    """
    events = size = 0
    async with aclosing(reader.messages(subject, count, applied.position, SLICE_EVENTS)) as slices:
        async for messages in slices:
            events += len(messages)
            size += sum([len(message.body) for message in messages])
            if events > events_max or size > bytes_max:
                raise HistoryTooLong(events_max, bytes_max)
            fold.add(messages, await _set_aside(reads, applied.generation, messages))
            if on_slice is not None:
                on_slice(len(messages))
            await asyncio.sleep(0)  # decoding takes milliseconds; let the process answer others meanwhile


async def _set_aside(reads: Reads, name: Generation, messages: Sequence[Message]) -> Mapping[int, SetAside]:
    rows = await reads.fetch(_statements(name)["set_aside"], [message.position for message in messages])
    return {row["position"]: SetAside(row["reason"], row["detail"]) for row in rows}


def _position(event: HistoryEvent) -> int:
    return event.position


def _may_see(row: asyncpg.Record, scope: str | None) -> bool:
    """Return whether customer and campaign exist for a caller: those of another owner are treated like unknown ones."""
    if scope is None:
        return bool(row["customer_exists"] and row["campaign_exists"])
    return bool(row["customer_owner_id"] == scope == row["campaign_owner_id"])


def _state(customer_id: CustomerId, campaign_id: CampaignId, row: asyncpg.Record) -> MembershipState:
    named = MembershipState.__struct_fields__[2:]
    return MembershipState(customer_id, campaign_id, *(row[field] for field in named))


def _statements(name: Generation) -> Mapping[str, str]:
    return statements("projections.store", "membership_history.sql", generation=name)
