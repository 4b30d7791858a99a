"""Keeps N workers of an API running on one port: starts, replaces, restarts and stops them.

Invariants: a worker is retired only after its successor is ready. No worker outlives the supervisor.
Fails: a slot's first worker that ends before it accepts connections ends the supervisor with its exit code.
"""

import asyncio
import signal
import socket
from collections.abc import Coroutine, Sequence
from typing import Final

import structlog

from service.workers.listener import distribute, open_listeners
from service.workers.messages import RETIRE_S_MIN, Retire
from service.workers.metrics import WorkerMetrics
from service.workers.process import WorkerProcess
from service.workers.restarts import RestartLimit

START_S: Final = 30.0
"""How long a worker may take until it accepts connections, or, in a rolling restart, until it is ready."""
STOP_S: Final = 9.8
"""How long a worker may take to stop after it has drained, before it is killed. It takes at most 9.4 s: 4 s for
requests in flight (`server.STOP_S`), 2 × 1 s for their last responses (`server.ABORT_S`), 0.9 s to close the connection
to the broker, 0.5 s to record the last uses of API keys and 2 s to send the last spans; the database's connections are
dropped at once."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Supervisor:
    """The workers, one in each slot."""

    def __init__(self, command: Sequence[str], listeners: Sequence[socket.socket], drain_s: float) -> None:
        self._command = command
        self._listeners = listeners
        """One for each slot."""
        self._drain_s = drain_s
        self._slots: list[WorkerProcess | None] = [None] * len(listeners)
        self._metrics = WorkerMetrics()
        self._limit = RestartLimit()
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
        self._create_task(self._metrics.measure_regularly())
        try:
            code = await self._outcome
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._stop()
        finally:
            self._signal(signal.SIGKILL)
        return code

    def _create_task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Let an unforeseen exception end the supervisor, and with it the workers."""
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) and not self._outcome.done():
            self._outcome.set_exception(problem)

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
        for worker in self._metrics.running():
            worker.signal(number if worker.started.is_set() else signal.SIGKILL)

    async def _stop(self) -> None:
        """Wait until all workers have ended; kill those that take too long."""
        limit_s = self._drain_s + STOP_S
        in_time = await asyncio.gather(*(worker.wait_for_end(limit_s) for worker in self._metrics.running()))
        if not all(in_time):
            log.warning("workers_killed", count=in_time.count(False), after_s=limit_s)

    async def _start_first(self, slot: int) -> None:
        """Start a slot's first worker; if it ends before accepting, the configuration is at fault: end all."""
        worker = await self._launch(slot)
        if worker is None:
            self._fail(1)
            return
        self._slots[slot] = worker
        started = await self._reaches(worker, worker.started)
        if self._slots[slot] is not worker:  # a rolling restart has replaced it meanwhile
            return
        if started:
            self._put(slot, worker)
        else:
            self._fail(await worker.ended)

    def _fail(self, code: int) -> None:
        """End the supervisor with the exit code of a worker that could not start."""
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
        self._metrics.add_ended(worker)
        successor = await self._launch_successor(slot)
        if self._slots[slot] is worker:
            self._metrics.restarts += 1
            self._put(slot, successor)
        else:
            await successor.wait_for_end(0)
            self._metrics.add_ended(successor)

    async def _launch_successor(self, slot: int) -> WorkerProcess:
        """Launch a worker after a pause; repeat that until the operating system can start it."""
        while True:
            await asyncio.sleep(self._limit.next_pause_s())
            worker = await self._launch(slot)
            if worker is not None:
                return worker

    def _put(self, slot: int, worker: WorkerProcess) -> None:
        self._slots[slot] = worker
        self._create_task(self._watch(slot, worker))

    def _distribute(self) -> None:
        """Let the slots have new connections whose workers accept them."""
        accepting = (worker is not None and worker.running and worker.started.is_set() for worker in self._slots)
        distribute(self._listeners, [slot for slot, accepts in enumerate(accepting) if accepts])

    async def _launch(self, slot: int) -> WorkerProcess | None:
        """Launch a worker; None if the operating system cannot start it: no program, no process, no descriptor."""
        try:
            worker = await WorkerProcess.launch(self._command, self._listeners[slot], self._on_scrape)
        except OSError as problem:
            log.error("worker_not_started", detail=str(problem))  # noqa: TRY400 - the traceback says no more
            return None
        self._metrics.workers.add(worker)
        if self._outcome.done():  # the signal to stop has missed it
            worker.signal(signal.SIGKILL)
        return worker

    def _on_scrape(self, worker: WorkerProcess) -> None:
        self._create_task(self._metrics.answer_scrape(worker))

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
        if worker is None:
            return False
        if not await self._reaches(worker, worker.ready):
            self._metrics.add_ended(worker)
            return False
        present = self._slots[slot]
        self._put(slot, worker)
        if present in self._metrics.workers:
            await self._retire(present)
        return True

    async def _retire(self, worker: WorkerProcess) -> None:
        worker.send(Retire())
        limit_s = max(self._drain_s, RETIRE_S_MIN) + STOP_S
        if not await worker.wait_for_end(limit_s):
            log.warning("workers_killed", count=1, after_s=limit_s)
        self._metrics.add_ended(worker)


async def supervise_workers(command: Sequence[str], host: str, port: int, workers: int, drain_s: float) -> int:
    """Listen on an address, run workers on it until a signal arrives, and return the exit code."""
    listeners = open_listeners(host, port, workers)
    log.info("listening", host=host, port=listeners[0].getsockname()[1], workers=workers)
    return await Supervisor(command, listeners, drain_s).run()
