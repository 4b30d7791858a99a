"""Turns responses into pages and histories, or into the exception that says why there is none."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from campaign_membership_client.reading.errors import (
    InvalidParameters,
    ParameterError,
    ReadError,
    UnexpectedAnswer,
    problem,
)
from campaign_membership_client.reading.models import (
    Aggregations,
    Campaign,
    HistoryBody,
    HistoryEvent,
    ListBody,
    Meta,
    Query,
)

OK: Final = 200
NOT_MODIFIED: Final = 304
UNPROCESSABLE: Final = 422


class Response(NamedTuple):
    """A response, independent of the HTTP library; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """A body that the API sent now or before, with what the headers of its latest response say."""

    body: bytes
    position: int
    parked: str | None


class Page(Struct, frozen=True):
    """A page of the campaigns that a customer is in."""

    data: list[Campaign]
    meta: Meta
    query: Query
    aggregations: Aggregations | None
    position: int
    """The answer is complete up to this position of the stream."""
    parked: str | None
    """Why the event at `min_position` was not applied, if it was parked: this answer does not include it."""


class HistoryPage(Struct, frozen=True):
    """Why a customer is, or is not, in a campaign, with a page of the events."""

    visible: bool
    reason: str
    detail: str
    body: HistoryBody
    position: int
    parked: str | None

    @property
    def events(self) -> list[HistoryEvent]:
        """The events by position."""
        return self.body.events


class _Problem(Struct):
    code: str
    detail: str = ""
    request_id: str = ""


class _Invalid(Struct):
    detail: list[ParameterError]


_LIST: Final = msgspec.json.Decoder(ListBody)
_HISTORY: Final = msgspec.json.Decoder(HistoryBody)
_PROBLEM: Final = msgspec.json.Decoder(_Problem)
_INVALID: Final = msgspec.json.Decoder(_Invalid)


def page_of(answer: Answer) -> Page:
    """Return the page of a list."""
    body: ListBody = _decoded(_LIST, answer.body)
    return Page(body.data, body.meta, body.query, body.aggregations, answer.position, answer.parked)


def history_of(answer: Answer) -> HistoryPage:
    """Return a page of a history."""
    body: HistoryBody = _decoded(_HISTORY, answer.body)
    return HistoryPage(body.visible, body.reason, body.detail, body, answer.position, answer.parked)


def answer_of(response: Response, body: bytes) -> Answer:
    """Return an answer with the headers of a 200 or 304."""
    position = response.headers.get("membership-position", "")
    if not position.isdecimal():
        raise UnexpectedAnswer("The answer has no Membership-Position: it is not one of this API.")
    return Answer(body, int(position), response.headers.get("membership-parked"))


def error_of(response: Response) -> ReadError:
    """Return the exception for a response that is neither 200 nor 304."""
    try:
        if response.status == UNPROCESSABLE:
            return InvalidParameters(_INVALID.decode(response.body).detail)
        reported = _PROBLEM.decode(response.body)
    except msgspec.DecodeError:
        return UnexpectedAnswer(f"The answer is {response.status} without a problem of this API: a proxy's, perhaps.")
    return problem(reported.code, response.status, reported.detail, reported.request_id)


def _decoded(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:  # noqa: ANN401 - by decoder
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as wrong:
        raise UnexpectedAnswer(f"The answer does not follow the contract: {wrong}.") from None
