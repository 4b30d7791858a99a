"""Representations of a page: body, entity tag, headers, and the response to one caller made of them.

Source: RFC 9110 for representations and validators.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
from litestar.status_codes import HTTP_200_OK, HTTP_304_NOT_MODIFIED
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from service import paging
from service.cards import digest
from service.content_codings import COMPRESS_BYTES_MIN, CodingInParts, ContentCoding, GzipParts, compress
from service.parameters import ListRequest, parse, query_pairs
from service.read_model.reads import Page

SEND_MAX_S: Final = 60.0
"""Limit on sending a large page, whose memory other requests wait for; 50 MB take that long at 7 Mbit/s."""
STALL_MAX_S: Final = 3.0
"""Limit on sending one part, of 256 KiB at most: a caller that does not read holds memory for less time than the 4 s
that others wait for it."""

FORM_BYTES_MAX: Final = 300
"""A longer query string is parsed again for each response instead of being remembered."""
FORMS_MAX: Final = 2_000

Header = tuple[bytes, bytes]


class Representation(Struct, frozen=True, gc=False):
    """A page in one content coding, as it is sent and cached."""

    body: bytes
    tag: str
    validator_headers: tuple[Header, ...] = ()
    """Headers sent with 200 and with 304, except the position."""
    content_headers: tuple[Header, ...] = ()
    """Headers that describe the body, sent with 200 only."""
    revision: int = 0
    """The sum of the revisions of the cards in the body: revisions only grow, so an equal sum means equal cards."""
    coding: ContentCoding | None = None

    def suits(self, coding: ContentCoding | None) -> bool:
        """Return whether it is what a caller gets who negotiated `coding`: small bodies are never compressed."""
        return self.coding == coding or (self.coding is None and len(self.body) < COMPRESS_BYTES_MIN)


class PageContent(Struct, frozen=True, gc=False):
    """What a page's body states besides its items and what the query determines."""

    total: int
    next_cursor: str | None = None
    aggregations: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of the texts."""
        return len(self.next_cursor or "") + len(self.aggregations)


class PageForm(Struct, frozen=True):
    """What the query alone determines of a page's body and links, for every customer."""

    request: ListRequest
    """The parameters, with any customer."""
    kept_parameters: str | None
    """The parameters that links repeat, escaped; None if they are too long for a link."""
    meta_json: bytes
    query_json: bytes


class CallerTooSlow(Exception):
    """The caller did not read a large page in time; the connection is closed in the middle of the response."""


class RawResponse(Struct, frozen=True, gc=False):
    """A complete response except for the middleware's headers. An ASGI application, so a handler may return it."""

    status: int
    headers: tuple[Header, ...]
    body: bytes

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the response."""
        await self.send(send)

    async def send(self, send: Send, *added: Header) -> None:
        """Send the response with further headers."""
        await send(_start(self, added))
        await send(_body(self.body, more=False))


class LargeResponse(RawResponse, frozen=True, gc=False):
    """A response sent in parts, which are never joined; its memory is released when it has been sent."""

    parts: list[bytes]
    coding: CodingInParts | None
    release: Callable[[], None]

    async def send(self, send: Send, *added: Header) -> None:
        """Send the response with further headers; raises `CallerTooSlow`."""
        try:
            async with asyncio.timeout(SEND_MAX_S):
                await self._send_parts(_stalling(send), added)
        except TimeoutError:
            raise CallerTooSlow from None
        finally:
            self.parts.clear()
            self.release()

    async def _send_parts(self, send: Send, added: tuple[Header, ...]) -> None:
        await send(_start(self, added))
        compressor = None if self.coding is None else GzipParts()
        self.parts.reverse()  # each part is freed as soon as it has been sent
        while self.parts:
            part = self.parts.pop()
            body = part if compressor is None else await asyncio.to_thread(compressor.add, part)
            if body:
                await send(_body(body, more=True))
        await send(_body(b"" if compressor is None else compressor.end(), more=False))


def _stalling(send: Send) -> Send:
    """Return a `send` that raises TimeoutError when the caller takes nothing for `STALL_MAX_S`."""

    async def send_in_time(message: Any) -> None:  # noqa: ANN401 - Litestar's message types are narrower
        async with asyncio.timeout(STALL_MAX_S):
            await send(message)

    return send_in_time


def page_form(query: bytes) -> PageForm:
    """Return what a valid query determines; raises ValueError if it is invalid."""
    return _remembered_form(query) if len(query) <= FORM_BYTES_MAX else _page_form(query)


def page_content(request: ListRequest, page: Page, next_cursor: str | None) -> PageContent:
    """Return what a page's body states besides its items."""
    statuses = page.matching(deleted=request.deletion_filter)
    total = sum(statuses.values())
    if not request.include_aggregations:
        return PageContent(total, next_cursor)
    deleted = sum(page.matching(deleted=True).values())
    filters = {"all": total, **statuses}
    return PageContent(total, next_cursor, _json({"quick_filters": filters, "extra": {"deleted": deleted}}))


