"""What the API counts besides requests: waits for connections, requests refused under load, refused credentials."""

import asyncio
from typing import get_args

import httpx
import pytest
from prometheus_client import Counter

from service import metrics
from service.cache import Cache
from service.metrics import Refusal, Shed
from service.page_budget import PageBudget, PageMemoryBusy
from service.read_model import admission as admissions
from service.read_model.admission import WAITING_PER_SLOT_MAX, Admission, Overloaded
from tests.support.builders import customer_id, published
from tests.support.processes import System


def counts(counter: Counter) -> dict[str, float]:
    """Return the values of a counter by the value of its only label."""
    (family,) = counter.collect()
    return {
        next(iter(sample.labels.values())): sample.value for sample in family.samples if sample.name.endswith("_total")
    }


@pytest.fixture
def shed() -> dict[str, float]:
    """The requests refused before the test."""
    return counts(metrics.SHED)


async def test_waits_for_connections_are_measured_per_pool(system: System) -> None:
    await system.wait_until_applied(await system.publish([published("customer.upserted.v1", 1)]))
    await system.get(f"/customers/{customer_id(1)}/campaigns")
    await system.get(f"/customers/{customer_id(1)}/campaigns?q=none")
    async with httpx.AsyncClient(base_url=system.api_url) as client:
        text = (await client.get("/metrics")).text
    for pool in ("custom", "generic"):
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith(f'membership_pool_wait_seconds_count{{pool="{pool}"}}')
        ]
        assert float(line.split(" ")[1]) > 0


async def test_a_read_without_a_waiting_place_is_counted_as_shed(shed: dict[str, float]) -> None:
    admission = Admission(2)
    admitted = [await admission.admit("caller")]
    waiting = [asyncio.create_task(admission.admit("caller")) for _ in range(WAITING_PER_SLOT_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await admission.admit("caller")
    assert counts(metrics.SHED) == shed | {"queue_full": shed["queue_full"] + 1}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(admitted) == 1


async def test_a_read_that_gets_no_slot_in_time_is_counted(
    shed: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admissions, "WAIT_MAX_S", 0.01)
    admission = Admission(2)
    await admission.admit("caller")
    with pytest.raises(Overloaded):
        await admission.admit("caller")
    assert counts(metrics.SHED) == shed | {"wait_expired": shed["wait_expired"] + 1}


async def test_a_page_without_memory_is_counted(shed: dict[str, float]) -> None:
    budget = PageBudget(Cache(), bytes_max=100)
    await budget.reserve(80, 0)
    with pytest.raises(PageMemoryBusy):
        await budget.reserve(80, 0)
    assert counts(metrics.SHED) == shed | {"page_memory": shed["page_memory"] + 1}


def test_every_reason_has_a_sample_and_is_counted_alone() -> None:
    assert counts(metrics.SHED).keys() == set(get_args(Shed))
    before = counts(metrics.CREDENTIAL_FAILURES)
    assert before.keys() == set(get_args(Refusal))
    metrics.credential_refused("expired")
    assert counts(metrics.CREDENTIAL_FAILURES) == before | {"expired": before["expired"] + 1}
