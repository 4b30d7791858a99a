"""Fixtures for tests of the running service: one client per module, one scenario per test."""

import resource
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.support.processes import System
from tests.support.scenario import Scenario, client_of


@pytest.fixture(scope="module")
async def client(system: System) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the module's API that adds no headers to a request."""
    async with client_of(system.api_url) as client:
        yield client


@pytest.fixture
def scenario(system: System, client: httpx.AsyncClient) -> Scenario:
    """An empty scenario, to which the test adds events."""
    return Scenario(system, client)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process open as many connections as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
