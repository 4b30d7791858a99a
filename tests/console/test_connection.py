"""The console while the API, the event stream or the network is away: it says so, and comes back by itself."""

from playwright.async_api import Browser, expect

from tests.support.browser import DEADLINE_MS, operator_at
from tests.support.builders import published
from tests.support.console import Console
from tests.support.processes import System, eventually


async def test_a_lost_connection_is_shown_and_recovers(browser: Browser, own_system: System) -> None:
    await Console(own_system).start_runner()
    async with operator_at(browser, own_system) as operator:
        await operator.sign_in()
        dot = operator.page.locator(".dot")
        await expect(dot).to_have_text("Live", timeout=DEADLINE_MS)
        own_system.kill("serve")
        await expect(dot).to_have_text("Not live", timeout=DEADLINE_MS)
        await operator.sees("What you see is from")
        await operator.screenshot("lost-connection")
        assert await operator.accessibility_violations() == []
        await operator.go("audit")
        await operator.sees("No connection to the API")
        own_system.launch("serve")
        await eventually(own_system._ready, "the API is ready")
        await expect(dot).to_have_text("Live", timeout=2 * DEADLINE_MS)
        await operator.sees("No operator has changed anything yet")
        await expect(operator.page.locator(".not-live")).to_have_count(0)


async def test_a_stream_that_does_not_answer_gets_a_sentence(browser: Browser, own_system: System) -> None:
    await own_system.publish([published("customer.upserted.v1", 1, customer=1)])
    async with operator_at(browser, own_system) as operator:
        await operator.sign_in(screen="stream")
        await operator.sees("No job runner has reached the stream yet")
        await operator.sees("customer.upserted.v1")
        own_system.broker.stop()
        await operator.page.reload()
        await operator.sees("The event stream cannot be shown", operator.page.locator(".panel"))
        await operator.sees("does not answer", operator.page.locator(".panel"))
        await operator.screenshot("silent-stream")
