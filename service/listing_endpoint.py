"""The listing as an ASGI application of its own, which the middleware calls instead of Litestar for plain requests.

Litestar's routing, request object and error handling take a fifth of the time of a read that is not cached
(decision 0027). Requests from browsers, which need CORS, and those with repeated headers are routed by Litestar, and
so are all other paths. Both ways end in the same use case.
"""

from collections.abc import Callable, Mapping
from typing import Any

from litestar import Request, Response
from litestar.types import Receive, Scope, Send

from service.fast_path import customer_segment
from service.list_campaigns import ListCall, ListCampaigns
from service.read_model.admission import Overloaded
from service.representation import RawResponse

ErrorResponse = Callable[[Request[Any, Any, Any], Any], Response[bytes]]


class ListingEndpoint:
    """Answers plain requests for a customer's campaigns."""

    def __init__(self, list_campaigns: ListCampaigns, error_responses: Mapping[type[Exception], ErrorResponse]) -> None:
        self._list_campaigns = list_campaigns
        self._error_responses = error_responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - a GET has no content
        """Respond to a request that `is_plain_listing`."""
        try:
            response = await self._list_campaigns.respond(_call_of(scope))
        except Overloaded:
            raise
        except Exception as problem:  # noqa: BLE001 - the table has an entry for every exception
            response = self._error(scope, problem)
        await response.send(send)

    def _error(self, scope: Scope, problem: Exception) -> RawResponse:
        kind = next(kind for kind in type(problem).__mro__ if kind in self._error_responses)
        response = self._error_responses[kind](Request(scope), problem)
        content_type = (b"content-type", str(response.media_type).encode())
        length = (b"content-length", b"%d" % len(response.content))
        headers = [(name.lower().encode(), value.encode()) for name, value in response.headers.items()]
        return RawResponse(response.status_code or 500, (*headers, content_type, length), response.content)


def _call_of(scope: Scope) -> ListCall:
    headers = dict(scope["headers"])
    return ListCall(
        customer_id=customer_segment(scope["path"]),
        path=scope["path"],
        query=scope["query_string"],
        authorization=_sent(headers, b"authorization"),
        api_key=_sent(headers, b"x-api-key"),
        min_position=next(iter(_sent(headers, b"membership-min-position")), None),
        prefer=_sent(headers, b"prefer"),
        if_none_match="".join(_sent(headers, b"if-none-match")),
        accept_encoding="".join(_sent(headers, b"accept-encoding")),
    )


def _sent(headers: Mapping[bytes, bytes], name: bytes) -> list[str]:
    value = headers.get(name)
    return [] if value is None else [value.decode("latin-1")]
