"""What an endpoint of the operators' API is: one value, from which its route, its parsing and its documentation follow.

Invariants: an endpoint's answer is a msgspec Struct, and the OpenAPI document is made from that Struct; so they agree.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from msgspec import Struct

from projections.api_keys import Scope
from service.auth import Principal
from service.operations.services import OperationsServices
from service.parameters import Reader

PREFIX: Final = "/ops"
OPERATE: Final[Scope] = "operate"
"""The scope that every endpoint requires."""


class Parameter(Struct, frozen=True):
    """A parameter in the path or in the query string."""

    name: str
    read: Reader
    """Returns the value of a text; raises `InvalidValue`."""
    schema: dict[str, Any]
    """The type in the OpenAPI document."""
    description: str
    default: Any = None
    """The value when a query parameter is absent."""


class Call(Struct, frozen=True):
    """A request whose credentials, parameters and content are valid."""

    services: OperationsServices
    principal: Principal
    values: dict[str, Any]
    """The parameters by name, defaults included."""
    content: Any
    """Of the endpoint's `content` type; None for a GET."""
    authorization: list[str]
    api_key: list[str]


class Endpoint(Struct, frozen=True):
    """One method of one path."""

    path: str
    """Below `PREFIX`, with its parameters in braces."""
    operation_id: str
    summary: str
    respond: Callable[[Call], Awaitable[Any]]
    """Returns a value of `answer`, or an ASGI application that sends one; raises `Refused` and `InvalidRequest`."""
    answer: Any
    """The Struct that is answered."""
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[str, ...] = ()
    """Codes of the problems besides those that every endpoint may have."""
    method: Literal["GET", "POST"] = "GET"
    content: Any = None
    """The Struct that a POST carries."""
    status: int = 200
    media_type: str = "application/json"
    endless: bool = False
    """The response has no end, so no deadline applies to it."""
