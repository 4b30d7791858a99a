"""Keeps N workers of an API running on one port: starts, replaces, restarts and stops them.

Invariants: a worker is retired only after its successor is ready. Each worker's counts are in the metrics exactly once,
also after it has ended. No worker outlives the supervisor.
Fails: a worker that ends before it accepts connections for the first time ends the supervisor with its exit code.
"""

import asyncio
import signal
import socket
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Final

import structlog

from service.workers.listener import distribute, open_listeners
from service.workers.messages import RETIRE_S_MIN, Combined, Family, Retire, Sample, Snapshot
from service.workers.process import WorkerProcess
from service.workers.totals import combined, cumulative

START_S: Final = 30.0
"""How long a worker may take until it accepts connections, or, in a rolling restart, until it is ready."""
STOP_S: Final = 6.5
"""How long a worker may take to stop after it has drained, before it is killed: what it allows itself for requests in
flight (`server.STOP_S` and `server.ABORT_S`), and 1.5 s. With the default drain, all workers end within 10 s."""
PAUSE_FIRST_S: Final = 0.25
PAUSE_MAX_S: Final = 5.0
"""The pause before a replacement: none after the first death in a minute, then doubling up to the maximum."""
RESTARTS_MAX: Final = 10
RESTARTS_WINDOW_S: Final = 60.0
"""At most so many replacements in any such time; further ones wait, and the log says so."""
MEASURE_EVERY_S: Final = 1.0
"""How often workers are asked for their metrics: the counts that a killed worker loses are at most this old."""
UNANSWERED_MAX: Final = 15
"""A worker that leaves so many of these requests unanswered in a row is killed and replaced: its event loop is stuck.
Counted, not timed, so that a suspended machine kills nothing when it resumes."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Supervisor:
    """The workers, one in each slot."""

    def __init__(self, command: Sequence[str], listeners: Sequence[socket.socket], drain_s: float) -> None:
        self._command = command
        self._listeners = listeners
        """One for each slot."""
        self._drain_s = drain_s
        self._slots: list[WorkerProcess | None] = [None] * len(listeners)
        self._known: set[WorkerProcess] = set()
        """Every worker whose counts are not yet in `_ended`."""
        self._ended: Snapshot = ()
        """The counts of all workers that have ended."""
        self._deaths: deque[float] = deque(maxlen=RESTARTS_MAX)
        self._restarts = 0
        self._restart_requested = asyncio.Event()
        self._outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The exit code, once a signal has arrived or a worker could not start."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Run until a signal arrives, and return the exit code."""
        self._add_signal_handlers()
        for slot in range(len(self._slots)):
            self._create_task(self._start_first(slot))
        self._create_task(self._restart_when_requested())
        self._create_task(self._measure_regularly())
        try:
            code = await self._outcome
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._stop()
        finally:
            self._signal(signal.SIGKILL)
        return code

    def _running(self) -> list[WorkerProcess]:
        return [worker for worker in self._known if worker.running]

    def _create_task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Let an unforeseen exception end the supervisor, and with it the workers."""
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) and not self._outcome.done():
            self._outcome.set_exception(problem)

    # --- Signals -----------------------------------------------------------------------------------------------------

    def _add_signal_handlers(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._restart_requested.set)

    def _on_stop(self, number: int) -> None:
        """Forward the signal, also a second one: workers drain after one SIGTERM, and do not after anything else."""
        if not self._outcome.done():
            self._outcome.set_result(0)
        self._signal(number)

    def _signal(self, number: int) -> None:
        """Send all workers a signal; those that are starting have nothing to finish, and do not expect it yet."""
        for worker in self._running():
            worker.signal(number if worker.started.is_set() else signal.SIGKILL)

    async def _stop(self) -> None:
        """Wait until all workers have ended; kill those that take too long."""
        limit_s = self._drain_s + STOP_S
        in_time = await asyncio.gather(*(worker.wait_for_end(limit_s) for worker in self._running()))
        if not all(in_time):
            log.warning("workers_killed", count=in_time.count(False), after_s=limit_s)

    # --- Slots -------------------------------------------------------------------------------------------------------

    async def _start_first(self, slot: int) -> None:
        """Start a slot's first worker; if it ends at once, none will do better: end the supervisor."""
        worker = await self._launch(slot)
        self._slots[slot] = worker
        if await self._reaches(worker, worker.started):
            self._put(slot, worker)
            return
        code = await worker.ended
        if not self._outcome.done():
            self._outcome.set_result(max(code, 0) or 1)
            self._signal(signal.SIGKILL)

    async def _watch(self, slot: int, worker: WorkerProcess) -> None:
        """Replace a worker when it ends, unless a rolling restart has done so meanwhile."""
        await self._reaches(worker, worker.started)
        self._distribute()
        code = await asyncio.shield(worker.ended)
        if self._slots[slot] is not worker:
            return
        self._distribute()
        log.error("worker_ended", worker=worker.pid, code=code)
        self._add_ended(worker)
        await asyncio.sleep(self._pause_s())
        successor = await self._launch(slot)
        if self._slots[slot] is worker:
            self._restarts += 1
            self._put(slot, successor)
        else:
            await successor.wait_for_end(0)
            self._add_ended(successor)

    def _put(self, slot: int, worker: WorkerProcess) -> None:
        self._slots[slot] = worker
        self._create_task(self._watch(slot, worker))

    def _distribute(self) -> None:
        """Let the slots have new connections whose workers accept them."""
        accepting = (worker is not None and worker.running and worker.started.is_set() for worker in self._slots)
        distribute(self._listeners, [slot for slot, accepts in enumerate(accepting) if accepts])

    async def _launch(self, slot: int) -> WorkerProcess:
        worker = await WorkerProcess.launch(self._command, self._listeners[slot], self._on_scrape)
        self._known.add(worker)
        if self._outcome.done():  # the signal to stop has missed it
            worker.signal(signal.SIGKILL)
        return worker

    async def _reaches(self, worker: WorkerProcess, state: asyncio.Event) -> bool:
        """Wait until a worker reaches a state; kill it if that takes too long."""
        reached = asyncio.create_task(state.wait())
        try:
            await asyncio.wait({reached, worker.ended}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
            if not reached.done() and worker.running:
                log.error("worker_not_ready", worker=worker.pid, after_s=START_S)
                await worker.wait_for_end(0)
            return reached.done()
        finally:
            reached.cancel()

    def _pause_s(self) -> float:
        """Return how long to wait before a worker that has ended is replaced."""
        now = time.monotonic()
        recent = [death for death in self._deaths if now - death < RESTARTS_WINDOW_S]
        self._deaths.append(now)
        if len(recent) == RESTARTS_MAX:
            pause_s = max(recent[0] + RESTARTS_WINDOW_S - now, PAUSE_MAX_S)
            log.error("restarts_limited", restarts=len(recent), within_s=RESTARTS_WINDOW_S, pause_s=round(pause_s, 1))
            return pause_s
        return min(PAUSE_FIRST_S * 2 ** (len(recent) - 1), PAUSE_MAX_S) if recent else 0.0

    # --- Rolling restart ---------------------------------------------------------------------------------------------

    async def _restart_when_requested(self) -> None:
        while True:
            await self._restart_requested.wait()
            self._restart_requested.clear()
            await self._restart_all()

    async def _restart_all(self) -> None:
        """Replace the workers one after the other; stop at the first whose successor does not become ready."""
        log.info("restarting", workers=len(self._slots))
        for slot in range(len(self._slots)):
            if not await self._replace(slot):
                log.error("restart_aborted", detail="A new worker did not become ready; the present ones continue.")
                return
        log.info("restarted", workers=len(self._slots))

    async def _replace(self, slot: int) -> bool:
        """Start a slot's next worker, wait until it is ready, and retire the present one; return whether it was."""
        worker = await self._launch(slot)
        if not await self._reaches(worker, worker.ready):
            self._add_ended(worker)
            return False
        present = self._slots[slot]
        self._put(slot, worker)
        if present in self._known:
            await self._retire(present)
        return True

    async def _retire(self, worker: WorkerProcess) -> None:
        worker.send(Retire())
        limit_s = max(self._drain_s, RETIRE_S_MIN) + STOP_S
        if not await worker.wait_for_end(limit_s):
            log.warning("workers_killed", count=1, after_s=limit_s)
        self._add_ended(worker)

    # --- Metrics -----------------------------------------------------------------------------------------------------

    def _add_ended(self, worker: WorkerProcess) -> None:
        self._ended = combined((self._ended, cumulative(worker.metrics)))
        self._known.discard(worker)

    def _on_scrape(self, worker: WorkerProcess) -> None:
        self._create_task(self._answer_scrape(worker))

    async def _answer_scrape(self, asking: WorkerProcess) -> None:
        """Ask the other workers for their metrics, and send the one that asks the metrics of all."""
        await asyncio.gather(*(worker.measure() for worker in self._running() if worker is not asking))
        snapshots = (*(worker.metrics for worker in self._known), self._ended, self._own_metrics())
        asking.send(Combined(combined(snapshots)))

    def _own_metrics(self) -> Snapshot:
        started = sum(worker.started.is_set() for worker in self._running())
        return (
            _single("membership_workers", "gauge", "Workers that accept connections.", started),
            _single("membership_worker_restarts", "counter", "Workers replaced because they ended.", self._restarts),
        )

    async def _measure_regularly(self) -> None:
        while True:
            await asyncio.sleep(MEASURE_EVERY_S)
            await asyncio.gather(*map(self._check, self._running()))

    async def _check(self, worker: WorkerProcess) -> None:
        """Ask a worker for its metrics; kill it if it has not answered for long."""
        worker.unanswered = 0 if await worker.measure() else worker.unanswered + 1
        if worker.unanswered >= UNANSWERED_MAX and worker.running:
            log.error("worker_stuck", worker=worker.pid, unanswered=worker.unanswered)
            worker.signal(signal.SIGKILL)


def _single(name: str, kind: str, documentation: str, value: float) -> Family:
    sample = Sample(f"{name}_total" if kind == "counter" else name, {}, value)
    return Family(name, kind, documentation, "sum", (sample,))


async def supervise_workers(command: Sequence[str], host: str, port: int, workers: int, drain_s: float) -> int:
    """Listen on an address, run workers on it until a signal arrives, and return the exit code."""
    listeners = open_listeners(host, port, workers)
    log.info("listening", host=host, port=listeners[0].getsockname()[1], workers=workers)
    return await Supervisor(command, listeners, drain_s).run()
