"""Random requests to the running service, and comparison of its responses with the reference's, by value.

Reads: the service's HTTP interface, through a client of the caller. Requests depend only on history and seed, so a
failure is reproducible; every difference names its request.
"""

import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, urljoin

import httpx
from joserfc import jwt
from joserfc.jwk import OctKey

from tests.support.random_history import EXTREME_MOMENTS, History
from tests.support.reference_model import SORT_FIELDS, Expected, Fields, Principal, Reference

INVALID_SHARE = 0.10
REPEATED_SHARE = 0.10
TOKEN_TTL_S = 3600
REQUESTS_MIN = 300
PAGES_MAX = 100
"""More pages than any listing of a history has: a walk that reaches it is in a loop."""

Pair = tuple[str, str]

TRUE_WORDS = ("true", "True", "TRUE", "1", "yes", "YES", "on", "ON", "t", "y", "Y")
FALSE_WORDS = ("false", "False", "FALSE", "0", "no", "NO", "off", "Off", "f", "n", "N")
INVALID_VALUES: dict[str, tuple[str, ...]] = {
    "limit": ("0", "201", "-1", "abc", "", "1.5", "10e2", "٣", "1 0", "0x10", str(2**63), str(10**30), "7\0"),
    "offset": ("-1", "x", "", "1.5", "1e3", "null", str(2**63), str(-(2**63) - 1), str(10**23)),
    "include_deleted": ("2", "maybe", "", "truee", " true", "None", "да"),
    "only_deleted": ("-1", "", "nope", "\0"),
    "include_aggregations": ("all", "", "1.0"),
    "sort_field": ("", "Name", "enrolled", "id", "name desc", "name;--", "name\0", "é"),
    "sort_dir": ("ASC", "", "up", "desc ", "descending"),
    "q": ("\0", "a\0b", "\ud800", "x\udfff", "\ude00\ud83d"),
    "date_from": ("not-a-date", "2024-13-01", "2024-02-30", "2024-01-01T25:00:00Z", "\0", "\ud800"),
    "date_to": ("tomorrow", "2024-00-10", "2023-02-29", "2024-01-01T00:00:00+99:00", "0001-01-01T00:00:00+10:00"),
}
INVALID_IDS = ("not-a-uuid", "123", "0" * 31, "g" * 32, "00000000-0000-0000-0000-00000000000", "\0", "é", "null", " ")


@dataclass(frozen=True)
class RequestCase:
    """One request: the principal, the path and the parameters, all unescaped."""

    principal: Principal
    path: str
    pairs: tuple[Pair, ...]
    escaped_space: str = "+"

    @property
    def target(self) -> str:
        """Path and query as sent; lone surrogates are encoded as the bytes of their code point."""
        query = "&".join(f"{self._escape(name)}={self._escape(value)}" for name, value in self.pairs)
        return quote(self.path, errors="surrogatepass") + (f"?{query}" if query else "")

    def _escape(self, part: str) -> str:
        return quote_plus(part, errors="surrogatepass").replace("+", self.escaped_space)

    def with_pairs(self, **changed: object) -> "RequestCase":
        """Return a copy with these parameters set, or removed where None."""
        unchanged = [pair for pair in self.pairs if pair[0] not in changed]
        added = [(name, str(value)) for name, value in changed.items() if value is not None]
        return replace(self, pairs=(*unchanged, *added))


def token(principal: Principal, secret: str) -> str:
    """Sign a JWT for the principal, with one of the role claims that make it an admin or not."""
    claims: dict[str, Any] = {"sub": principal.user_id, "exp": int(time.time()) + TOKEN_TTL_S}
    is_odd = int(principal.user_id[-1], 16) % 2 == 1
    if principal.is_admin:
        claims |= {"roles": ["support", "admin"]} if is_odd else {"role": "admin"}
    else:
        claims |= {"roles": ["administrator"], "role": "user"} if is_odd else {}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret))


