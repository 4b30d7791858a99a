"""Puts the service together: the composition root of an API process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import structlog
from litestar import Litestar, Request, Response
from litestar.config.cors import CORSConfig
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from projections.errors import DatabaseNotMigrated
from projections.settings import Settings
from projections.store.database import ANSWER_GRACE_S, CUSTOM_PLANS, GENERIC_PLANS, UNAVAILABLE, open_pool
from service import metrics, routes
from service.auth import Authenticator, Unauthenticated
from service.cache import Cache
from service.fast_path import FastPath
from service.freshness import Freshness, NotReady
from service.list_campaigns import ListCampaigns
from service.middleware import ResponseMiddleware
from service.page_budget import PageBudget, PageTooLarge
from service.page_reader import PageReader
from service.problems import problem_response, request_id
from service.rate_limited_log import RateLimitedLog
from service.read_model import reads
from service.read_model.admission import RESERVED_CONNECTIONS, Admission
from service.read_model.liveness import PROBE_EVERY_S, Liveness
from service.read_model.query_batcher import GENERIC_PLAN_CONNECTIONS, QueryBatcher
from service.supervision import supervise

EXPOSED_HEADERS: Final = (
    "ETag",
    "Link",
    "Membership-Parked",
    "Membership-Position",
    "Retry-After",
    "Server-Timing",
    "X-Request-ID",
)
REQUEST_HEADERS: Final = (
    "Authorization",
    "X-API-Key",
    "If-None-Match",
    "Membership-Min-Position",
    "Prefer",
    "X-Request-ID",
)
UNAVAILABLE_LOG: Final = RateLimitedLog("database_unavailable")

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def create_app(settings: Settings) -> ResponseMiddleware:
    """Return the ASGI application of one API process. It starts, and answers 503, while the database is away."""
    cache = Cache()
    hot = FastPath(cache)
    metrics.CACHE_BYTES.set_function(lambda: cache.bytes_used)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        to_postgres = partial(
            open_pool, settings.database_url, statement_timeout_s=settings.read_timeout_s, name="membership-api"
        )
        pool = await to_postgres(connections_max=settings.database_connections_max, planner=CUSTOM_PLANS)
        steady = await to_postgres(connections_max=GENERIC_PLAN_CONNECTIONS, planner=GENERIC_PLANS)
        freshness = Freshness(settings.database_url, pool, cache)
        await freshness.start()
        hot.admission = Admission(max(1, settings.database_connections_max - RESERVED_CONNECTIONS))
        hot.liveness = Liveness(settings.database_url, (pool, steady))
        probe = asyncio.create_task(supervise("probe", hot.liveness.probe, PROBE_EVERY_S), name="probe")
        pages = PageReader(QueryBatcher(pool, steady, hot.admission), freshness, PageBudget(cache))
        hot.authenticator = Authenticator(settings, pool)
        within_s = settings.read_timeout_s + ANSWER_GRACE_S
        list_campaigns = ListCampaigns(hot.authenticator, pages, cache, answer_within_s=within_s)
        app.state.services = routes.Services(list_campaigns, freshness)
        try:
            yield
        finally:
            probe.cancel()
            await freshness.stop()
            await pool.close()
            await steady.close()

    app = Litestar(
        route_handlers=list(routes.HANDLERS),
        lifespan=[lifespan],
        openapi_config=None,  # the contract is served as it was written, not as a framework would generate it
        cors_config=_cors(settings),
        exception_handlers=_EXCEPTIONS,
    )

    return ResponseMiddleware(app, hot)


def _cors(settings: Settings) -> CORSConfig | None:
    if not settings.cors_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "HEAD"],
        allow_headers=list(REQUEST_HEADERS),
        expose_headers=list(EXPOSED_HEADERS),
    )


def _problem(code: str) -> Any:  # noqa: ANN401 - Litestar's handler type is wider than a handler
    def answer(_request: Request[Any, Any, Any], _problem: Exception) -> Response[bytes]:
        return problem_response(code)

    return answer


def _unavailable(_request: Request[Any, Any, Any], problem: Exception) -> Response[bytes]:
    UNAVAILABLE_LOG.warning(problem=type(problem).__name__, detail=str(problem), request_id=request_id.get())
    return problem_response("database_unavailable")


def _http_exception(request: Request[Any, Any, Any], problem: HTTPException) -> Response[bytes]:
    """Litestar's own refusals echo the request; ours say the same without."""
    return _unhandled_exception(request, problem) if problem.status_code >= 500 else problem_response("bad_request")  # noqa: PLR2004


def _unhandled_exception(request: Request[Any, Any, Any], problem: Exception) -> Response[bytes]:
    log.error("unforeseen", path=request.scope["path"], exc_info=problem)
    return problem_response("internal_error")


_EXCEPTIONS: Final[dict[Any, Any]] = {
    Unauthenticated: _problem("unauthenticated"),
    NotReady: _problem("not_ready"),
    DatabaseNotMigrated: _problem("not_ready"),
    PageTooLarge: _problem("page_too_large"),
    **dict.fromkeys(reads.GENERATION_GONE, _problem("not_ready")),
    **dict.fromkeys(UNAVAILABLE, _unavailable),
    NotFoundException: _problem("route_not_found"),
    MethodNotAllowedException: _problem("method_not_allowed"),
    HTTPException: _http_exception,
    Exception: _unhandled_exception,
}
