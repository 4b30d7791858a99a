"""Counts which events of a batch won their register on arrival, and which lost to an equal or newer version.

An event that won is applied, one that lost is superseded. Each type has one deciding register: an event that writes two
wins any exactly if it wins the one that only its type writes, because the other's version is never lower.
Invariants: the counts are those of applying one event after the other. They do not depend on how the stream is divided
into batches, so an event that won is applied even if a later one of its batch replaced it.

How: within the batch, the fold records the events that met another (`Contests`). Against the rows, the number of
changed rows is enough where a row is offered one event of the usual type (`Table.usual`): it changes exactly if that
wins. All other rows are `doubtful`: their versions are read before they are written. No write returns its rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import Struct

from projections.model.events import (
    EVENT_TYPES,
    CampaignDeleted,
    CampaignRestored,
    CampaignStatusChanged,
    CampaignUpserted,
    CountersChanged,
    CustomerUpserted,
    Event,
    TargetEnrolled,
    TargetRemoved,
    TargetRestored,
)
from projections.model.membership import Contests, Meetings, Registers

Tally = Counter[type[Event]]
"""A number of events by type."""

DECIDING: Final[Mapping[type, str]] = {
    CustomerUpserted: "customers",
    CampaignUpserted: "definitions",
    CampaignStatusChanged: "statuses",
    CampaignDeleted: "deletions",
    CampaignRestored: "deletions",
    CountersChanged: "counters",
    TargetEnrolled: "enrolments",
    TargetRemoved: "presences",
    TargetRestored: "presences",
}
"""The register that decides whether an event of this type was applied."""
TYPE_NAMES: Final[Mapping[type[Event], str]] = {
    data: name for types in EVENT_TYPES.values() for name, data in types.items()
}


class Table(NamedTuple):
    """A table of the read model: the registers in one row, and the type whose events usually write it alone, if any."""

    registers: tuple[str, ...]
    usual: type[Event] | None


CUSTOMER: Final = Table(("customers",), CustomerUpserted)
CAMPAIGN: Final = Table(("definitions", "statuses", "deletions"), None)
COUNTERS: Final = Table(("counters",), CountersChanged)
TARGET: Final = Table(("enrolments", "presences"), TargetEnrolled)
TABLES: Final = (CUSTOMER, CAMPAIGN, COUNTERS, TARGET)

Key = Any
"""The key of a row, as in the registers."""
Held = Mapping[Table, Mapping[Key, Sequence[int]]]
"""By table, the versions that its `doubtful` rows held before the batch, in the order of `Table.registers`, or 0."""


class Arrivals(Struct, frozen=True):
    """The valid events of a batch by type, and those that met another in a register."""

    valid: Tally
    contests: Contests


def doubtful(table: Table, registers: Registers, arrivals: Arrivals) -> set[Key]:
    """Return the keys of the rows whose held versions must be read before the batch is written."""
    keys: set[Key] = set()
    for name in table.registers:
        keys.update(getattr(arrivals.contests, name).replaced)
        if table.usual is None:
            keys.update(getattr(registers, name))
    if table is TARGET and (arrivals.valid[TargetRemoved] or arrivals.valid[TargetRestored]):
        keys.update([key for key, event in registers.presences.items() if type(event) is not TargetEnrolled])
    return keys


def superseded(registers: Registers, arrivals: Arrivals, held: Held, unchanged_rows: Mapping[Table, int]) -> Tally:
    """Return how many events were superseded; `unchanged_rows`: rows that were offered and did not change."""
    tally: Tally = Counter()
    for table, rows in held.items():
        changed: set[Key] = set()
        for index, name in enumerate(table.registers):
            versions = {key: held_versions[index] for key, held_versions in rows.items()}
            _count_met(name, getattr(arrivals.contests, name), versions, tally)
            changed |= _count_winners(name, getattr(registers, name), versions, tally)
        if table.usual is not None:  # below 0 only if rows were edited by hand meanwhile
            tally[table.usual] += max(0, unchanged_rows[table] - len(rows) + len(changed))
    return +tally


def _count_met(name: str, meetings: Meetings, versions: Mapping[Key, int], tally: Tally) -> None:
    """Count the events that another of the batch beat or replaced, and that lost on arrival."""
    tally.update([kind for kind in meetings.lost if DECIDING[kind] == name])
    for key, replaced in meetings.replaced.items():
        version = versions[key]
        if replaced[0][1] <= version:
            tally.update([kind for kind, offered in replaced if offered <= version and DECIDING[kind] == name])


def _count_winners(name: str, register: Mapping[Key, Any], versions: Mapping[Key, int], tally: Tally) -> set[Key]:
    """Return the keys whose register the batch's winner takes; count the winners that lose to the held version."""
    taken: set[Key] = set()
    for key, version in versions.items():
        event = register.get(key)
        if event is None:
            continue
        if event.version > version:
            taken.add(key)
        elif DECIDING[type(event)] == name:
            tally[type(event)] += 1
    return taken
