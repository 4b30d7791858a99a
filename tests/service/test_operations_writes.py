"""The checks of every write of the operators' API, on an endpoint of this test in the real routes."""

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar
from msgspec import Struct

from projections.settings import IDENTITY, load
from service.app import _EXCEPTIONS
from service.auth import Authenticator
from service.identity import issuer_keys
from service.middleware import OPERATIONS_CONTENT_BYTES_MAX
from service.operations import http
from service.operations.endpoint import Call, Endpoint
from service.operations.refusals import Refused
from service.operations.services import OperationsServices
from tests.support.processes import JWT_SECRET
from tests.support.scenario import bearer, code_of, locs

JSON = {"Content-Type": "application/json"}


class Order(Struct, frozen=True):
    what: str
    count: int = 1


class Receipt(Struct, frozen=True):
    what: str
    by: str


async def place(call: Call) -> Receipt:
    """Accept an order, or refuse it with members of its own."""
    if call.content.count > 3:
        raise Refused("job_not_found", "There are not so many.", wanted=call.content.count, left=3)
    return Receipt(call.content.what, call.principal.user_id)


ENDPOINT = Endpoint(
    "/orders", "place_order", "Place an order", place, Receipt, method="POST", content=Order, status=201
)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that has only this endpoint; a token needs no database."""
    environment = {"MEMBERSHIP_DATABASE_URL": "postgresql://nowhere/x", "MEMBERSHIP_JWT_SECRET": JWT_SECRET}
    settings = load({"database_url", IDENTITY}, environment)
    absent: Any = None
    app = Litestar([http.router([ENDPOINT])], openapi_config=None, exception_handlers=_EXCEPTIONS)
    authenticator = Authenticator(settings, absent, issuer_keys.from_settings(settings))
    fields = dict.fromkeys(OperationsServices.__struct_fields__) | {"authenticator": authenticator}
    app.state.operations = OperationsServices(**cast("dict[str, Any]", fields | {"answer_within_s": 5.0}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(cast("Any", app)), base_url="http://api") as client:
        yield client


async def post(client: httpx.AsyncClient, content: Any, admin: bool = True, **headers: str) -> httpx.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    renamed = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/ops/orders", content=body, headers=bearer(1, admin=admin) | JSON | renamed)


async def test_a_write_of_an_operator_is_answered_and_not_stored(client: httpx.AsyncClient) -> None:
    reply = await post(client, {"what": "tea"})
    assert (reply.status_code, reply.json()["what"]) == (201, "tea")
    assert reply.headers.get_list("cache-control") == ["no-store"]


async def test_a_write_for_a_page_of_another_site_is_refused(client: httpx.AsyncClient) -> None:
    for site in ("cross-site", "same-site", "none"):
        assert code_of(await post(client, {"what": "tea"}, Sec_Fetch_Site=site)) == (403, "cross_site_request")
    assert (await post(client, {"what": "tea"}, Sec_Fetch_Site="same-origin")).status_code == 201


async def test_a_write_without_the_scope_is_refused_before_anything_else(client: httpx.AsyncClient) -> None:
    reply = await post(client, b"{", admin=False, Sec_Fetch_Site="cross-site", Content_Type="text/plain")
    assert code_of(reply) == (403, "insufficient_scope")
    assert code_of(await client.post("/ops/orders", content=b"{")) == (401, "unauthenticated")


async def test_a_write_that_is_not_json_is_refused(client: httpx.AsyncClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert code_of(await post(client, b"{}", Content_Type=kind)) == (415, "unsupported_media_type")
    assert (await post(client, {"what": "tea"}, Content_Type="Application/JSON; charset=utf-8")).status_code == 201


async def test_a_write_may_not_be_longer_than_the_limit(client: httpx.AsyncClient) -> None:
    filler = OPERATIONS_CONTENT_BYTES_MAX - len(json.dumps({"what": ""}))
    assert (await post(client, {"what": "x" * filler})).status_code == 201

    async def unstated() -> AsyncIterator[bytes]:
        yield json.dumps({"what": "x" * filler}).encode()
        yield b" "

    headers = bearer(1, admin=True) | JSON
    assert code_of(await client.post("/ops/orders", content=unstated(), headers=headers)) == (413, "content_too_large")


async def test_an_invalid_content_is_named_by_its_place(client: httpx.AsyncClient) -> None:
    assert locs(await post(client, {"what": 7})) == [["body", "what"]]
    assert locs(await post(client, {})) == [["body"]]
    for broken in (b"{", b"", b"\xff", b"[" * 2_000):
        assert locs(await post(client, broken)) == [["body"]]


async def test_a_refusal_may_have_members_of_its_own(client: httpx.AsyncClient) -> None:
    reply = await post(client, {"what": "tea", "count": 9})
    assert code_of(reply) == (404, "job_not_found")
    assert (reply.json()["detail"], reply.json()["wanted"], reply.json()["left"]) == ("There are not so many.", 9, 3)


async def test_a_path_that_only_writes_says_so(client: httpx.AsyncClient) -> None:
    reply = await client.get("/ops/orders", headers=bearer(1, admin=True))
    assert (code_of(reply), reply.headers["allow"]) == ((405, "method_not_allowed"), "POST")
