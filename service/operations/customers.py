"""`GET /ops/customers/{customer_id}`: what the API answers about a customer, and why, membership by membership.

The sentences are those of `membership explain` and of the history. If the stream cannot be read in time, they name no
events, and another sentence says why.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final

import asyncpg
import msgspec
from msgspec import Meta, Struct

from projections.maintenance import lens
from projections.model.events import CustomerId
from projections.model.explanation import MembershipState, explain
from projections.store import checkpoint as checkpoints
from projections.store.checkpoint import Checkpoint
from projections.store.membership_history import (
    BEFORE_ALL_IDS,
    HistoryTooLong,
    MessageReader,
    read_history,
    read_memberships,
)
from service.auth import Principal
from service.cards import digest
from service.limited_reader import LimitedReader
from service.operations import parameters
from service.operations.endpoint import Call, Endpoint
from service.operations.refusals import Refused
from service.page_reader import PageFound
from service.parameters import ListRequest
from service.representation import page_content, page_form, represent

ANSWER_ITEMS: Final = 50
ANSWER_QUERY: Final = b"include_deleted=true&limit=50"
STREAM_SHARE: Final = 0.6
"""How much of the time of a request the stream may take."""


class LensMembership(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One membership, and why it is shown or not."""

    campaign_id: str
    campaign_name: str | None = None
    visible: bool
    """Whether the list shows it by default."""
    reason: str
    """`visible`, or why not, in a word; as in the history."""
    sentence: str


LISTING_SCHEMA: Final = "#/components/schemas/PaginatedResponse_CampaignListItemOut_"
"""The body of a listing, in the contract."""


class CustomerLens(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A customer, known or not."""

    customer_id: str
    known: bool
    owner_id: str | None = None
    """Absent while the customer is known from enrolments only."""
    deleted: bool | None = None
    position: int
    """Of the live generation, when the memberships were read."""
    answer: Annotated[msgspec.Raw | None, Meta(extra_json_schema={"$ref": LISTING_SCHEMA})] = None
    """What the list answers to an admin: the first 50 campaigns, deleted ones too."""
    memberships: list[LensMembership]
    """In the order of the campaigns' ids."""
    stream_problem: str | None = None
    """Why the sentences name no events, if they do not."""
    next_cursor: str | None = None
    """The `after` of the next page; absent on the last page."""


async def show_customer(call: Call) -> CustomerLens:
    """Return what is known of a customer."""
    customer_id, limit = call.values["customer_id"], call.values["limit"]
    after = call.values["after"]
    async with call.services.database.snapshot() as connection:
        live = await checkpoints.read(connection, await checkpoints.live_generation(connection))
        customer = await lens.read_customer(connection, live.generation, customer_id)
        states = await read_memberships(connection, live.generation, customer_id, after or BEFORE_ALL_IDS, limit + 1)
        shown, problem = await _explained(call, connection, states[:limit], live)
    return CustomerLens(
        customer_id=customer_id,
        known=customer is not None,
        owner_id=None if customer is None else customer.owner_id,
        deleted=None if customer is None else customer.deleted,
        position=live.position,
        answer=await _answer(call, customer_id) if customer is not None and after is None else None,
        memberships=shown,
        stream_problem=problem,
        next_cursor=shown[-1].campaign_id if len(states) > limit else None,
    )


async def _explained(
    call: Call, connection: asyncpg.Connection, states: Sequence[MembershipState], live: Checkpoint
) -> tuple[list[LensMembership], str | None]:
    """Return the memberships with their sentences, and why some name no events."""
    sentences: list[str] = []
    problem = None
    try:
        async with call.services.stream.reading() as reader:
            ends = asyncio.get_running_loop().time() + call.services.answer_within_s * STREAM_SHARE
            limited = LimitedReader(reader, ends)
            for state in states:
                sentences.append(await _sentence(connection, limited, state, live))  # noqa: PERF401 - kept if one fails
    except Refused as refused:
        problem = refused.sentence
    sentences += [explain(state, None) for state in states[len(sentences) :]]
    return [_shown(state, sentence) for state, sentence in zip(states, sentences, strict=True)], problem


async def _sentence(
    connection: asyncpg.Connection, reader: MessageReader, state: MembershipState, live: Checkpoint
) -> str:
    try:
        return explain(state, await read_history(connection, reader, state, live))
    except HistoryTooLong as too_long:
        return f"{explain(state, None)} {too_long}"


def _shown(state: MembershipState, sentence: str) -> LensMembership:
    return LensMembership(
        campaign_id=state.campaign_id,
        campaign_name=state.campaign_name,
        visible=state.verdict == "visible",
        reason=state.verdict,
        sentence=sentence,
    )


async def _answer(call: Call, customer_id: str) -> msgspec.Raw | None:
    """Return the body of the list, as an admin gets it."""
    request = ListRequest(CustomerId(customer_id), include_deleted=True, limit=ANSWER_ITEMS)
    admin = Principal(call.principal.user_id, is_admin=True)
    async with asyncio.timeout(call.services.answer_within_s) as deadline:
        found = await call.services.pages.read(request, admin, None, (), deadline)
    if not isinstance(found, PageFound):
        return None
    try:
        content = page_content(request, found.page, found.next_cursor)
        cards = found.page.cards
        body = represent(customer_id, page_form(ANSWER_QUERY), content, cards, map(digest, cards), coding=None).body
    finally:
        if found.reservation is not None:
            found.reservation.release()
    return msgspec.Raw(body)


ENDPOINTS: Final = (
    Endpoint(
        "/customers/{customer_id}",
        "operator_customer",
        "Why is this customer in these campaigns?",
        show_customer,
        CustomerLens,
        (
            parameters.identity("customer_id", "The customer."),
            parameters.identity("after", "`next_cursor` of the previous page."),
            parameters.limit(),
        ),
        ("overloaded", "page_too_large", "page_memory_busy"),
    ),
)
