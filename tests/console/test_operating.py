"""An operator changes things from the browser: each change is planned, run with a reason, and really happens."""

import re
from collections.abc import AsyncIterator
from typing import Final

import httpx
import pytest
from playwright.async_api import Browser, expect

from tests.support.browser import DEADLINE_MS, Operator, operator_at
from tests.support.builders import customer_id, owner_id, published
from tests.support.console import Console
from tests.support.known_outcome import Dataset
from tests.support.operations import assert_dataset_rows, live
from tests.support.processes import System, eventually

UNREADABLE: Final = "membership.nothing"
CUSTOMER: Final = 901


async def park(system: System, *bodies: bytes) -> list[int]:
    """Publish messages that cannot be applied, and return their positions."""
    last = await system.publish([(UNREADABLE, body) for body in bodies])
    await system.wait_until_applied(last)
    return list(range(last - len(bodies) + 1, last + 1))


async def make_readable(system: System, position: int) -> None:
    """Simulate a release that reads an event: replace the stored message with a valid one."""
    subject, body = published("customer.upserted.v1", 1, customer=CUSTOMER, owner_id=owner_id(1))
    statement = "UPDATE g1.parked_event SET subject = $2, body = $3 WHERE position = $1"
    await system.fetch(statement, position, subject, body)


async def test_a_parked_event_is_retried_after_the_plan_said_what_happens(operator: Operator) -> None:
    system = operator.system
    readable, broken = await park(system, b"{}", b"{")
    await make_readable(system, readable)
    await operator.sign_in(screen="parked")
    await operator.press("Retry all 2 …")
    await operator.sees("1 would apply, 1 still fail", operator.dialog)
    headings = operator.dialog.get_by_role("columnheader")
    assert (await headings.all_inner_texts())[:4] == ["Position", "Outcome", "Reason", "Detail"]
    await operator.press("Retry", operator.dialog)
    await operator.sees("Say why: the reason is kept in the audit.", operator.dialog)
    await operator.run_plan("Retry", reason="the corrected release is out")
    await operator.sees("Applied 1, still parked 1.", operator.dialog)
    await operator.plan_is_done()
    await operator.sees("1 event in 1 group")
    assert await system.parked_positions() == {broken}
    assert await system.fetch("SELECT FROM g1.customer WHERE customer_id = $1", customer_id(CUSTOMER))
    await operator.go("audit")
    await operator.sees("the corrected release is out")


async def test_a_discard_needs_the_typed_word_and_a_plan_that_still_holds(operator: Operator) -> None:
    system = operator.system
    (first,) = await park(system, b"[")
    await operator.sign_in(screen="parked")
    await operator.page.get_by_role("button", name=re.compile("^Discard all")).click()
    await operator.run_plan("Discard", word="discart")
    await operator.sees("Type the word discard exactly.", operator.dialog)
    (second,) = await park(system, b"[[")
    await operator.run_plan("Discard", word="discard")
    await operator.sees("This plan no longer holds", operator.dialog)
    await operator.sees("Nothing was changed.", operator.dialog)
    await operator.screenshot("stale-plan")
    assert {first, second} <= await system.parked_positions()
    await operator.press("Make a new plan", operator.dialog)
    await operator.run_plan("Discard", word="discard")
    await operator.plan_is_done()
    await operator.sees("Nothing is parked")
    assert await system.parked_positions() == set()


async def test_an_api_key_is_created_shown_once_and_revoked(operator: Operator) -> None:
    await operator.sign_in(screen="keys")
    await operator.press("Create a key …")
    await operator.press("Show the plan", operator.dialog)
    await operator.sees("Name the key", operator.dialog)
    await operator.dialog.get_by_label("Name").fill("crm")
    await operator.dialog.get_by_label("Id of the user").fill(owner_id(1))
    await operator.press("Show the plan", operator.dialog)
    await operator.run_plan("Create the key")
    secret = await operator.dialog.locator(".secret-value").inner_text(timeout=DEADLINE_MS)
    async with httpx.AsyncClient(base_url=operator.system.api_url) as client:
        reply = await client.get(f"/customers/{customer_id(1)}/campaigns", headers={"X-API-Key": secret})
    assert reply.status_code == 404, "the key is accepted, and there is no such customer"
    await operator.plan_is_done()
    await operator.sees("valid")
    assert secret not in await operator.page.content()
    await operator.press("Revoke …")
    await operator.run_plan("Revoke")
    await operator.plan_is_done()
    await operator.sees("revoked")


