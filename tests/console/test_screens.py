"""Every screen in a real browser: its content, axe's rules, both colour schemes, and widths from 320 to 1920 px."""

import itertools
import re
from typing import Any, Final, NamedTuple

import pytest
from playwright.async_api import expect

from tests.support.browser import DEADLINE_MS, NARROW, WIDE, Operator
from tests.support.builders import body_of, campaign_id, customer_id, data_of, subject_for
from tests.support.console import Console
from tests.support.known_outcome import Dataset

CUSTOMER, CAMPAIGN = 1, 1
BETWEEN = (720, 1024, 1200, 1280)
"""Widths at which a layout changes, or nearly does."""
LONG_SOURCE: Final = "a-producer-with-a-long-name/" * 4
UNKNOWN: Final = "00000000-0000-4000-8000-00000000dead"

NOT_BEHIND_THE_DIALOG: Final = (
    "document.querySelector('dialog').contains(document.activeElement) || document.activeElement === document.body"
)
"""Between the last and the first element the focus visits the browser itself."""


class Screen(NamedTuple):
    """A screen, and what an operator must see there."""

    place: str
    heading: str
    text: str


SCREENS: Final = {
    "overview": Screen("overview", "Overview", "In the last hour the projector never stood still"),
    "generations": Screen("generations", "Generations", "Readers see this copy."),
    "parked": Screen("parked", "Parked events", "unknown type"),
    "parked-event": Screen("parked/{parked}", "Event {parked:,}", "still parked"),
    "customer": Screen("customer/{customer}", "Customer", "Rendered"),
    "campaign": Screen("campaign/{campaign}", "Campaign", "as lists show it"),
    "stream": Screen("stream", "Stream", "as wanted"),
    "audit": Screen("audit", "Audit", "Entries, newest first"),
    "keys": Screen("keys", "API keys", "There is no key yet"),
}


@pytest.fixture(scope="module")
async def places(console: Console) -> dict[str, Any]:
    """What the screens show: a dataset, and a parked event."""
    system = console.system
    await system.publish(Dataset(3, customers=30, campaigns=12, memberships_each=6).events())
    data = data_of("target.enrolled.v1", 9, customer=CUSTOMER, campaign=CAMPAIGN)
    wrong = data_of("campaign.upserted.v1", 9, campaign=CAMPAIGN, name=7)
    parked = await system.publish(
        [
            (subject_for("target.enrolled.v1", data), body_of("target.enrolled.v2", data)),
            (subject_for("campaign.upserted.v1", wrong), body_of("campaign.upserted.v1", wrong, source=LONG_SOURCE)),
        ]
    )
    await system.wait_until_applied(parked)
    return {"parked": parked, "customer": customer_id(CUSTOMER), "campaign": campaign_id(CAMPAIGN)}


async def open_screen(operator: Operator, screen: Screen, places: dict[str, Any]) -> None:
    await operator.sign_in(screen=screen.place.format(**places))
    await operator.heading(screen.heading.format(**places))
    await operator.sees(screen.text)
    await operator.settled()


@pytest.mark.parametrize("name", SCREENS)
async def test_a_screen_is_accessible_and_fits_every_width(
    name: str, operator: Operator, places: dict[str, Any]
) -> None:
    await open_screen(operator, SCREENS[name], places)
    for width, scheme in itertools.product((WIDE, NARROW), ("dark", "light")):
        await operator.look(width, scheme)
        assert await operator.accessibility_violations() == [], (width, scheme)
        assert await operator.overflow_px() <= 0, (width, scheme)
        await operator.screenshot(f"{name}-{width}-{scheme}")
    for width in BETWEEN:
        await operator.look(width, "light")
        assert await operator.overflow_px() <= 0, width


async def test_the_sign_in_screen_is_accessible_and_fits_every_width(operator: Operator) -> None:
    await operator.open()
    await operator.sees("Token or API key")
    for width, scheme in itertools.product((WIDE, NARROW), ("dark", "light")):
        await operator.look(width, scheme)
        assert await operator.accessibility_violations() == [], (width, scheme)
        assert await operator.overflow_px() <= 0, (width, scheme)
        await operator.screenshot(f"sign-in-{width}-{scheme}")


async def test_a_plan_is_accessible_and_keeps_the_focus(operator: Operator, places: dict[str, Any]) -> None:
    await open_screen(operator, SCREENS["parked"], places)
    opener = operator.page.get_by_role("button", name="Retry all 2 …")
    await opener.focus()
    await operator.page.keyboard.press("Enter")
    await operator.sees("would apply", operator.dialog)
    for width, scheme in itertools.product((WIDE, NARROW), ("dark", "light")):
        await operator.look(width, scheme)
        assert await operator.accessibility_violations() == [], (width, scheme)
        await operator.screenshot(f"plan-{width}-{scheme}")
    for _ in range(12):
        await operator.page.keyboard.press("Tab")
        assert await operator.page.evaluate(NOT_BEHIND_THE_DIALOG)
    await operator.page.keyboard.press("Escape")
    await expect(operator.dialog).to_have_count(0)
    await expect(opener).to_be_focused()


async def test_the_navigation_is_reached_by_keyboard_and_moves_the_focus(
    operator: Operator, places: dict[str, Any]
) -> None:
    await open_screen(operator, SCREENS["overview"], places)
    link = operator.page.get_by_role("link", name="Audit")
    await link.focus()
    await operator.page.keyboard.press("Enter")
    await expect(operator.page.get_by_role("heading", level=1, name="Audit")).to_be_focused()
    await expect(link).to_have_attribute("aria-current", "page")
    await expect(operator.page).to_have_title("Audit · Campaign Membership")


async def test_an_errors_place_is_marked_in_the_body_of_a_parked_event(
    operator: Operator, places: dict[str, Any]
) -> None:
    await operator.sign_in(screen=f"parked/{places['parked']}")
    marked = operator.page.locator(".line-marked")
    await expect(marked).to_have_text(re.compile(r'"name": 7'), timeout=DEADLINE_MS)


async def test_the_customer_lens_shows_the_events_behind_a_sentence(operator: Operator, places: dict[str, Any]) -> None:
    await operator.sign_in(screen=f"customer/{places['customer']}")
    await operator.page.get_by_role("button", name="Show its events").first.click()
    timeline = operator.page.locator(".timeline").first
    await operator.sees("target.enrolled.v1", timeline)
    await operator.sees("applied", timeline)
    await operator.press("Raw")
    await operator.sees('"meta"')


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("customer/not-an-id", "This is not the id of a customer"),
        (f"customer/{UNKNOWN}", "Unknown customer"),
        (f"campaign/{UNKNOWN}", "Unknown campaign"),
        ("parked/999999", "Not found"),
        ("parked/none", "Not accepted"),
        ("job/999999", "Not found"),
        ("nonsense", "This console has no such screen."),
    ],
)
async def test_an_address_of_nothing_gets_a_sentence(place: str, sentence: str, operator: Operator) -> None:
    await operator.sign_in(screen=place)
    await operator.sees(sentence)
    await operator.settled()
