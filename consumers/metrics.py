"""The Prometheus metrics of a projector process; docs/operations.md lists the same names."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Literal, get_args

from msgspec import Struct
from nats.aio.client import Client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from projections.model.arrivals import TYPE_NAMES
from projections.model.events import Reason
from projections.store.projector import Applied

Role = Literal["waiting", "standby", "leader"]

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)


class ProjectorState(Struct):
    """What this process is doing now; the runner writes it, `/health` and the metrics read it."""

    role: Role = "waiting"
    """`waiting`: for PostgreSQL, the broker, or tables that can be written."""
    position: int = 0
    """Applied by this process; 0 before its first batch."""
    client: Client | None = None
    """The connection to the broker, once it was made."""

    def stand_by(self) -> None:
        """Record that another process leads."""
        self.role = "standby"

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Record that this process leads while the context is open."""
        self.role = "leader"
        try:
            yield
        finally:
            self.role = "waiting"

    @property
    def broker_connected(self) -> bool:
        """Whether the connection to the broker is up."""
        return self.client is not None and self.client.is_connected

    @property
    def is_ready(self) -> bool:
        """Whether this process leads, or could take over at once."""
        return self.role != "waiting" and self.broker_connected


STATE: Final = ProjectorState()


def _gauge(name: str, meaning: str, labels: Iterable[str] = ()) -> Gauge:
    return Gauge(name, meaning, labels, registry=REGISTRY)


LAG_EVENTS: Final = _gauge("membership_lag_events", "Events in the stream that are not applied yet.")
LAG_SECONDS: Final = _gauge("membership_lag_seconds", "Age of the oldest event that is not applied yet; 0 without one.")
POSITION: Final = _gauge("membership_position", "Stream position applied by the live generation.")
STREAM_POSITION: Final = _gauge("membership_stream_position", "The stream's last position.")
STREAM_FIRST_POSITION: Final = _gauge("membership_stream_first_position", "The first position that the stream holds.")
MISSING: Final = _gauge(
    "membership_missing_events", "Positions without a message that neither an erasure nor an acknowledgement explains."
)
PARKED: Final = _gauge("membership_parked", "Events parked now, in the live generation.", ("reason",))
EPOCH: Final = _gauge("membership_epoch", "Epoch of the live generation's checkpoint; rises at each take-over.")
FAN_OUTS: Final = _gauge("membership_fan_outs", "Campaigns whose changed keys are still being copied.")
GENERATIONS: Final = _gauge("membership_generations", "Existing copies of the read model.", ("state",))
JOBS: Final = _gauge("membership_jobs", "Open jobs.", ("kind", "state"))
JOB_PROGRESS: Final = _gauge("membership_job_progress_ratio", "Completed share of an open job's phase.", ("kind",))
DATABASE_CONNECTED: Final = _gauge("membership_database_connected", "1 if PostgreSQL answered the last reading.")
OBSERVED: Final = _gauge(
    "membership_observed_timestamp_seconds", "Unix time of the last complete reading of both stores."
)
_gauge("membership_leader", "1 while this process leads.").set_function(lambda: STATE.role == "leader")
_gauge("membership_broker_connected", "1 while the connection to the broker is up.").set_function(
    lambda: STATE.broker_connected
)

TERMS: Final = Counter(
    "membership_leadership_terms_total", "Terms of leadership that this process began.", registry=REGISTRY
)
EVENTS_APPLIED: Final = Counter(
    "membership_events_applied_total", "Events that won their register on arrival.", ("type",), registry=REGISTRY
)
EVENTS_SUPERSEDED: Final = Counter(
    "membership_events_superseded_total",
    "Events that lost their register on arrival to an equal or newer version.",
    ("type",),
    registry=REGISTRY,
)
EVENTS_PARKED: Final = Counter(
    "membership_events_parked_total", "Events that this process parked.", ("reason",), registry=REGISTRY
)
BATCHES: Final = Counter("membership_batches_total", "Batches committed by this process.", registry=REGISTRY)
BATCH_EVENTS: Final = Histogram(
    "membership_batch_events",
    "Messages in a committed batch.",
    buckets=(1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000),
    registry=REGISTRY,
)
BATCH_SECONDS: Final = Histogram(
    "membership_batch_duration_seconds",
    "From the first statement of a batch until its commit.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
RESUBSCRIPTIONS: Final = Counter(
    "membership_resubscriptions_total",
    "Interrupted subscriptions, after which the stream is read again from the checkpoint.",
    registry=REGISTRY,
)

STORE_GAUGES: Final = (
    LAG_EVENTS,
    LAG_SECONDS,
    POSITION,
    STREAM_POSITION,
    STREAM_FIRST_POSITION,
    MISSING,
    EPOCH,
    FAN_OUTS,
)
LABELLED_STORE_GAUGES: Final = (PARKED, GENERATIONS, JOBS, JOB_PROGRESS)

# Each label exists from the start, so that a rate over it is defined before the first event.
_APPLIED: Final = {kind: EVENTS_APPLIED.labels(name) for kind, name in TYPE_NAMES.items()}
_SUPERSEDED: Final = {kind: EVENTS_SUPERSEDED.labels(name) for kind, name in TYPE_NAMES.items()}
_PARKED: Final = {reason: EVENTS_PARKED.labels(reason) for reason in get_args(Reason)}


def count_batch(applied: Applied, events: int, took_s: float) -> None:
    """Count a committed batch; a dozen additions, whatever the number of its events."""
    BATCHES.inc()
    BATCH_EVENTS.observe(events)
    BATCH_SECONDS.observe(took_s)
    for kind, number in applied.outcomes.applied.items():
        _APPLIED[kind].inc(number)
    for kind, number in applied.outcomes.superseded.items():
        _SUPERSEDED[kind].inc(number)
    for parked in applied.parked:
        _PARKED[parked.why.reason].inc()


def forget_stores() -> None:
    """Set everything that is read from the stores to unknown: a value that cannot be read is never repeated."""
    for gauge in STORE_GAUGES:
        gauge.set(math.nan)
    for labelled in LABELLED_STORE_GAUGES:
        labelled.clear()
    for reason in get_args(Reason):
        PARKED.labels(reason).set(math.nan)
    DATABASE_CONNECTED.set(0)


forget_stores()
