"""The read side as most teams would build it, well tuned: FastAPI, SQLAlchemy 2 and pydantic 2, normalised tables.

Started as `python -m benchmarks.peers.fastapi_app --port N --database-url URL --jwt-secret S [--workers N]`.
A request is one statement, built once per shape and then prepared per connection; pydantic's core turns rows into the
response model and JSON.
"""

import argparse
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time
from functools import cache
from typing import Annotated, Any, Final, Literal, NamedTuple
from uuid import UUID

import jwt
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
)

from benchmarks.peers.shapes import CampaignCallWindow, CampaignGoalSpec, CampaignStageOut, Channel, Status
from benchmarks.peers.tables import COUNTERS, STATUS_ORDER, campaign, campaign_target, counters, customer, engine
from projections.model.search_key import search_key

CONNECTIONS: Final = 10
INT64_MAX: Final = 2**63 - 1

Direction = Literal["asc", "desc"]
SortField = Literal[
    "enrolled_at",
    "name",
    "status",
    "created_at",
    "progress",
    "contacts_total",
    "contacts_contacted",
    "contacts_remaining",
    "contacts_to_recall",
    "contacts_failed",
    "contacts_succeeded",
]


# --- Response models -------------------------------------------------------------------------------------------------


class CampaignListItemOut(BaseModel):
    """One campaign of the customer."""

    id: UUID
    name: str
    status: Status
    agent_id: UUID
    agent_name: str | None = None
    phone_number_id: UUID | None = None
    phone_number: str | None = None
    whatsapp_channel_id: UUID | None = None
    goal: str | None = None
    goal_spec: CampaignGoalSpec | None = None
    first_contact_channel: Channel
    call_opening_message: str | None = None
    whatsapp_first_message: str | None = None
    whatsapp_after_attempts: int
    call_attempt_delays: list[int] | None = None
    call_working_hours: CampaignCallWindow | None = None
    contacts_total: int = 0
    contacts_contacted: int = 0
    contacts_remaining: int = 0
    contacts_to_recall: int = 0
    contacts_failed: int = 0
    contacts_succeeded: int = 0
    progress: float = 0
    stages: list[CampaignStageOut] | None = None


class SortOut(BaseModel):
    """The order that was applied."""

    field: str
    direction: Direction


class MetaOut(BaseModel):
    """Total and position of the page."""

    total: int
    limit: int
    offset: int
    sort: SortOut


class FiltersOut(BaseModel):
    """The deletion flags of the request."""

    include_deleted: bool
    only_deleted: bool


class QueryOut(BaseModel):
    """The request's parameters."""

    q: str | None = None
    filters: FiltersOut
    date_from: datetime | None = None
    date_to: datetime | None = None
    sort: SortOut


class AggregationsOut(BaseModel):
    """The requested counts."""

    quick_filters: dict[str, int]
    extra: dict[str, int]


class CampaignPage(BaseModel):
    """The response body."""

    data: list[CampaignListItemOut]
    meta: MetaOut
    query: QueryOut
    aggregations: AggregationsOut | None = None


# --- Request parameters ----------------------------------------------------------------------------------------------


def _first_instant(text: str) -> datetime | str:
    return _instant(text, time.min)


def _last_instant(text: str) -> datetime | str:
    return _instant(text, time.max)


def _instant(text: str, of_day: time) -> datetime | str:
    """Parse a date without time; leave everything else to pydantic."""
    try:
        return datetime.combine(date.fromisoformat(text), of_day, UTC)
    except ValueError:
        return text


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _trimmed(text: str) -> str | None:
    return text.strip() or None


class ListQuery(BaseModel):
    """The parameters of the query string."""

    include_deleted: bool = False
    only_deleted: bool = False
    limit: int = Field(10, ge=1, le=200)
    offset: int = Field(0, ge=0, le=INT64_MAX)
    q: Annotated[str, AfterValidator(_trimmed)] | None = None
    sort_field: SortField = "enrolled_at"
    sort_dir: Direction = "desc"
    include_aggregations: bool = False
    date_from: Annotated[datetime, AfterValidator(_in_utc), BeforeValidator(_first_instant)] | None = None
    date_to: Annotated[datetime, AfterValidator(_in_utc), BeforeValidator(_last_instant)] | None = None


_bearer: Final = HTTPBearer()


async def admin(request: Request, credentials: Annotated[HTTPAuthorizationCredentials, Depends(_bearer)]) -> None:
    """Accept admins only."""
    try:
        claims = jwt.decode(
            credentials.credentials,
            request.app.state.jwt_secret,
            algorithms=["HS256"],
            options={"require": ["exp", "sub"], "verify_iat": False},
        )
    except jwt.InvalidTokenError as problem:
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"}) from problem
    if claims.get("role") != "admin" and "admin" not in claims.get("roles", ()):
        raise HTTPException(403)


