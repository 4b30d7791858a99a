"""Requests of reads: paths, parameters and headers, independent of the HTTP library."""

from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Final, Literal, NamedTuple, TypedDict
from urllib.parse import quote, urlencode
from uuid import UUID

EntityId = UUID | str
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
Token = str | Callable[[], str]
"""A bearer token, or a function that returns the current one."""
WAIT_S_MAX: Final = 10


class Filters(TypedDict, total=False):
    """The parameters of a list; those not given have the API's defaults."""

    q: str
    """A text in the campaign's name, goal or agent name."""
    date_from: date | datetime | str
    """Enrolled at or after; a date-time needs an offset."""
    date_to: date | datetime | str
    """Enrolled at or before; a date includes its whole day."""
    include_deleted: bool
    only_deleted: bool
    sort_field: SortField
    sort_dir: Literal["asc", "desc"]
    include_aggregations: bool
    limit: int
    """Items per page, 1 to 200."""
    offset: int


class Freshness(NamedTuple):
    """How fresh an answer must be."""

    min_position: int | None = None
    """A receipt's position; the answer then includes that event."""
    wait_s: int | None = None
    """How long the API may wait for it, 10 at most; its default is 2."""

    def headers(self) -> dict[str, str]:
        """Return the headers of the request."""
        if self.min_position is None:
            return {}
        headers = {"Membership-Min-Position": str(self.min_position)}
        return headers | ({"Prefer": f"wait={min(self.wait_s, WAIT_S_MAX)}"} if self.wait_s is not None else {})


class Request(NamedTuple):
    """One GET request."""

    target: str
    """Path and query."""
    headers: Mapping[str, str]


class Credentials(NamedTuple):
    """What identifies the caller; both may be given if they belong to the same user."""

    token: Token | None = None
    api_key: str | None = None

    def headers(self) -> dict[str, str]:
        """Return the headers of a request that is sent now."""
        headers = {"X-API-Key": self.api_key} if self.api_key else {}
        token = self.token() if callable(self.token) else self.token
        return headers | ({"Authorization": f"Bearer {token}"} if token else {})


def list_request(customer: EntityId, parameters: Mapping[str, object], freshness: Freshness) -> Request:
    """Return the request for a page of a customer's campaigns."""
    return Request(_target(f"/customers/{_part(customer)}/campaigns", parameters), freshness.headers())


def history_request(
    customer: EntityId, campaign: EntityId, parameters: Mapping[str, object], freshness: Freshness
) -> Request:
    """Return the request for a page of a membership's history."""
    path = f"/customers/{_part(customer)}/campaigns/{_part(campaign)}/history"
    return Request(_target(path, parameters), freshness.headers())


def _target(path: str, parameters: Mapping[str, object]) -> str:
    given = {name: _text(value) for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _part(entity: EntityId) -> str:
    return quote(str(entity), safe="")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date) else str(value)
