"""The routes of the operators' API: makes a Litestar handler of each endpoint.

Checks come in this order: credentials and scope (401, 403), where a write comes from (403), its content (415, 413, 422)
and the parameters (422). So a caller without the scope learns nothing, not even which ids exist.
Invariants: every response, refusals included, says `Cache-Control: no-store`.
"""

import asyncio
import re
from collections.abc import Iterable
from typing import Any, Final, cast

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from service.auth import Principal
from service.middleware import OPERATIONS_CONTENT_BYTES_MAX
from service.operations.endpoint import OPERATE, PREFIX, Call, Endpoint, Parameter
from service.operations.refusals import InvalidRequest, Refused
from service.operations.services import OperationsServices
from service.parameters import Violation, query_pairs, utf8_text
from service.problems import problem_response, unprocessable
from service.pydantic_compat import InvalidValue
from service.read_model.admission import caller
from service.representation import RawResponse

NO_STORE: Final = (b"cache-control", b"no-store")
SAME_ORIGIN: Final = "same-origin"
_ALLOW: Final = {b"GET, OPTIONS, POST": (b"allow", b"GET, HEAD, OPTIONS, POST")}
"""The `Allow` that Litestar answers for a path with both methods lacks HEAD, which the middleware answers."""
JSON: Final = "application/json"
_ENCODER: Final = msgspec.json.Encoder()
_WHERE: Final = re.compile(r" - at `\$(?P<where>[^`]*)`\Z")
"""msgspec's words for where a value is invalid."""
_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]")

AnyRequest = Request[Any, Any, Any]


def router(endpoints: Iterable[Endpoint]) -> Router:
    """Return the routes of all endpoints."""
    return Router(
        PREFIX,
        route_handlers=[_handler(endpoint) for endpoint in endpoints],
        guards=[_require_operator],
        middleware=[_no_store],
        exception_handlers={Refused: _refused, InvalidRequest: _invalid},
    )


def _handler(endpoint: Endpoint) -> HTTPRouteHandler:
    async def respond(request: AnyRequest) -> RawResponse:  # by this type Litestar knows an ASGI application
        call = await _call_of(request, endpoint)
        if endpoint.endless:
            return cast("RawResponse", await endpoint.respond(call))
        async with asyncio.timeout(call.services.answer_within_s):
            answer = await endpoint.respond(call)
        return answer if isinstance(answer, RawResponse) else reply(answer, endpoint.status)

    method = post if endpoint.method == "POST" else get
    path = re.sub(r"\{(\w+)\}", r"{\1:str}", endpoint.path)
    return method(path, name=endpoint.operation_id, status_code=endpoint.status)(respond)


def reply(answer: Any, status: int = 200) -> RawResponse:  # noqa: ANN401 - any Struct
    """Return a Struct as a response."""
    body = _ENCODER.encode(answer)
    return RawResponse(status, ((b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))), body)


async def _require_operator(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Raise `Unauthenticated` or `ScopeMissing`; anyone may ask which methods a path has."""
    if connection.scope.get("method") == "OPTIONS":
        return
    services: OperationsServices = connection.app.state.operations
    headers = connection.headers
    principal = await services.authenticator.principal(
        headers.getall("authorization", []), headers.getall("x-api-key", []), OPERATE
    )
    caller.set(principal.user_id)
    connection.state.principal = principal


def _no_store(app: ASGIApp) -> ASGIApp:
    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_unstored(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = (_ALLOW.get(header[1], header) for header in message["headers"])
                message["headers"] = [*headers, NO_STORE]
            await send(message)

        await app(scope, receive, send_unstored)

    return run


async def _call_of(request: AnyRequest, endpoint: Endpoint) -> Call:
    principal: Principal = request.state.principal
    content = await _content(request, endpoint.content) if endpoint.method == "POST" else None
    return Call(
        services=request.app.state.operations,
        principal=principal,
        values=_values(endpoint.parameters, request),
        content=content,
        authorization=request.headers.getall("authorization", []),
        api_key=request.headers.getall("x-api-key", []),
    )


def _values(parameters: tuple[Parameter, ...], request: AnyRequest) -> dict[str, Any]:
    """Return the parameters' values; raises `InvalidRequest` with every violation at once."""
    query = dict(query_pairs(request.scope["query_string"]))
    values: dict[str, Any] = {}
    violations: list[Violation] = []
    for parameter in parameters:
        in_path = parameter.name in request.path_params
        text = request.path_params[parameter.name] if in_path else query.get(parameter.name)
        try:
            values[parameter.name] = (
                parameter.default if text is None else parameter.read(text if in_path else utf8_text(text))
            )
        except InvalidValue as problem:
            location = ("path" if in_path else "query", parameter.name)
            violations.append(Violation(location, str(problem), problem.type))
    if violations:
        raise InvalidRequest(*violations)
    return values


async def _content(request: AnyRequest, kind: Any) -> Any:  # noqa: ANN401 - a Struct of the endpoint
    """Return the content of a write; raises `Refused` or `InvalidRequest`.

    A page of another site can make a browser send a request, but a browser says so in `Sec-Fetch-Site`, and asks first
    (CORS) before it sends JSON.
    """
    if request.headers.get("sec-fetch-site", SAME_ORIGIN) != SAME_ORIGIN:
        raise Refused("cross_site_request")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise Refused("unsupported_media_type")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > OPERATIONS_CONTENT_BYTES_MAX:
            raise Refused("content_too_large")
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise InvalidRequest(_violation(str(problem))) from None


def _violation(message: str) -> Violation:
    """Return msgspec's message as an entry of the 422."""
    found = _WHERE.search(message)
    steps = _STEP.findall(found["where"]) if found else []
    return Violation(("body", *(name or index for name, index in steps)), _WHERE.sub("", message), "value_error")


def _refused(_request: AnyRequest, problem: Refused) -> Response[bytes]:
    return problem_response(problem.code, detail=problem.detail, members=problem.members)


def _invalid(_request: AnyRequest, problem: InvalidRequest) -> Response[bytes]:
    return Response(unprocessable(problem.violations).body, status_code=422, media_type=JSON)