async def test_a_customer_is_repaired_in_the_lens_after_a_dry_run(operator: Operator) -> None:
    system = operator.system
    events = [
        published("customer.upserted.v1", 1, customer=7),
        published("campaign.upserted.v1", 1, campaign=7),
        published("target.enrolled.v1", 1, customer=7, campaign=7),
    ]
    await system.wait_until_applied(await system.publish(events))
    await system.fetch("UPDATE g1.membership SET present = false WHERE customer_id = $1", customer_id(7))
    await operator.sign_in(screen=f"customer/{customer_id(7)}")
    await operator.press("Compare with the stream")
    difference = operator.page.locator(".difference").first
    await expect(difference).to_contain_text("present", timeout=DEADLINE_MS)
    await operator.screenshot("repair-dry-run")
    assert not (await system.fetch("SELECT present FROM g1.membership WHERE customer_id = $1", customer_id(7)))[0][0]
    await operator.page.get_by_label("Reason").fill("a reader reported it")
    await operator.press("Write these rows")
    await expect(operator.page.locator(".outcome-ok")).to_be_visible(timeout=2 * DEADLINE_MS)
    assert (await system.fetch("SELECT present FROM g1.membership WHERE customer_id = $1", customer_id(7)))[0][0]


async def test_a_customer_is_erased_with_the_typed_word(operator: Operator) -> None:
    system = operator.system
    await system.wait_until_applied(await system.publish([published("customer.upserted.v1", 1, customer=8)]))
    await operator.sign_in(screen=f"customer/{customer_id(8)}")
    await operator.press("Erase …")
    await operator.run_plan("Erase for ever", reason="asked for by the customer", word="erase")
    await operator.plan_is_done()
    assert not await system.fetch("SELECT FROM g1.customer WHERE customer_id = $1", customer_id(8))
    await operator.page.keyboard.press("Escape")
    await operator.sees("Unknown customer")


@pytest.fixture
async def own_operator(request: pytest.FixtureRequest, browser: Browser, own_system: System) -> AsyncIterator[Operator]:
    """An operator of a system with a dataset, whose generations the test may change."""
    await own_system.wait_until_applied(await own_system.publish(DATASET.events()))
    await Console(own_system).start_runner()
    async with operator_at(browser, own_system, request.node.name) as operator:
        yield operator


DATASET: Final = Dataset(3, customers=30, campaigns=12, memberships_each=6)


async def test_a_rebuild_is_approved_switched_and_rolled_back(own_operator: Operator) -> None:
    operator, system = own_operator, own_operator.system
    await system.fetch("UPDATE g1.membership SET present = NOT present WHERE customer_id = $1", customer_id(1))
    await operator.sign_in(screen="generations")
    await operator.press("Rebuild …")
    await operator.run_plan("Rebuild", reason="rows are wrong")
    await operator.press("Close", operator.dialog.locator(".dialog-actions"))
    await expect(operator.page.locator(".pill", has_text="awaits a decision").first).to_be_visible(
        timeout=4 * DEADLINE_MS
    )
    await operator.sees("6 rows of membership as a sample")
    await operator.page.locator(".samples summary").first.click()
    await operator.screenshot("gate")
    assert await operator.accessibility_violations() == []
    lens = operator.page.locator(f".difference a[href='#/customer/{customer_id(1)}']")
    await expect(lens.first).to_be_visible()
    assert await live(system) == "g1"

    await operator.press("Approve …")
    await operator.run_plan("Approve", reason="the live rows are wrong")
    await operator.plan_is_done()
    lanes = operator.page.locator(".lane")
    await expect(lanes.first).to_contain_text(re.compile("g2.*live", re.DOTALL), timeout=4 * DEADLINE_MS)
    await expect(lanes.nth(1)).to_contain_text("a roll back returns to it")
    await assert_dataset_rows(system, DATASET)
    await operator.screenshot("switched")

    await operator.press("Roll back …")
    await operator.run_plan("Roll back", reason="a drill", word="rollback")
    await operator.plan_is_done()
    await expect(lanes.first).to_contain_text(re.compile("g1.*live", re.DOTALL), timeout=2 * DEADLINE_MS)
    assert await live(system) == "g1"


async def test_a_verification_names_the_damaged_row_and_a_job_is_cancelled(own_operator: Operator) -> None:
    operator, system = own_operator, own_operator.system
    await system.fetch("UPDATE g1.membership SET present = NOT present WHERE customer_id = $1", customer_id(1))
    await operator.sign_in(screen="generations")
    await operator.press("Verify …")
    await operator.run_plan("Verify")
    await operator.sees("6 rows differ from what this release reads in the stream", operator.dialog)
    await operator.plan_is_done()
    await operator.press("Rebuild …")
    await operator.run_plan("Rebuild")
    await operator.press("Close", operator.dialog.locator(".dialog-actions"))
    waiting = operator.page.locator(".lane", has_text="awaits a decision")
    await expect(waiting).to_be_visible(timeout=2 * DEADLINE_MS)
    await operator.press("Cancel the job …", waiting)
    await operator.run_plan("Cancel the job")
    await operator.plan_is_done()

    async def is_cancelled() -> bool:
        rows = await system.fetch("SELECT state FROM control.job WHERE kind = 'rebuild'")
        return [row["state"] for row in rows] == ["cancelled"]

    await eventually(is_cancelled, "the rebuild is cancelled")
    await operator.sees("cancelled")
    assert await live(system) == "g1"
