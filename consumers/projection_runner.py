"""The projector process: leads or stands by, reads the stream from the checkpoint, and applies it in batches.

Reads: the stream. Writes: through projections.store only.
Invariants: an event is applied in stream order, in the transaction that moves the checkpoint, by the one leader.
Fails: `StreamRefused` ends the process with its message, because an operator must decide; an unavailable database or
broker and tables that cannot be written are waited for; any other error ends the process; the supervisor restarts it,
and it continues from the checkpoint.
"""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, TypeVar

import asyncpg
import structlog
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import APIError

from consumers import loss_check, metrics, stream
from consumers.batch_limits import BatchLimits
from consumers.broker_access import CONNECTION_REFUSED, BrokerAccess
from consumers.client import TolerantClient
from consumers.intake import Interrupted, OrderedSubscription
from consumers.leadership import leadership
from consumers.prefetch import Prefetcher
from consumers.replicas import QuorumLost
from consumers.spans import batch_span
from projections.errors import Fenced, MembershipError, StreamRefused, TablesRefuse
from projections.log_once import LogOnce
from projections.model.batch import BatchBuilder
from projections.model.events import Position
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store import generations
from projections.store.checkpoint import Checkpoint
from projections.store.database import LEADER_SILENCE_MAX_S, UNAVAILABLE, closed_is_unavailable
from projections.store.fan_out import MEMBERS_MAX
from projections.store.migrations import require_migrated
from projections.store.projector import (
    SESSION_REFUSED,
    Applied,
    WriteFailure,
    apply_shared_batch,
    apply_to_all,
    fan_out_in_all,
)
from projections.tracing import Tracing

TICK_S: Final = 1.0
"""Interval of an idle leader's heartbeat; well below the silence after which PostgreSQL ends its session."""
WATCH_S: Final = 5.0
"""How often an idle subscription is compared with the broker's pending count, and its server with the others."""
MOVE_EVERY_S: Final = 4.0
"""The shortest interval between two moves to another server of the cluster; an election takes 4 to 9 s."""
PONG_MAX_S: Final = 1
"""How long a server may take to answer a ping before another one of its cluster is used."""
RETRY_S: Final = 0.25
RETRY_MAX_S: Final = 2.0
"""Pauses, first and longest, between attempts while PostgreSQL is unavailable or cannot write; with a full disk, each
attempt still gets the leader's lock."""
CANCEL_WAIT_S: Final = 1.0
"""How long a cancelled call to the broker may take to end: nats-py may lose a cancellation."""
TERM_SHORT_S: Final = 5.0
"""A term longer than this resets the pause between attempts, and a repeated problem is logged again."""
FAN_OUT_EVERY_S: Final = 0.5
"""How often a chunk of a fan-out runs while every batch is full, so that it does not starve."""
SWEEP_S: Final = 5.0
"""How often expired generations are looked for."""

BROKER_ERRORS: Final = (NatsError, NatsTimeoutError)
DATABASE_WAITED_FOR: Final = (
    *UNAVAILABLE,
    *SESSION_REFUSED,
    asyncpg.LockNotAvailableError,
    asyncpg.InsufficientPrivilegeError,
)
"""Errors that end a term, after which a new one is tried; among them a lock held by an operator's transaction, and a
missing privilege."""

T = TypeVar("T")

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def run(settings: Settings, tracing: Tracing | None = None) -> None:
    """Apply the stream until cancelled; raises `StreamRefused` when an operator has to decide."""
    state = metrics.STATE
    link = BrokerLink(settings)
    client = state.client = await link.connect()
    limits = BatchLimits(settings.batch_events_max)
    problems = LogOnce()
    retry_s = RETRY_S
    try:
        while True:
            term_started = time.monotonic()
            try:
                async with leadership(settings.database_url, state.stand_by) as connection:
                    term_started = time.monotonic()
                    await require_migrated(connection)
                    with state.leading():
                        await Term(settings, connection, client, link, limits, tracing=tracing).serve()
            except Fenced as fenced:
                log.info("leadership_lost", detail=str(fenced))
            except (*DATABASE_WAITED_FOR, TablesRefuse) as problem:
                _raise_if_cancelled()
                if time.monotonic() - term_started > TERM_SHORT_S:
                    problems.reset()
                    retry_s = RETRY_S
                problems.warning(
                    "waiting_for_tables" if isinstance(problem, TablesRefuse) else "waiting_for_database", problem
                )
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_MAX_S)
    finally:
        link.closing = True
        await client.close()


