"""The routes: each translates between Litestar and the object that does the work."""

import mimetypes
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST

from projections.model import asyncapi, event_schemas
from projections.store.database import UNAVAILABLE
from service import console, docs_document, events_page, metrics, openapi
from service.freshness import Freshness
from service.list_campaigns import ListCall, ListCampaigns
from service.membership_history import HistoryCall, MembershipHistory
from service.operations import http
from service.operations.endpoints import ENDPOINTS
from service.problems import problem_response
from service.replicas.replica_set import ReplicaSet
from service.representation import RawResponse
from service.workers.link import SupervisorLink


class Services(Struct, frozen=True):
    """The objects that handlers use; the application creates one of each per process."""

    list_campaigns: ListCampaigns
    membership_history: MembershipHistory
    freshness: Freshness
    link: SupervisorLink | None
    """None in a process without supervisor."""
    replicas: ReplicaSet | None = None
    """None if none are configured."""


STATIC: Final = Path(__file__).parent / "static"
ASSETS: Final = {
    path.relative_to(STATIC).as_posix(): path
    for path in STATIC.rglob("*")
    if path.is_file() and console.FOLDER not in path.parents
}
"""The files of /docs."""
DOCS_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"
}

AnyRequest = Request[Any, Any, Any]


@get("/customers/{customer_id:str}/campaigns")
async def list_customer_campaigns(request: AnyRequest, customer_id: FromPath[str]) -> RawResponse:
    """List the campaigns that a customer is in."""
    services: Services = request.app.state.services
    headers, scope = request.headers, request.scope
    call = ListCall(
        customer_id=customer_id,
        path=scope["path"],
        query=scope["query_string"],
        authorization=headers.getall("authorization", []),
        api_key=headers.getall("x-api-key", []),
        min_position=_joined(headers.getall("membership-min-position", [])),
        prefer=headers.getall("prefer", []),
        if_none_match=",".join(headers.getall("if-none-match", [])),
        accept_encoding=",".join(headers.getall("accept-encoding", [])),
    )
    return await services.list_campaigns.respond(call)


@get("/customers/{customer_id:str}/campaigns/{campaign_id:str}/history")
async def explain_membership(
    request: AnyRequest, customer_id: FromPath[str], campaign_id: FromPath[str]
) -> RawResponse:
    """Explain why a customer is, or is not, shown in a campaign, by its events."""
    services: Services = request.app.state.services
    headers = request.headers
    call = HistoryCall(
        customer_id=customer_id,
        campaign_id=campaign_id,
        query=request.scope["query_string"],
        authorization=headers.getall("authorization", []),
        api_key=headers.getall("x-api-key", []),
        min_position=_joined(headers.getall("membership-min-position", [])),
        prefer=headers.getall("prefer", []),
        if_none_match=",".join(headers.getall("if-none-match", [])),
        accept_encoding=",".join(headers.getall("accept-encoding", [])),
    )
    return await services.membership_history.respond(call)


def _joined(values: list[str]) -> str | None:
    """Return the fields of one name as a list (RFC 9110, 5.3), so that two positions are not an integer."""
    return ", ".join(values) if values else None


@get("/health/live")
async def live() -> dict[str, str]:
    """Report that the process runs; checks nothing else."""
    return {"status": "live"}


@get("/health/ready")
async def ready(request: AnyRequest) -> Response[Any]:
    """Report whether reads can be answered: the database responds and the read model has caught up once.

    While the primary does not respond, a replica in use is enough.
    """
    services: Services = request.app.state.services
    try:
        live_position = await services.freshness.refresh()
    except UNAVAILABLE:
        replica = services.replicas.furthest() if services.replicas else None
        if replica is None:
            raise
        return Response({"status": "ready", "generation": replica.generation, "position": replica.position})
    if not live_position.caught_up:
        return problem_response("not_ready")
    return Response({"status": "ready", "generation": live_position.generation, "position": live_position.position})


@get("/metrics")
async def prometheus(request: AnyRequest) -> Response[bytes]:
    """Expose the metrics of all workers in Prometheus' text format."""
    services: Services = request.app.state.services
    collected = await services.link.scrape() if services.link else metrics.snapshot()
    return Response(metrics.exposition(collected), headers={"Content-Type": CONTENT_TYPE_LATEST})


@get("/openapi.json")
async def contract() -> Response[bytes]:
    """Serve the contract with this service's additions."""
    return Response(openapi.document(), media_type="application/json")


@get("/docs")
async def docs() -> Response[bytes]:
    """Serve the interactive documentation, which loads nothing from other hosts."""
    return Response((STATIC / "docs.html").read_bytes(), headers=DOCS_HEADERS, media_type="text/html")


@get("/docs/openapi.json")
async def docs_contract() -> Response[bytes]:
    """Serve the contract with short names and an example, for the page and for generators of clients."""
    return Response(docs_document.document(), media_type="application/json")


@get("/docs/events")
async def events() -> Response[bytes]:
    """Serve the contract of the events as a page."""
    return Response(events_page.page(), headers=DOCS_HEADERS, media_type="text/html")


@get("/asyncapi.json")
async def event_contract() -> Response[bytes]:
    """Serve the contract of the events as AsyncAPI 3."""
    return Response(asyncapi.document(), media_type="application/json")


@get("/schemas/{event_type:str}")
async def event_schema(event_type: FromPath[str]) -> Response[Any]:
    """Serve the JSON Schema of one event type."""
    if event_type not in event_schemas.data_types():
        return problem_response("route_not_found")
    return Response(msgspec.json.encode(event_schemas.schema_of(event_type)), media_type="application/schema+json")


@get("/docs/assets/{name:path}")
async def asset(name: FromPath[str]) -> Response[bytes]:
    """Serve a file of the documentation page from a fixed list, so that no caller's path reaches the disk."""
    path = ASSETS.get(name.lstrip("/"))
    if path is None:
        return problem_response("route_not_found")
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Response(path.read_bytes(), media_type=media_type)


HANDLERS: Final = (
    list_customer_campaigns,
    explain_membership,
    live,
    ready,
    prometheus,
    contract,
    event_contract,
    event_schema,
    docs,
    docs_contract,
    events,
    asset,
    *console.HANDLERS,
)
OPERATIONS: Final = http.router(ENDPOINTS)
