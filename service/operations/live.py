"""`GET /ops/live`: the overview every two seconds and what has changed, as server-sent events.

Invariants: before each event the credentials are verified again, so a stream ends when they expire, are revoked or lose
the scope. It also ends when the caller disconnects or does not take an event, and when the process ends.
Source: HTML, 9.2 for the format.
"""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import asyncpg
import msgspec
from litestar.status_codes import HTTP_200_OK
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from projections.errors import DatabaseNotMigrated
from projections.store import checkpoint as checkpoints
from projections.store.database import UNAVAILABLE
from projections.store.queries import for_generation
from service.identity.refusals import IdentityProviderUnavailable, ScopeMissing, Unauthenticated
from service.middleware import is_head
from service.operations.endpoint import OPERATE, Call, Endpoint
from service.operations.live_feed import Update
from service.operations.overview import Overview, overview
from service.operations.services import OperationsServices
from service.problems import problem_reply
from service.representation import CallerTooSlow

_ENCODER: Final = msgspec.json.Encoder()

EVERY_S: Final = 2.0
AT_LEAST_S: Final = 0.1
"""The shortest wait between two events, should the clocks of token and process disagree."""
TAKE_MAX_S: Final = 5.0
"""How long the caller may take to accept an event."""

HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"x-accel-buffering", b"no"),  # a proxy of nginx would otherwise collect the events
]
FINGERPRINTS: Final[Mapping[str, str]] = {
    "jobs": "SELECT concat(count(*), ' ', max(updated_at), ' ', max(job_id), ' ', "
    "(SELECT concat(max(reported_at), ' ', count(awaits_until), ' ', count(decision)) FROM control.job_review)) "
    "FROM control.job",
    "parked": "SELECT concat(count(*), ' ', max(position), ' ', min(position)) FROM {generation}.parked_event",
    "generations": "SELECT concat((SELECT concat(generation, previous) FROM control.live), "
    "string_agg(concat(generation, state, follows_until), ',' ORDER BY generation)) FROM control.generation",
    "plans": "SELECT concat(max(number), ' ', sum(done), ' ', count(*) FILTER (WHERE state = 'planning'), ' ', "
    "count(run_at), ' ', count(started_at), ' ', count(ended_at)) FROM control.plan",
    "audit": "SELECT max(audit_id)::text FROM control.audit",
}
"""What a stream reports as changed, and the statement whose result changes with it. `{generation}` is the live one."""


class Changed(Struct, frozen=True):
    """The content of an event `changed`."""

    what: str


class Reason(Struct, frozen=True):
    """The content of an event `end` or `unavailable`: why the stream ends, or why nothing can be shown now."""

    code: str


class LiveStream:
    """One stream: an ASGI application."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._feed = call.services.live
        self._fingerprints: dict[str, str | None] = {}
        self._expires_s = call.principal.expires_s

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until one of the reasons above ends the stream."""
        user_id = self._call.principal.user_id
        if not self._feed.admit(user_id):
            await problem_reply("too_many_streams").send(send)
            return
        ends = (
            asyncio.create_task(_until_disconnected(receive), name="caller disconnects"),
            asyncio.create_task(self._call.services.ending.wait(), name="process ends"),
        )
        try:
            await send({"type": "http.response.start", "status": HTTP_200_OK, "headers": HEADERS})
            if is_head.get():
                await _write(send, b"", more=False)
            else:
                await self._send_events(send, *ends)
        finally:
            self._feed.leave(user_id)
            for task in ends:
                task.cancel()

    async def _send_events(self, send: Send, disconnected: asyncio.Task[Any], ending: asyncio.Task[Any]) -> None:
        while not disconnected.done():
            texts, goes_on = ([event("end", Reason("draining"))], False) if ending.done() else await self._next()
            for text in texts:
                await _write(send, text)
            if not goes_on:
                await _write(send, b"", more=False)
                return
            await asyncio.wait({disconnected, ending}, timeout=self._wait_s(), return_when=asyncio.FIRST_COMPLETED)

    async def _next(self) -> tuple[list[bytes], bool]:
        """Return the next events, and whether others may follow."""
        call = self._call
        try:
            principal = await call.services.authenticator.principal(call.authorization, call.api_key, OPERATE)
            self._expires_s = principal.expires_s
            return await self._events(), True
        except Unauthenticated as problem:
            return [event("end", Reason(problem.refusal.code))], False
        except ScopeMissing:
            return [event("end", Reason("insufficient_scope"))], False
        except IdentityProviderUnavailable:
            return [event("unavailable", Reason("identity_provider_unavailable"))], True
        except (*UNAVAILABLE, asyncpg.PostgresError, DatabaseNotMigrated):
            return [event("unavailable", Reason("database_unavailable"))], True

    async def _events(self) -> list[bytes]:
        """Return the overview, and what has changed since the last one."""
        update = await self._feed.latest(partial(_read, self._call.services))
        known, self._fingerprints = self._fingerprints, update.fingerprints
        changed = [what for what, value in update.fingerprints.items() if known and known.get(what) != value]
        return [_event("overview", update.overview), *(event("changed", Changed(what)) for what in changed)]

    def _wait_s(self) -> float:
        """Return how long to wait for the next event: not beyond the expiry of the credentials."""
        left_s = EVERY_S if self._expires_s is None else self._expires_s - time.time()
        return max(AT_LEAST_S, min(EVERY_S, left_s))


async def _read(services: OperationsServices) -> Update:
    async with asyncio.timeout(services.answer_within_s):
        return await _read_in_time(services)


async def _read_in_time(services: OperationsServices) -> Update:
    reads = await services.statistics.current()
    async with services.database.snapshot() as connection:
        shown = await overview(connection, reads)
        name = await checkpoints.live_generation(connection)
        parts = [f"({for_generation(text, name)}) AS {what}" for what, text in FINGERPRINTS.items()]
        row = await connection.fetchrow(f"SELECT {', '.join(parts)}")
    return Update(_ENCODER.encode(shown), dict(row or {}))


async def open_stream(call: Call) -> LiveStream:
    """Return the stream."""
    return LiveStream(call)


def event(name: str, content: Struct) -> bytes:
    """Return an event as it is sent."""
    return _event(name, _ENCODER.encode(content))


def _event(name: str, content: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), content)


async def _write(send: Send, text: bytes, *, more: bool = True) -> None:
    try:
        async with asyncio.timeout(TAKE_MAX_S):
            await send({"type": "http.response.body", "body": text, "more_body": more})
    except TimeoutError:
        raise CallerTooSlow from None


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


ENDPOINTS: Final = (
    Endpoint(
        "/live",
        "operator_live",
        "How is the read model, live?",
        open_stream,
        Overview,
        problems=("too_many_streams",),
        media_type="text/event-stream",
        endless=True,
    ),
)
