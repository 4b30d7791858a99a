"""What tests of the running service share: one client a module, and a story a test."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.processes import System
from tests.support.scenario import Scenario, client_of


@pytest.fixture(scope="module")
async def client(system: System) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the module's API that adds nothing of its own to a request."""
    async with client_of(system.api_url) as client:
        yield client


@pytest.fixture
def story(system: System, client: httpx.AsyncClient) -> Scenario:
    """An empty story, to be filled with what the test needs to have happened."""
    return Scenario(system, client)
