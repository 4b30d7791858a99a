"""The document behind /docs: the served contract with this product's title, short names and an example.

Reads: contract/example.json, an answer of the demo data.
Invariants: only names, examples and the listed values of `sort_field` differ from /openapi.json, which stays as agreed.
"""

from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from service import openapi
from service.parameters import SORT_FIELDS, ListRequest

EXAMPLE: Final = Path(__file__).parent / "contract" / "example.json"
TITLE: Final = "Campaign Membership API"
LIST: Final = "/customers/{customer_id}/campaigns"
LIST_OPERATION: Final = "list_customer_campaigns"
"""Instead of the contract's id, which repeats the path: generated clients get a method of this name."""
DEMO_CUSTOMER: Final = "c0ffee00-0000-4000-8000-000000000001"
"""A customer of the demo data of `membership dev`."""

Node = Any
"""A value of a JSON document."""


@cache
def document() -> bytes:
    """Return the document as JSON; the same bytes at every call."""
    content = msgspec.json.decode(openapi.document())
    content["info"]["title"] = TITLE
    listing = content["paths"][LIST]["get"]
    listing |= {"operationId": LIST_OPERATION, "summary": "Which campaigns is this customer in?"}
    _list_sort_fields(listing["parameters"])
    for path, operations in content["paths"].items():
        if path.startswith(LIST):
            _add_examples(operations["get"]["parameters"])
    example = msgspec.json.decode(EXAMPLE.read_bytes())
    listing["responses"]["200"]["content"]["application/json"]["example"] = example
    return msgspec.json.encode(content)


def _list_sort_fields(parameters: list[Node]) -> None:
    """List the values of `sort_field`, which the contract calls a string and the service refuses if it is another."""
    sort_field = next(parameter for parameter in parameters if parameter["name"] == "sort_field")
    sort_field["schema"] |= {"enum": list(SORT_FIELDS), "default": ListRequest(DEMO_CUSTOMER).sort_field}


def _add_examples(parameters: list[Node]) -> None:
    for parameter in parameters:
        if parameter["name"] == "customer_id":
            parameter["example"] = DEMO_CUSTOMER
        elif parameter["name"] == "campaign_id":
            parameter["example"] = msgspec.json.decode(EXAMPLE.read_bytes())["data"][0]["id"]
