"""Determines the outcome of each event of a membership, with the fold's own rules. No I/O.

Every message is folded on its own into the registers of `membership.py`. An event has won the registers that hold it
after it was folded. So the outcomes cannot follow other rules than the rows.

Invariants: the messages of one subject are added in stream order; subjects may follow one another, because no register
is written from two subjects.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from msgspec import Struct

from projections.model.attributes import Attributes, read_attributes
from projections.model.decode import decode
from projections.model.events import (
    CampaignId,
    CampaignStatusChanged,
    CampaignUpserted,
    CountersChanged,
    CustomerId,
    Event,
    Message,
    Position,
    TargetEnrolled,
    TargetRemoved,
    TargetRestored,
    Unreadable,
)
from projections.model.membership import Registers, TargetKey, fold, is_present
from projections.model.quoting import quoted

Outcome = Literal["applied", "superseded", "duplicate", "parked"]
DETAIL_CHARS_MAX: Final = 500
"""A parking detail quotes values, which may have 256 KB; `membership parked show` prints the whole."""
DISCARDED: Final = "discarded"
"""In place of a parking reason: an operator has decided that the event is not applied."""


class HistoryEvent(Struct, omit_defaults=True, kw_only=True):
    """One event of a history, as the API and the command line show it. What is None could not be read."""

    position: Position
    time: datetime | None = None
    """The event's own time, not that of its arrival."""
    type: str | None = None
    id: str | None = None
    source: str | None = None
    version: str | None = None
    """A string, because an int64 may exceed 2⁵³, beyond which JavaScript rounds numbers."""
    outcome: Outcome
    superseded_by: Position | None = None
    """Of an applied event: where it lost the last register that it had won. Of a superseded one: the position of the
    event that it lost to on arrival; of two, the later."""
    detail: str | None = None
    """What the event says, or why it is parked."""


class SetAside(Struct, frozen=True):
    """Why a message is not applied although the stream holds it: a parking reason or `DISCARDED`, and its detail."""

    reason: str
    detail: str


class Presence(Struct):
    """The last removal that applied, the restoration after it, and how many events are parked."""

    removal: HistoryEvent | None = None
    restoration: HistoryEvent | None = None
    """The first one that brought the target back after `removal`."""
    parked: int = 0
    last_parked: Position | None = None


class _Holder(Struct, eq=False):
    """An event that holds registers, and how many."""

    shown: HistoryEvent
    event: Event
    registers: int = 0