def represent(
    customer_id: str,
    form: PageForm,
    content: PageContent,
    items: Sequence[bytes],
    digests: Iterable[bytes],
    *,
    coding: ContentCoding | None,
    revision: int = 0,
) -> Representation:
    """Return a page's representation for a caller who negotiated `coding`. `digests` are those of the items."""
    tail = _tail(form, content)
    body = b"".join((_HEAD, b",".join(items), tail))
    sent, applied = _encoded(body, coding)
    tag = _entity_tag(digests, tail, applied)
    link = paging.links(form.kept_parameters, form.request, customer_id, content.total, content.next_cursor)
    validators, headers = _validator_headers(tag, link), _content_headers(len(sent), applied)
    return Representation(sent, tag, validators, headers, revision, applied)


def represent_body(body: bytes, coding: ContentCoding | None) -> Representation:
    """Return the representation of a complete body for a caller who negotiated `coding`."""
    sent, applied = _encoded(body, coding)
    tag = _entity_tag((), body, applied)
    return Representation(sent, tag, _validator_headers(tag, ""), _content_headers(len(sent), applied), coding=applied)


async def respond_large(
    customer_id: str,
    form: PageForm,
    content: PageContent,
    items: list[bytes],
    position: int,
    *,
    if_none_match: str,
    parked: str | None,
    coding: CodingInParts | None,
    release: Callable[[], None],
) -> RawResponse:
    """Return the response for a large page. Calls `release` when it has been sent, or at once for a 304."""
    tail = _tail(form, content)
    try:
        digests = await asyncio.to_thread(list, map(digest, items))
    except BaseException:
        release()
        raise
    tag = _entity_tag(digests, tail, coding)
    parts = [_HEAD, *[part for item in items for part in (b",", item)][1:], tail]
    length = sum(map(len, parts)) if coding is None else None
    link = paging.links(form.kept_parameters, form.request, customer_id, content.total, content.next_cursor)
    headers = _validator_headers(tag, link), _content_headers(length, coding)
    response = respond(Representation(b"", tag, *headers), position, if_none_match, parked)
    if response.status == HTTP_304_NOT_MODIFIED:
        release()
        return response
    return LargeResponse(response.status, response.headers, b"", parts, coding, release)


def respond(
    representation: Representation, position: int, if_none_match: str, parked: str | None = None
) -> RawResponse:
    """Return the response that states that the representation is exact at `position`; 304 if the caller has it."""
    stated = position_headers(position, parked)
    if if_none_match and is_current(representation.tag, if_none_match):
        return RawResponse(HTTP_304_NOT_MODIFIED, (*representation.validator_headers, *stated), b"")
    headers = (*representation.validator_headers, *representation.content_headers, *stated)
    return RawResponse(HTTP_200_OK, headers, representation.body)


