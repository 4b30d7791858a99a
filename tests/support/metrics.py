"""The metrics of a registry with the names of their labels, whichever way the code defines them."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric


def labelled_families(registry: CollectorRegistry) -> Iterator[tuple[Metric, tuple[str, ...]]]:
    """Yield each metric family and its label names."""
    for collector in registry._collector_to_names:
        for family in collector.collect():
            labels = getattr(family, "_labelnames", getattr(collector, "_labelnames", ()))
            yield family, tuple(labels)


def value_of(text: str, name: str) -> float:
    """Return a metric's value in Prometheus' text format by its name and labels as written there; 0 without one."""
    values = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.rpartition(" ")[0] == name]
    return values[0] if values else 0.0