class ApiClient:
    """Sends requests over one client, each with its principal's token."""

    def __init__(self, client: httpx.AsyncClient, api_url: str, jwt_secret: str) -> None:
        self._client = client
        self._api_url = api_url.rstrip("/")
        self._jwt_secret = jwt_secret
        self._tokens: dict[Principal, str] = {}

    async def send(self, request: RequestCase) -> httpx.Response:
        """Send the request."""
        return await self.get(request.principal, self._api_url + request.target)

    async def get(self, principal: Principal, url: str) -> httpx.Response:
        """Get a URL as this principal."""
        if principal not in self._tokens:
            self._tokens[principal] = token(principal, self._jwt_secret)
        return await self._client.get(url, headers={"Authorization": f"Bearer {self._tokens[principal]}"})


def expected_response(reference: Reference, request: RequestCase) -> Expected:
    """Return the reference's response."""
    return reference.respond(request.principal, request.path, request.pairs)


def value_differences(at: str, expected: object, actual: object) -> Iterator[str]:
    """Yield the differences by path. A float may arrive as an equal integer; no other type may change."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for name in sorted(expected.keys() | actual.keys()):
            yield from value_differences(f"{at}.{name}", expected.get(name, "(absent)"), actual.get(name, "(absent)"))
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            yield f"{at}: expected {len(expected)} members, got {len(actual)}"
        for number, (expected_item, actual_item) in enumerate(zip(expected, actual, strict=False)):
            yield from value_differences(f"{at}[{number}]", expected_item, actual_item)
    elif expected != actual or not _same_kind(expected, actual):
        yield f"{at}: expected {expected!r}, got {actual!r}"


def _same_kind(expected: object, actual: object) -> bool:
    if isinstance(expected, float):
        return isinstance(actual, int | float) and not isinstance(actual, bool)
    return type(expected) is type(actual)


def compare(expected: Expected, response: httpx.Response) -> str:
    """Return "" if the response is the expected one, else a description that names the request."""
    if response.status_code != expected.status:
        differences = [f"status: expected {expected.status}, got {response.status_code}: {response.text[:500]}"]
    elif expected.status == 200:
        differences = list(_page_differences(expected, response))
    elif expected.status == 422:
        differences = list(_locs_differences(expected, response))
    else:
        differences = _media_type_differences("application/problem+json", response)
    if response.status_code in (200, 404) and not response.headers.get("membership-position", "").isdigit():
        differences.append("no Membership-Position header")
    if not differences:
        return ""
    lines = [expected.request, f"sent {response.request.method} {response.request.url}", *differences[:20]]
    return "\n    ".join(lines)


def _media_type_differences(expected: str, response: httpx.Response) -> list[str]:
    media_type = response.headers.get("content-type", "").partition(";")[0]
    return [] if media_type == expected else [f"content-type: expected {expected}, got {media_type}"]


def _page_differences(expected: Expected, response: httpx.Response) -> Iterator[str]:
    yield from _media_type_differences("application/json", response)
    body = response.json()
    meta = body.get("meta")
    cursor = meta.pop("next_cursor", None) if isinstance(meta, dict) else None
    yield from _body_differences(expected.body or {}, body)
    if isinstance(cursor, str) != expected.has_next:
        yield f"body.meta.next_cursor: expected {'one' if expected.has_next else 'none'}, got {cursor!r}"
    if ("next" in response.links) != expected.has_next:
        yield f"Link: expected {'a' if expected.has_next else 'no'} next, got {response.headers.get('link')!r}"


def _body_differences(expected: Fields, actual: Fields) -> Iterator[str]:
    """Yield the differences; if other items are listed, or in another order, name the items instead of their fields."""
    expected_items, actual_items = _item_names(expected), _item_names(actual)
    if expected_items == actual_items:
        yield from value_differences("body", expected, actual)
        return
    yield f"body.data: expected {expected_items}, got {actual_items}"
    yield from value_differences("body", {**expected, "data": []}, {**actual, "data": []})


def _item_names(body: Fields) -> list[str]:
    items = body.get("data")
    if not isinstance(items, list):
        return [repr(items)]
    return [f"{item.get('id')} {item.get('name')!r}" if isinstance(item, dict) else repr(item) for item in items]


def _locs_differences(expected: Expected, response: httpx.Response) -> Iterator[str]:
    yield from _media_type_differences("application/json", response)
    detail = response.json().get("detail", [])
    locs = {tuple(error["loc"]) for error in detail}
    if locs != expected.locs:
        yield f"locs: expected {sorted(expected.locs)}, got {sorted(locs)}"
    for error in detail:
        if not (isinstance(error.get("msg"), str) and isinstance(error.get("type"), str)):
            yield f"detail: msg and type must be strings in {error!r}"


class PageWalk:
    """A walk over all pages of one listing that compares each page with the reference."""

    def __init__(self, api: ApiClient, reference: Reference, request: RequestCase) -> None:
        self._api = api
        self._reference = reference
        self._request = request.with_pairs(cursor=None)
        self._items: list[Fields] = []
        self.differences: list[str] = []
        """At most one description per page."""
        self.pages = 0

    async def by_cursor(self) -> None:
        """Pass each page's next_cursor as `cursor`, everything else unchanged, until there is none."""
        response = await self._api.send(self._request)
        cursor = self._add_page(response, self._expected())
        while cursor and not self.differences and self.pages < PAGES_MAX:
            request = self._request.with_pairs(offset=None, cursor=cursor)
            cursor = self._add_page(await self._api.send(request), self._expected(by_cursor=True))
        self._compare_listing()

    async def by_links(self) -> None:
        """Follow `Link: rel="next"` until there is none; a link may carry an offset or a cursor."""
        response = await self._api.send(self._request)
        self._add_page(response, self._expected())
        while "next" in response.links and not self.differences and self.pages < PAGES_MAX:
            response = await self._follow(response, "next")
            self._add_page(response, self._expected(by_cursor="cursor=" in str(response.request.url)))
        self._compare_listing()

    async def by_offset(self) -> None:
        """Request pages by offset, and follow the links first, prev and last of the second page."""
        total = self._total()
        limit = self._limit()
        for offset in range(0, max(total, 1), limit):
            response = await self._api.send(self._request.with_pairs(offset=offset))
            self._add_page(response, self._expected())
            if offset == limit:
                await self._compare_links(response, total, limit)
        self._compare_listing()

    async def _compare_links(self, response: httpx.Response, total: int, limit: int) -> None:
        for rel, offset in (("first", 0), ("prev", 0), ("last", (total - 1) // limit * limit)):
            if rel not in response.links:
                self.differences.append(f"{response.request.url}: no Link {rel}: {response.headers.get('link')!r}")
                continue
            expected = expected_response(self._reference, self._request.with_pairs(offset=offset))
            self._add_difference(compare(expected, await self._follow(response, rel)))

    async def _follow(self, response: httpx.Response, rel: str) -> httpx.Response:
        url = urljoin(str(response.request.url), response.links[rel]["url"])
        return await self._api.get(self._request.principal, url)

    def _add_page(self, response: httpx.Response, expected: Expected) -> str | None:
        """Compare one page, keep its items, and return its next_cursor."""
        self.pages += 1
        self._add_difference(compare(expected, response))
        if response.status_code != 200:
            return None
        body = response.json()
        self._items += body["data"]
        cursor: str | None = body["meta"].get("next_cursor")
        return cursor

    def _add_difference(self, difference: str) -> None:
        if difference:
            self.differences.append(difference)

    def _expected(self, by_cursor: bool = False) -> Expected:
        """Return the page after the items received so far; a page by cursor has offset 0."""
        start = self._start() + len(self._items)
        expected = expected_response(self._reference, self._request.with_pairs(offset=start))
        if by_cursor and expected.body:
            expected.body["meta"]["offset"] = 0
        return replace(expected, request=f"{expected.request}, page {self.pages + 1} of a walk")

    def _start(self) -> int:
        return int(dict(self._request.pairs).get("offset", 0))

    def _limit(self) -> int:
        return int(dict(self._request.pairs).get("limit", 10))

    def _full(self) -> Expected:
        return expected_response(self._reference, self._request.with_pairs(limit=200, offset=self._start()))

    def _total(self) -> int:
        body = self._full().body
        return int(body["meta"]["total"]) if body else 0

    def _compare_listing(self) -> None:
        """Compare the concatenated pages with the whole listing."""
        body = self._full().body
        if self.differences or body is None:
            return
        listed = [item["id"] for item in body["data"]]
        walked = [item["id"] for item in self._items]
        if listed != walked:
            self.differences.append(f"{self._full().request}: pages give {walked}, not {listed}")


def invalid_cursor_cases(request: RequestCase, cursor: str, others: list[Principal]) -> list[RequestCase]:
    """Return requests that use a cursor with other parameters or another principal, or a broken one: all 422."""
    valid = request.with_pairs(offset=None, cursor=cursor)
    parameters = dict(request.pairs)
    flipped = "false" if parameters.get("only_deleted") == "true" else "true"
    middle = len(cursor) // 2
    swapped = "A" if cursor[middle] != "A" else "B"
    return [
        valid.with_pairs(offset=1),
        valid.with_pairs(cursor=f"{cursor[:middle]}{swapped}{cursor[middle + 1 :]}"),
        valid.with_pairs(cursor=cursor[:middle]),
        valid.with_pairs(cursor="not a cursor"),
        valid.with_pairs(sort_dir="asc" if parameters.get("sort_dir", "desc") == "desc" else "desc"),
        valid.with_pairs(sort_field="name" if parameters.get("sort_field") != "name" else "status"),
        valid.with_pairs(q="another"),
        valid.with_pairs(date_from="1999-12-31"),
        valid.with_pairs(only_deleted=flipped),
        *(replace(valid, principal=other) for other in others),
    ]


class SampleValues(NamedTuple):
    """Values of a history from which requests are made."""

    owners: dict[str, str]
    """Customer → final owner; customers known only from enrolments are absent."""
    customers: list[str]
    principals: list[Principal]
    texts: list[str]
    moments: list[datetime]


def sample_values(history: History) -> SampleValues:
    final = history.final()
    cards = [definition["card"] for _, definition in final["definition"].values()]
    texts = [card[name] for card in cards for name in ("name", "goal", "agent_name") if name in card]
    return SampleValues(
        owners={customer: value["owner_id"] for customer, (_, value) in final["customer"].items()},
        customers=history.customers,
        principals=[Principal(owner, is_admin=False) for owner in (*history.owners, history.stranger)],
        texts=[text for text in texts if text.strip()],
        moments=[enrolled_at for _, enrolled_at in final["enrolment"].values()],
    )


def request_cases(history: History, seed: int, count: int) -> list[RequestCase]:
    """Return `count` random requests about the history, about one in ten invalid, one in ten a repetition."""
    rng = Random(f"questions {history.seed} {seed}")
    generator = RequestGenerator(sample_values(history), rng)
    requests: list[RequestCase] = []
    for _ in range(count):
        if requests and rng.random() < REPEATED_SHARE:
            requests.append(generator.repeated(rng.choice(requests)))
        else:
            requests.append(generator.request(is_invalid=rng.random() < INVALID_SHARE))
    return requests


class RequestGenerator:
    """Generates random requests from a seeded source."""

    def __init__(self, samples: SampleValues, rng: Random) -> None:
        self._samples = samples
        self._rng = rng

    def request(self, is_invalid: bool = False) -> RequestCase:
        rng = self._rng
        customer_id = self._customer()
        pairs = self.valid_pairs()
        path = f"/customers/{self._id_notation(customer_id)}/campaigns"
        if is_invalid:
            invalid = rng.sample(tuple(INVALID_VALUES), rng.choice((1, 1, 2, 3, 5)))
            pairs = [pair for pair in pairs if pair[0] not in invalid]
            pairs += [(name, rng.choice(INVALID_VALUES[name])) for name in invalid]
            if rng.random() < 0.2:
                path = f"/customers/{rng.choice(INVALID_IDS)}/campaigns"
        rng.shuffle(pairs)
        return RequestCase(self._principal(customer_id), path, self._repeated(pairs), rng.choice(("+", "%20")))

    def repeated(self, request: RequestCase) -> RequestCase:
        """Return the request again, half of the time with a random principal, which a shared cache could confuse."""
        if self._rng.random() < 0.5:
            return request
        return replace(request, principal=self._rng.choice(self._samples.principals))

    def valid_pairs(self) -> list[Pair]:
        """Choose some of the parameters, each with a valid value in one of its notations."""
        rng = self._rng
        makers: dict[str, tuple[float, Callable[[], str]]] = {
            "include_deleted": (0.4, lambda: self._boolean(rng.random() < 0.7)),
            "only_deleted": (0.25, lambda: self._boolean(rng.random() < 0.6)),
            "limit": (0.6, lambda: self._integer(rng.choice((1, 2, 3, 5, 10, 25, 100, 199, 200)))),
            "offset": (0.3, lambda: self._integer(rng.choice((0, 0, 0, 0, 1, 1, 2, 3, 5, 9, 39, 40, 2**63 - 1)))),
            "q": (0.3, self._q),
            "sort_field": (0.85, lambda: rng.choice(SORT_FIELDS)),
            "sort_dir": (0.8, lambda: rng.choice(("asc", "asc", "desc"))),
            "include_aggregations": (0.4, lambda: self._boolean(rng.random() < 0.8)),
            "date_from": (0.2, lambda: self._date(min)),
            "date_to": (0.2, lambda: self._date(max)),
            "x_unknown": (0.05, lambda: rng.choice(("", "1", "limit=5"))),
        }
        return [(name, make()) for name, (chance, make) in makers.items() if rng.random() < chance]

    def _repeated(self, pairs: list[Pair]) -> tuple[Pair, ...]:
        """Sometimes add an earlier value, valid or not, before the one that counts."""
        earlier = []
        for name, _ in pairs:
            if name in INVALID_VALUES and name != "q" and self._rng.random() < 0.03:
                earlier.append((name, self._rng.choice((self._rng.choice(INVALID_VALUES[name]), "1", "name"))))
        return (*earlier, *pairs)

    def _customer(self) -> str:
        """Choose a customer; more often the first, who is in every campaign."""
        if self._rng.random() < 0.04:
            return "00000000-0000-4000-8000-" + f"{self._rng.getrandbits(48):012x}"
        return self._rng.choice((*self._samples.customers, *self._samples.customers[:1] * 8))

    def _principal(self, customer_id: str) -> Principal:
        rng = self._rng
        draw = rng.random()
        if draw < (0.5 if customer_id in self._samples.owners else 0.85):
            return Principal(rng.choice(self._samples.principals).user_id, is_admin=True)
        if draw < 0.92 and customer_id in self._samples.owners:
            return Principal(self._samples.owners[customer_id], is_admin=False)
        return rng.choice(self._samples.principals)

    def _id_notation(self, customer_id: str) -> str:
        if self._rng.random() < 0.9:
            return customer_id
        notations = (customer_id.upper(), customer_id.replace("-", ""), f"{{{customer_id}}}", f"urn:uuid:{customer_id}")
        return self._rng.choice(notations)

    def _boolean(self, value: bool) -> str:
        return self._rng.choice(TRUE_WORDS if value else FALSE_WORDS)

    def _integer(self, value: int) -> str:
        if self._rng.random() < 0.9:
            return str(value)
        return self._rng.choice((f"+{value}", f"00{value}", f" {value} ", f"{value}.0"))

    def _q(self) -> str:
        """Return part of an existing text, altered in case or marks; or wildcards, blanks or an unknown text."""
        rng = self._rng
        if rng.random() < 0.2:
            return rng.choice(
                ("%", "_", "\\", "%%", "", " ", " \t\n", "zzz-nowhere", "\u0301", "'; --", "o%r", "x" * 500)
            )
        text = rng.choice(self._samples.texts)
        start = rng.randrange(len(text))
        part = text[start : start + rng.choice((1, 1, 2, 3, 4, 40))]
        alter = rng.choice((str, str, str.upper, str.lower, str.swapcase, str.casefold, unaccented, accented, composed))
        return rng.choice(("", "", " ", "\t", "\u3000")) + alter(part) + rng.choice(("", "", "  "))

    def _date(self, select: Callable[[list[datetime]], datetime]) -> str:
        """Return a date, or a date-time in one of its notations, at or near an enrolment."""
        rng = self._rng
        when = select(rng.sample(self._samples.moments, rng.choice((1, 2, 3))))
        if when in EXTREME_MOMENTS:
            return rng.choice((f"{when.year:04d}-{when.month:02d}-{when.day:02d}", when.isoformat()))
        when += timedelta(microseconds=rng.choice((0, 0, 0, 1, -1)), days=rng.choice((0, 0, 1, -1)))
        offset_minutes = rng.choice((0, 120, -300, 345))
        local = when.astimezone(timezone(timedelta(minutes=offset_minutes)))
        in_utc = when.astimezone(UTC).replace(tzinfo=None)
        notations = (f"{in_utc:%Y-%m-%d}", in_utc.isoformat(), in_utc.isoformat() + "Z", local.isoformat())
        return rng.choice((*notations, f"{in_utc:%Y-%m-%dT%H:%M}", f"{local:%Y-%m-%dT%H:%M}{local.isoformat()[-6:]}"))


def unaccented(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", text) if unicodedata.category(char) != "Mn")


def accented(text: str) -> str:
    return "".join(f"{char}\u0308" if char.isalpha() else char for char in text)


def composed(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


KIND_SHARES_MIN: dict[str, float] = {
    "status 404": 0.05,
    "status 422": 0.05,
    "several wrong": 0.02,
    "not empty": 0.25,
    "not empty for an owner": 0.04,
    "empty": 0.05,
    "beyond the end": 0.01,
    "more pages": 0.05,
    "q finds": 0.02,
    "q finds nothing": 0.01,
    "q blank": 0.003,
    "dates": 0.05,
    "only deleted": 0.01,
    "with deleted": 0.05,
    "aggregations": 0.05,
    "no aggregations": 0.2,
    **{f"by {name} {direction}": 0.002 for name in SORT_FIELDS for direction in ("asc", "desc")},
    **{f"wrong {name}": 0.002 for name in (*INVALID_VALUES, "customer_id")},
}
"""Kind → the minimum share of all requests; without it a comparison could pass because cases are missing."""


def too_rare(counts: Counter[str], requests: int) -> dict[str, int]:
    """Return the kinds below their minimum share; none if there are too few requests to judge."""
    if requests < REQUESTS_MIN:
        return {}
    return {name: counts[name] for name, share in KIND_SHARES_MIN.items() if counts[name] < int(share * requests)}


def kinds(request: RequestCase, expected: Expected) -> set[str]:
    """Return the kinds of cases that a request and its response cover."""
    if expected.body is None:
        several = {"several wrong"} if len(expected.locs) > 1 else set()
        return {f"status {expected.status}", *(f"wrong {loc[1]}" for loc in expected.locs), *several}
    body, parameters = expected.body, dict(request.pairs)
    items, total, query = body["data"], body["meta"]["total"], body["query"]
    covered_if = {
        "not empty": bool(items),
        "not empty for an owner": bool(items) and not request.principal.is_admin,
        "empty": not items,
        "beyond the end": total > 0 and not items,
        "more pages": expected.has_next,
        "q finds": "q" in query and bool(items),
        "q finds nothing": "q" in query and total == 0,
        "q blank": "q" in parameters and "q" not in query,
        "dates": bool(items) and ("date_from" in query or "date_to" in query),
        "only deleted": bool(items) and query["filters"]["only_deleted"],
        "with deleted": bool(items) and query["filters"]["include_deleted"],
        "aggregations": body.get("aggregations", {}).get("extra", {}).get("deleted", 0) > 0,
        "no aggregations": "aggregations" not in body,
    }
    covered = {name for name, condition in covered_if.items() if condition}
    if len(items) > 1:
        covered.add(f"by {query['sort']['field']} {query['sort']['direction']}")
    return covered | {"status 200"}
