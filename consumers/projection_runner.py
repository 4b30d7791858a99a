"""The projector process: leads or stands by, reads the stream from the checkpoint, and applies batch after batch.

Reads: the stream. Writes: through projections.projector only.
Invariants: an event is applied in stream order, in the transaction that moves the checkpoint, by the one leader.
Fails: `StreamRefused` ends the process with its sentence, for an operator must decide; a database or broker that is
away, and tables that cannot be written, are waited for; anything unforeseen crashes, and the supervisor starts afresh
from the checkpoint.
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

from consumers import loss_check, stream
from consumers.batch_limits import BatchLimits
from consumers.client import TolerantClient
from consumers.intake import Interrupted, OrderedSubscription
from consumers.leadership import leadership
from consumers.prefetch import Prefetcher
from projections.errors import Fenced, MembershipError, TablesRefuse
from projections.log_once import LogOnce
from projections.model.batch import BatchBuilder
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

TICK_S: Final = 1.0
"""How often an idle leader shows PostgreSQL that it lives; well below the silence that ends its session."""
WATCH_S: Final = 5.0
"""How often an idle reading is compared with what the broker says is pending."""
RETRY_S: Final = 0.25
RETRY_MAX_S: Final = 2.0
"""Between attempts while PostgreSQL stays away, or takes nothing: a full disk lets a projector lead, but not write."""
CANCEL_WAIT_S: Final = 1.0
"""How long a call to the broker may take to end once it is cancelled: nats-py may lose a cancellation."""
TERM_SHORT_S: Final = 5.0
"""A term that lasted longer was a good one; what ends it is news."""
FAN_OUT_EVERY_S: Final = 0.5
"""How often a chunk of a fan-out is done while batches come full, one after the other: it must not starve."""
SWEEP_S: Final = 5.0
"""How often generations that have followed long enough are looked for."""

BROKER_ERRORS: Final = (NatsError, NatsTimeoutError)
DATABASE_WAITED_FOR: Final = (
    *UNAVAILABLE,
    *SESSION_REFUSED,
    asyncpg.LockNotAvailableError,
    asyncpg.InsufficientPrivilegeError,
)
"""What ends a term and is waited for: also a lock that an operator's transaction holds, and a right that is missing."""

T = TypeVar("T")

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def run(settings: Settings) -> None:
    """Follow the stream until cancelled; raises `StreamRefused` when an operator has to decide."""
    link = BrokerLink(settings)
    client = await link.connect()
    limits = BatchLimits(settings.batch_events_max)
    trouble = LogOnce()
    retry_s = RETRY_S
    try:
        while True:
            led_at = time.monotonic()
            try:
                async with leadership(settings.database_url) as connection:
                    led_at = time.monotonic()
                    await require_migrated(connection)
                    await Term(settings, connection, client, link, limits).serve()
            except Fenced as fenced:
                log.info("term_over", detail=str(fenced))
            except (*DATABASE_WAITED_FOR, TablesRefuse) as problem:
                _raise_if_cancelled()
                lasted_s = time.monotonic() - led_at
                if lasted_s > TERM_SHORT_S:
                    trouble.reset()
                    retry_s = RETRY_S
                trouble.warning(
                    "waiting_for_tables" if isinstance(problem, TablesRefuse) else "waiting_for_database", problem
                )
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_MAX_S)
    finally:
        link.closing = True
        await client.close()


