"""What each caller sees equals the reference, with any credentials, from memory or not, with others' tags and cursors.

Each request is sent by several callers in turn, so that whatever the service remembers of one is there when the next
one asks. Histories are random, and shared with no other test.
"""

import os
from collections import Counter
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import httpx

from projections import api_keys
from projections.store import database as databases
from tests.support.api_fuzz import RequestCase, compare, expected_response, request_cases, token
from tests.support.differential import DifferentialRun, assert_no_differences, in_batches
from tests.support.processes import System
from tests.support.random_history import History
from tests.support.reference_model import Principal, Reference

CASES: Final = int(os.environ.get("MEMBERSHIP_TEST_AUTHORISATION_CASES", "1200"))
"""Requests in all; each is sent twice, so that the second may be answered from memory."""
CALLERS_EACH: Final = 4
"""How many callers send the same request."""
SEED: Final = 7_000
CONCURRENCY_MAX: Final = 8
MODES: Final = ("token", "key", "both")
KIND_SHARES_MIN: Final = {
    "admin 200": 0.1,
    "non-admin 200": 0.05,
    "non-admin with items": 0.02,
    "non-admin 404": 0.1,
    "own tag": 0.05,
    "foreign tag": 0.05,
    "foreign cursor": 0.02,
    **{f"by {mode}": 0.1 for mode in MODES},
}
"""Kind → its minimum share of all cases; without it the comparison could pass because cases are missing."""


@dataclass
class Seen:
    """What one caller received for a request."""

    principal: Principal
    scope: str | None
    response: httpx.Response

    @property
    def cursor(self) -> str | None:
        """The cursor of the next page."""
        meta = self.response.json().get("meta", {}) if self.response.status_code == 200 else {}
        cursor: str | None = meta.get("next_cursor")
        return cursor


class Callers:
    """Sends requests with the credentials of any principal."""

    def __init__(self, client: httpx.AsyncClient, system: System, keys: dict[Principal, str]) -> None:
        self._client = client
        self._api_url = system.api_url
        self._keys = keys
        self._tokens = {principal: token(principal, system.jwt_secret) for principal in keys}

    async def send(self, request: RequestCase, mode: str, **headers: str) -> httpx.Response:
        """Send a request with a token, a key or both."""
        principal = request.principal
        bearer = {"Authorization": f"Bearer {self._tokens[principal]}"} if mode != "key" else {}
        key = {"X-API-Key": self._keys[principal]} if mode != "token" else {}
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._client.get(self._api_url + request.target, headers=bearer | key | sent)


class Comparison:
    """Compares the responses to requests with the reference, and counts what was covered."""

    def __init__(self, callers: Callers, reference: Reference, principals: list[Principal], rng: Random) -> None:
        self._callers = callers
        self._reference = reference
        self._principals = principals
        self._rng = rng
        self.kinds: Counter[str] = Counter()
        self.cases = 0

    async def compare_for_several(self, request: RequestCase) -> list[str]:
        """Have several callers send a request in turn; return the differences."""
        seen: list[Seen] = []
        differences: list[str] = []
        for principal in (request.principal, *self._rng.sample(self._principals, CALLERS_EACH - 1)):
            differences += await self._compare(replace(request, principal=principal), seen)
        return [difference for difference in differences if difference]

    async def _compare(self, request: RequestCase, seen: list[Seen]) -> list[str]:
        mode = self._rng.choice(MODES)
        expected = expected_response(self._reference, request)
        cold = await self._callers.send(request, mode)
        warm = await self._callers.send(request, mode)
        self._count(request.principal, mode, cold)
        differences = [compare(expected, cold), compare(expected, warm)]
        mine = Seen(request.principal, None if request.principal.is_admin else request.principal.user_id, cold)
        if cold.status_code == 200:
            differences.append(await self._own_tag(request, mode, cold))
        for other in seen:
            if other.scope != mine.scope and other.response.status_code == 200:
                differences.append(await self._foreign_tag(request, mode, cold, other))
                differences.append(await self._foreign_cursor(request, mode, other))
        seen.append(mine)
        return differences

    async def _own_tag(self, request: RequestCase, mode: str, cold: httpx.Response) -> str:
        self._add("own tag")
        response = await self._callers.send(request, mode, If_None_Match=cold.headers["etag"])
        return "" if response.status_code == 304 else f"{request}: {response.status_code} for the caller's own tag"

    async def _foreign_tag(self, request: RequestCase, mode: str, cold: httpx.Response, other: Seen) -> str:
        """Send another caller's tag: 304 only where both see the same bytes."""
        self._add("foreign tag")
        response = await self._callers.send(request, mode, If_None_Match=other.response.headers["etag"])
        if response.status_code == 304:
            same = cold.content == other.response.content
            return "" if same else f"{request}: 304 for the tag of {other.principal}, who sees something else"
        return compare(expected_response(self._reference, request), response)

    async def _foreign_cursor(self, request: RequestCase, mode: str, other: Seen) -> str:
        if other.cursor is None:
            return ""
        self._add("foreign cursor")
        foreign = request.with_pairs(offset=None, cursor=other.cursor)
        response = await self._callers.send(foreign, mode)
        return "" if response.status_code == 422 else f"{foreign}: {response.status_code} for another's cursor"

    def _count(self, principal: Principal, mode: str, response: httpx.Response) -> None:
        self.cases += 1
        kind = "admin" if principal.is_admin else "non-admin"
        self.kinds.update((f"by {mode}", f"{kind} {response.status_code}"))
        if kind == "non-admin" and response.status_code == 200 and response.json()["data"]:
            self.kinds.update(("non-admin with items",))

    def _add(self, kind: str) -> None:
        self.cases += 1
        self.kinds.update((kind,))


async def keys_of(system: System, principals: list[Principal]) -> dict[Principal, str]:
    """Create an API key for each principal."""
    connection = await databases.connect(system.database_url, "test")
    try:
        return {
            principal: await api_keys.create(
                connection, principal.user_id, is_admin=principal.is_admin, label="", actor="test"
            )
            for principal in principals
        }
    finally:
        await connection.close()


async def test_each_caller_sees_exactly_what_the_reference_allows(system: System) -> None:
    history = History(SEED)
    run = DifferentialRun(system)
    await run.publish(history.delivery(SEED))
    users = [*history.owners, history.stranger]
    principals = [Principal(user, is_admin=is_admin) for user in users for is_admin in (False, False, True)]
    keys = await keys_of(system, list(dict.fromkeys(principals)))
    requests = request_cases(history, SEED, CASES // CALLERS_EACH + 1)
    async with httpx.AsyncClient(timeout=30) as client:
        comparison = Comparison(Callers(client, system, keys), run.reference, principals, Random(SEED))
        differences = await in_batches(comparison.compare_for_several, requests, CONCURRENCY_MAX)
    assert_no_differences([text for found in differences for text in found], f"history {SEED}")
    assert comparison.cases >= CASES
    share = {kind: comparison.kinds[kind] / comparison.cases for kind in KIND_SHARES_MIN}
    assert {kind: share[kind] for kind, least in KIND_SHARES_MIN.items() if share[kind] < least} == {}
