"""Memory under steady reads and events: its growth is printed, and only a gross leak fails.

By hand for an hour: `MEMBERSHIP_TEST_SOAK_SECONDS=3600 make test ARGS='tests/system/test_soak.py -s'`.
"""

import asyncio
import itertools
import os
import re
import statistics
import time
from pathlib import Path

from tests.support.builders import customer_id, published
from tests.support.processes import System, eventually
from tests.support.scenario import client_of

SOAK_S = float(os.environ.get("MEMBERSHIP_TEST_SOAK_SECONDS", "10"))
CUSTOMERS = 50
CAMPAIGNS = 20
CALLERS = 4
SAMPLES = 20
WARM_UP_SHARE = 0.3
"""Caches fill and allocators settle in this share of the time, which is not counted."""
LEAK_BYTES_PER_S = 1_000_000
"""Far above what a test of some seconds shows by chance; a leak of a kilobyte per request exceeds it."""


def resident_bytes(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert match
    return int(match[1]) * 1024


def slope_bytes_per_s(samples: list[tuple[float, int]]) -> float:
    """Return the growth of the samples after the warm-up, by least squares."""
    counted = samples[int(len(samples) * WARM_UP_SHARE) :]
    times, sizes = zip(*counted, strict=True)
    return statistics.linear_regression(times, sizes).slope


async def read(system: System, counts: list[int], caller: int) -> None:
    headers = {"Authorization": f"Bearer {system.admin_token}"}
    async with client_of(system.api_url) as client:
        for number in itertools.count():
            cold = f"?cold={number % 1_000}" if number % 2 else ""
            path = f"/customers/{customer_id(number % CUSTOMERS + 1)}/campaigns{cold}"
            assert (await client.get(path, headers=headers)).status_code == 200
            counts[caller] += 1


async def publish(system: System, counts: list[int]) -> None:
    for version in itertools.count(2):
        await system.publish(
            published("campaign.counters_changed.v1", version, campaign=campaign)
            for campaign in range(1, CAMPAIGNS + 1)
        )
        counts[0] += CAMPAIGNS


async def test_memory_does_not_grow_under_steady_load(own_system: System) -> None:
    system = own_system
    messages = [published("customer.upserted.v1", 1, customer=number) for number in range(1, CUSTOMERS + 1)]
    messages += [published("campaign.upserted.v1", 1, campaign=number) for number in range(1, CAMPAIGNS + 1)]
    messages += [
        published("target.enrolled.v1", 1, customer=customer, campaign=campaign)
        for customer in range(1, CUSTOMERS + 1)
        for campaign in range(1, CAMPAIGNS + 1)
    ]
    await system.wait_until_applied(await system.publish(messages))
    (worker,) = system.worker_pids()
    processes = {"API": worker, "projector": system.children["project"].pid}
    samples: dict[str, list[tuple[float, int]]] = {name: [] for name in processes}
    answers, events = [0] * CALLERS, [0]
    began_s = time.monotonic()

    def sampled() -> bool:
        """Sample when it is time to; return whether the soak is over."""
        passed_s = time.monotonic() - began_s
        if passed_s >= len(samples["API"]) * SOAK_S / SAMPLES:
            for name, pid in processes.items():
                samples[name].append((passed_s, resident_bytes(pid)))
        return passed_s >= SOAK_S and min(answers) > 0 and events[0] > 0

    async with asyncio.TaskGroup() as group:
        load = [group.create_task(read(system, answers, caller)) for caller in range(CALLERS)]
        load.append(group.create_task(publish(system, events)))
        await eventually(sampled, "the soak is over", SOAK_S + 60)
        for task in load:
            task.cancel()
    print(f"\n{SOAK_S:.0f} s, {sum(answers):,} answers, {events[0]:,} events:")  # noqa: T201 - stated for `pytest -s`
    for name, taken in samples.items():
        slope = slope_bytes_per_s(taken)
        print(f"{name}: {taken[-1][1] / 1e6:.1f} MB, {slope / 1e3:+.1f} KB/s")  # noqa: T201
        assert slope < LEAK_BYTES_PER_S, name
