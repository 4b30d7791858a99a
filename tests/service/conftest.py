"""What tests of the running service share: one client a module, and a story a test."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.service.story import Story, client_of
from tests.system.processes import System


@pytest.fixture(scope="module")
async def client(system: System) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the module's API that adds nothing of its own to a request."""
    async with client_of(system.api_url) as client:
        yield client


@pytest.fixture
def story(system: System, client: httpx.AsyncClient) -> Story:
    """An empty story, to be filled with what the test needs to have happened."""
    return Story(system, client)