# --- Statements ------------------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """Everything that determines the text of a statement; values are bound."""

    deletion: bool | None
    """True: only deleted, False: only others, None: both."""
    q: bool
    date_from: bool
    date_to: bool
    aggregations: bool
    sort_field: SortField
    direction: Direction

    @classmethod
    def of(cls, query: ListQuery) -> "Shape":
        """Return the shape of a request."""
        return cls(
            deletion=True if query.only_deleted else None if query.include_deleted else False,
            q=query.q is not None,
            date_from=query.date_from is not None,
            date_to=query.date_to is not None,
            aggregations=query.include_aggregations,
            sort_field=query.sort_field,
            direction=query.sort_dir,
        )


_ZERO: Final = literal_column("0")
"""A literal, so that only the request's values are sent as parameters."""
_DELETED: Final[ColumnElement[bool]] = or_(not_(campaign_target.c.present), campaign.c.deleted)
_TARGETS: Final = campaign_target.join(campaign, campaign.c.campaign_id == campaign_target.c.campaign_id)
_SORT_KEYS: Final[dict[str, ColumnElement[Any]]] = {
    "enrolled_at": campaign_target.c.enrolled_at,
    "name": campaign.c.name_key,
    "status": campaign.c.status,
    "created_at": campaign.c.created_at,
    "progress": func.coalesce(counters.c.progress, _ZERO),
    **{name: func.coalesce(counters.c[name], _ZERO) for name in COUNTERS},
}
_RANKED: Final = tuple(enumerate(STATUS_ORDER))
_ITEM: Final = (
    campaign.c.campaign_id.label("id"),
    campaign.c.name,
    case(
        *((campaign.c.status == literal_column(f"{rank}"), literal_column(f"'{name}'")) for rank, name in _RANKED)
    ).label("status"),
    campaign.c.agent_id,
    campaign.c.agent_name,
    campaign.c.phone_number_id,
    campaign.c.phone_number,
    campaign.c.whatsapp_channel_id,
    campaign.c.goal,
    campaign.c.goal_spec,
    campaign.c.first_contact_channel,
    campaign.c.call_opening_message,
    campaign.c.whatsapp_first_message,
    campaign.c.whatsapp_after_attempts,
    campaign.c.call_attempt_delays,
    campaign.c.call_working_hours,
    campaign.c.stages,
    *(func.coalesce(counters.c[name], _ZERO).label(name) for name in (*COUNTERS, "progress")),
)
_ITEM_FIELDS: Final = tuple(column.key for column in _ITEM)


def _matching(shape: Shape) -> Sequence[ColumnElement[bool]]:
    """Return the conditions except for deletion."""
    conditions: list[ColumnElement[bool]] = [
        campaign_target.c.customer_id == bindparam("customer_id"),
        campaign_target.c.enrolled_at.is_not(None),
        campaign.c.definition_version > _ZERO,
    ]
    if shape.q:
        keys = (campaign.c.name_key, campaign.c.goal_key, campaign.c.agent_name_key)
        conditions.append(or_(*(func.strpos(key, bindparam("q")) > _ZERO for key in keys)))
    if shape.date_from:
        conditions.append(campaign_target.c.enrolled_at >= bindparam("date_from"))
    if shape.date_to:
        conditions.append(campaign_target.c.enrolled_at <= bindparam("date_to"))
    return conditions


def _deletion(shape: Shape) -> Sequence[ColumnElement[bool]]:
    if shape.deletion is None:
        return ()
    return (_DELETED,) if shape.deletion else (campaign_target.c.present, not_(campaign.c.deleted))


@cache
def page_statement(shape: Shape) -> Select[Any]:
    """Return the statement for a whole answer: customer, counts and items in one row each; no row without a customer.

    An empty page of an existing customer is one row without an item.
    """
    counts = _counts(shape).subquery("counts")
    page = _page(shape).subquery("page")
    shown = page.join(campaign, campaign.c.campaign_id == page.c.campaign_id).outerjoin(
        counters, counters.c.campaign_id == page.c.campaign_id
    )
    return (
        select(customer.c.deleted.label("customer_deleted"), *counts.c, *_ITEM)
        .select_from(customer.join(counts, true()).outerjoin(shown, true()))
        .where(customer.c.customer_id == bindparam("customer_id"))
        .order_by(*_order(shape, page.c.sort_key, page.c.campaign_id))
    )


def _counts(shape: Shape) -> Select[Any]:
    counts = select().select_from(_TARGETS)
    if not shape.aggregations:
        return counts.add_columns(func.count().label("total")).where(*_matching(shape), *_deletion(shape))
    matching_deletion = and_(true(), *_deletion(shape))
    of_status = {name: campaign.c.status == literal_column(f"{rank}") for rank, name in _RANKED}
    return counts.add_columns(
        func.count().filter(matching_deletion).label("total"),
        *(func.count().filter(and_(matching_deletion, of_status[name])).label(name) for name in STATUS_ORDER),
        func.count().filter(_DELETED).label("all_deleted"),
    ).where(*_matching(shape))


