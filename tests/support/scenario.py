"""Scenarios for the API tests: customers and campaigns of one test, published as events and read back over HTTP."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from ops.token import sign
from tests.support.builders import campaign_id, customer_id, owner_id, published
from tests.support.processes import JWT_SECRET, System, eventually

TOKEN_TTL_S = 3600
TIMEOUT_S = 15

_numbers = itertools.count(1)


def new_number() -> int:
    """Return a number that no other test uses, higher than all before, so that ids sort in order of creation."""
    return next(_numbers)


def path_of(customer: int) -> str:
    """Return the path of a customer's campaigns."""
    return f"/customers/{customer_id(customer)}/campaigns"


def bearer(owner: int, *, admin: bool = False) -> dict[str, str]:
    """Return the header of a token for an owner, by number."""
    return {"Authorization": f"Bearer {sign(JWT_SECRET, owner_id(owner), admin=admin, ttl_s=TOKEN_TTL_S)}"}


def names(body: dict[str, Any]) -> list[str]:
    """Return the names listed, in order."""
    return [item["name"] for item in body["data"]]


def ids(body: dict[str, Any]) -> list[str]:
    """Return the ids listed, in order."""
    return [item["id"] for item in body["data"]]


def locs(reply: httpx.Response) -> list[list[str]]:
    """Return the locations of the violations in a 422 response."""
    assert reply.status_code == 422, f"{reply.request.url}: {reply.status_code} {reply.text[:300]}"
    return [violation["loc"] for violation in reply.json()["detail"]]


def code_of(reply: httpx.Response) -> tuple[int, str]:
    """Return status and code of a problem."""
    assert reply.headers["content-type"] == "application/problem+json", reply.text[:300]
    return reply.status_code, reply.json()["code"]


@asynccontextmanager
async def client_of(api_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client without default headers: no credentials, no accepted encodings."""
    async with httpx.AsyncClient(base_url=api_url, timeout=TIMEOUT_S) as client:
        client.headers.clear()
        yield client


@asynccontextmanager
async def another_api(system: System, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a second API over the same read model, configured by the current environment variables."""
    api = System(system.database_url, system.broker, folder)
    api.launch("serve")
    try:
        await eventually(api._ready, "the second API is ready")
        async with client_of(api.api_url) as client:
            yield client
    finally:
        await api.stop()


class Scenario:
    """Adds events of its own customers and campaigns, then publishes them; versions rise with every event."""

    def __init__(self, system: System, client: httpx.AsyncClient) -> None:
        self.system = system
        self.client = client
        self.unpublished: list[tuple[str, bytes]] = []
        self._version = 0

    def add_event(self, event_type: str, /, **fields: Any) -> None:
        """Add an event with a higher version than all before."""
        self._version += 1
        self.unpublished.append(published(event_type, self._version, **fields))

    def customer(self, **fields: Any) -> int:
        """Add a customer, of owner 1 by default, and return its number."""
        number = new_number()
        self.add_event("customer.upserted.v1", customer=number, **fields)
        return number

    def campaign(self, name: str | None = None, **fields: Any) -> int:
        """Add a campaign, of owner 1 by default, and return its number; numbers and ids rise."""
        number = new_number()
        name_field = {} if name is None else {"name": name}
        self.add_event("campaign.upserted.v1", campaign=number, **name_field, **fields)
        return number

    def enrol(self, customer: int, *campaigns: int, **fields: Any) -> None:
        """Enrol a customer in campaigns, a minute apart in order of the campaigns' creation."""
        for campaign in campaigns:
            self.add_event("target.enrolled.v1", customer=customer, campaign=campaign, **fields)

    def member_of(self, *campaigns: int, **fields: Any) -> int:
        """Add a customer of owner 1 who is enrolled in these campaigns, and return its number."""
        customer = self.customer()
        self.enrol(customer, *campaigns, **fields)
        return customer

    async def publish(self) -> int:
        """Publish the events added since the last time; return their last position."""
        messages, self.unpublished = self.unpublished, []
        return await self.system.publish(messages)

    async def publish_and_wait(self) -> int:
        """Publish as `publish` does, and wait until the API has applied the events."""
        position = await self.publish()
        await self.system.wait_until_applied(position)
        return position

    async def ask(self, customer: int, headers: dict[str, str] | None = None, /, **params: Any) -> httpx.Response:
        """Request a customer's campaigns, as an admin unless `headers` are given."""
        credentials = headers if headers is not None else self.as_admin()
        return await self.client.get(path_of(customer), headers=credentials, params=params)

    async def page(self, customer: int, headers: dict[str, str] | None = None, /, **params: Any) -> dict[str, Any]:
        """Return the body of a response that must be a page."""
        reply = await self.ask(customer, headers, **params)
        assert reply.status_code == 200, f"{reply.request.url}: {reply.status_code} {reply.text[:300]}"
        body: dict[str, Any] = reply.json()
        return body

    async def names(self, customer: int, headers: dict[str, str] | None = None, **params: Any) -> list[str]:
        """Return the names of the campaigns on a page."""
        return names(await self.page(customer, headers, **params))

    def as_admin(self, **headers: str) -> dict[str, str]:
        """Return the headers of an admin's request."""
        return {"Authorization": f"Bearer {self.system.admin_token}"} | headers


def named_ids(*campaigns: int) -> list[str]:
    """Return the ids of campaigns by number."""
    return [campaign_id(number) for number in campaigns]
