"""The Prometheus metrics of a worker, and the text of all workers' metrics; docs/operations.md lists the same names.

Invariants: counting touches this process's memory only; the workers' metrics are put together when they are read.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final, Literal, get_args

from msgspec import Struct
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.workers.messages import Combination, Family, Sample, Snapshot

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

REQUESTS: Final = "membership_http_requests_total"
DURATION: Final = "membership_http_request_duration_seconds"
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of a request's duration."""
CACHE: Final = Counter(
    "membership_cache_requests_total",
    "Cache lookups, by kind of cached value and outcome.",
    ("kind", "outcome"),
    registry=REGISTRY,
)
CACHE_BYTES: Final = Gauge(
    "membership_cache_bytes", "Size of the cached pages, cards and responses.", registry=REGISTRY
)
POSITION: Final = Gauge(
    "membership_position", "Stream position applied by the live generation, as last reported.", registry=REGISTRY
)
POOL_WAIT: Final = Histogram(
    "membership_pool_wait_seconds",
    "How long a statement waited for a connection.",
    ("pool",),
    buckets=(0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    registry=REGISTRY,
)
Shed = Literal["queue_full", "wait_expired", "page_memory"]
"""Why a request was refused to protect the process: no waiting place, no slot in time, no memory for a large page."""
SHED: Final = Counter(
    "membership_shed_requests_total", "Requests refused to protect the process.", ("reason",), registry=REGISTRY
)
CREDENTIAL_FAILURES: Final = Counter(
    "membership_credential_failures_total",
    "Answers with 401, and tokens that could not be checked, by reason.",
    ("reason",),
    registry=REGISTRY,
)

ReplicaState = Literal["in_use", "behind", "unreachable", "refused"]
"""Whether a replica is read, and if not, why."""
REPLICA_STATES: Final = get_args(ReplicaState)
REPLICAS: Final = Gauge(
    "membership_replicas",
    "Read replicas of each worker, by whether and why not they are read.",
    ("state",),
    registry=REGISTRY,
)
REPLICA_LAG_EVENTS: Final = Gauge(
    "membership_replica_lag_events", "Stream positions that the last replica is behind the primary.", registry=REGISTRY
)
REPLICA_LAG_SECONDS: Final = Gauge(
    "membership_replica_lag_seconds", "How long the last replica has been behind the primary.", registry=REGISTRY
)
READS: Final = Counter(
    "membership_reads_total",
    "Reads of pages and cards by workers that have replicas, by the server that answered.",
    ("server",),
    registry=REGISTRY,
)

COMBINATIONS: Final[Mapping[str, Combination]] = {
    "membership_position": "least",  # of the worker that is furthest behind
    "membership_replica_lag_events": "greatest",
    "membership_replica_lag_seconds": "greatest",
    "process_start_time_seconds": "least",
    "python_info": "greatest",
}
"""How values of several workers become one; all other metrics are added up."""

KEY_SET_READS: Final = Counter(
    "membership_key_set_reads_total",
    "Reads of the issuer's key set, by outcome (`read` or `failed`).",
    ("outcome",),
    registry=REGISTRY,
)

LISTING: Final = "/customers/{customer_id}/campaigns"
HISTORY: Final = "/customers/{customer_id}/campaigns/{campaign_id}/history"
OPERATIONS: Final = "/ops/"
LIVE: Final = "/ops/live"
"""An endless response, which would distort the durations of the others."""
_FIXED: Final = frozenset(
    (
        "/health/live",
        "/health/ready",
        "/metrics",
        "/openapi.json",
        "/asyncapi.json",
        "/docs",
        "/docs/openapi.json",
        "/docs/events",
        "/console",
    )
)


def route_of(path: str) -> str:
    """Return the label of a path; ids never become labels."""
    if path in _FIXED:
        return path
    if path.startswith("/customers/") and path.endswith("/campaigns"):
        return LISTING
    if path.startswith("/customers/") and path.endswith("/history"):
        return HISTORY
    if path.startswith(OPERATIONS):
        return LIVE if path == LIVE else "/ops"
    return "other"


# Each label exists from the start, so that a rate over it is defined before the first refusal.
_SHED: Final = {reason: SHED.labels(reason) for reason in get_args(Shed)}


def shed(reason: Shed) -> None:
    """Count a request that was refused to protect the process."""
    _SHED[reason].inc()


def count(route: str, status: int, took_s: float) -> None:
    """Record a request and its response."""
    tally = _TALLIES.get((route, status))
    if tally is None:
        tally = _TALLIES[route, status] = _Tally([0] * (len(BUCKETS_S) + 1))
    tally.counts[bisect_left(BUCKETS_S, took_s)] += 1
    tally.seconds += took_s


class _Tally(Struct):
    """The requests of one route and status: how many fell into each bucket, and how long all took."""

    counts: list[int]
    seconds: float = 0.0


_TALLIES: Final[dict[tuple[str, int], _Tally]] = {}


class RequestMetrics(Collector):
    """Requests and their durations, from plain numbers: the library's own counters take five times as long to count."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        requests = CounterMetricFamily(REQUESTS, "Requests answered.", labels=("route", "status"))
        durations = HistogramMetricFamily(
            DURATION,
            "From the request's headers until the response's last byte is handed to the server.",
            labels=("route",),
        )
        by_route: dict[str, _Tally] = {}
        for (route, status), tally in sorted(_TALLIES.items()):
            requests.add_metric((route, str(status)), sum(tally.counts))
            total = by_route.setdefault(route, _Tally([0] * len(tally.counts)))
            total.counts = [one + other for one, other in zip(total.counts, tally.counts, strict=True)]
            total.seconds += tally.seconds
        for route, tally in by_route.items():
            cumulative = zip((*map(str, BUCKETS_S), "+Inf"), accumulate(tally.counts), strict=True)
            durations.add_metric((route,), [(bound, float(count)) for bound, count in cumulative], tally.seconds)
        yield requests
        yield durations


REGISTRY.register(RequestMetrics())


def snapshot() -> Snapshot:
    """Return this process's metrics."""
    return tuple(_family(metric) for metric in REGISTRY.collect())


def exposition(metrics: Snapshot) -> bytes:
    """Return metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collected(metrics))
    return generate_latest(registry)


class _Collected(Collector):
    """Metrics that were collected elsewhere."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.documentation, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def _family(metric: Metric) -> Family:
    samples = tuple(Sample(sample.name, sample.labels, sample.value) for sample in metric.samples)
    return Family(metric.name, metric.type, metric.documentation, COMBINATIONS.get(metric.name, "sum"), samples)
