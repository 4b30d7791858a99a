"""Collects the metrics of all workers, and detects by missing answers that one is stuck.

Invariants: each worker's counts are in the metrics exactly once, also after it has ended.
"""

import asyncio
import signal
from typing import Final

import structlog

from service.workers.messages import Combined, Family, Sample, Snapshot
from service.workers.process import WorkerProcess
from service.workers.totals import combined, cumulative

MEASURE_EVERY_S: Final = 1.0
"""How often workers are asked for their metrics: the counts that a killed worker loses are at most this old."""
UNANSWERED_MAX: Final = 15
"""A worker that leaves so many of these requests unanswered in a row is killed and replaced: its event loop is stuck.
Counted, not timed, so that a suspended machine kills nothing when it resumes."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class WorkerMetrics:
    """The metrics of the workers that run, of those that have ended, and of their supervisor."""

    def __init__(self) -> None:
        self.workers: set[WorkerProcess] = set()
        """Every worker whose counts are not yet in `_ended`."""
        self.restarts = 0
        self._ended: Snapshot = ()
        """The counts of all workers that have ended."""

    def running(self) -> list[WorkerProcess]:
        """Return the workers that run."""
        return [worker for worker in self.workers if worker.running]

    def add_ended(self, worker: WorkerProcess) -> None:
        """Keep the counts of a worker that has ended."""
        self._ended = combined((self._ended, cumulative(worker.metrics)))
        self.workers.discard(worker)

    async def answer_scrape(self, asking: WorkerProcess) -> None:
        """Ask the other workers for their metrics, and send the one that asks the metrics of all."""
        await asyncio.gather(*(worker.measure() for worker in self.running() if worker is not asking))
        snapshots = (*(worker.metrics for worker in self.workers), self._ended, self._own())
        asking.send(Combined(combined(snapshots)))

    async def measure_regularly(self) -> None:
        """Ask all workers for their metrics, again and again; kill those that are stuck."""
        while True:
            await asyncio.sleep(MEASURE_EVERY_S)
            await asyncio.gather(*map(self._check, self.running()))

    async def _check(self, worker: WorkerProcess) -> None:
        """Ask a worker for its metrics; kill it if it has not answered for long."""
        worker.unanswered = 0 if await worker.measure() else worker.unanswered + 1
        if worker.unanswered >= UNANSWERED_MAX and worker.running:
            log.error("worker_stuck", worker=worker.pid, unanswered=worker.unanswered)
            worker.signal(signal.SIGKILL)

    def _own(self) -> Snapshot:
        started = sum(worker.started.is_set() for worker in self.running())
        return (
            _single("membership_workers", "gauge", "Workers that accept connections.", started),
            _single("membership_worker_restarts", "counter", "Workers replaced because they ended.", self.restarts),
        )


def _single(name: str, kind: str, documentation: str, value: float) -> Family:
    sample = Sample(f"{name}_total" if kind == "counter" else name, {}, value)
    return Family(name, kind, documentation, "sum", (sample,))
