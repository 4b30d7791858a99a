"""The messages between a worker and its supervisor: one JSON object per line."""

from typing import Final, Literal

import msgspec
from msgspec import Struct

LINE_BYTES_MAX: Final = 1_048_576
"""Limit of one message. A worker's metrics take about 10 KB."""

RETIRE_S_MIN: Final = 1.0
"""How long a retired worker answers at least: a connection just accepted needs time to send its request."""

Combination = Literal["sum", "least", "greatest"]
"""How a sample of several workers becomes one; `least` is the smallest value above 0, which means unknown."""


class Sample(Struct, frozen=True, array_like=True):
    """One time series and its value."""

    name: str
    labels: dict[str, str]
    value: float


class Family(Struct, frozen=True, array_like=True):
    """One metric with its samples, as the Prometheus client collects it."""

    name: str
    kind: str
    documentation: str
    combination: Combination
    samples: tuple[Sample, ...]


Snapshot = tuple[Family, ...]
"""The metrics of a process at one moment, or of several put together."""


class Started(Struct, frozen=True, tag="started"):
    """From a worker: it accepts connections."""


class Ready(Struct, frozen=True, tag="ready"):
    """From a worker: it has reached the read model."""


class Measured(Struct, frozen=True, tag="measured"):
    """From a worker: its metrics, because it was asked or because it ends."""

    metrics: Snapshot


class Scraped(Struct, frozen=True, tag="scraped"):
    """From a worker that was asked for `/metrics`: its own, and a request for all."""

    metrics: Snapshot


class Measure(Struct, frozen=True, tag="measure"):
    """From the supervisor: send your metrics."""


class Retire(Struct, frozen=True, tag="retire"):
    """From the supervisor: a new worker has taken your place; finish what you have accepted and end."""


class Combined(Struct, frozen=True, tag="combined"):
    """From the supervisor: the metrics of all workers, in answer to `Scraped`."""

    metrics: Snapshot


FromWorker = Started | Ready | Measured | Scraped
FromSupervisor = Measure | Retire | Combined

FROM_WORKER: Final = msgspec.json.Decoder(FromWorker)
FROM_SUPERVISOR: Final = msgspec.json.Decoder(FromSupervisor)
_ENCODER: Final = msgspec.json.Encoder()


def line(message: FromWorker | FromSupervisor) -> bytes:
    """Return a message as it is sent."""
    return _ENCODER.encode(message) + b"\n"
