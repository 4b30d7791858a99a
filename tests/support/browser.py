"""A real browser at the console: starts Chromium, opens pages, and collects what the browser complains about."""

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from tests.support.processes import System

PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MISSING: Final = (
    "The console is tested in a real browser, and there is none: install Chromium "
    "(as root `apt-get install --no-install-recommends chromium fonts-dejavu-core`; `make test` does it where it may)."
)
ARTEFACTS: Final = Path(__file__).parents[2] / ".build" / "screenshots"
"""Ignored by git; CI keeps the folder."""
DEADLINE_MS: Final = 30_000
WIDE, NARROW = 1920, 320
HEIGHT: Final = 1080

Scheme = Literal["dark", "light"]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run the system's Chromium; no other browser is downloaded."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.fail(MISSING)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


class Operator:
    """One tab of an operator, and all errors that the browser reported about it."""

    def __init__(self, system: System, page: Page) -> None:
        self.system = system
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self._note("error", str(error)))

    def _note(self, kind: str, text: str) -> None:
        # A refused request is an answer that the page shows; Chromium reports it as an error all the same.
        if kind in {"error", "warning"} and not text.startswith("Failed to load resource"):
            self.complaints.append(text)

    async def open(self, screen: str = "overview") -> None:
        """Load the page at a screen."""
        await self.page.goto(f"{self.system.api_url}/console#/{screen}")

    async def sign_in(self, credential: str | None = None, screen: str = "overview") -> None:
        """Load the page at a screen, and paste a credential: an admin's token unless given."""
        await self.open(screen)
        await self.page.get_by_label("Token or API key").fill(credential or self.system.admin_token)
        await self.page.get_by_role("button", name="Sign in").click()

    async def go(self, screen: str) -> None:
        """Follow a link to a screen."""
        await self.page.evaluate("to => { location.hash = `#/${to}`; }", screen)

    async def sees(self, text: str, within: Locator | None = None) -> None:
        """Wait until a text is visible."""
        await expect((within or self.page.locator("body")).get_by_text(text).first).to_be_visible(timeout=DEADLINE_MS)

    async def heading(self, title: str) -> None:
        """Wait for the heading of a screen."""
        await expect(self.page.get_by_role("heading", level=1, name=title)).to_be_visible(timeout=DEADLINE_MS)

    async def settled(self) -> None:
        """Wait until nothing is being read any more."""
        await expect(self.page.locator(".state-loading")).to_have_count(0, timeout=DEADLINE_MS)

    async def look(self, width: int, scheme: str) -> None:
        """Change the window's width and the preferred colour scheme."""
        await self.page.set_viewport_size({"width": width, "height": HEIGHT})
        await self.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")

    @property
    def dialog(self) -> Locator:
        """The open dialog."""
        return self.page.get_by_role("dialog")

    async def press(self, name: str, within: Locator | None = None) -> None:
        """Press a button by its exact name."""
        await (within or self.page).get_by_role("button", name=name, exact=True).first.click()

    async def run_plan(self, verb: str, *, reason: str = "a drill", word: str | None = None) -> None:
        """Fill in the form of the plan in the open dialog, and run it."""
        await self.dialog.get_by_label("Reason").fill(reason, timeout=DEADLINE_MS)
        if word is not None:
            await self.dialog.get_by_label("to confirm").fill(word)
        await self.press(verb, self.dialog)

    async def plan_is_done(self) -> None:
        """Wait until the plan in the open dialog has ended well, and close the dialog."""
        await expect(self.dialog.locator(".outcome-ok")).to_be_visible(timeout=4 * DEADLINE_MS)
        await self.press("Close", self.dialog.locator(".dialog-actions"))

    async def screenshot(self, name: str) -> None:
        """Keep a picture of the whole page as an artefact."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)

    async def accessibility_violations(self) -> list[str]:
        """Return what axe finds, one line a rule and element."""
        found = (await Axe().run(self.page)).response["violations"]
        return [f"{rule['id']}: {node['html'][:160]}" for rule in found for node in rule["nodes"]]

    async def overflow_px(self) -> int:
        """Return by how much the page is wider than the window."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@asynccontextmanager
async def operator_at(
    browser: Browser, system: System, test: str = "", *, width: int = WIDE, scheme: Scheme = "light"
) -> AsyncIterator[Operator]:
    """Open a tab with a session storage of its own; fail if the browser complained about anything.

    The last thing seen in a `test` is kept as a picture.
    """
    context = await browser.new_context(
        viewport={"width": width, "height": HEIGHT}, color_scheme=scheme, reduced_motion="reduce"
    )
    operator = Operator(system, await context.new_page())
    try:
        yield operator
        if test:
            await operator.screenshot(f"end-of-{re.sub('[^a-z0-9]+', '-', test)[:100]}")
        assert operator.complaints == []
    finally:
        await context.close()
