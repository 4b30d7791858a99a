"""`membership jobs run`: executes the plans that operators run, and describes those that need the stream.

One process is the runner, others stand by. It holds an advisory lock and reports every 2 s in the same session; each
time it gets the lock, its epoch rises, so a runner that was paused writes nothing more. Plans of different lanes run
side by side, plans of one lane one after the other.

Reads and writes: control.plan, control.runner, and what the plans do.
Invariants: a plan is begun by the runner of the current epoch only; one that was interrupted is continued.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

import asyncpg
import structlog

from consumers.client import BrokerUnavailable
from ops import sampler
from ops.erase import ErasureInterrupted
from ops.runner import previews
from ops.runner.execution import Execution, execute
from projections.error_text import error_text
from projections.errors import GateRefused, MembershipError
from projections.log_once import LogOnce
from projections.maintenance import runner_presence
from projections.maintenance.runner_presence import BEAT_EVERY_S, SILENCE_MAX_S
from projections.plans import records
from projections.plans.actions import LANES, Lane
from projections.plans.records import Plan, PlanReplaced
from projections.settings import Settings
from projections.store import database
from projections.store.database import UNAVAILABLE
from projections.store.migrations import require_migrated

LOCK_KEY: Final = 0x4D454D42_52554E52  # "MEMBRUNR"
STANDBY_POLL_S: Final = 0.5
POLL_S: Final = 0.2
RECONNECT_S: Final = 0.5
DRAIN_MAX_S: Final = 8.0
"""How long a step may take that was begun before SIGTERM; then it is rolled back, and the next runner continues it."""
BROKER_WAIT_MAX_S: Final = 60.0
"""How long a plan waits for the broker before it fails; nothing has been changed by then."""
BROKER_RETRY_S: Final = 1.0
TIDY_EVERY_S: Final = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RunnerReplaced(MembershipError):
    """Another process has become the runner."""

    code = "runner_replaced"


async def run(settings: Settings) -> None:
    """Be the runner, or stand by, until SIGTERM or SIGINT; survive outages of PostgreSQL and the broker."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    reported = LogOnce()
    while not stopping.is_set():
        try:
            async with _session(settings, stopping) as session:
                if session is not None:
                    reported.reset()
                    await _work(settings, *session, stopping)
        except (*UNAVAILABLE, RunnerReplaced) as problem:
            reported.warning("runner_interrupted", problem)
            await _pause(stopping, RECONNECT_S)
    log.info("runner_stopped")


@asynccontextmanager
async def _session(settings: Settings, stopping: asyncio.Event) -> AsyncIterator[tuple[asyncpg.Connection, int] | None]:
    """Wait until this process is the runner; yield the session that holds the lock, and the epoch."""
    limit = f"{int(SILENCE_MAX_S)}s"
    connection = await database.connect(
        settings.database_url,
        "membership-runner",
        command_timeout_s=SILENCE_MAX_S,
        idle_session_timeout=limit,
        idle_in_transaction_session_timeout=limit,
    )
    try:
        with database.closed_is_unavailable(connection):
            await require_migrated(connection)
            if not await _lock(connection, stopping):
                yield None
                return
            epoch = await runner_presence.begin(connection, f"{socket.gethostname()}:{os.getpid()}")
            log.info("runner_started", epoch=epoch)
            yield connection, epoch
            await runner_presence.end(connection, epoch)
    finally:
        connection.terminate()


async def _lock(connection: asyncpg.Connection, stopping: asyncio.Event) -> bool:
    """Take the runner's lock; return False if the process stops first."""
    announced = False
    while not stopping.is_set():
        if await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
            return True
        if not announced:
            log.info("standing_by", reason="another job runner is active")
            announced = True
        await _pause(stopping, STANDBY_POLL_S)
    return False


