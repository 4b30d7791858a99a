"""The composition root of a worker of the API: creates and connects its objects."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, NamedTuple

import structlog
from litestar import Litestar, Request, Response
from litestar.config.cors import CORSConfig
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from projections.errors import DatabaseNotMigrated
from projections.settings import Settings
from projections.store.database import (
    ANSWER_GRACE_S,
    CUSTOM_PLANS,
    GENERIC_PLANS,
    UNAVAILABLE,
    ReadPool,
    SessionPool,
    open_pool,
    open_session_pool,
)
from projections.store.membership_history import StreamReader
from projections.tracing import Tracing
from service import metrics, routes
from service.access_log import AccessLog
from service.auth import Authenticator
from service.cache import Cache
from service.card_fetcher import CardFetcher
from service.fast_path import FastPath
from service.free_memory import keep_returning
from service.freshness import Freshness, NotReady, ReadModelBehind
from service.identity import issuer_keys
from service.identity.refusals import IdentityProviderUnavailable, Refusal, ScopeMissing, Unauthenticated
from service.list_campaigns import ListCampaigns
from service.listing_endpoint import ListingEndpoint
from service.membership_history import MembershipHistory
from service.middleware import ResponseMiddleware
from service.operations.live_feed import LiveFeed
from service.operations.services import OperationsServices
from service.operations.statistics import ReadStatistics
from service.operations.stream_access import StreamAccess
from service.page_budget import PageBudget, PageMemoryBusy, PageTooLarge
from service.page_reader import PageReader
from service.paging import CursorAges
from service.problems import problem_response, request_id
from service.rate_limit import CallerLimits, RateLimited
from service.rate_limited_log import RateLimitedLog
from service.read_model import reads
from service.read_model.admission import RESERVED_CONNECTIONS, Admission
from service.read_model.liveness import PROBE_EVERY_S, Liveness
from service.read_model.query_batcher import GENERIC_PLAN_CONNECTIONS, QueryBatcher
from service.replicas.replica_set import ReplicaSet
from service.supervision import supervise
from service.workers.link import SupervisorLink

EXPOSED_HEADERS: Final = (
    "ETag",
    "Link",
    "Membership-Parked",
    "Membership-Position",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
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
OPERATIONS_CONNECTIONS: Final = 3
"""Connections to PostgreSQL for the operators' API of one worker, apart from those of readers."""
READINESS_EVERY_S: Final = 0.2
"""How often a worker that has just started tries to reach the read model."""
UNAVAILABLE_LOG: Final = RateLimitedLog("database_unavailable")
REFUSED_LOGS: Final = {refusal: RateLimitedLog("credentials_refused") for refusal in Refusal}
"""One for each reason, so that a flood of one does not hide another. Credentials themselves are never logged."""
NO_KEYS_LOG: Final = RateLimitedLog("token_not_checked")
"""Tokens that could not be checked, because the issuer's keys were never read."""

KEY_SET_UNAVAILABLE: Final = "key_set_unavailable"
# Each label exists from the start, so that a rate over it is defined before the first failure.
_FAILURES: Final = {
    reason: metrics.CREDENTIAL_FAILURES.labels(reason)
    for reason in (*(refusal.code for refusal in Refusal), KEY_SET_UNAVAILABLE)
}

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Application(NamedTuple):
    """The application of one worker, and what it needs while it serves."""

    asgi: ResponseMiddleware
    lifespan: Callable[[], AbstractAsyncContextManager[None]]


