"""The experiment with shards measures what it says: shards that together hold every row of the whole, once."""

import subprocess
import sys

import asyncpg
from hypothesis import HealthCheck, given, settings

from benchmarks.proc import cpu_s, cpu_with_ended_s
from benchmarks.shard_projector import ShardBatch, shard_of
from projections.model.events import Message, Position
from projections.store.projector import apply_batch
from tests.support.builders import campaign_id, customer_id, message, published
from tests.support.read_model import CREATED, applied, empty, rows
from tests.support.strategies import History, histories

SHARDS = 4
"""So many that the two customers of `histories` are in different ones."""
OF_A_CUSTOMER = ("customer", "membership", "customer_summary")
BURN = "import time\nwhile time.process_time() < 0.3: pass"
BURN_IN_A_CHILD = (
    f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}]); print(flush=True); input()"
)


def test_a_customer_and_its_targets_belong_to_one_shard() -> None:
    for number in range(1, 100):
        customer = customer_id(number)
        subjects = [f"membership.customer.{customer}", f"membership.customer.{customer.upper()}"]
        subjects += [f"membership.target.{customer}.{campaign_id(campaign)}" for campaign in range(3)]
        assert len({shard_of(subject, SHARDS) for subject in subjects}) == 1
    assert {shard_of(f"membership.customer.{customer_id(n)}", SHARDS) for n in range(100)} == set(range(SHARDS))


def test_campaigns_and_unknown_subjects_belong_to_every_shard() -> None:
    for subject in (f"membership.campaign.{campaign_id(1)}", f"membership.counters.{campaign_id(1)}", "membership.x"):
        assert shard_of(subject, SHARDS) is None
    assert shard_of("membership.target.\ud800", SHARDS) in range(SHARDS), "it is parked there"


def of_shard(number: int, messages: list[Message]) -> ShardBatch:
    """Return the messages as one shard's projector batches them, in slices."""
    batch = ShardBatch(number, SHARDS, Position(0))
    for at in range(0, len(messages), 2):
        batch.add(messages[at : at + 2])
    return batch


async def test_a_batch_of_another_shard_moves_the_checkpoint_only(connection: asyncpg.Connection) -> None:
    foreign = [message(n, *published("customer.upserted.v1", n)) for n in range(1, 6)]
    other = next(number for number in range(SHARDS) if number != shard_of(foreign[0].subject, SHARDS))
    batch = of_shard(other, foreign)
    assert (batch.events, batch.position) == (5, 5)
    await apply_batch(connection, await empty(connection), batch.batch(), CREATED)
    assert await connection.fetchval("SELECT position FROM control.checkpoint") == 5
    assert not any((await rows(connection)).values())


@given(history=histories())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_shards_together_have_the_rows_of_the_whole(connection: asyncpg.Connection, history: History) -> None:
    assert len({shard_of(f"membership.customer.{customer_id(n)}", SHARDS) for n in (1, 2)}) == 2
    messages = [message(position, *event) for position, event in enumerate(history.events, start=1)]
    await applied(connection, await empty(connection), messages)
    whole = await rows(connection)
    shards = []
    for number in range(SHARDS):
        await apply_batch(connection, await empty(connection), of_shard(number, messages).batch(), CREATED)
        shards.append(await rows(connection))
    for table in OF_A_CUSTOMER:
        together = [row for shard in shards for row in shard[table]]
        assert sorted(together, key=str) == sorted(whole[table], key=str)
    for table in ("campaign", "campaign_counters"):
        assert all(shard[table] == whole[table] for shard in shards)


def test_cpu_time_counts_processes_that_have_ended() -> None:
    command = (sys.executable, "-c", BURN_IN_A_CHILD)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own text
        assert process.stdout is not None
        process.stdout.readline()
        assert cpu_with_ended_s(process.pid) - cpu_s(process.pid) > 0.25
        process.kill()
