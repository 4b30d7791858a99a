"""One read as a sequence of steps, which a synchronous or an asynchronous reader performs.

Invariants: only GET requests are repeated; every pause is at most `Retry.pause_max_s`, and there are at most
`Retry.attempts_max` requests. A 503 without `Retry-After` is not repeated: a repetition could not succeed.
"""

import random
from collections.abc import Generator
from typing import Final

from msgspec import Struct

from campaign_membership_client.reading.answers import NOT_MODIFIED, OK, Answer, Response, answer_of, error_of
from campaign_membership_client.reading.errors import ReadError, UnexpectedAnswer, Unreachable
from campaign_membership_client.reading.memory import Memory, Remembered
from campaign_membership_client.reading.requests import Credentials, Request

REPEATED: Final = frozenset({429, 503})
"""Statuses that `Retry-After` makes worth a repetition."""
GATEWAY: Final = frozenset({502, 504})
"""A proxy's answers while an API process is replaced."""


class Retry(Struct, frozen=True):
    """How often a read is repeated."""

    attempts_max: int = 4
    """Requests per read, the first included."""
    pause_max_s: float = 5.0
    """A longer `Retry-After` raises the error at once."""
    backoff_s: float = 0.1
    """The first pause where the API names none; it doubles, with jitter."""


class Send(Struct, frozen=True):
    """A step: send a request; its result is the response, or why there is none."""

    request: Request


class Pause(Struct, frozen=True):
    """A step: wait."""

    seconds: float


class NoResponse(Struct, frozen=True):
    """The result of a request that got no response."""

    why: str


Steps = Generator[Send | Pause, Response | NoResponse | None, Answer]


def exchange(request: Request, credentials: Credentials, memory: Memory, retry: Retry) -> Steps:
    """Yield the steps of a read and return its answer; raises a `ReadError`."""
    for attempt in range(1, retry.attempts_max + 1):
        known = memory.get(request.target)
        outcome = yield Send(_with_headers(request, credentials, known))
        if isinstance(outcome, Response) and outcome.status in {OK, NOT_MODIFIED}:
            return _answer(request, outcome, known, memory)
        pause_s = _pause_s(outcome, attempt, retry)
        if pause_s is None or attempt == retry.attempts_max:
            raise _error(outcome, attempt)
        yield Pause(pause_s)
    raise Unreachable("No request was allowed: attempts_max is below 1.")


def _with_headers(request: Request, credentials: Credentials, known: Remembered | None) -> Request:
    headers = {**request.headers, **credentials.headers()}
    return Request(request.target, headers | ({"If-None-Match": known.etag} if known else {}))


def _answer(request: Request, response: Response, known: Remembered | None, memory: Memory) -> Answer:
    if response.status == OK:
        answer = answer_of(response, response.body)
        if etag := response.headers.get("etag"):
            memory.put(request.target, Remembered(etag, response.body))
        return answer
    if known is None:
        raise UnexpectedAnswer("The answer is 304, although the request named no entity tag.")
    return answer_of(response, known.body)


def _pause_s(outcome: Response | NoResponse | None, attempt: int, retry: Retry) -> float | None:
    """Return how long to wait before the next attempt; None if it could not succeed, or not soon."""
    backoff_s: float = retry.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret
    if not isinstance(outcome, Response) or outcome.status in GATEWAY:
        return min(backoff_s, retry.pause_max_s)
    after = outcome.headers.get("retry-after", "")
    if outcome.status not in REPEATED or not after.isdecimal() or int(after) > retry.pause_max_s:
        return None
    return max(float(after), min(backoff_s, retry.pause_max_s))


def _error(outcome: Response | NoResponse | None, attempts: int) -> ReadError:
    if isinstance(outcome, Response):
        return error_of(outcome)
    why = outcome.why if outcome else "no response"
    return Unreachable(f"The API does not answer ({attempts} attempts): {why}.")
