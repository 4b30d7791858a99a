"""The errors of reads: one exception per problem that a caller handles in its own way.

MembershipClientError
└── ReadError
    ├── Unreachable            no answer, after all retries
    ├── UnexpectedAnswer       the answer is not one of this API: a proxy's page, another service
    ├── InvalidParameters      422; `errors` lists every wrong parameter
    └── Problem                problem+json; `code`, `status`, `detail`, `request_id`
        ├── Unauthenticated, InsufficientScope, CustomerNotFound, MembershipNotFound, RateLimited
        ├── RequestRefused     400, 405, 409, 413 to 415, and 404 for a path
        ├── InternalError
        └── ServiceUnavailable 503
            └── PositionNotReached
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from campaign_membership_client.errors import MembershipClientError


class ReadError(MembershipClientError):
    """A read got no answer that it can use."""

    code = "read_error"


class Unreachable(ReadError):
    """The API did not answer, after all retries."""

    code = "unreachable"


class UnexpectedAnswer(ReadError):
    """The answer is not one of this API."""

    code = "unexpected_answer"


class ParameterError(Struct, frozen=True):
    """One wrong parameter of a request."""

    loc: list[str | int]
    """Where, such as `["query", "limit"]`."""
    msg: str
    type: str


class InvalidParameters(ReadError):
    """The API refuses parameters of the request."""

    code = "invalid_parameters"

    def __init__(self, errors: Sequence[ParameterError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{'.'.join(map(str, error.loc))}: {error.msg}" for error in errors))


class Problem(ReadError):
    """An error that the API reports with a stable code."""

    def __init__(self, code: str, status: int, detail: str, request_id: str) -> None:
        self.code = code  # type: ignore[misc]  # that of the answer instead of the class's
        self.status = status
        self.detail = detail
        self.request_id = request_id
        """Quote it when you report the problem."""
        super().__init__(f"{detail} ({code}, request {request_id})")


class Unauthenticated(Problem):
    """The credentials are missing or refused."""


class InsufficientScope(Problem):
    """The API key has no scope for this request."""


class CustomerNotFound(Problem):
    """There is no such customer among those that the caller may see."""


class MembershipNotFound(Problem):
    """There is no such customer or campaign among those that the caller may see."""


class RateLimited(Problem):
    """The caller has used up its requests."""


class RequestRefused(Problem):
    """The request is malformed or too large, or its path does not exist."""


class InternalError(Problem):
    """The API failed."""


class ServiceUnavailable(Problem):
    """The API cannot answer now."""


class PositionNotReached(ServiceUnavailable):
    """The requested position is not applied yet."""


PROBLEMS: Final[Mapping[str, type[Problem]]] = {
    "unauthenticated": Unauthenticated,
    "insufficient_scope": InsufficientScope,
    "customer_not_found": CustomerNotFound,
    "membership_not_found": MembershipNotFound,
    "rate_limited": RateLimited,
    "internal_error": InternalError,
    "cross_site_request": RequestRefused,
    "position_not_reached": PositionNotReached,
}
"""Codes with an exception of their own."""
_BY_STATUS: Final[Mapping[int, type[Problem]]] = {
    400: RequestRefused,
    404: RequestRefused,
    405: RequestRefused,
    409: RequestRefused,
    413: RequestRefused,
    414: RequestRefused,
    415: RequestRefused,
    401: Unauthenticated,
    403: InsufficientScope,
    429: RateLimited,
    500: InternalError,
    503: ServiceUnavailable,
}


def problem(code: str, status: int, detail: str, request_id: str) -> Problem:
    """Return the exception for a problem; a code that this release does not know gets that of its status."""
    kind = PROBLEMS.get(code) or _BY_STATUS.get(status, Problem)
    return kind(code, status, detail, request_id)
