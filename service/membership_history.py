"""The use case of `GET /customers/{customer_id}/campaigns/{campaign_id}/history`: why a membership is shown, or not.

The checks have the same order as those of the listing: credentials, parameters, then whether the caller may see
customer and campaign. Only then is the stream read; everything before needs no broker.

Reads: the live generation and the stream, through projections.store.membership_history.
Fails: `Unauthenticated`, `NotReady`, and what the read pool raises.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import msgspec
from msgspec import Struct

from projections.model.events import Position
from projections.model.explanation import MembershipState, answer
from projections.model.history import HistoryFold
from projections.store.checkpoint import Checkpoint
from projections.store.database import ReadPool
from projections.store.membership_history import (
    HistoryTooLong,
    HistoryUnavailable,
    LiveRegisters,
    MessageReader,
    read_history,
    read_registers,
)
from projections.store.queries import Generation
from service import history_parameters, paging
from service.auth import Authenticator, Principal
from service.content_codings import negotiated_coding
from service.freshness import Freshness
from service.history_parameters import HistoryRequest
from service.limited_reader import LimitedReader
from service.page_reader import FOREIGN_CURSOR, TAMPERED_CURSOR, wait_s
from service.paging import FORM, Cursor
from service.parameters import Violation, query_pairs
from service.problems import problem_reply, unprocessable
from service.rate_limited_log import RateLimitedLog
from service.read_model.admission import Admission, Overloaded
from service.representation import RawResponse, position_headers, represent_body, respond

HISTORIES_MAX: Final = 8
"""Histories that a worker reads at the same time: each takes milliseconds, but may buffer 4 MB of large events."""
RESPOND_S: Final = 0.2
"""Time that remains for the response when the broker is given up, before the deadline of the whole request."""
UNAVAILABLE_LOG: Final = RateLimitedLog("history_unavailable")


class HistoryCall(Struct, frozen=True):
    """A request with nothing decoded. Repeated headers are lists, in their order."""

    customer_id: str
    campaign_id: str
    query: bytes
    authorization: list[str]
    api_key: list[str]
    min_position: str | None
    prefer: list[str]
    if_none_match: str
    accept_encoding: str


class MembershipHistory:
    """Answers requests for the history of a membership."""

    def __init__(
        self,
        authenticator: Authenticator,
        pool: ReadPool,
        freshness: Freshness,
        reader: MessageReader | None,
        *,
        signing_key: Callable[[], Awaitable[bytes]],
        answer_within_s: float,
    ) -> None:
        self._authenticator = authenticator
        self._pool = pool
        self._freshness = freshness
        self._reader = reader
        self._signing_key = signing_key
        self._answer_within_s = answer_within_s
        """From a request's arrival to its response; a wait that the caller requested is added."""
        self._admission = Admission(HISTORIES_MAX)
        self._failed_at = 0.0
        """When the broker was last found unavailable, by the event loop's clock."""

    async def respond(self, call: HistoryCall) -> RawResponse:
        """Return the response."""
        try:
            return await self._respond_in_time(call)
        except TimeoutError:
            if self._admission.busy:  # large histories share the CPU, and PostgreSQL is not the cause
                return problem_reply("history_busy")
            raise

    async def _respond_in_time(self, call: HistoryCall) -> RawResponse:
        async with asyncio.timeout(self._answer_within_s) as deadline:
            principal = await self._authenticator.principal(call.authorization, call.api_key)
            request, after = await self._parse(call, principal)
            if not isinstance(request, HistoryRequest):
                return unprocessable(request)
            if request.min_position is not None and not await self._freshness.wait_within(
                request.min_position, wait_s(call.prefer), principal.user_id, deadline
            ):
                return problem_reply("position_not_reached")
            read = Read(call, request, principal, after, (deadline.when() or 0.0) - RESPOND_S)
            return await self._freshness.read_live(partial(self._respond, read))

    async def _respond(self, read: "Read", name: Generation) -> RawResponse | None:
        """Return the response from a generation; None if it is no longer the live one."""
        request = read.request
        stated = self._freshness.stated
        live = await read_registers(
            self._pool,
            name,
            request.customer_id,
            request.campaign_id,
            scope=read.principal.scope,
            min_position=request.min_position,
        )
        if live.live_generation != name:
            return None
        if request.min_position is not None and live.checkpoint.position < request.min_position:
            self._freshness.reset_position()
            return problem_reply("position_not_reached")
        self._freshness.state(live.checkpoint.position, stated)
        headers = position_headers(live.checkpoint.position, live.parked)
        if live.state is None:
            return problem_reply("membership_not_found", *headers)
        history = await self._read_history(read, live.state, live.checkpoint)
        if isinstance(history, str):
            return problem_reply(history, *headers)
        return await self._found(read, live, live.state, history)

    async def _parse(
        self, call: HistoryCall, principal: Principal
    ) -> tuple[HistoryRequest | Sequence[Violation], Position]:
        """Parse the parameters, and return the position after which the page begins: that of the cursor, or 0."""
        pairs = query_pairs(call.query)
        request = history_parameters.parse(call.customer_id, call.campaign_id, pairs, call.min_position)
        text = dict(pairs).get("cursor")
        if text is None:
            return request, Position(0)
        cursor = paging.read_cursor(text, await self._signing_key())
        if not isinstance(request, HistoryRequest):
            others = [violation for violation in request if violation.loc != TAMPERED_CURSOR.loc]
            return (request if cursor else [*others, TAMPERED_CURSOR]), Position(0)
        if cursor is None:
            return [TAMPERED_CURSOR], Position(0)
        if cursor.request != fingerprint(request, principal) or cursor.key is None:
            return [FOREIGN_CURSOR], Position(0)
        return request, Position(int(cursor.key))

    async def _read_history(self, read: "Read", state: MembershipState, applied: Checkpoint) -> HistoryFold | str:
        """Return the history, or the code of the problem that prevents reading it."""
        if self._reader is None:
            return "broker_not_configured"
        began = asyncio.get_running_loop().time()
        try:
            async with self._admission.slot(read.principal.user_id):
                if self._failed_at >= began:
                    # The broker failed while this request waited for its slot; do not wait for it again.
                    return "broker_unavailable"
                reader = LimitedReader(self._reader, read.broker_ends)
                counters = read.request.include is not None
                return await read_history(self._pool, reader, state, applied, counters=counters)
        except Overloaded:
            return "history_busy"
        except HistoryTooLong:
            return "history_too_long"
        except HistoryUnavailable as problem:
            self._failed_at = asyncio.get_running_loop().time()
            UNAVAILABLE_LOG.warning(detail=str(problem))
            return "broker_unavailable"

    async def _found(
        self, read: "Read", live: LiveRegisters, state: MembershipState, history: HistoryFold
    ) -> RawResponse:
        call, request = read.call, read.request
        remaining = [event for event in history.events if event.position > read.after]
        page = remaining[: request.limit]
        next_cursor = None
        if len(remaining) > request.limit:
            cursor = Cursor(FORM, fingerprint(request, read.principal), str(page[-1].position), request.campaign_id)
            next_cursor = paging.write_cursor(cursor, await self._signing_key())
        position = live.checkpoint.position
        body = answer(state, history, page, request.limit, next_cursor)
        represented = represent_body(body, negotiated_coding(call.accept_encoding))
        return respond(represented, position, call.if_none_match, live.parked)


class Read(Struct, frozen=True):
    """A request whose parameters are valid."""

    call: HistoryCall
    request: HistoryRequest
    principal: Principal
    after: Position
    """The position after which the page begins."""
    broker_ends: float
    """Until when the stream is read, by the event loop's clock."""


def fingerprint(request: HistoryRequest, principal: Principal) -> bytes:
    """Digest what a cursor is bound to: the route, the caller's scope, customer, campaign and `include`; not limit."""
    bound = ("history", principal.scope, request.customer_id, request.campaign_id, request.include)
    return hashlib.blake2b(msgspec.msgpack.encode(bound), digest_size=12).digest()
