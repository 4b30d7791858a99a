"""Compares the running service's responses and parked events with those of the reference model."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import httpx
import nats
import pytest

from tests.support.api_fuzz import (
    ApiClient,
    RequestCase,
    compare,
    expected_response,
)
from tests.support.random_history import Publication
from tests.support.reference_model import Reference

PUBLISH_CONCURRENCY_MAX = 200
REQUEST_CONCURRENCY_MAX = 16
TIMEOUT_S = 30
SHOWN_MAX = 10
Input = TypeVar("Input")
Result = TypeVar("Result")


class System(Protocol):
    """What these tests use of the `system` fixture: a running broker, projector and API."""

    api_url: str
    nats_url: str
    jwt_secret: str

    async def wait_until_applied(self, position: int) -> None:
        """Return once the API has applied this stream position."""

    async def parked_positions(self) -> set[int]:
        """Return the positions of all parked events."""


class DifferentialRun:
    """Publishes deliveries, and applies them to the reference in the order that the stream gave them."""

    def __init__(self, system: System) -> None:
        self.reference = Reference()
        self.published: dict[int, Publication] = {}
        """Position → publication."""
        self._system = system

    async def publish(self, publications: Sequence[Publication]) -> None:
        """Publish, apply to the reference, and wait until the service has applied everything too."""
        connection = await nats.connect(self._system.nats_url)
        try:
            stream = connection.jetstream()

            async def publish(publication: Publication) -> tuple[int, Publication]:
                receipt = await stream.publish(
                    publication.subject,
                    publication.body,
                    timeout=TIMEOUT_S,
                    stream="MEMBERSHIP",
                    headers={"Nats-Msg-Id": publication.msg_id},
                )
                assert not receipt.duplicate, f"the broker has seen message id {publication.msg_id}"
                return receipt.seq, publication

            by_position = dict(await in_batches(publish, publications, PUBLISH_CONCURRENCY_MAX))
        finally:
            await connection.close()
        for position, publication in sorted(by_position.items(), key=lambda item: item[0]):
            self.reference.apply(publication.subject, publication.body, position)
        self.published |= by_position
        await self._system.wait_until_applied(max(by_position))

    async def parking_differences(self) -> list[str]:
        """Describe each event that only the service or only the reference parked."""
        actual = await self._system.parked_positions() & self.published.keys()
        expected = self.reference.parked.keys()
        missing = [f"not parked at {position}: {self._describe(position)}" for position in sorted(expected - actual)]
        return missing + [f"parked at {position}: {self._describe(position)}" for position in sorted(actual - expected)]

    def _describe(self, position: int) -> str:
        publication = self.published[position]
        return f"{publication.defect or 'a valid event'}, {publication.subject} {publication.body[:300]!r}"


async def in_batches(
    call: Callable[[Input], Awaitable[Result]], inputs: Sequence[Input], concurrency_max: int
) -> list[Result]:
    """Call for every input, at most `concurrency_max` at a time; results are in the order of the inputs."""
    results: list[Result] = []
    for start in range(0, len(inputs), concurrency_max):
        results += await asyncio.gather(*(call(item) for item in inputs[start : start + concurrency_max]))
    return results


@asynccontextmanager
async def api_client(system: System) -> AsyncIterator[ApiClient]:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        yield ApiClient(client, system.api_url, system.jwt_secret)


async def response_differences(api: ApiClient, reference: Reference, requests: Sequence[RequestCase]) -> list[str]:
    """Send all requests; return a description of every response that differs from the reference's."""

    async def compare_one(request: RequestCase) -> str:
        return compare(expected_response(reference, request), await api.send(request))

    return [difference for difference in await in_batches(compare_one, requests, REQUEST_CONCURRENCY_MAX) if difference]


def assert_no_differences(differences: list[str], about: str) -> None:
    if differences:
        shown = "\n".join(differences[:SHOWN_MAX])
        pytest.fail(f"{about}: {len(differences)} differences, the first of them:\n{shown}", pytrace=False)
