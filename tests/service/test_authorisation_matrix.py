"""Every route for every kind of caller: a route that is not in the matrix fails the test.

A new route gets a row in MATRIX, and a path in PATHS.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final, cast

import httpx
import pytest
from litestar import Litestar

from ops.token import sign
from projections import api_keys
from projections.api_keys import Scope
from projections.settings import IDENTITY, load
from projections.store import database as databases
from service.app import create_app
from service.operations.endpoint import PREFIX
from service.operations.endpoints import ENDPOINTS
from tests.support.builders import campaign_id, customer_id, owner_id, published
from tests.support.processes import JWT_SECRET, System

Access = Mapping[str, int]
"""Kind of caller → status."""
OWNER, OTHER, ADMIN = 1, 2, 3
CUSTOMER, CAMPAIGN = 1, 1
HOUR_S = 3600

OWNED: Final[Access] = {
    "no credentials": 401,
    "malformed token": 401,
    "token of another secret": 401,
    "expired token": 401,
    "owner": 200,
    "another user": 404,
    "admin": 200,
    "key to read": 200,
    "key to read and operate": 200,
    "key to operate": 403,
    "another user's key": 404,
    "admin's key": 200,
    "revoked key": 401,
    "expired key": 401,
    "mistyped key": 401,
    "token and key of the owner": 200,
    "token and key to operate": 403,
    "token and key of two users": 401,
    "token and revoked key": 401,
}
"""What belongs to one owner."""
PUBLIC: Final[Access] = dict.fromkeys(OWNED, 200)
PREFLIGHT: Final[Access] = dict.fromkeys(OWNED, 204)
"""OPTIONS, which only lists methods."""

OPERATED: Final[Access] = (
    dict.fromkeys(OWNED, 403)
    | {kind: status for kind, status in OWNED.items() if status == 401}
    | dict.fromkeys(("admin", "key to read and operate", "key to operate"), 200)
)
"""What operators see, whoever owns it."""

MISSING: Final[Access] = {kind: 404 if status == 200 else status for kind, status in OPERATED.items()}
"""What does not exist: only operators learn it."""
UNMEASURED: Final[Access] = {kind: 503 if status == 200 else status for kind, status in OPERATED.items()}
"""What only a job runner knows, and none runs."""

LISTING: Final = "/customers/{customer_id:str}/campaigns"
HISTORY: Final = "/customers/{customer_id:str}/campaigns/{campaign_id:str}/history"
LIVE: Final = "/ops/live"
JOB: Final = "/ops/jobs/{job_id:str}"
PARKED: Final = "/ops/parked/{position:str}"
PLAN: Final = "/ops/plans/{plan_id:str}"
PLAN_RUN: Final = "/ops/plans/{plan_id:str}/run"
MATRIX: Final[dict[str, Access]] = {
    LISTING: OWNED,
    HISTORY: OWNED,
    "/health/live": PUBLIC,
    "/health/ready": PUBLIC,
    "/metrics": PUBLIC,
    "/openapi.json": PUBLIC,
    "/asyncapi.json": PUBLIC,
    "/schemas/{event_type:str}": PUBLIC,
    "/docs": PUBLIC,
    "/docs/openapi.json": PUBLIC,
    "/docs/events": PUBLIC,
    "/docs/assets/{name:path}": PUBLIC,
    "/console": PUBLIC,
    "/console/assets/{name:path}": PUBLIC,
    **dict.fromkeys((PREFIX + re.sub(r"\}", ":str}", endpoint.path) for endpoint in ENDPOINTS), OPERATED),
    JOB: MISSING,
    PARKED: MISSING,
    "/ops/stream": UNMEASURED,
    PLAN: MISSING,
    PLAN_RUN: dict.fromkeys(OWNED, 405),
}
WRITES: Final[dict[str, Access]] = {
    "/ops/plans": {kind: 422 if status == 200 else status for kind, status in OPERATED.items()},
    PLAN_RUN: MISSING,
}
"""The paths that have a POST; the content is an action that does not exist, or runs a plan that does not."""
PATHS: Final = {
    LISTING: f"/customers/{customer_id(CUSTOMER)}/campaigns",
    HISTORY: f"/customers/{customer_id(CUSTOMER)}/campaigns/{campaign_id(CAMPAIGN)}/history",
    "/schemas/{event_type:str}": "/schemas/target.enrolled.v1",
    "/docs/assets/{name:path}": "/docs/assets/docs.js",
    "/console/assets/{name:path}": "/console/assets/main.js",
    JOB: "/ops/jobs/1",
    PARKED: "/ops/parked/1",
    "/ops/customers/{customer_id:str}": f"/ops/customers/{customer_id(CUSTOMER)}",
    "/ops/campaigns/{campaign_id:str}": f"/ops/campaigns/{campaign_id(CAMPAIGN)}",
    "/ops/campaigns/{campaign_id:str}/members": f"/ops/campaigns/{campaign_id(CAMPAIGN)}/members",
    PLAN: f"/ops/plans/{customer_id(CUSTOMER)}",
    PLAN_RUN: f"/ops/plans/{customer_id(CUSTOMER)}/run",
}
"""A path of each route that has parameters."""


def routes() -> dict[str, set[str]]:
    """Return the methods of each path, from the application's own routing table."""
    environment = {"MEMBERSHIP_DATABASE_URL": "postgresql://nowhere/x", "MEMBERSHIP_JWT_SECRET": JWT_SECRET}
    app = cast("Litestar", create_app(load({"database_url", IDENTITY}, environment)).asgi._app)
    return {route.path_format: set(getattr(route, "methods", ())) for route in app.routes}