class HistoryFold:
    """Folds the messages of one or many memberships, and remembers the outcome of each."""

    def __init__(self, *, keep_events: bool = True) -> None:
        self.events: list[HistoryEvent] = []
        """All events, in the order in which they were added; empty unless they are kept."""
        self.presences: dict[TargetKey, Presence] = {}
        self._keep_events = keep_events
        self._registers = Registers()
        self._holders: dict[tuple[str, object], _Holder] = {}
        self._seen: set[tuple[str, str | None, int]] = set()
        """The subject, id and version of every event that was read."""

    def add(self, messages: Sequence[Message], set_aside: Mapping[int, SetAside]) -> None:
        """Add the next messages of a subject; `set_aside` names those among them that are parked or discarded."""
        for message in messages:
            attributes = read_attributes(message.body)
            event = set_aside.get(message.position) or _read(message)
            if isinstance(event, SetAside):
                shown = self._park(message, attributes, event)
            else:
                shown = self._apply(message, attributes, event)
            if self._keep_events:
                self.events.append(shown)

    def holder(self, register: str, key: CustomerId | CampaignId | TargetKey, version: int) -> HistoryEvent | None:
        """Return the event that holds a register, by the name of its field in `Registers`.

        None if no event was added for it, or if that event's version is another than `version`.
        """
        holder = self._holders.get((register, key))
        return holder.shown if holder is not None and holder.event.version == version else None

    def _park(self, message: Message, attributes: Attributes, aside: SetAside) -> HistoryEvent:
        key = _target_of(message.subject)
        if key is not None:
            presence = self.presences.setdefault(key, Presence())
            presence.parked += 1
            presence.last_parked = message.position
        shown = _shown(message, attributes, "parked")
        detail = f"{aside.reason}: {aside.detail}"
        shown.detail = detail if len(detail) <= DETAIL_CHARS_MAX else f"{detail[:DETAIL_CHARS_MAX]}…"
        return shown

    def _apply(self, message: Message, attributes: Attributes, event: Event) -> HistoryEvent:
        """Offer an event to its registers, and record which it won and which holders it replaced."""
        shown = _shown(message, attributes, "applied")
        fold([event], self._registers)
        holder = _Holder(shown, event)
        lost: dict[str, HistoryEvent] = {}
        for name, key in _written_by(event):
            current = self._holders.get((name, key))
            if getattr(self._registers, name)[key] is event:
                self._win(holder, current, name, key)
            elif current is not None:
                lost[name] = current.shown
        identity = (message.subject, attributes.id, event.version)
        if not holder.registers and identity in self._seen:
            shown.outcome = "duplicate"
        elif not holder.registers:
            shown.outcome = "superseded"
            shown.superseded_by = max(winner.position for winner in lost.values())
        self._seen.add(identity)
        shown.detail = _detail(event, lost if holder.registers else {})
        return shown

    def _win(self, holder: _Holder, current: _Holder | None, name: str, key: object) -> None:
        holder.registers += 1
        self._holders[name, key] = holder
        if current is not None:
            current.registers -= 1
            if current.registers == 0:
                current.shown.superseded_by = holder.shown.position
        if isinstance(key, TargetKey) and name == "presences":
            self._follow_presence(key, holder)

    def _follow_presence(self, key: TargetKey, holder: _Holder) -> None:
        presence = self.presences.setdefault(key, Presence())
        if not isinstance(holder.event, TargetEnrolled | TargetRemoved | TargetRestored):
            return
        if not is_present(holder.event):
            presence.removal, presence.restoration = holder.shown, None
        elif presence.restoration is None and (presence.removal or isinstance(holder.event, TargetRestored)):
            presence.restoration = holder.shown


REGISTERS: Final[tuple[str, ...]] = Registers.__struct_fields__
_LABELS: Final[Mapping[str, str]] = {
    "definitions": "definition",
    "statuses": "status",
    "enrolments": "enrolment",
    "presences": "presence",
}
"""How a detail names the registers of events that write two."""


def _read(message: Message) -> Event | SetAside:
    event = decode(message.subject, message.body)
    return SetAside(event.reason, event.detail) if isinstance(event, Unreadable) else event


def _written_by(event: Event) -> list[tuple[str, object]]:
    """Return the registers, by field and key, that an event writes if they are empty."""
    alone = fold([event])
    return [(name, key) for name in REGISTERS for key in getattr(alone, name)]


def _target_of(subject: str) -> TargetKey | None:
    """Return the target that a subject names, as far as its tokens do."""
    tokens = subject.split(".")
    is_target = len(tokens) == 4 and tokens[1] == "target"  # noqa: PLR2004 - membership.target.<customer>.<campaign>
    return TargetKey(CustomerId(tokens[2]), CampaignId(tokens[3])) if is_target else None


def _shown(message: Message, attributes: Attributes, outcome: Outcome) -> HistoryEvent:
    return HistoryEvent(
        position=message.position,
        time=attributes.time,
        type=attributes.type,
        id=attributes.id,
        source=attributes.source,
        version=None if attributes.version is None else str(attributes.version),
        outcome=outcome,
    )


def _detail(event: Event, lost: Mapping[str, HistoryEvent]) -> str | None:
    """Return what an event says, and which of its registers it did not win."""
    parts = [_content(event)]
    parts += [f"not the {_LABELS[name]}, which event {winner.position} holds" for name, winner in lost.items()]
    return "; ".join(filter(None, parts)) or None


def _content(event: Event) -> str:
    match event:
        case TargetEnrolled():
            source = "" if event.source is None else f", source {quoted(event.source)}"
            return f"enrolled_at {_utc(event.enrolled_at)}{source}"
        case TargetRemoved() | TargetRestored():
            return "" if event.reason is None else f"reason {quoted(event.reason)}"
        case CampaignUpserted():
            return f"name {quoted(event.name)}, status {event.status}"
        case CampaignStatusChanged():
            return f"status {event.status}"
        case CountersChanged():
            return f"contacts_total {event.contacts_total}, contacts_contacted {event.contacts_contacted}"
        case _:
            return ""


def _utc(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