def _raise_if_cancelled() -> None:
    """Stop if asked to: a rollback on a connection that is gone raises its own error in place of CancelledError."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class BrokerConnectionLost(MembershipError):
    """The broker ended the connection for good: nats-py does not try again after such a word."""

    code = "broker_connection_lost"


class BrokerLink:
    """The connection to the broker, which nats-py keeps restoring; a reading in progress hears of every break."""

    def __init__(self, settings: Settings) -> None:
        self._servers = [url.strip() for url in settings.nats_url.split(",")]
        self._log_once = LogOnce()
        self.subscription: OrderedSubscription | None = None
        self.closing = False
        """Whether the process stops: the end of the connection is then no trouble."""

    async def connect(self) -> TolerantClient:
        """Return a connected client, however long that takes."""
        while True:
            with suppress(*BROKER_ERRORS, OSError):
                client = TolerantClient()
                await client.connect(
                    self._servers,
                    name="membership-projector",
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RETRY_S,  # type: ignore[arg-type]  # a fraction of a second works
                    ping_interval=5,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_reconnected,
                )
                return client
            await asyncio.sleep(RETRY_S)

    async def _on_error(self, problem: Exception) -> None:
        self._log_once.warning("broker_trouble", problem)

    async def _on_disconnected(self) -> None:
        if not self.closing:
            log.warning("broker_disconnected")

    async def _on_reconnected(self) -> None:
        log.info("broker_reconnected")
        if self.subscription is not None:
            self.subscription.interrupt("the connection to the broker was lost and made again")


class Term:
    """One term of leadership: from the lock until the database session or the roster is no longer what it was."""

    def __init__(
        self,
        settings: Settings,
        connection: asyncpg.Connection,
        client: TolerantClient,
        link: BrokerLink,
        limits: BatchLimits,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._connection = connection
        self._client = client
        self._link = link
        self._log_once = LogOnce()
        self._checkpoints: list[Checkpoint] = []
        self._caught_up = False
        self._recovering = False
        """Whether the live generation is broken and is tried again, for no other one follows."""
        self._fanning_out = True  # perhaps: the term before may have left some of it
        self._fanned_out_at = self._expiry_checked_at = time.monotonic()

    async def serve(self) -> None:
        """Lead until something ends the term; returns when a generation was dropped."""
        async with self._connection.transaction():
            await self._take_over()
        for held in self._checkpoints:
            log.info("following", generation=held.generation, position=held.position, epoch=held.epoch)
        while not await self._read_once():
            if self._client.is_closed:
                raise BrokerConnectionLost(f"The broker ended the connection for good: {self._client.last_error}.")
            await self._heartbeat()
            await asyncio.sleep(RETRY_S)

    async def _take_over(self) -> None:
        """Become the one who moves every generation of the roster, as it is now."""
        await generations.lock_checkpoints(self._connection)
        roster = await generations.followed(self._connection)
        if not roster:
            # The tables may have been corrected by hand; the first write that succeeds says so.
            roster = [await checkpoints.live_generation(self._connection)]
            self._recovering = True
        self._checkpoints = [await checkpoints.take_over(self._connection, name) for name in roster]

    async def _read_once(self) -> bool:
        """Read and apply until the reading is interrupted (False) or the roster has changed (True)."""
        try:
            for held in self._checkpoints:
                state = await self._beating(stream.verify(self._client, held, self._settings.stream_replicas))
            self._link.subscription = OrderedSubscription(
                self._client, min(held.position for held in self._checkpoints)
            )  # before it opens
            async with AsyncExitStack() as stack:
                reading = await self._beating(stack.enter_async_context(self._link.subscription))
                ahead = await stack.enter_async_context(Prefetcher(reading, self._limits))
                await self._heartbeat()
                await loss_check.require_no_loss_ahead(
                    self._client, self._connection, state, reading.position, reading.pending_at_start
                )
                await self._heartbeat()
                self._log_once.reset()
                with suppress(Interrupted):
                    while not await self._drop_expired():
                        await self._step(reading, ahead, state.created)
                    return True
                self._log_once.warning("reading_again", Interrupted(reading.interruption))
        except (*BROKER_ERRORS, Interrupted) as problem:
            self._log_once.warning("reading_again", problem)
        finally:
            self._link.subscription = None
        return False

    async def _step(self, reading: OrderedSubscription, ahead: Prefetcher, stream_created: str) -> None:
        events = await self._apply_next(reading, ahead, stream_created)
        behind = events >= self._limits.events_max
        if self._fanning_out and (not behind or time.monotonic() - self._fanned_out_at > FAN_OUT_EVERY_S):
            await self._adopt_result(await fan_out_in_all(self._connection, self._checkpoints))
            self._fanned_out_at = time.monotonic()
        elif not events:
            await self._beating(reading.check_pending(WATCH_S))
        # What was read ahead has left the reading, but was not applied.
        applied = min(held.position for held in self._checkpoints)
        if not self._caught_up and reading.caught_up and reading.position <= applied:
            for held in self._checkpoints:
                await checkpoints.mark_caught_up(self._connection, held.generation)
            self._caught_up = True
            log.info("caught_up", position=reading.position)

    async def _apply_next(self, reading: OrderedSubscription, ahead: Prefetcher, stream_created: str) -> int:
        """Apply the next batch and return how many events it had; 0 when nothing came for a while."""
        gathered = await ahead.next_batch(0 if self._fanning_out else TICK_S)
        if gathered is None:
            return 0
        applied_to = min(held.position for held in self._checkpoints)
        if gathered.after != applied_to:
            reading.interrupt(f"a batch after {gathered.after} was read ahead, but {applied_to} is applied")
            raise Interrupted(reading.interruption)
        await self._require_no_loss(gathered.after, gathered.position, gathered.events)
        began = time.perf_counter()
        applied = await self._apply(gathered, stream_created)
        fanning_out = self._fanning_out
        await self._adopt_result(applied)
        self._fanning_out |= fanning_out
        took_ms = round((time.perf_counter() - began) * 1000, 1)
        log.debug("applied", position=self._checkpoints[0].position, events=gathered.events, took_ms=took_ms)
        for each in applied.parked:
            log.warning("parked", position=each.message.position, reason=each.why.reason, detail=each.why.detail)
        return gathered.events

    async def _apply(self, gathered: BatchBuilder, stream_created: str) -> Applied:
        """Apply a batch; after a failure that a smaller one may not meet, the next is half as large."""
        # Behind, the events come first: a fan-out in every full batch would hold up all that follow.
        members_max = 0 if gathered.events >= self._limits.events_max else MEMBERS_MAX
        try:
            with closed_is_unavailable(self._connection):  # a rollback on a lost connection raises another error
                applied = await self._apply_as(gathered, stream_created, members_max)
        except TablesRefuse as refusal:
            await self._note_damage(refusal)
            raise
        except UNAVAILABLE:
            self._limits.halve(gathered.events, gathered.bytes)
            raise
        self._limits.succeed()
        return applied

    async def _apply_as(self, gathered: BatchBuilder, stream_created: str, members_max: int) -> Applied:
        if len({each.position for each in self._checkpoints}) == 1:
            return await apply_shared_batch(
                self._connection, self._checkpoints, gathered.batch(), stream_created, members_max
            )
        # One has just joined: each gets a batch of its own, until all stand at the same position.
        return await apply_to_all(self._connection, self._checkpoints, gathered.messages, stream_created, members_max)

    async def _note_damage(self, refusal: TablesRefuse) -> None:
        """Mark damaged tables as broken, so that a rebuild may replace them; they are tried again all the same."""
        if refusal.damaged and not self._recovering:
            name = self._checkpoints[0].generation
            await generations.mark_broken(self._connection, name)
            log.error("generation_broken", generation=name, detail=refusal.problem)

    async def _beating(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call to the broker, however long it takes, with a heartbeat to PostgreSQL every `TICK_S`."""
        await self._heartbeat()
        calling = asyncio.create_task(call)
        try:
            while not (await asyncio.wait([calling], timeout=TICK_S))[0]:
                await self._heartbeat()
            return calling.result()
        finally:
            if not calling.done():
                calling.cancel()
                await asyncio.wait([calling], timeout=CANCEL_WAIT_S)

    async def _require_no_loss(self, after: int, position: int, events: int) -> None:
        await loss_check.require_no_loss_within(self._client, self._connection, after, position, events)

    async def _heartbeat(self) -> None:
        """Show PostgreSQL that this leader lives, and see that PostgreSQL does and nobody has called a new term."""
        async with asyncio.timeout(LEADER_SILENCE_MAX_S):
            for held in self._checkpoints:
                if not await checkpoints.epoch_unchanged(self._connection, held):
                    raise Fenced(held.generation, held.position, held.epoch)

    async def _drop_expired(self) -> bool:
        """Now and then drop the generations whose time to follow is over; True when there was one."""
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
        """Go on from where the transaction has led."""
        self._checkpoints = applied.checkpoints
        self._fanning_out = applied.fanning_out
        if self._recovering:
            self._recovering = False
            await generations.mark_recovered(self._connection, self._checkpoints[0].generation)
            log.info("generation_recovered", generation=self._checkpoints[0].generation)
        for broken in applied.failures:
            await self._mark_broken(broken)

    async def _mark_broken(self, broken: WriteFailure) -> None:
        await generations.mark_broken(self._connection, broken.generation)
        log.error("generation_broken", generation=broken.generation, detail=broken.reason)
