"""The Prometheus metrics of an API process; docs/operations.md lists the same names."""

from functools import cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

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
    "Cache lookups of listings, by outcome.",
    ("outcome",),
    registry=REGISTRY,
)
CACHE_BYTES: Final = Gauge("membership_cache_bytes", "Size of the cached responses.", registry=REGISTRY)
POSITION: Final = Gauge(
    "membership_position", "Stream position applied by the live generation, as last reported.", registry=REGISTRY
)

LISTING: Final = "/customers/{customer_id}/campaigns"
_FIXED: Final = frozenset({"/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs"})


def route_of(path: str) -> str:
    """Return the label of a path; ids never become labels."""
    if path in _FIXED:
        return path
    if path.startswith("/customers/") and path.endswith("/campaigns"):
        return LISTING
    return "other"


def count(route: str, status: int, took_s: float) -> None:
    """Record a request and its response."""
    requests, duration = _of(route, status)
    requests.inc()
    duration.observe(took_s)


@cache
def _of(route: str, status: int) -> tuple[Counter, Histogram]:
    """Return the labelled metrics; cached, because looking them up takes longer than counting."""
    return REQUESTS.labels(route, str(status)), DURATION.labels(route)
