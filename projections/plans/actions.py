"""The actions that can be planned, with their parameters, and which of them a job runner executes. No I/O."""

import unicodedata
from typing import Annotated, Final, Literal, NamedTuple, cast
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from projections.api_keys import Scope
from projections.maintenance.parking import Filter
from projections.maintenance.repair import Entity

ActionName = Literal[
    "verify",
    "rebuild",
    "approve",
    "refuse",
    "cancel",
    "rollback",
    "parked_retry",
    "parked_discard",
    "repair",
    "erase",
    "key_create",
    "key_revoke",
]
POSITIONS_MAX: Final = 5_000
"""Parked events that a plan may name one by one; a selection by reason, type or source has no limit."""
NAME_MAX: Final = 200
FILTER_MAX: Final = 512
TTL_MAX_S: Final = 10 * 366 * 24 * 3600
RATE_MAX: Final = 10_000_000

_Id = Annotated[int, Meta(ge=1, le=2**53)]
_Text = Annotated[str, Meta(max_length=FILTER_MAX)]
_Rate = Annotated[int, Meta(ge=1, le=RATE_MAX)]


class _Action(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="action"):
    """An action. An unknown parameter is refused: a misspelt filter would select everything."""


class Verify(_Action, frozen=True, tag="verify"):
    """Fold the stream again, and compare the live rows with the result."""

    max_rate: _Rate | None = None


class Rebuild(_Action, frozen=True, tag="rebuild"):
    """Fill a new generation, compare it with the live one, and switch to it."""

    max_rate: _Rate | None = None
    from_generation: str | None = None
    """The generation that must still be the live one."""


class Approve(_Action, frozen=True, tag="approve"):
    """Switch to a new generation although its comparison found differences."""

    job_id: _Id


class Refuse(_Action, frozen=True, tag="refuse"):
    """Do not switch to a new generation."""

    job_id: _Id


class Cancel(_Action, frozen=True, tag="cancel"):
    """End a rebuild or verification, and drop its generation."""

    job_id: _Id


class Rollback(_Action, frozen=True, tag="rollback"):
    """Switch back to the previous generation."""


class _OnParked(_Action, frozen=True):
    """An action on parked events: on those at `positions`, or on all that match the other fields."""

    positions: Annotated[list[_Id], Meta(min_length=1, max_length=POSITIONS_MAX)] | None = None
    reason: _Text | None = None
    type: _Text | None = None
    source: _Text | None = None

    def __post_init__(self) -> None:
        if self.positions is not None and (self.reason, self.type, self.source) != (None, None, None):
            raise ValueError("give positions, or reason, type and source")
        if any("\0" in text for text in (self.reason, self.type, self.source) if text is not None):
            raise ValueError("the text must not contain NUL")

    @property
    def selection(self) -> Filter:
        """The parked events that match; all of them without any field."""
        return Filter(reason=self.reason, type=self.type, source=self.source)


class ParkedRetry(_OnParked, frozen=True, tag="parked_retry"):
    """Decode parked events with the current code, and apply those that are valid."""


class ParkedDiscard(_OnParked, frozen=True, tag="parked_discard"):
    """Never apply parked events."""


class Repair(_Action, frozen=True, tag="repair"):
    """Derive the rows of one customer or one campaign again from the stream."""

    customer_id: UUID | None = None
    campaign_id: UUID | None = None

    def __post_init__(self) -> None:
        if (self.customer_id is None) == (self.campaign_id is None):
            raise ValueError("give either customer_id or campaign_id")

    @property
    def entity(self) -> Entity:
        """What is repaired."""
        if self.customer_id is None:
            return Entity("campaign", str(self.campaign_id))
        return Entity("customer", str(self.customer_id))


class Erase(_Action, frozen=True, tag="erase"):
    """Remove a customer from the stream and from every generation."""

    customer_id: UUID


class KeyCreate(_Action, frozen=True, tag="key_create"):
    """Create an API key."""

    user_id: UUID
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=2)]
    name: Annotated[str, Meta(max_length=NAME_MAX)] = ""
    is_admin: bool = False
    ttl_s: Annotated[int, Meta(ge=1, le=TTL_MAX_S)] | None = None


class KeyRevoke(_Action, frozen=True, tag="key_revoke"):
    """Revoke an API key."""

    key_id: Annotated[str, Meta(min_length=1, max_length=64)]


Action = (
    Verify
    | Rebuild
    | Approve
    | Refuse
    | Cancel
    | Rollback
    | ParkedRetry
    | ParkedDiscard
    | Repair
    | Erase
    | KeyCreate
    | KeyRevoke
)


class Lane(NamedTuple):
    """Actions that the runner executes one after the other; lanes work side by side."""

    name: str
    actions: tuple[ActionName, ...]


LANES: Final = (
    Lane("jobs", ("verify", "rebuild", "erase")),
    Lane("corrections", ("parked_retry", "parked_discard", "repair")),
    Lane("controls", ("rollback", "cancel")),
)
"""A rollback waits neither for a rebuild nor for the retry of a hundred thousand events."""
BY_RUNNER: Final = frozenset(action for lane in LANES for action in lane.actions)
"""The other actions are executed by the API, in the transaction that accepts them."""
PLANNED_BY_RUNNER: Final[frozenset[ActionName]] = frozenset(("repair", "erase"))
"""What these act on is in the stream."""
CONFIRM_WORDS: Final[dict[ActionName, str]] = {"erase": "erase", "rollback": "rollback", "parked_discard": "discard"}
"""Words that an operator types to run a plan: what these do is hard to undo, or cannot be undone."""


def has_control_character(text: str) -> bool:
    """Return whether a terminal would obey a part of the text instead of showing it."""
    return any(unicodedata.category(character) == "Cc" for character in text)


def name_of(action: Action) -> ActionName:
    """Return the name of an action."""
    return cast("ActionName", action.__struct_config__.tag)


def parameters_of(action: Action) -> dict[str, object]:
    """Return the parameters of an action, without its name, as JSON's types."""
    found: dict[str, object] = msgspec.to_builtins(action)
    return {name: value for name, value in found.items() if name != "action"}


def from_record(name: str, parameters: str) -> Action:
    """Return a stored action."""
    action: Action = msgspec.convert({"action": name} | msgspec.json.decode(parameters), type=Action)
    return action