def _raise_if_cancelled() -> None:
    """Raise the pending cancellation: a rollback on a lost connection raises its own error and hides CancelledError."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class BrokerConnectionLost(MembershipError):
    """The broker closed the connection with an error after which nats-py does not reconnect."""

    code = "broker_connection_lost"


class BrokerLink:
    """The connection to the broker, which nats-py keeps restoring; every reconnect interrupts the open subscription."""

    def __init__(self, settings: Settings) -> None:
        self._access = BrokerAccess.of(settings)
        self._log_once = LogOnce()
        self._moved_at = time.monotonic()
        self.subscription: OrderedSubscription | None = None
        self.closing = False
        """Whether the process is stopping: the end of the connection is then expected."""

    async def connect(self) -> TolerantClient:
        """Return a connected client; retries without limit."""
        while True:
            with suppress(*BROKER_ERRORS, OSError):
                client = TolerantClient(self._access)
                await client.connect_as(
                    "membership-projector",
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RETRY_S,  # a fraction of a second works
                    ping_interval=5,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_reconnected,
                )
                return client
            await asyncio.sleep(RETRY_S)

    async def move_from(self, client: TolerantClient, problem: Exception) -> None:
        """Connect to another server of the cluster, if there is one and this one was cut off or is silent.

        nats-py's pings notice a silent server after 15 s, and never one that answers without its cluster. A request may
        also be unanswered because another server is silent; then this one is kept.
        """
        if len(client.servers) < 2 or time.monotonic() - self._moved_at < MOVE_EVERY_S:  # noqa: PLR2004 - itself only
            return
        if isinstance(problem, QuorumLost) or not await _responds(client):
            self._moved_at = time.monotonic()
            await client.force_reconnect()

    async def _on_error(self, problem: Exception) -> None:
        explained = isinstance(problem, CONNECTION_REFUSED)
        self._log_once.warning("broker_error", self._access.problem(problem) if explained else problem)

    async def _on_disconnected(self) -> None:
        if not self.closing:
            log.warning("broker_disconnected")

    async def _on_reconnected(self) -> None:
        log.info("broker_reconnected")
        if self.subscription is not None:
            self.subscription.interrupt("the connection to the broker was lost and restored")


async def _responds(client: TolerantClient) -> bool:
    """Return whether the server to which a client is connected answers a ping."""
    try:
        await client.flush(PONG_MAX_S)
    except BROKER_ERRORS:
        return False
    return True


class Term:
    """One term of leadership: from acquiring the lock until the session is lost or the followed generations change."""

    def __init__(
        self,
        settings: Settings,
        connection: asyncpg.Connection,
        client: TolerantClient,
        link: BrokerLink,
        limits: BatchLimits,
        *,
        tracing: Tracing | None = None,
    ) -> None:
        self._settings = settings
        self._tracing = tracing
        self._limits = limits
        self._connection = connection
        self._client = client
        self._link = link
        self._log_once = LogOnce()
        self._replicas_log = LogOnce()
        self._checkpoints: list[Checkpoint] = []
        self._caught_up = False
        self._recovering = False
        """Whether the live generation is broken and tried again, because no generation is followed."""
        self._replicated = False
        """Whether the stream has replicas, so that a server may answer that was cut off from the others."""
        self._compared_at = time.monotonic()
        self._fanning_out = True  # the previous term may have left unfinished fan-outs
        self._fanned_out_at = self._expiry_checked_at = time.monotonic()

    async def serve(self) -> None:
        """Lead until an exception ends the term; returns when a generation was dropped."""
        async with self._connection.transaction():
            await self._take_over()
        metrics.TERMS.inc()
        for checkpoint in self._checkpoints:
            if checkpoint.position < metrics.STATE.position:
                # The database lost commits, as in an asynchronous failover, or was restored: apply them again.
                log.warning("checkpoint_went_back", position=checkpoint.position, applied_before=metrics.STATE.position)
            log.info(
                "following", generation=checkpoint.generation, position=checkpoint.position, epoch=checkpoint.epoch
            )
        while not await self._read_once():
            if self._client.is_closed:
                raise BrokerConnectionLost(f"The broker closed the connection permanently: {self._client.last_error}.")
            await self._heartbeat()
            await asyncio.sleep(RETRY_S)

    async def _take_over(self) -> None:
        """Take over the checkpoint of every followed generation, so that only this term moves them."""
        await generations.lock_checkpoints(self._connection)
        followed = await generations.followed(self._connection)
        if not followed:
            # The tables may have been corrected by hand; the first successful write proves it.
            followed = [await checkpoints.live_generation(self._connection)]
            self._recovering = True
        self._checkpoints = [await checkpoints.take_over(self._connection, name) for name in followed]

    async def _read_once(self) -> bool:
        """Read and apply until the subscription is interrupted (False) or a followed generation was dropped (True)."""
        try:
            for checkpoint in self._checkpoints:
                state = await self._with_heartbeat(
                    stream.verify(self._client, checkpoint, self._settings.stream_replicas)
                )
            if state.replication.wanted < self._settings.stream_replicas:
                await self._with_heartbeat(self._raise_replicas())
            self._replicated = state.replication.wanted > 1
            if self._replicated and not state.replication.has_quorum:
                raise QuorumLost(stream.STREAM, state.replication)
            # Set before it opens, so that a reconnect meanwhile interrupts it.
            self._link.subscription = OrderedSubscription(self._client, self._applied_position())
            async with AsyncExitStack() as stack:
                subscription = await self._with_heartbeat(stack.enter_async_context(self._link.subscription))
                prefetcher = await stack.enter_async_context(Prefetcher(subscription, self._limits))
                await self._heartbeat()
                await loss_check.require_no_loss_ahead(
                    self._client, self._connection, state, subscription.position, subscription.pending_at_start
                )
                await self._heartbeat()
                self._log_once.reset()
                with suppress(Interrupted):
                    while not await self._drop_expired():
                        await self._step(subscription, prefetcher, state.created)
                    return True
                self._resubscribe(Interrupted(subscription.interruption))
        except (*BROKER_ERRORS, Interrupted) as problem:
            self._resubscribe(problem)
            if isinstance(problem, (QuorumLost, NatsTimeoutError)):
                await self._with_heartbeat(self._link.move_from(self._client, problem))
        finally:
            self._link.subscription = None
        return False

    def _resubscribe(self, problem: Exception) -> None:
        metrics.RESUBSCRIPTIONS.inc()
        self._log_once.warning("resubscribing", stream.explain(problem) if isinstance(problem, APIError) else problem)

    async def _raise_replicas(self) -> None:
        """Raise the stream's replicas to the setting; if the broker refuses, apply events all the same."""
        replicas = self._settings.stream_replicas
        try:
            if await stream.raise_replicas(self._client, replicas):
                log.info("stream_replicas_raised", replicas=replicas)
        except (*BROKER_ERRORS, StreamRefused) as problem:
            self._replicas_log.warning("stream_replicas_not_raised", problem)

    async def _require_quorum(self) -> None:
        """Raise `QuorumLost` if the server was cut off from the others: events may arrive elsewhere meanwhile."""
        if not self._replicated or time.monotonic() - self._compared_at < WATCH_S:
            return
        self._compared_at = time.monotonic()
        state = await stream.fetch_state(self._client)
        if state is not None and not state.replication.has_quorum:
            raise QuorumLost(stream.STREAM, state.replication)

    def _applied_position(self) -> Position:
        return min(checkpoint.position for checkpoint in self._checkpoints)

    async def _step(self, subscription: OrderedSubscription, prefetcher: Prefetcher, stream_created: str) -> None:
        events = await self._apply_next(subscription, prefetcher, stream_created)
        behind = events >= self._limits.events_max
        if self._fanning_out and (not behind or time.monotonic() - self._fanned_out_at > FAN_OUT_EVERY_S):
            await self._adopt_result(await fan_out_in_all(self._connection, self._checkpoints))
            self._fanned_out_at = time.monotonic()
        elif not events:
            await self._with_heartbeat(self._require_quorum())
            await self._with_heartbeat(subscription.check_pending(WATCH_S))
        # A prefetched batch has left the subscription but is not applied yet.
        if not self._caught_up and subscription.caught_up and subscription.position <= self._applied_position():
            for checkpoint in self._checkpoints:
                await checkpoints.mark_caught_up(self._connection, checkpoint.generation)
            self._caught_up = True
            log.info("caught_up", position=subscription.position)

    async def _apply_next(self, subscription: OrderedSubscription, prefetcher: Prefetcher, stream_created: str) -> int:
        """Apply the next batch and return its number of events; 0 if none arrived within `TICK_S`."""
        batch = await prefetcher.next_batch(0 if self._fanning_out else TICK_S)
        if batch is None:
            return 0
        if batch.after != (applied_position := self._applied_position()):
            subscription.interrupt(
                f"the prefetched batch starts after position {batch.after}, but {applied_position} is applied"
            )
            raise Interrupted(subscription.interruption)
        await self._require_no_loss(batch.after, batch.position, batch.events)
        started = time.perf_counter()
        with batch_span(self._tracing, batch):
            applied = await self._apply(batch, stream_created)
        took_s = time.perf_counter() - started
        fanning_out = self._fanning_out
        await self._adopt_result(applied)
        self._fanning_out |= fanning_out
        metrics.count_batch(applied, batch.events, took_s)
        metrics.STATE.position = self._checkpoints[0].position
        log.debug("applied", position=batch.position, events=batch.events, took_ms=round(took_s * 1000, 1))
        for parked in applied.parked:
            log.warning("parked", position=parked.message.position, reason=parked.why.reason, detail=parked.why.detail)
        return batch.events

    async def _apply(self, batch: BatchBuilder, stream_created: str) -> Applied:
        """Apply a batch; if the database becomes unavailable, halve the limits: a smaller batch may succeed."""
        # While behind, events come first: a fan-out in every full batch would delay all later events.
        members_max = 0 if batch.events >= self._limits.events_max else MEMBERS_MAX
        try:
            with closed_is_unavailable(self._connection):  # a rollback on a lost connection raises another error
                applied = await self._apply_shared_or_each(batch, stream_created, members_max)
        except TablesRefuse as refusal:
            await self._mark_damaged(refusal)
            raise
        except UNAVAILABLE:
            self._limits.halve(batch.events, batch.bytes)
            raise
        self._limits.succeed()
        return applied

    async def _apply_shared_or_each(self, batch: BatchBuilder, stream_created: str, members_max: int) -> Applied:
        if len({checkpoint.position for checkpoint in self._checkpoints}) == 1:
            return await apply_shared_batch(
                self._connection, self._checkpoints, batch.batch(), stream_created, members_max
            )
        # A generation has just joined: each gets its own batch until all have the same position.
        return await apply_to_all(self._connection, self._checkpoints, batch.messages, stream_created, members_max)

    async def _mark_damaged(self, refusal: TablesRefuse) -> None:
        """Mark a generation with damaged tables as broken, so that a rebuild may replace it; retries continue."""
        if refusal.damaged and not self._recovering:
            name = self._checkpoints[0].generation
            await generations.mark_broken(self._connection, name)
            log.error("generation_broken", generation=name, detail=refusal.problem)

    async def _with_heartbeat(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call to the broker without a time limit, with a heartbeat to PostgreSQL every `TICK_S`."""
        task = asyncio.create_task(call)  # first: a coroutine that is never awaited is reported as a fault
        try:
            await self._heartbeat()
            while not (await asyncio.wait([task], timeout=TICK_S))[0]:
                await self._heartbeat()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=CANCEL_WAIT_S)

    async def _require_no_loss(self, after: int, position: int, events: int) -> None:
        await loss_check.require_no_loss_within(self._client, self._connection, after, position, events)

    async def _heartbeat(self) -> None:
        """Keep the session alive and check that PostgreSQL answers; raises `Fenced` if the epoch changed."""
        async with asyncio.timeout(LEADER_SILENCE_MAX_S):
            for checkpoint in self._checkpoints:
                if not await checkpoints.epoch_unchanged(self._connection, checkpoint):
                    raise Fenced(checkpoint.generation, checkpoint.position, checkpoint.epoch)

    async def _drop_expired(self) -> bool:
        """Every `SWEEP_S`, drop expired generations; return whether there were any."""
        if time.monotonic() - self._expiry_checked_at < SWEEP_S:
            return False
        self._expiry_checked_at = time.monotonic()
        dropped = [
            name
            for name in await generations.expired(self._connection)
            if await generations.drop(self._connection, name)
        ]
        for name in dropped:
            log.info("generation_dropped", generation=name)
        return bool(dropped)

    async def _adopt_result(self, applied: Applied) -> None:
        """Adopt the checkpoints and the fan-out state that a transaction returned."""
        self._checkpoints = applied.checkpoints
        self._fanning_out = applied.fanning_out
        if self._recovering:
            self._recovering = False
            await generations.mark_recovered(self._connection, self._checkpoints[0].generation)
            log.info("generation_recovered", generation=self._checkpoints[0].generation)
        for failure in applied.failures:
            await self._mark_broken(failure)

    async def _mark_broken(self, failure: WriteFailure) -> None:
        await generations.mark_broken(self._connection, failure.generation)
        log.error("generation_broken", generation=failure.generation, detail=failure.reason)
