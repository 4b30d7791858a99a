"""`GET /ops/campaigns/{campaign_id}…`: a campaign's card, counters and pending fan-out, and its members."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from projections.maintenance import lens
from projections.maintenance.lens import CampaignState, Member
from projections.model.attributes import read_attributes
from projections.model.events import SUBJECT_ROOT
from projections.store import checkpoint as checkpoints
from projections.store.membership_history import BEFORE_ALL_IDS
from service.cards import CARD_BYTES_MAX
from service.operations import parameters
from service.operations.endpoint import Call, Endpoint
from service.operations.refusals import Refused
from service.read_model.reads import cards_statement


class Counters(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The counters, and the event that they come from."""

    version: str
    """An int64; a string, because it may exceed 2⁵³."""
    position: int | None = None
    """Of that event; absent if the stream cannot be read or holds another event by now."""
    contacts_total: int
    contacts_contacted: int
    contacts_remaining: int
    contacts_to_recall: int
    contacts_failed: int
    contacts_succeeded: int
    progress: float


class MembersTotal(Struct, frozen=True):
    """How many customers are enrolled in the campaign or were."""

    total: int


class PendingFanOut(Struct, frozen=True):
    """A change of owner, status or deletion that is not yet copied to all memberships."""

    resumes_at: str
    """The customer at which the copy goes on; those before it are done."""


class CampaignLens(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A campaign, known or not."""

    campaign_id: str
    known: bool
    card: Annotated[msgspec.Raw | None, Meta(extra_json_schema={"type": "object"})] = None
    """The item as lists show it; absent without a definition, or if it is larger than a process caches."""
    owner_id: str | None = None
    status: str | None = None
    deleted: bool | None = None
    counters: Counters | None = None
    """Absent if no counter event is applied: then lists show zeros."""
    members: MembersTotal
    fan_out: PendingFanOut | None = None
    sentence: str


class Members(Struct, frozen=True, omit_defaults=True):
    """A page of the members, in the order of their ids."""

    members: list[Member]
    next_cursor: str | None = None
    """The `after` of the next page; absent on the last page."""


async def show_campaign(call: Call) -> CampaignLens:
    """Return what is known of a campaign."""
    campaign_id: str = call.values["campaign_id"]
    async with call.services.database.snapshot() as connection:
        name = await checkpoints.live_generation(connection)
        campaign = await lens.read_campaign(connection, name, campaign_id)
        card = None
        if campaign.defined:
            row = await connection.fetchrow(cards_statement(name), [campaign_id], CARD_BYTES_MAX)
            card = None if row is None else row["card"]
    return CampaignLens(
        campaign_id=campaign_id,
        known=campaign.known,
        card=None if card is None else msgspec.Raw(card),
        owner_id=campaign.owner_id,
        status=campaign.status,
        deleted=campaign.deleted if campaign.known else None,
        counters=await _counters(call, campaign),
        members=MembersTotal(campaign.members),
        fan_out=None if campaign.resumes_at is None else PendingFanOut(campaign.resumes_at),
        sentence=campaign.sentence,
    )


async def _counters(call: Call, campaign: CampaignState) -> Counters | None:
    if campaign.counters_version is None:
        return None
    values: dict[str, Any] = dict(campaign.counters)
    position = await _counters_position(call, campaign.campaign_id, campaign.counters_version)
    return Counters(version=str(campaign.counters_version), position=position, **values)


async def _counters_position(call: Call, campaign_id: str, version: int) -> int | None:
    """Return the position of the event that the counters come from, if it is the last one of the campaign."""
    try:
        async with call.services.stream.reading() as reader:
            last = await reader.last(f"{SUBJECT_ROOT}.counters.{campaign_id}")
    except Refused:
        return None
    return last.position if last is not None and read_attributes(last.body).version == version else None


async def list_members(call: Call) -> Members:
    """Return a page of the members."""
    limit: int = call.values["limit"]
    async with call.services.database.snapshot() as connection:
        name = await checkpoints.live_generation(connection)
        after = call.values["after"] or BEFORE_ALL_IDS
        members = await lens.read_members(connection, name, call.values["campaign_id"], after, limit + 1)
    return Members(members[:limit], members[limit - 1].customer_id if len(members) > limit else None)


_CAMPAIGN: Final = parameters.identity("campaign_id", "The campaign.")
ENDPOINTS: Final = (
    Endpoint(
        "/campaigns/{campaign_id}",
        "operator_campaign",
        "How is this campaign?",
        show_campaign,
        CampaignLens,
        (_CAMPAIGN,),
    ),
    Endpoint(
        "/campaigns/{campaign_id}/members",
        "operator_members",
        "Who is in this campaign?",
        list_members,
        Members,
        (_CAMPAIGN, parameters.identity("after", "`next_cursor` of the previous page."), parameters.limit()),
    ),
)
