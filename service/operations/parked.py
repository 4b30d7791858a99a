"""`GET /ops/parked…`: the events that could not be applied, in groups, page by page, and one with its body."""

import json
from typing import Any, Final

from msgspec import Struct

from projections.maintenance import parked_list, parking
from projections.maintenance.parked_list import ParkedEvent, ParkedGroups, WholeParkedEvent
from projections.maintenance.parking import Filter
from projections.store import checkpoint as checkpoints
from service.operations import parameters
from service.operations.endpoint import Call, Endpoint
from service.operations.refusals import Refused

GROUPS_MAX: Final = 100


class Parked(Struct, frozen=True, omit_defaults=True):
    """A page of the parked events, newest first."""

    total: int
    """All that match, on every page."""
    events: list[ParkedEvent]
    next_cursor: int | None = None
    """The `before` of the next page; absent on the last page."""


async def show_groups(call: Call) -> ParkedGroups:
    """Return the parked events in groups."""
    async with call.services.database.snapshot() as connection:
        name = await checkpoints.live_generation(connection)
        return await parked_list.groups(connection, name, selection(call.values), GROUPS_MAX)


async def list_parked(call: Call) -> Parked:
    """Return a page of the parked events."""
    limit: int = call.values["limit"]
    selected = selection(call.values)
    async with call.services.database.snapshot() as connection:
        name = await checkpoints.live_generation(connection)
        total = await parked_list.count(connection, name, selected)
        events = await parked_list.page(connection, name, selected, call.values["before"], limit + 1)
    return Parked(total, events[:limit], events[limit - 1].position if len(events) > limit else None)


async def show_parked(call: Call) -> WholeParkedEvent:
    """Return one parked event."""
    async with call.services.database.snapshot() as connection:
        name = await checkpoints.live_generation(connection)
        row = await parking.get(connection, name, call.values["position"])
    if row is None:
        raise Refused("parked_event_not_found")
    return parked_list.explained(row, json.loads(row["headers"] or "{}"))


def selection(values: dict[str, Any]) -> Filter:
    """Return the filter that a request states."""
    return Filter(values["reason"], None, values["type"], values["source"])


_FILTER: Final = (
    parameters.words("reason", "Only events that are parked for this reason."),
    parameters.words("type", "Only events of this type; empty: those whose body states none."),
    parameters.words("source", "Only events of this source; empty: those whose body states none."),
)
ENDPOINTS: Final = (
    Endpoint(
        "/parked/groups", "operator_parked_groups", "What is parked, and why?", show_groups, ParkedGroups, _FILTER
    ),
    Endpoint(
        "/parked",
        "operator_parked",
        "Which events are parked?",
        list_parked,
        Parked,
        (*_FILTER, parameters.before("events"), parameters.limit()),
    ),
    Endpoint(
        "/parked/{position}",
        "operator_parked_event",
        "What is wrong with this event?",
        show_parked,
        WholeParkedEvent,
        (parameters.number("position", "Its position in the stream."),),
        ("parked_event_not_found",),
    ),
)
