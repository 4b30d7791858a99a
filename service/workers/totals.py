"""Puts the metrics of several workers together, and keeps the counts of those that have ended."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from service.workers.messages import Combination, Family, Sample, Snapshot

CUMULATIVE: Final = frozenset({"counter", "histogram"})
"""Kinds that must never decrease: a worker's share is kept when it ends."""
CREATED: Final = "_created"
"""Suffix of the time since when a counter counts: the oldest is true of the sum."""

_Series = tuple[str, tuple[tuple[str, str], ...]]


def combined(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return one snapshot with each time series of all of them once."""
    families: dict[str, Family] = {}
    values: dict[str, dict[_Series, float]] = {}
    for family in (family for snapshot in snapshots for family in snapshot):
        families.setdefault(family.name, family)
        _add(values.setdefault(family.name, {}), family)
    return tuple(_with_values(family, values[name]) for name, family in families.items())


def cumulative(snapshot: Snapshot) -> Snapshot:
    """Return what remains of a worker that has ended."""
    return tuple(family for family in snapshot if family.kind in CUMULATIVE)


def _add(values: dict[_Series, float], family: Family) -> None:
    for sample in family.samples:
        series = (sample.name, tuple(sample.labels.items()))
        combine = _COMBINE["least" if sample.name.endswith(CREATED) else family.combination]
        values[series] = combine(values[series], sample.value) if series in values else sample.value


def _with_values(family: Family, values: Mapping[_Series, float]) -> Family:
    samples = tuple(Sample(name, dict(labels), value) for (name, labels), value in values.items())
    return Family(family.name, family.kind, family.documentation, family.combination, samples)


def _least(one: float, other: float) -> float:
    return min(filter(None, (one, other)), default=0.0)


_COMBINE: Final[Mapping[Combination, Callable[[float, float], float]]] = {
    "sum": lambda one, other: one + other,
    "least": _least,
    "greatest": max,
}