def create_app(
    settings: Settings,
    link: SupervisorLink | None = None,
    reader: StreamReader | None = None,
    tracing: Tracing | None = None,
) -> Application:
    """Return the application of one worker. It starts without a database and answers 503 until it has one.

    `reader` reads the stream for histories; without one, they are 503.
    """
    cache = Cache()
    keys = issuer_keys.from_settings(settings)
    cursor_ages = CursorAges(settings.cursor_age_max_s)
    fast_path = FastPath(cache, cursor_ages)
    fast_path.caller_limits = None if settings.rate_limit is None else CallerLimits(settings.rate_limit)
    metrics.CACHE_BYTES.set_function(lambda: cache.bytes_used)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        custom_plan_pool, generic_plan_pool = await _open_pools(settings)
        sessions = await _open_sessions(settings)
        freshness = Freshness(
            settings.database_url, custom_plan_pool, cache, follows_pointer=bool(settings.read_database_url)
        )
        await freshness.start()
        fast_path.admission = Admission(max(1, settings.database_connections_max - RESERVED_CONNECTIONS))
        fast_path.liveness = Liveness(settings.database_url, (custom_plan_pool, generic_plan_pool, sessions))
        probe = asyncio.create_task(supervise("probe", fast_path.liveness.probe, PROBE_EVERY_S), name="probe")
        batcher = QueryBatcher(custom_plan_pool, generic_plan_pool, fast_path.admission, settings.reads_waiting_max)
        fast_path.batcher = batcher
        replicas = await _open_replicas(settings, custom_plan_pool, freshness, cache, fast_path.admission)
        pages = PageReader(batcher, freshness, PageBudget(cache), cursor_ages, replicas)
        fetcher = CardFetcher(batcher, freshness, cache, replicas)
        authenticator = fast_path.authenticator = Authenticator(settings, custom_plan_pool, keys)
        background = [
            probe,
            asyncio.create_task(supervise("fetch cards", fetcher.run), name="fetch cards"),
            asyncio.create_task(supervise("record uses", authenticator.record_uses), name="record uses"),
            asyncio.create_task(supervise("free memory", keep_returning), name="free memory"),
            *([] if replicas is None else [asyncio.create_task(_fetch_signing_key(pages), name="fetch signing key")]),
        ]
        if keys.configured:
            background.append(asyncio.create_task(supervise("issuer keys", keys.keep_fresh), name="issuer keys"))
            await keys.wait_for_first_read()
        answer_within_s = settings.read_timeout_s + ANSWER_GRACE_S
        list_campaigns = ListCampaigns(
            authenticator,
            pages,
            cache,
            cursor_ages,
            search_length_max=settings.search_length_max,
            answer_within_s=answer_within_s,
            may_serve_cached=fast_path.liveness.is_answering,
        )
        membership_history = MembershipHistory(
            authenticator,
            custom_plan_pool,
            freshness,
            reader,
            signing_key=pages.signing_key,
            answer_within_s=answer_within_s,
        )
        app.state.services = routes.Services(list_campaigns, membership_history, freshness, link, replicas)
        app.state.operations = OperationsServices(
            authenticator=authenticator,
            database=sessions,
            freshness=freshness,
            stream=StreamAccess(reader),
            statistics=ReadStatistics(link),
            pages=pages,
            live=LiveFeed(),
            ending=middleware.ending,
            answer_within_s=answer_within_s,
        )
        middleware.listing = ListingEndpoint(list_campaigns, _EXCEPTIONS)
        if link:
            background.append(asyncio.create_task(_report(freshness, link), name="report readiness"))
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            await authenticator.write_uses()
            await keys.close()
            await freshness.stop()
            if replicas is not None:
                await replicas.close()
            if reader is not None:
                await reader.close()
            await custom_plan_pool.close()
            await generic_plan_pool.close()
            await sessions.close()

    app = Litestar(
        route_handlers=[*routes.HANDLERS, routes.OPERATIONS],
        lifespan=[lifespan],
        openapi_config=None,  # the contract file is served, not a document generated by the framework
        cors_config=_cors(settings),
        exception_handlers=_EXCEPTIONS,
    )

    middleware = ResponseMiddleware(
        app,
        fast_path,
        AccessLog(settings.access_log, tracing),
        query_bytes_max=settings.http_query_bytes_max,
        content_bytes_max=settings.http_content_bytes_max,
    )
    return Application(middleware, app.lifespan)


async def _open_pools(settings: Settings) -> tuple[ReadPool, ReadPool]:
    """Return the pool that plans each execution, and the one that plans a statement once."""
    connect_pool = partial(
        open_pool,
        settings.database_url,
        statement_timeout_s=settings.read_timeout_s,
        acquire_timeout_s=settings.database_acquire_timeout_s,
        name="membership-api",
    )
    custom_plan_pool = await connect_pool(
        connections_max=settings.database_connections_max,
        planner=CUSTOM_PLANS,
        waited=metrics.POOL_WAIT.labels("custom").observe,
    )
    generic_plan_pool = await connect_pool(
        connections_max=GENERIC_PLAN_CONNECTIONS,
        planner=GENERIC_PLANS,
        waited=metrics.POOL_WAIT.labels("generic").observe,
    )
    return custom_plan_pool, generic_plan_pool


async def _open_sessions(settings: Settings) -> SessionPool:
    return await open_session_pool(
        settings.database_url,
        connections_max=OPERATIONS_CONNECTIONS,
        statement_timeout_s=settings.read_timeout_s,
        acquire_timeout_s=settings.database_acquire_timeout_s,
        name="membership-api-operations",
    )