def test_every_route_is_in_the_matrix_and_only_operators_write() -> None:
    found = routes()
    assert found.keys() == {_format(path) for path in MATRIX}
    public = [methods for path, methods in found.items() if not path.startswith("/ops/")]
    assert {method for methods in public for method in methods} == {"GET", "OPTIONS"}


def _format(path: str) -> str:
    return path.replace(":str", "").replace(":path", "")


@pytest.fixture(scope="module")
async def callers(system: System) -> dict[str, dict[str, str]]:
    """The headers of every kind of caller, for a customer and a campaign of OWNER."""
    events = [
        published("customer.upserted.v1", 1, customer=CUSTOMER, owner_id=owner_id(OWNER)),
        published("campaign.upserted.v1", 1, campaign=CAMPAIGN, owner_id=owner_id(OWNER)),
        published("target.enrolled.v1", 1, customer=CUSTOMER, campaign=CAMPAIGN),
    ]
    await system.wait_until_applied(await system.publish(events))
    keys = await _keys(system)
    owner, admin = _token(OWNER), _token(ADMIN, admin=True)
    headers = {
        "no credentials": {},
        "malformed token": _bearer("a.b.c"),
        "token of another secret": _bearer(sign("another-secret-that-is-long-enough", owner_id(OWNER), False, HOUR_S)),
        "expired token": _bearer(_token(OWNER, ttl_s=-1)),
        "owner": _bearer(owner),
        "another user": _bearer(_token(OTHER)),
        "admin": _bearer(admin),
        **{kind: {"X-API-Key": key} for kind, key in keys.items()},
        "token and key of the owner": _bearer(owner) | {"X-API-Key": keys["key to read"]},
        "token and key to operate": _bearer(owner) | {"X-API-Key": keys["key to operate"]},
        "token and key of two users": _bearer(owner) | {"X-API-Key": keys["another user's key"]},
        "token and revoked key": _bearer(owner) | {"X-API-Key": keys["revoked key"]},
    }
    assert headers.keys() == OWNED.keys()
    return headers


async def _keys(system: System) -> dict[str, str]:
    connection = await databases.connect(system.database_url, "test")

    async def create(owner: int, *scopes: Scope, admin: bool = False, ttl: timedelta | None = None) -> str:
        return await api_keys.create(
            connection, owner_id(owner), is_admin=admin, label="", actor="test", scopes=scopes, ttl=ttl
        )

    keys = {
        "key to read": await create(OWNER, "read"),
        "key to read and operate": await create(OWNER, "read", "operate"),
        "key to operate": await create(OWNER, "operate"),
        "another user's key": await create(OTHER, "read"),
        "admin's key": await create(ADMIN, "read", admin=True),
        "revoked key": await create(OWNER, "read"),
        "expired key": await create(OWNER, "read", ttl=timedelta(microseconds=1)),
    }
    keys["mistyped key"] = keys["key to read"][:-1] + ("0" if keys["key to read"][-1] != "0" else "1")
    assert await api_keys.revoke(connection, keys["revoked key"].split("_")[1], actor="test")
    await connection.close()
    return keys


def _token(owner: int, *, admin: bool = False, ttl_s: int = HOUR_S) -> str:
    return sign(JWT_SECRET, owner_id(owner), admin, ttl_s)


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("route", MATRIX)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_each_kind_of_caller_gets_the_status_of_the_matrix(
    client: httpx.AsyncClient, callers: dict[str, dict[str, str]], route: str, method: str
) -> None:
    expected = PREFLIGHT if method == "OPTIONS" else MATRIX[route]
    for attempt in ("cold", "warm"):
        actual = {
            kind: await _status(client, method, PATHS.get(route, route), headers) for kind, headers in callers.items()
        }
        assert actual == expected, attempt


async def _status(client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]) -> int:
    if path != LIVE:
        return (await client.request(method, path, headers=headers)).status_code
    async with client.stream(method, path, headers=headers) as reply:  # it has no end
        return reply.status_code


def test_every_path_with_a_post_is_in_the_matrix() -> None:
    assert {path for path, methods in routes().items() if "POST" in methods} == {_format(path) for path in WRITES}


@pytest.mark.parametrize("route", WRITES)
async def test_each_kind_of_caller_may_write_what_the_matrix_says(
    client: httpx.AsyncClient, callers: dict[str, dict[str, str]], route: str
) -> None:
    content = {"action": "none"} if route == "/ops/plans" else {"reason": "a test"}
    path = PATHS.get(route, route)
    actual = {
        kind: (await client.post(path, json=content, headers=headers)).status_code for kind, headers in callers.items()
    }
    assert actual == WRITES[route]


async def test_a_403_names_the_missing_scope(client: httpx.AsyncClient, callers: dict[str, dict[str, str]]) -> None:
    reply = await client.get(PATHS[LISTING], headers=callers["key to operate"])
    assert reply.json()["code"] == "insufficient_scope"
    assert reply.headers["www-authenticate"] == 'Bearer realm="membership", error="insufficient_scope", scope="read"'
