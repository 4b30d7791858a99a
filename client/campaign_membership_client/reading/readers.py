"""`Reader` and `AsyncReader`: the same reads over httpx, blocking and asynchronous.

Reads: the HTTP API. Fails: a `ReadError`; errors that pass soon are retried first.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self, Unpack

import httpx

from campaign_membership_client.reading.answers import Answer, HistoryPage, Page, Response, history_of, page_of
from campaign_membership_client.reading.exchange import NoResponse, Pause, Retry, Send, Steps, exchange
from campaign_membership_client.reading.memory import Memory
from campaign_membership_client.reading.models import Campaign, HistoryEvent
from campaign_membership_client.reading.requests import (
    Credentials,
    EntityId,
    Filters,
    Freshness,
    Request,
    Token,
    history_request,
    list_request,
)

TIMEOUT_S: Final = 15.0
"""Longer than the API waits for a position."""
MEMORY_BYTES: Final = 16 * 1024 * 1024
"""About a thousand pages of ten items."""


class _Settings:
    """What both readers share: the caller, the memory and the retries."""

    def __init__(self, token: Token | None, api_key: str | None, retry: Retry | None, memory_bytes: int) -> None:
        self._credentials = Credentials(token, api_key)
        self._retry = retry or Retry()
        self._memory = Memory(memory_bytes)

    def _steps(self, request: Request) -> Steps:
        return exchange(request, self._credentials, self._memory, self._retry)


class Reader(_Settings):
    """Reads over a pool of connections, for threads; `options` are httpx's for a `Client`."""

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        api_key: str | None = None,
        retry: Retry | None = None,
        memory_bytes: int = MEMORY_BYTES,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(token, api_key, retry, memory_bytes)
        self._client = httpx.Client(base_url=url, **({"timeout": TIMEOUT_S} | dict(options or {})))

    def __enter__(self) -> Self:
        """Open nothing yet: the first read connects."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._client.close()

    def page(
        self,
        customer: EntityId,
        *,
        cursor: str | None = None,
        min_position: int | None = None,
        wait_s: int | None = None,
        **filters: Unpack[Filters],
    ) -> Page:
        """Return one page: the first, that at `offset`, or the one that `cursor` of another page names."""
        request = list_request(customer, {**filters, "cursor": cursor}, Freshness(min_position, wait_s))
        return page_of(self._read(request))

    def pages(
        self,
        customer: EntityId,
        *,
        min_position: int | None = None,
        wait_s: int | None = None,
        **filters: Unpack[Filters],
    ) -> Iterator[Page]:
        """Yield all pages by cursor: changes meanwhile neither repeat nor skip a campaign."""
        page = self.page(customer, min_position=min_position, wait_s=wait_s, **filters)
        yield page
        filters.pop("offset", None)
        while page.meta.next_cursor:
            page = self.page(customer, cursor=page.meta.next_cursor, **filters)
            yield page

    def campaigns(
        self,
        customer: EntityId,
        *,
        min_position: int | None = None,
        wait_s: int | None = None,
        **filters: Unpack[Filters],
    ) -> Iterator[Campaign]:
        """Yield all campaigns that the customer is in, page by page."""
        for page in self.pages(customer, min_position=min_position, wait_s=wait_s, **filters):
            yield from page.data

    def history(
        self,
        customer: EntityId,
        campaign: EntityId,
        *,
        cursor: str | None = None,
        limit: int | None = None,
        counters: bool = False,
        min_position: int | None = None,
        wait_s: int | None = None,
    ) -> HistoryPage:
        """Return why the customer is, or is not, in the campaign, with a page of the events."""
        parameters = _history_parameters(cursor, limit, counters=counters)
        request = history_request(customer, campaign, parameters, Freshness(min_position, wait_s))
        return history_of(self._read(request))

    def history_events(
        self, customer: EntityId, campaign: EntityId, *, counters: bool = False
    ) -> Iterator[HistoryEvent]:
        """Yield all events of a history by position, page by page."""
        cursor: str | None = None
        while True:
            page = self.history(customer, campaign, cursor=cursor, counters=counters)
            yield from page.events
            cursor = page.body.meta.next_cursor
            if cursor is None:
                return

    def _read(self, request: Request) -> Answer:
        steps = self._steps(request)
        result: Response | NoResponse | None = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            result = self._perform(step)

    def _perform(self, step: Send | Pause) -> Response | NoResponse | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return _response(self._client.get(step.request.target, headers=dict(step.request.headers)))
        except httpx.TransportError as problem:
            return NoResponse(_why(problem))


class AsyncReader(_Settings):
    """Reads over a pool of connections, for asyncio; `options` are httpx's for an `AsyncClient`."""

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        api_key: str | None = None,
        retry: Retry | None = None,
        memory_bytes: int = MEMORY_BYTES,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(token, api_key, retry, memory_bytes)
        self._client = httpx.AsyncClient(base_url=url, **({"timeout": TIMEOUT_S} | dict(options or {})))

    async def __aenter__(self) -> Self:
        """Open nothing yet: the first read connects."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def page(
        self,
        customer: EntityId,
        *,
        cursor: str | None = None,
        min_position: int | None = None,
        wait_s: int | None = None,
        **filters: Unpack[Filters],
    ) -> Page:
        """Return one page: the first, that at `offset`, or the one that `cursor` of another page names."""
        request = list_request(customer, {**filters, "cursor": cursor}, Freshness(min_position, wait_s))
        return page_of(await self._read(request))

    async def pages(
        self,
        customer: EntityId,
        *,
        min_position: int | None = None,
        wait_s: int | None = None,
        **filters: Unpack[Filters],
    ) -> AsyncIterator[Page]:
        """Yield all pages by cursor: changes meanwhile neither repeat nor skip a campaign."""
        page = await self.page(customer, min_position=min_position, wait_s=wait_s, **filters)
        yield page
        filters.pop("offset", None)
        while page.meta.next_cursor:
            page = await self.page(customer, cursor=page.meta.next_cursor, **filters)
            yield page

    async def campaigns(
        self,
        customer: EntityId,
        *,
        min_position: int | None = None,
        wait_s: int | None = None,
        **filters: Unpack[Filters],
    ) -> AsyncIterator[Campaign]:
        """Yield all campaigns that the customer is in, page by page."""
        async for page in self.pages(customer, min_position=min_position, wait_s=wait_s, **filters):
            for campaign in page.data:
                yield campaign

    async def history(
        self,
        customer: EntityId,
        campaign: EntityId,
        *,
        cursor: str | None = None,
        limit: int | None = None,
        counters: bool = False,
        min_position: int | None = None,
        wait_s: int | None = None,
    ) -> HistoryPage:
        """Return why the customer is, or is not, in the campaign, with a page of the events."""
        parameters = _history_parameters(cursor, limit, counters=counters)
        request = history_request(customer, campaign, parameters, Freshness(min_position, wait_s))
        return history_of(await self._read(request))

    async def history_events(
        self, customer: EntityId, campaign: EntityId, *, counters: bool = False
    ) -> AsyncIterator[HistoryEvent]:
        """Yield all events of a history by position, page by page."""
        cursor: str | None = None
        while True:
            page = await self.history(customer, campaign, cursor=cursor, counters=counters)
            for event in page.events:
                yield event
            cursor = page.body.meta.next_cursor
            if cursor is None:
                return

    async def _read(self, request: Request) -> Answer:
        steps = self._steps(request)
        result: Response | NoResponse | None = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            result = await self._perform(step)

    async def _perform(self, step: Send | Pause) -> Response | NoResponse | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return _response(await self._client.get(step.request.target, headers=dict(step.request.headers)))
        except httpx.TransportError as problem:
            return NoResponse(_why(problem))


def _history_parameters(cursor: str | None, limit: int | None, *, counters: bool) -> dict[str, object]:
    return {"cursor": cursor, "limit": limit, "include": "counters" if counters else None}


def _response(response: httpx.Response) -> Response:
    return Response(response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.content)


def _why(problem: httpx.TransportError) -> str:
    return " ".join(str(problem).split()).rstrip(".") or type(problem).__name__
