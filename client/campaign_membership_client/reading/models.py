"""The items of answers, as the HTTP contract defines them; a test compares each with its schema.

Unknown fields are ignored, so that an answer may grow. Absent optional fields are None, or the contract's default.
"""

from datetime import datetime, time
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta as Constraint
from msgspec import Struct

Instant = Annotated[datetime, Constraint(tz=True)]
Status = Literal["draft", "running", "paused", "done"]
Outcome = Literal["applied", "superseded", "duplicate", "parked"]
Reason = Literal[
    "visible", "never_enrolled", "campaign_unknown", "target_removed", "campaign_deleted", "customer_deleted"
]


class ContactObjective(Struct, frozen=True, tag_field="type", tag="contact"):
    """A goal reached by contacting the customer."""

    channels: list[Literal["call", "whatsapp"]] | None = None
    min_count: int = 1


class EmailObjective(Struct, frozen=True, tag_field="type", tag="email"):
    """A goal reached by e-mail."""

    min_count: int = 1


class AiObjective(Struct, frozen=True, tag_field="type", tag="ai"):
    """A goal reached when the AI judges a conversation accordingly."""

    label_in: list[Literal["positive", "negative", "neutral"]] | None = None
    min_score: float = 0.0


class GoalSpec(Struct, frozen=True):
    """The objectives that define a campaign's goal."""

    objectives: list[ContactObjective | EmailObjective | AiObjective] | None = None


class CallWindow(Struct, frozen=True):
    """When calls may be made."""

    start: time = time(9)
    end: time = time(19)
    weekdays: list[int] | None = None


class Stage(Struct, frozen=True, kw_only=True):
    """One column of a campaign's board."""

    id: UUID
    campaign_id: UUID
    key: str
    name: str
    position: int
    semantic_type: Literal["new", "active", "won", "lost"]
    color: str | None = None
    is_system: bool = False
    created_at: Instant
    updated_at: Instant


class Campaign(Struct, frozen=True, kw_only=True):
    """A campaign that a customer is in."""

    id: UUID
    name: str
    status: Status
    agent_id: UUID
    agent_name: str | None = None
    phone_number_id: UUID | None = None
    phone_number: str | None = None
    whatsapp_channel_id: UUID | None = None
    goal: str | None = None
    goal_spec: GoalSpec | None = None
    first_contact_channel: Literal["call", "whatsapp"]
    call_opening_message: str | None = None
    whatsapp_first_message: str | None = None
    whatsapp_after_attempts: int
    call_attempt_delays: list[int] | None = None
    call_working_hours: CallWindow | None = None
    contacts_total: int = 0
    contacts_contacted: int = 0
    contacts_remaining: int = 0
    contacts_to_recall: int = 0
    contacts_failed: int = 0
    contacts_succeeded: int = 0
    progress: float = 0.0
    stages: list[Stage] | None = None


class Sort(Struct, frozen=True):
    """The order of a page."""

    field: str
    direction: Literal["asc", "desc"]


class Meta(Struct, frozen=True):
    """What a page is a part of."""

    total: int
    """All memberships that match, before paging."""
    limit: int
    offset: int
    sort: Sort | None = None
    next_cursor: str | None = None
    """None on the last page."""


class Query(Struct, frozen=True):
    """The request, as it was understood."""

    q: str | None = None
    filters: dict[str, Any] | None = None
    date_from: Instant | None = None
    date_to: Instant | None = None
    sort: Sort | None = None


class Aggregations(Struct, frozen=True):
    """Exact counts: `quick_filters` of what `meta.total` counts, `extra["deleted"]` of deleted memberships."""

    quick_filters: dict[str, int] | None = None
    extra: dict[str, Any] | None = None


class ListBody(Struct, frozen=True):
    """The body of a page."""

    data: list[Campaign]
    meta: Meta
    query: Query
    aggregations: Aggregations | None = None


class HistoryEvent(Struct, frozen=True, kw_only=True):
    """An event of a membership's history. Of a parked one, what could not be read is None."""

    position: int
    time: Instant | None = None
    type: str | None = None
    id: str | None = None
    source: str | None = None
    version: str | None = None
    outcome: Outcome
    superseded_by: int | None = None
    detail: str | None = None


class HistoryMeta(Struct, frozen=True):
    """What a page of a history is a part of."""

    limit: int
    next_cursor: str | None = None


class HistoryBody(Struct, frozen=True, kw_only=True):
    """The body of a page of a history."""

    customer_id: UUID
    campaign_id: UUID
    visible: bool
    reason: Reason
    detail: str
    enrolled_at: Instant | None = None
    events: list[HistoryEvent]
    meta: HistoryMeta
