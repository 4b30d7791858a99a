"""Builds representations of cached pages, and caches them until one of their cards changes."""

from typing import Final, NamedTuple

from service import pydantic_compat
from service.cache import Cache, CachedPage
from service.content_codings import ContentCoding
from service.read_model.reads import UNRESERVED_BYTES_MAX
from service.representation import Representation, page_form, represent

PATH_PREFIX: Final = "/customers/"
PATH_SUFFIX: Final = "/campaigns"


class Target(NamedTuple):
    """What a request asks for: path and query as sent, and the coding negotiated with the caller."""

    path: str
    query: bytes
    coding: ContentCoding | None


def cached_response(cache: Cache, page: CachedPage, target: Target, *, keep: bool) -> Representation | None:
    """Return the representation of an exact page; None if its items are too large to send without reservation.

    With `keep`, it is kept until one of the page's cards changes.
    """
    if page.too_large:
        return None
    for kept in page.responses:
        if kept.revision == page.revision and kept.suits(target.coding):
            cache.touch_response(page)
            return kept
    items = [card.json for card in page.cards]
    if sum(map(len, items)) > UNRESERVED_BYTES_MAX:
        cache.mark_too_large(page)
        return None
    made = represent(
        pydantic_compat.uuid(target.path[len(PATH_PREFIX) : -len(PATH_SUFFIX)]),
        page_form(target.query),
        page.content,
        items,
        [card.digest for card in page.cards],
        coding=target.coding,
        revision=page.revision,
    )
    if keep:
        cache.keep_response(page, made)
    return made