async def _work(settings: Settings, connection: asyncpg.Connection, epoch: int, stopping: asyncio.Event) -> None:
    """Work until the process stops, or PostgreSQL or the lock is lost."""
    lanes = [asyncio.create_task(_lane(settings, lane, epoch, stopping), name=lane.name) for lane in LANES]
    lanes.append(asyncio.create_task(_previews(settings, stopping), name="previews"))
    sampling = asyncio.create_task(sampler.run(settings), name="sampler")
    report = asyncio.create_task(_report(connection, epoch), name="report")
    stopped = asyncio.create_task(stopping.wait(), name="stopping")
    try:
        await asyncio.wait((*lanes, report, sampling, stopped), return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            await asyncio.wait(lanes, timeout=DRAIN_MAX_S)
    finally:
        await _cancel((*lanes, report, sampling, stopped))
    for task in (*lanes, report, sampling):
        if not task.cancelled() and (problem := task.exception()) is not None:
            raise problem


async def _cancel(tasks: tuple["asyncio.Task[object]", ...]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _report(connection: asyncpg.Connection, epoch: int) -> None:
    """Report that the runner lives, and remove old plans."""
    tidied_at = 0.0
    while True:
        if not await runner_presence.beat(connection, epoch):
            raise RunnerReplaced("Another process has become the job runner.")
        now = asyncio.get_running_loop().time()
        if now - tidied_at > TIDY_EVERY_S:
            await records.tidy(connection)
            tidied_at = now
        await asyncio.sleep(BEAT_EVERY_S)


async def _lane(settings: Settings, lane: Lane, epoch: int, stopping: asyncio.Event) -> None:
    """Execute the plans of a lane, one after the other."""
    async with _connection(settings) as connection:
        while not stopping.is_set():
            claimed = await records.claim(connection, lane.actions, epoch)
            if claimed is None:
                await _pause(stopping, POLL_S)
                continue
            plan, resumed = claimed
            async with _connection(settings) as own:
                await _execute(Execution(settings, own, plan, epoch, stopping, resumed))


async def _previews(settings: Settings, stopping: asyncio.Event) -> None:
    """Describe the plans that need the stream."""
    async with _connection(settings) as connection:
        while not stopping.is_set():
            plan = await records.planning(connection)
            if plan is None:
                await _pause(stopping, POLL_S)
                continue
            async with _connection(settings) as own:
                await _preview(settings, own, plan)


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect(
        settings.database_url, "membership-runner", client_connection_check_interval="1s"
    )
    try:
        with database.closed_is_unavailable(connection):
            yield connection
    finally:
        connection.terminate()


async def _execute(execution: Execution) -> None:
    """Execute a plan; whatever it raises becomes its outcome, except what another attempt may overcome."""
    plan = execution.plan
    if execution.resumed:
        log.info("plan_resumed", plan=plan.plan_id, action=plan.action)
    else:
        log.info("plan_started", plan=plan.plan_id, action=plan.action)

    async def fail(code: str, sentence: str) -> None:
        log.warning("plan_failed", plan=plan.plan_id, action=plan.action, code=code)
        with suppress(PlanReplaced):
            await records.end(execution.connection, plan, execution.epoch, sentence, code)

    try:
        with database.closed_is_unavailable(execution.connection):
            await _with_broker(partial(execute, execution), execution)
    except PlanReplaced:
        return
    except UNAVAILABLE:
        raise
    except GateRefused as problem:
        await fail(problem.code, " ".join(problem.reasons))
    except MembershipError as problem:
        await fail(problem.code, str(problem))
    except Exception as problem:
        log.exception("plan_crashed", plan=plan.plan_id)
        await fail("unexpected_error", f"An unexpected error occurred, and was logged: {error_text(problem)}.")


async def _preview(settings: Settings, connection: asyncpg.Connection, plan: Plan) -> None:
    try:
        preview = await previews.preview(connection, settings, plan)
    except UNAVAILABLE:
        raise
    except MembershipError as problem:
        await records.reject(connection, plan.plan_id, problem.code, str(problem))
    except Exception as problem:
        log.exception("plan_crashed", plan=plan.plan_id)
        sentence = f"An unexpected error occurred, and was logged: {error_text(problem)}."
        await records.reject(connection, plan.plan_id, "unexpected_error", sentence)
    else:
        await records.set_preview(connection, plan.plan_id, preview)


async def _with_broker(work: Callable[[], Awaitable[None]], execution: Execution) -> None:
    """Repeat until the broker answers: for a while if nothing has begun, without limit for an interrupted erasure.

    Return early if the process stops; another runner continues the plan.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + BROKER_WAIT_MAX_S
    reported = LogOnce()
    while True:
        try:
            await work()
        except (BrokerUnavailable, ErasureInterrupted) as problem:
            if isinstance(problem, BrokerUnavailable) and loop.time() > give_up_at:
                raise
            if execution.connection.is_closed():  # an erasure is interrupted by PostgreSQL too
                raise ConnectionError(str(problem)) from problem
            reported.warning("waiting_for_broker", problem)
        else:
            return
        await _pause(execution.stopping, BROKER_RETRY_S)
        if execution.stopping.is_set():
            return


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait, but no longer than until the process stops."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
