"""The handlers, thin: credentials and parameters in, an outcome of the room behind, its headers out."""

import asyncio
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, assert_never

from litestar import Request, Response, get
from litestar.params import FromPath
from litestar.status_codes import HTTP_304_NOT_MODIFIED
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service import answers, listing, metrics, openapi, paging
from service.admission import caller
from service.auth import Authenticator
from service.cache import Cache, Key
from service.freshness import Freshness
from service.listing import CampaignLists, Listing, NoCustomer, NotReached
from service.page_budget import Reservation
from service.paging import Cursor
from service.parameters import ListRequest, Pair, Violation, parse, query_pairs
from service.problems import refusal, refuse, unprocessable
from service.replies import Answer, Header, LargeReply, Reply, reply, standing


class Rooms(Struct, frozen=True):
    """What the handlers work with; made by the application, one of each for a process."""

    authenticator: Authenticator
    freshness: Freshness
    lists: CampaignLists
    cache: Cache
    answer_within_s: float
    """From a request's arrival to its answer; a wait that the caller asked for comes on top."""


STATIC: Final = Path(__file__).parent / "static"
ASSETS: Final = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}
DOCS_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"
}

AnyRequest = Request[Any, Any, Any]

TAMPERED_CURSOR: Final = Violation(
    ("query", "cursor"), "Value error, this is not a cursor of this service; start without one", "value_error"
)


@get("/customers/{customer_id:str}/campaigns")
async def list_customer_campaigns(request: AnyRequest, customer_id: FromPath[str]) -> Reply:
    """Answer which campaigns a customer is in."""
    rooms: Rooms = request.app.state.rooms
    # Whatever a request has to queue for, it fails together with all that wait for the same silent database.
    async with asyncio.timeout(rooms.answer_within_s) as limit:
        return await _listed(rooms, request, customer_id, limit)


async def _listed(rooms: Rooms, request: AnyRequest, customer_id: str, limit: asyncio.Timeout) -> Reply:
    headers = request.headers
    principal = await rooms.authenticator.principal(
        headers.getall("authorization", []), headers.getall("x-api-key", [])
    )
    caller.set(principal.user_id)
    pairs = query_pairs(request.scope["query_string"])
    parsed, cursor = await _parsed(rooms, customer_id, pairs, headers.get("membership-min-position"))
    if not isinstance(parsed, ListRequest):
        return unprocessable(parsed)
    before = rooms.cache.before_reading()
    outcome = await rooms.lists.answer(parsed, principal, cursor, headers.getall("prefer", []), limit)
    match outcome:
        case Listing():
            links = paging.links(pairs, parsed, outcome.total, outcome.next_cursor)
            if outcome.reservation is not None:
                return await _large(request, outcome, links, outcome.reservation)
            answer = await _represented(request, outcome, links)
            if listing.depends_on_its_page_only(parsed):
                key = Key(principal.scope, request.scope["path"], request.scope["query_string"], _accepts_gzip(request))
                rooms.cache.remember(key, answer, listing.tags(parsed, outcome), before)
            return reply(answer, answer.position, _held(request), outcome.parked)
        case NoCustomer(position, parked):
            return refusal("customer_not_found", *standing(position, parked))
        case NotReached():
            return refusal("position_not_reached")
        case Violation():
            return unprocessable([outcome])
        case _:
            assert_never(outcome)


async def _parsed(
    rooms: Rooms, customer_id: str, pairs: list[Pair], min_position: str | None
) -> tuple[ListRequest | Sequence[Violation], Cursor | None]:
    """Read the parameters; a cursor that this service did not write is reported with all other violations."""
    parsed = parse(customer_id, pairs, min_position)
    given = dict(pairs).get("cursor")
    if given is None:
        return parsed, None
    cursor = await rooms.lists.cursor(given)
    if cursor is None:
        others = [] if isinstance(parsed, ListRequest) else [each for each in parsed if each.loc != TAMPERED_CURSOR.loc]
        return [*others, TAMPERED_CURSOR], None
    return parsed, cursor


def _accepts_gzip(request: AnyRequest) -> bool:
    return answers.accepts_gzip(",".join(request.headers.getall("accept-encoding", [])))


async def _represented(request: AnyRequest, found: Listing, link: str) -> Answer:
    """Choose the representation."""
    body = b"".join(found.body)
    gzip = len(body) >= answers.COMPRESS_BYTES_MIN and _accepts_gzip(request)
    tag = answers.entity_tag([body], compressed=gzip)
    body = await answers.compress(body) if gzip else body
    return Answer(body, tag, found.position, _described(tag, link), _content(len(body), gzip=gzip))


async def _large(request: AnyRequest, found: Listing, link: str, reservation: Reservation) -> Reply:
    """Return the reply of a large page, which is never put together in memory and never remembered."""
    gzip = _accepts_gzip(request)
    try:
        tag = await asyncio.to_thread(answers.entity_tag, found.body, compressed=gzip)
    except BaseException:
        reservation.release()
        raise
    length = None if gzip else sum(map(len, found.body))
    answer = Answer(b"", tag, found.position, _described(tag, link), _content(length, gzip=gzip))
    small = reply(answer, found.position, _held(request), found.parked)
    if small.status == HTTP_304_NOT_MODIFIED:
        reservation.release()
        return small
    return LargeReply(small.status, small.headers, b"", found.body, gzip, reservation.release)


def _described(tag: str, link: str) -> tuple[Header, ...]:
    return (b"etag", tag.encode()), *([(b"link", link.encode())] if link else [])


def _content(length: int | None, *, gzip: bool) -> tuple[Header, ...]:
    """Return the headers of a body; its length is unknown while it is compressed as it is sent."""
    known = [] if length is None else [(b"content-length", b"%d" % length)]
    return (b"content-type", b"application/json"), *known, *([(b"content-encoding", b"gzip")] if gzip else [])


def _held(request: AnyRequest) -> str:
    return ",".join(request.headers.getall("if-none-match", []))


@get("/health/live")
async def live() -> dict[str, str]:
    """Say that the process runs; asks nothing of anyone."""
    return {"status": "live"}


@get("/health/ready")
async def ready(request: AnyRequest) -> Response[Any]:
    """Say whether reads are answered: the database is there and the model was complete once."""
    rooms: Rooms = request.app.state.rooms
    found = await rooms.freshness.refresh()
    if not found.caught_up:
        return refuse("not_ready")
    return Response({"status": "ready", "generation": found.generation, "position": found.position})


@get("/metrics")
async def prometheus() -> Response[bytes]:
    """Expose this process's metrics in Prometheus' text form."""
    return Response(generate_latest(metrics.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})


@get("/openapi.json")
async def contract() -> Response[bytes]:
    """Serve the contract, with our additive extensions."""
    return Response(openapi.document(), media_type="application/json")


@get("/docs")
async def docs() -> Response[bytes]:
    """Serve the interactive documentation, which needs nothing from the network."""
    return Response((STATIC / "docs.html").read_bytes(), headers=DOCS_HEADERS, media_type="text/html")


@get("/docs/assets/{name:path}")
async def asset(name: FromPath[str]) -> Response[bytes]:
    """Serve a file of the documentation page, from a fixed list: no path of a caller's reaches the disk."""
    path = ASSETS.get(name.lstrip("/"))
    if path is None:
        return refuse("route_not_found")
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Response(path.read_bytes(), media_type=media_type)


HANDLERS: Final = (list_customer_campaigns, live, ready, prometheus, contract, docs, asset)