def _page(shape: Shape) -> Select[Any]:
    """Return the campaigns on the page; however deep it is, skipped rows are read from indexes only."""
    key = _SORT_KEYS[shape.sort_field]
    by_counters = shape.sort_field == "progress" or shape.sort_field in COUNTERS
    joined = _TARGETS.outerjoin(counters, counters.c.campaign_id == campaign.c.campaign_id) if by_counters else _TARGETS
    return (
        select(campaign_target.c.campaign_id, key.label("sort_key"))
        .select_from(joined)
        .where(*_matching(shape), *_deletion(shape))
        .order_by(*_order(shape, key, campaign_target.c.campaign_id))
        .limit(bindparam("page_limit", type_=BigInteger))
        .offset(bindparam("page_offset", type_=BigInteger))
    )


def _order(shape: Shape, key: ColumnElement[Any], campaign_id: ColumnElement[UUID]) -> Sequence[ColumnElement[Any]]:
    ordered = key.desc() if shape.direction == "desc" else key.asc()
    # NULLS LAST only for the column that has nulls, so that plain indexes serve the other orders.
    return ordered.nulls_last() if shape.sort_field == "created_at" else ordered, campaign_id


# --- The application -------------------------------------------------------------------------------------------------


async def list_customer_campaigns(
    request: Request, customer_id: Annotated[UUID, Path()], query: Annotated[ListQuery, Query()]
) -> Any:  # noqa: ANN401 - rows, which the response model reads
    """List the campaigns of a customer; the response model reads the rows directly."""
    shape = Shape.of(query)
    page = {"customer_id": customer_id, "page_limit": query.limit, "page_offset": query.offset}
    filters = {"q": query.q and search_key(query.q), "date_from": query.date_from, "date_to": query.date_to}
    bound = page | {name: value for name, value in filters.items() if value is not None}
    async with request.app.state.engine.connect() as connection:
        rows = (await connection.execute(page_statement(shape), bound)).all()
    if not rows or (rows[0].customer_deleted and shape.deletion is False):
        raise HTTPException(404)
    first = rows[0]
    items = (
        () if first.id is None else [dict(zip(_ITEM_FIELDS, row[-len(_ITEM_FIELDS) :], strict=True)) for row in rows]
    )
    sort = {"field": query.sort_field, "direction": query.sort_dir}
    answer: dict[str, Any] = {
        "data": items,
        "meta": {"total": first.total, "limit": query.limit, "offset": query.offset, "sort": sort},
        "query": {
            "q": query.q,
            "filters": {"include_deleted": query.include_deleted, "only_deleted": query.only_deleted},
            "date_from": query.date_from,
            "date_to": query.date_to,
            "sort": sort,
        },
    }
    if query.include_aggregations:
        by_status = {name: getattr(first, name) for name in STATUS_ORDER}
        answer["aggregations"] = {
            "quick_filters": {"all": first.total} | by_status,
            "extra": {"deleted": first.all_deleted},
        }
    return answer


@asynccontextmanager
async def _engine(app: FastAPI) -> AsyncIterator[None]:
    app.state.engine = engine(
        os.environ["PEER_DATABASE_URL"],
        CONNECTIONS,
        # Customers with ten and with thousands of memberships need different plans; planning each time costs less.
        plan_cache_mode="force_custom_plan",
    )
    yield
    await app.state.engine.dispose()


def create_app() -> FastAPI:
    """Create the application, configured by PEER_DATABASE_URL and PEER_JWT_SECRET."""
    app = FastAPI(title="Peer", lifespan=_engine)
    app.state.jwt_secret = os.environ["PEER_JWT_SECRET"]
    app.add_api_route(
        "/customers/{customer_id}/campaigns",
        list_customer_campaigns,
        methods=["GET"],
        dependencies=[Depends(admin)],
        response_model=CampaignPage,
        response_model_exclude_none=True,
    )
    return app


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.fastapi_app", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database-url", default=os.environ.get("PEER_DATABASE_URL"), help="or PEER_DATABASE_URL")
    parser.add_argument("--jwt-secret", default=os.environ.get("PEER_JWT_SECRET"), help="or PEER_JWT_SECRET")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    if not arguments.database_url or not arguments.jwt_secret:
        parser.error("--database-url and --jwt-secret are required")
    # Workers are separate processes, configured through the environment.
    os.environ |= {"PEER_DATABASE_URL": arguments.database_url, "PEER_JWT_SECRET": arguments.jwt_secret}
    uvicorn.run(
        "benchmarks.peers.fastapi_app:create_app",
        factory=True,
        host="127.0.0.1",
        port=arguments.port,
        workers=arguments.workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
