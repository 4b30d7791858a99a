"""The Prometheus metrics of a worker, and the text of all workers' metrics; docs/operations.md lists the same names.

Invariants: counting touches this process's memory only; the workers' metrics are put together when they are read.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Final, Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.workers.messages import Combination, Family, Sample, Snapshot

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

REQUESTS: Final = Counter(
    "membership_http_requests_total", "Requests answered.", ("route", "status"), registry=REGISTRY
)
DURATION: Final = Histogram(
    "membership_http_request_duration_seconds",
    "From the request's headers until the response's last byte is handed to the server.",
    ("route",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
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
Refusal = Literal[
    "missing",
    "malformed",
    "bad_signature",
    "expired",
    "not_yet_valid",
    "no_expiry",
    "wrong_issuer",
    "wrong_audience",
    "bad_subject",
    "unknown_key",
    "revoked_key",
    "expired_key",
    "contradiction",
    "key_set_unavailable",
    "other",
]
"""Why credentials were refused. A closed set: nothing that a caller sends becomes a label."""
CREDENTIAL_FAILURES: Final = Counter(
    "membership_credential_failures_total", "Refused credentials.", ("reason",), registry=REGISTRY
)

COMBINATIONS: Final[Mapping[str, Combination]] = {
    "membership_position": "least",  # of the worker that is furthest behind
    "process_start_time_seconds": "least",
    "python_info": "greatest",
}
"""How values of several workers become one; all other metrics are added up."""

CREDENTIALS_REFUSED: Final = Counter(
    "membership_credentials_refused_total", "Requests answered with 401, by reason.", ("reason",), registry=REGISTRY
)
KEY_SET_READS: Final = Counter(
    "membership_key_set_reads_total",
    "Reads of the issuer's key set, by outcome (`read` or `failed`).",
    ("outcome",),
    registry=REGISTRY,
)

LISTING: Final = "/customers/{customer_id}/campaigns"
HISTORY: Final = "/customers/{customer_id}/campaigns/{campaign_id}/history"
_FIXED: Final = frozenset({"/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"})


def route_of(path: str) -> str:
    """Return the label of a path; ids never become labels."""
    if path in _FIXED:
        return path
    if path.startswith("/customers/") and path.endswith("/campaigns"):
        return LISTING
    if path.startswith("/customers/") and path.endswith("/history"):
        return HISTORY
    return "other"


# Each label exists from the start, so that a rate over it is defined before the first refusal.
_SHED: Final = {reason: SHED.labels(reason) for reason in get_args(Shed)}
_CREDENTIAL_FAILURES: Final = {reason: CREDENTIAL_FAILURES.labels(reason) for reason in get_args(Refusal)}


def shed(reason: Shed) -> None:
    """Count a request that was refused to protect the process."""
    _SHED[reason].inc()


def credential_refused(reason: Refusal) -> None:
    """Count credentials that were refused; call it once per answered 401."""
    _CREDENTIAL_FAILURES[reason].inc()


def count(route: str, status: int, took_s: float) -> None:
    """Record a request and its response."""
    requests, duration = _of(route, status)
    requests.inc()
    duration.observe(took_s)


@cache
def _of(route: str, status: int) -> tuple[Counter, Histogram]:
    """Return the labelled metrics; cached, because looking them up takes longer than counting."""
    return REQUESTS.labels(route, str(status)), DURATION.labels(route)


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