async def _open_replicas(
    settings: Settings, primary: ReadPool, freshness: Freshness, cache: Cache, admission: Admission
) -> ReplicaSet | None:
    """Return the configured replicas, watched; None if there are none."""
    if not settings.read_database_url:
        return None
    replicas = ReplicaSet(primary, freshness, cache, settings)
    await replicas.start(settings, admission)
    return replicas


async def _report(freshness: Freshness, link: SupervisorLink) -> None:
    """Tell the supervisor once this worker has reached the read model."""
    while True:
        with suppress(NotReady, DatabaseNotMigrated, *reads.GENERATION_GONE, *UNAVAILABLE):
            await freshness.refresh()
            link.ready()
            return
        await asyncio.sleep(READINESS_EVERY_S)


async def _fetch_signing_key(pages: PageReader) -> None:
    """Fetch the cursors' key from the primary before a page needs it, so that replicas can answer without it."""
    while True:
        with suppress(DatabaseNotMigrated, *reads.GENERATION_GONE, *UNAVAILABLE):
            await pages.signing_key()
            return
        await asyncio.sleep(READINESS_EVERY_S)


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
    def respond(_request: Request[Any, Any, Any], _problem: Exception) -> Response[bytes]:
        return problem_response(code)

    return respond


def _unauthenticated(_request: Request[Any, Any, Any], problem: Unauthenticated) -> Response[bytes]:
    """Give the reason, to the caller and in the log; without credentials there is none."""
    refusal = problem.refusal
    _FAILURES[refusal.code].inc()
    if refusal is not Refusal.NO_CREDENTIALS:
        REFUSED_LOGS[refusal].warning(reason=refusal.code, request_id=request_id.get())
    return problem_response("unauthenticated", {"WWW-Authenticate": problem.challenge}, detail=refusal.value)


def _scope_missing(_request: Request[Any, Any, Any], problem: ScopeMissing) -> Response[bytes]:
    return problem_response("insufficient_scope", {"WWW-Authenticate": problem.challenge})


def _no_keys(_request: Request[Any, Any, Any], _problem: Exception) -> Response[bytes]:
    _FAILURES[KEY_SET_UNAVAILABLE].inc()
    NO_KEYS_LOG.warning(request_id=request_id.get())
    return problem_response("identity_provider_unavailable")


def _rate_limited(_request: Request[Any, Any, Any], problem: RateLimited) -> Response[bytes]:
    return problem_response("rate_limited", {"Retry-After": str(problem.retry_after_s)})


def _unavailable(_request: Request[Any, Any, Any], problem: Exception) -> Response[bytes]:
    UNAVAILABLE_LOG.warning(problem=type(problem).__name__, detail=str(problem), request_id=request_id.get())
    return problem_response("database_unavailable")


def _method_not_allowed(_request: Request[Any, Any, Any], problem: MethodNotAllowedException) -> Response[bytes]:
    methods = [method.strip() for method in (problem.headers or {}).get("allow", "").split(",")]
    shown = [shown for method in methods for shown in (("GET", "HEAD") if method == "GET" else (method,))]
    allowed = [method for method in shown if method and method != "OPTIONS"]
    return problem_response("method_not_allowed", {"Allow": ", ".join(sorted(allowed))})


def _http_exception(request: Request[Any, Any, Any], problem: HTTPException) -> Response[bytes]:
    """Replace Litestar's own error responses, because they echo the request."""
    return _unhandled_exception(request, problem) if problem.status_code >= 500 else problem_response("bad_request")  # noqa: PLR2004


def _unhandled_exception(request: Request[Any, Any, Any], problem: Exception) -> Response[bytes]:
    log.error("unhandled_exception", path=request.scope["path"], exc_info=problem)
    return problem_response("internal_error")


_EXCEPTIONS: Final[dict[Any, Any]] = {
    Unauthenticated: _unauthenticated,
    ScopeMissing: _scope_missing,
    IdentityProviderUnavailable: _no_keys,
    RateLimited: _rate_limited,
    NotReady: _problem("not_ready"),
    DatabaseNotMigrated: _problem("not_ready"),
    ReadModelBehind: _problem("read_model_behind"),
    PageTooLarge: _problem("page_too_large"),
    PageMemoryBusy: _problem("page_memory_busy"),
    **dict.fromkeys(reads.GENERATION_GONE, _problem("not_ready")),
    **dict.fromkeys(UNAVAILABLE, _unavailable),
    NotFoundException: _problem("route_not_found"),
    MethodNotAllowedException: _method_not_allowed,
    HTTPException: _http_exception,
    Exception: _unhandled_exception,
}
