"""Checks that a peer does the same work: its answers must equal this service's for a wide range of requests.

Started as `python -m benchmarks.peers.same_answers --ours URL --peer URL --token T CUSTOMER…`.
"""

import argparse
import http.client
import itertools
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

SORT_FIELDS: Final = (
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
)
FLAGS: Final[tuple[dict[str, str], ...]] = (
    {},
    {"include_aggregations": "true"},
    {"include_deleted": "true"},
    {"only_deleted": "true"},
    {"include_deleted": "true", "include_aggregations": "true"},
    {"only_deleted": "true", "include_aggregations": "true"},
)
FILTERS: Final[tuple[dict[str, str], ...]] = (
    {},
    {},
    {"q": "zürich"},
    {"q": "  RENEWAL "},
    {"q": "a"},
    {"q": "%"},
    {"date_from": "2025-03-01"},
    {"date_from": "2025-02-01T00:00:00+02:00", "date_to": "2025-12-31"},
    {"q": "e", "date_to": "2026-01-05T09:30:00.5Z"},
)
PAGES: Final = ((10, 0), (10, 10), (50, 0), (200, 0), (3, 5), (1, 2), (25, 100), (10, 100_000))
SEED: Final = 7
TIMEOUT_S: Final = 60.0


class Different(Exception):
    """Two services differ in an answer; the message names the request."""


def same_answers(ours: str, peer: str, token: str, customers: Sequence[str], requests: int = 200) -> int:
    """Send both the same requests and return how many answers were equal; raises `Different` at the first difference.

    Half of the requests are for the first customer. `meta.next_cursor` exists only here and is not compared.
    """
    with_token = {"Authorization": f"Bearer {token}"}
    our_connection, peer_connection = _connect(ours), _connect(peer)
    answered = 0
    try:
        for path in itertools.islice(paths(customers), requests):
            found, expected = _get(peer_connection, path, with_token), _get(our_connection, path, with_token)
            if found != expected:
                raise Different(f"GET {path}: {_difference(expected, found)}")
            answered += 1
    finally:
        our_connection.close()
        peer_connection.close()
    return answered


def paths(customers: Sequence[str]) -> Iterator[str]:
    """Yield requests, endless and reproducible: every sort order with varying filters, pages and customers."""
    draw = random.Random(SEED)  # noqa: S311 - the same order every time
    for customer in customers:
        yield f"/customers/{customer}/campaigns"
    orders = itertools.cycle(itertools.product(SORT_FIELDS, ("asc", "desc")))
    for number, (field, direction) in enumerate(orders):
        customer = customers[0] if number % 2 else draw.choice(customers)
        limit, offset = draw.choice(PAGES)
        parameters = {"limit": limit, "offset": offset, "sort_field": field, "sort_dir": direction}
        yield f"/customers/{customer}/campaigns?{urlencode(parameters | draw.choice(FLAGS) | draw.choice(FILTERS))}"


def _connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)


def _get(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Return the parsed answer; for an error only the status, because its text is not part of the contract."""
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != http.HTTPStatus.OK:
        return {"status": response.status}
    answer: dict[str, Any] = json.loads(body)
    answer["meta"].pop("next_cursor", None)
    return answer


def _difference(expected: object, found: object, where: str = "answer") -> str:
    """Return the first difference of two values as text."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in sorted(expected.keys() | found.keys()):
            if name not in expected or name not in found:
                return f"{where}.{name} is {'missing' if name in expected else 'unexpected'}"
            if expected[name] != found[name]:
                return _difference(expected[name], found[name], f"{where}.{name}")
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            if one != other:
                return _difference(one, other, f"{where}[{index}]")
    return f"{where} should be {expected!r:.300} and is {found!r:.300}"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.same_answers", description=__doc__)
    parser.add_argument("--ours", required=True, help="the URL of this service")
    parser.add_argument("--peer", required=True, help="the URL of the peer")
    parser.add_argument("--token", default=os.environ.get("PEER_TOKEN"), help="an admin's; or PEER_TOKEN")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("customers", nargs="+", metavar="CUSTOMER")
    arguments = parser.parse_args()
    if not arguments.token:
        parser.error("--token is required")
    answered = same_answers(arguments.ours, arguments.peer, arguments.token, arguments.customers, arguments.requests)
    sys.stdout.write(f"{answered} answers are equal\n")


if __name__ == "__main__":
    main()
