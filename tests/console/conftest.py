"""Fixtures of the browser tests: one Chromium per session, one tab per test, and a running system with a history."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.support.browser import Operator, chromium, operator_at
from tests.support.console import Console
from tests.support.processes import System


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium."""
    async with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
async def console(system: System) -> Console:
    """The module's system with a job runner, driven through HTTP."""
    console = Console(system)
    await console.start_runner()
    return console


@pytest.fixture
async def operator(request: pytest.FixtureRequest, browser: Browser, console: Console) -> AsyncIterator[Operator]:
    """An operator in front of a wide window."""
    async with operator_at(browser, console.system, request.node.name) as operator:
        yield operator
