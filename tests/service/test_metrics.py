"""What the API counts besides requests: waits for connections, requests refused under load, refused credentials."""

import asyncio
from typing import get_args

import httpx
import pytest
from prometheus_client import Counter

from service import metrics
from service.app import KEY_SET_UNAVAILABLE
from service.cache import Cache
from service.identity.refusals import Refusal
from service.metrics import Shed
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
    failures = counts(metrics.CREDENTIAL_FAILURES)
    assert failures.keys() == {*(refusal.code for refusal in Refusal), KEY_SET_UNAVAILABLE}


def test_requests_are_counted_in_every_bucket_that_holds_them() -> None:
    before = samples()
    metrics.count("/health/live", 200, 0.002)
    metrics.count("/health/live", 200, 7)
    metrics.count("/health/live", 503, 60)
    added = {name: value - before.get(name, 0) for name, value in samples().items()}
    assert added["membership_http_requests_total", "200"] == 2
    assert added["membership_http_requests_total", "503"] == 1
    buckets = {"0.001": 0, "0.0025": 1, "5.0": 1, "10.0": 2, "+Inf": 3}
    assert {le: added["membership_http_request_duration_seconds_bucket", le] for le in buckets} == buckets
    assert added["membership_http_request_duration_seconds_count", ""] == 3
    assert added["membership_http_request_duration_seconds_sum", ""] == pytest.approx(67.002)


def samples() -> dict[tuple[str, str], float]:
    """The samples of one route by name, and by status or bound."""
    return {
        (sample.name, sample.labels.get("status", sample.labels.get("le", ""))): sample.value
        for family in metrics.REGISTRY.collect()
        for sample in family.samples
        if sample.labels.get("route") == "/health/live"
    }