def position_headers(position: int, parked: str | None) -> tuple[Header, ...]:
    """Return the headers that state the read model's position, and why the requested position is parked if it is."""
    header = (b"membership-position", b"%d" % position)
    return (header,) if parked is None else (header, (b"membership-parked", parked.encode("ascii")))


def is_current(tag: str, if_none_match: str) -> bool:
    """Return whether `If-None-Match` lists the tag or is `*`; tags are compared weakly (RFC 9110, 13.1.2)."""
    if if_none_match.strip() == "*":
        return True
    return any(candidate.strip().removeprefix("W/") == tag for candidate in if_none_match.split(","))


def _page_form(query: bytes) -> PageForm:
    pairs = query_pairs(query)
    request = parse(_ANY_CUSTOMER, pairs, None)
    if not isinstance(request, ListRequest):
        raise ValueError("the query is invalid")  # noqa: TRY004 - the query is wrong, not its type
    sort = {"field": request.sort_field, "direction": request.sort_dir}
    meta = _json({"limit": request.limit, "offset": request.offset, "sort": sort})[1:-1]
    return PageForm(request, paging.kept_parameters(pairs), meta, _json(_query(request, sort)))


_remembered_form: Final = lru_cache(maxsize=FORMS_MAX)(_page_form)


def _tail(form: PageForm, content: PageContent) -> bytes:
    """Return the contract's JSON after the items."""
    cursor = b"" if content.next_cursor is None else b',"next_cursor":"%b"' % content.next_cursor.encode()
    aggregations = b',"aggregations":%b' % content.aggregations if content.aggregations else b""
    meta = b'],"meta":{"total":%d,%b%b}' % (content.total, form.meta_json, cursor)
    return b'%b,"query":%b%b}' % (meta, form.query_json, aggregations)


def _encoded(body: bytes, coding: ContentCoding | None) -> tuple[bytes, ContentCoding | None]:
    """Return the body as it is sent, and the coding that was applied."""
    if coding is None or len(body) < COMPRESS_BYTES_MIN:
        return body, None
    return compress(body, coding), coding


def _entity_tag(digests: Iterable[bytes], tail: bytes, coding: ContentCoding | None) -> str:
    """Return the strong tag of a body made of items with these digests; each content coding has a tag of its own."""
    tag = hashlib.blake2b(b"".join((*digests, tail)), digest_size=16).hexdigest()
    return f'"{tag}"' if coding is None else f'"{tag}-{coding}"'


def _query(request: ListRequest, sort: Mapping[str, str]) -> dict[str, Any]:
    applied: dict[str, Any] = {}
    if request.q is not None:
        applied["q"] = request.q
    applied["filters"] = {"include_deleted": request.include_deleted, "only_deleted": request.only_deleted}
    dates: tuple[tuple[str, datetime | None], ...] = (("date_from", request.date_from), ("date_to", request.date_to))
    applied |= {name: date for name, date in dates if date is not None}
    return applied | {"sort": sort}


def _validator_headers(tag: str, link: str) -> tuple[Header, ...]:
    return (b"etag", tag.encode()), *([(b"link", link.encode())] if link else [])


def _content_headers(length: int | None, coding: ContentCoding | None) -> tuple[Header, ...]:
    """Return the body's headers; its length is unknown while it is compressed as it is sent."""
    known = [] if length is None else [(b"content-length", b"%d" % length)]
    applied = [] if coding is None else [(b"content-encoding", coding.encode())]
    return (b"content-type", b"application/json"), *known, *applied


def _start(response: RawResponse, added: tuple[Header, ...]) -> Any:  # noqa: ANN401 - Litestar's message types are narrower
    return {"type": "http.response.start", "status": response.status, "headers": [*response.headers, *added]}


def _body(body: bytes, *, more: bool) -> Any:  # noqa: ANN401 - the same
    return {"type": "http.response.body", "body": body, "more_body": more}


_json: Final = msgspec.json.Encoder().encode
_HEAD: Final = b'{"data":['
_ANY_CUSTOMER: Final = "00000000-0000-0000-0000-000000000000"
