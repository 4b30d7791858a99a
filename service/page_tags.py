"""What a page depends on, as the tags that notices carry: changes of these tags make it outdated."""

from collections.abc import Sequence
from typing import Final

from projections.store.notices import campaign_tag, customer_tag, definition_tag
from service.cache import ANY_CAMPAIGN, ANY_DEFINITION
from service.parameters import ListRequest

_ID: Final = slice(len('{"id":"'), len('{"id":"') + 36)


def campaign_id_of(card: bytes) -> str:
    """Return the campaign's id, with which every card begins."""
    return card[_ID].decode()


def page_tags(request: ListRequest, campaign_ids: Sequence[str], *, has_next: bool) -> tuple[str, ...]:
    """Return the tags on which the order and the totals of a page depend; the cards' contents are tracked apart.

    Enrolment times and statuses are the customer's own rows. Any other order, and a search, depend on the campaigns:
    on those shown, if they are all that match, and otherwise on all.
    """
    customer = customer_tag(request.customer_id)
    if request.q is None and request.sort_field in {"enrolled_at", "status"}:
        return (customer,)
    by_definition = request.sort_field in {"enrolled_at", "status", "name", "created_at"}
    if request.q is None and not has_next and not request.offset and request.cursor is None:
        tag_of = definition_tag if by_definition else campaign_tag
        return customer, *map(tag_of, campaign_ids)
    return customer, ANY_DEFINITION if by_definition else ANY_CAMPAIGN


def selecting_tags(request: ListRequest) -> tuple[str, ...]:
    """Return the tags that determine which campaigns a page shows, known before it is read."""
    return page_tags(request, (), has_next=True)


def shown_tags(cards: Sequence[bytes]) -> list[str]:
    """Return the tags of the cards that a page shows."""
    return [campaign_tag(campaign_id_of(card)) for card in cards]
