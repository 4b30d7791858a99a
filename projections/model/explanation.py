"""Explains in one sentence why a customer is, or is not, shown in a campaign. The API and the command line share it.

The verdict comes from the registers as the read model holds them, so it is what the list shows; the positions in the
sentence come from the history. No I/O.
"""

from datetime import UTC, datetime
from typing import Final, Literal, assert_never

import msgspec
from msgspec import Struct

from projections.model.events import CampaignId, CustomerId
from projections.model.history import HistoryEvent, HistoryFold, Presence
from projections.model.membership import TargetKey
from projections.model.quoting import quoted

Verdict = Literal[
    "visible", "never_enrolled", "campaign_unknown", "target_removed", "campaign_deleted", "customer_deleted"
]
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
"""Not strftime's names, which depend on the process's locale."""
_ENCODER: Final = msgspec.json.Encoder()
NOT_IN_STREAM: Final = "an event that the stream no longer holds"


class MembershipState(Struct, frozen=True):
    """The registers of one membership in the live generation. A version of 0: no event of the register is applied."""

    customer_id: CustomerId
    campaign_id: CampaignId
    customer_version: int
    customer_deleted: bool
    definition_version: int
    campaign_name: str | None
    deletion_version: int
    campaign_deleted: bool
    enrolment_version: int
    enrolled_at: datetime | None
    presence_version: int
    present: bool

    @property
    def key(self) -> TargetKey:
        """The membership's key."""
        return TargetKey(self.customer_id, self.campaign_id)

    @property
    def verdict(self) -> Verdict:
        """Whether the list shows the membership by default; if not, the first reason, in the order of `Verdict`."""
        if self.enrolment_version == 0:
            return "never_enrolled"
        if self.definition_version == 0:
            return "campaign_unknown"
        if not self.present:
            return "target_removed"
        if self.campaign_deleted:
            return "campaign_deleted"
        return "customer_deleted" if self.customer_deleted else "visible"


class Meta(Struct, omit_defaults=True):
    """The paging that was applied."""

    limit: int
    next_cursor: str | None = None


class History(Struct, omit_defaults=True, kw_only=True):
    """The answer of the history endpoint and of `membership explain --json`."""

    customer_id: CustomerId
    campaign_id: CampaignId
    visible: bool
    reason: Verdict
    detail: str
    enrolled_at: datetime | None = None
    events: list[HistoryEvent]
    meta: Meta


def answer(
    state: MembershipState,
    history: HistoryFold,
    events: list[HistoryEvent],
    limit: int,
    next_cursor: str | None = None,
) -> bytes:
    """Return the answer as JSON, with one page of the history's events."""
    return _ENCODER.encode(
        History(
            customer_id=state.customer_id,
            campaign_id=state.campaign_id,
            visible=state.verdict == "visible",
            reason=state.verdict,
            detail=explain(state, history),
            enrolled_at=state.enrolled_at,
            events=events,
            meta=Meta(limit, next_cursor),
        )
    )


def explain(state: MembershipState, history: HistoryFold | None) -> str:
    """Return the sentence for a verdict, and one more if events of the membership are parked.

    Without a history, because the stream cannot be read, the sentence names no events.
    """
    if history is None:
        return _sentence(state, HistoryFold(), None)
    presence = history.presences.get(state.key, Presence())
    return _sentence(state, history, presence) + _parked(presence)


def _sentence(state: MembershipState, history: HistoryFold, presence: Presence | None) -> str:
    """Return the sentence for a verdict; `presence` is None if the history was not read."""
    campaign = f"campaign {state.campaign_id}" if state.campaign_name is None else quoted(state.campaign_name)
    enrolled = _moment(state.enrolled_at)
    if presence is not None:
        enrolled += f" ({_enrolment(state, history)})"
    match state.verdict:
        case "visible":
            return f"In {campaign} since {enrolled}{_comings_and_goings(state, history, presence)}."
        case "never_enrolled":
            return f"Never enrolled in {campaign}: no enrolment event is applied{_removal_only(presence)}."
        case "campaign_unknown":
            return f"Enrolled in {campaign} on {enrolled}, but no definition of that campaign is applied yet."
        case "target_removed":
            return f"Not in {campaign}: enrolled on {enrolled}, {_removed(state, history, presence)}."
        case "campaign_deleted":
            deletion = history.holder("deletions", state.campaign_id, state.deletion_version)
            return f"Not shown: {campaign} was deleted{_when(deletion)}; enrolled on {enrolled}."
        case "customer_deleted":
            deletion = history.holder("customers", state.customer_id, state.customer_version)
            return f"Not shown: the customer was deleted{_when(deletion)}; enrolled in {campaign} on {enrolled}."
        case _ as unreachable:
            assert_never(unreachable)


def _enrolment(state: MembershipState, history: HistoryFold) -> str:
    holder = history.holder("enrolments", state.key, state.enrolment_version)
    return NOT_IN_STREAM if holder is None else f"event {holder.position}"


def _comings_and_goings(state: MembershipState, history: HistoryFold, presence: Presence | None) -> str:
    """Return the last removal and the restoration after it, if the read model holds the latter's version or a later."""
    if presence is None:
        return ""
    if history.holder("presences", state.key, state.presence_version) is None:
        return f"; its presence was set by {NOT_IN_STREAM}"
    if presence.removal is not None and presence.restoration is not None:
        return f"; removed{_when(presence.removal)} and restored{_when(presence.restoration)}"
    return "" if presence.restoration is None else f"; restored{_when(presence.restoration)}"


def _removed(state: MembershipState, history: HistoryFold, presence: Presence | None) -> str:
    if presence is None:
        return "removed"
    holder = history.holder("presences", state.key, state.presence_version)
    return f"removed by {NOT_IN_STREAM}" if holder is None else f"removed{_when(holder)}"


def _removal_only(presence: Presence | None) -> str:
    return "" if presence is None or presence.removal is None else f"; only a removal is known{_when(presence.removal)}"


def _parked(presence: Presence) -> str:
    if not presence.parked:
        return ""
    events = "1 event of this membership is" if presence.parked == 1 else f"{presence.parked:,} events of it are"
    last = "" if presence.parked == 1 else "the last "
    return f" {events} parked and not applied ({last}event {presence.last_parked})."


def _when(event: HistoryEvent | None) -> str:
    if event is None:
        return ""
    return f" on {_moment(event.time)} (event {event.position})"


def _moment(instant: datetime | None) -> str:
    """Return a time for people, in UTC; it may be outside the years that UTC can express."""
    if instant is None:
        return "an unknown date"
    try:
        utc = instant.astimezone(UTC) if instant.utcoffset() else instant
    except (OverflowError, ValueError):
        return instant.isoformat()
    return f"{utc.day} {_MONTHS[utc.month - 1]} {utc.year}, {utc:%H:%M} UTC"
