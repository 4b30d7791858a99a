"""Compares the running service's answers with those of the reference model."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
import nats
import pytest

from tests.support.api_fuzz import (
    ApiClient,
    RequestCase,
    compare,
    expected_of,
)
from tests.support.random_history import Publication
from tests.support.reference_model import Reference
from tests.system.test_differential import Given, Result, System

PUBLISHED_AT_ONCE_MAX = 200
ASKED_AT_ONCE_MAX = 16
TIMEOUT_S = 30
SHOWN_MAX = 10


class Telling:
    """Publishes deliveries and lets the reference follow them in the order that the stream gave them."""

    def __init__(self, system: System) -> None:
        self.reference = Reference()
        self.told: dict[int, Publication] = {}
        """Position → what stands there."""
        self._system = system

    async def tell(self, publications: Sequence[Publication]) -> None:
        """Publish, apply to the reference, and wait until the service has applied it all too."""
        connection = await nats.connect(self._system.nats_url)
        try:
            stream = connection.jetstream()

            async def publish(one: Publication) -> tuple[int, Publication]:
                headers = {"Nats-Msg-Id": one.msg_id}
                receipt = await stream.publish(
                    one.subject, one.body, timeout=TIMEOUT_S, stream="MEMBERSHIP", headers=headers
                )
                assert not receipt.duplicate, f"the broker has seen message id {one.msg_id}"
                return receipt.seq, one

            placed = dict(await in_batches(publish, publications, PUBLISHED_AT_ONCE_MAX))
        finally:
            await connection.close()
        for position, publication in sorted(placed.items(), key=lambda each: each[0]):
            self.reference.apply(publication.subject, publication.body, position)
        self.told |= placed
        await self._system.settled(max(placed))

    async def parked_otherwise(self) -> list[str]:
        """Name what the service parked and the reference did not, or the reverse."""
        parked = await self._system.parked_positions() & self.told.keys()
        ours = self.reference.parked.keys()
        missing = [f"not parked at {at}: {self._named(at)}" for at in sorted(ours - parked)]
        return missing + [f"parked at {at}: {self._named(at)}" for at in sorted(parked - ours)]

    def _named(self, position: int) -> str:
        publication = self.told[position]
        return f"{publication.spoiled or 'a good event'}, {publication.subject} {publication.body[:300]!r}"


async def in_batches(act: Callable[[Given], Awaitable[Result]], on: Sequence[Given], at_once_max: int) -> list[Result]:
    """Act on all, so many at a time; results come in the order of what was acted on."""
    results: list[Result] = []
    for start in range(0, len(on), at_once_max):
        results += await asyncio.gather(*(act(each) for each in on[start : start + at_once_max]))
    return results


@asynccontextmanager
async def asking(system: System) -> AsyncIterator[ApiClient]:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        yield ApiClient(client, system.api_url, system.jwt_secret)


async def differing(asker: ApiClient, reference: Reference, asked: Sequence[RequestCase]) -> list[str]:
    """Ask all questions; return an account of every answer that is not the reference's."""

    async def ask(question: RequestCase) -> str:
        return compare(expected_of(reference, question), await asker.ask(question))

    return [found for found in await in_batches(ask, asked, ASKED_AT_ONCE_MAX) if found]


def demand_none(found: list[str], about: str) -> None:
    if found:
        shown = "\n".join(found[:SHOWN_MAX])
        pytest.fail(f"{about}: {len(found)} differences, the first of them:\n{shown}", pytrace=False)
