"""Samples of read model and stream: what they hold, and what they say when a store does not answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import asyncpg
import pytest

from consumers import stream
from consumers.client import connect_once
from consumers.stream_report import StreamReporter, stream_settings
from ops import sampler
from projections.maintenance import samples
from projections.maintenance.samples import Sample
from projections.settings import Settings, load
from tests.support.builders import body_of, data_of, published, subject_for
from tests.support.processes import System, eventually

ENROLLED = "target.enrolled.v1"


def settings_of(system: System) -> Settings:
    return load({"database_url", "nats_url"}, system.environment)


@asynccontextmanager
async def sampling(system: System) -> AsyncIterator[None]:
    """Run the sampler beside the test."""
    task = asyncio.create_task(sampler.run(settings_of(system)))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def newest(connection: asyncpg.Connection) -> Sample | None:
    found = await samples.newest(connection)
    return None if found is None else found[0]


@pytest.fixture
async def reading(own_system: System) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(own_system.database_url)
    yield connection
    await connection.close()


async def test_a_sample_compares_the_read_model_with_the_stream(
    own_system: System, reading: asyncpg.Connection
) -> None:
    data = data_of(ENROLLED, 2, customer=2)
    imported = (subject_for(ENROLLED, data), body_of(ENROLLED, data, source="import"))
    last = await own_system.publish([published(ENROLLED, 1), imported, ("membership.unknown", b"{}")])
    await own_system.wait_until_applied(last)
    async with sampling(own_system):
        sample = await eventually(lambda: newest(reading), "a sample is written")
    assert (sample.generation, sample.position, sample.stream_position) == ("g1", last, last)
    assert (sample.parked, sample.fan_outs, sample.leader) == (1, 0, True)
    assert (sample.lag_events, sample.lag_s, sample.missing_events, sample.problem) == (0, 0.0, 0, None)
    found = await samples.read_stream(reading)
    assert found is not None
    report = found[0]
    assert (report.name, report.first_position, report.last_position, report.messages) == ("MEMBERSHIP", 1, last, 3)
    assert report.bytes > 0
    assert [(source.source, source.last_position) for source in report.sources] == [("import", 2), ("tests", 1)]
    assert all(setting.ok for setting in report.settings), report.settings


async def test_a_sample_shows_the_lag_while_no_projector_runs(own_system: System, reading: asyncpg.Connection) -> None:
    await own_system.wait_until_applied(await own_system.publish([published(ENROLLED, 1)]))
    own_system.kill("project")
    last = await own_system.publish([published(ENROLLED, 2), published(ENROLLED, 3)])
    async with sampling(own_system):
        sample = await eventually(lambda: newest(reading), "a sample is written")
    assert (sample.position, sample.stream_position, sample.lag_events, sample.leader) == (1, last, 2, False)
    assert sample.lag_s > 0


async def test_a_sample_without_a_broker_says_so_and_keeps_the_last_report(
    own_system: System, reading: asyncpg.Connection
) -> None:
    await own_system.wait_until_applied(await own_system.publish([published(ENROLLED, 1)]))
    take = sampler.Sampler(settings_of(own_system)).take
    await take()
    before = await samples.read_stream(reading)
    own_system.broker.stop()
    await reading.execute("DELETE FROM control.sample")
    await take()
    sample = await newest(reading)
    assert sample is not None
    assert (sample.position, sample.stream_position, sample.lag_events, sample.lag_s) == (1, None, None, None)
    assert "broker" in (sample.problem or "").lower() or "nats" in (sample.problem or "").lower()
    assert before is not None
    assert await samples.read_stream(reading) == before


async def test_two_processes_do_not_write_the_same_sample_twice(connection: asyncpg.Connection) -> None:
    sample = Sample(generation="g1", position=1, parked=0, fan_outs=0, leader=True)
    assert await samples.write(connection, sample)
    assert not await samples.write(connection, sample)
    assert len(await samples.recent(connection, timedelta(hours=1))) == 1


async def test_samples_older_than_an_hour_are_deleted(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO control.sample (at, generation, position, parked, fan_outs, leader) "
        "SELECT now() - age * interval '1 minute', 'g1', 1, 0, 0, true FROM generate_series(10, 120, 10) AS age"
    )
    await samples.write(connection, Sample(generation="g1", position=2, parked=0, fan_outs=0, leader=True))
    positions = [sample.position for sample in await samples.recent(connection, timedelta(days=1))]
    assert positions == [1, 1, 1, 1, 1, 1, 2]


async def test_a_source_keeps_its_last_event_until_the_stream_is_another(own_system: System) -> None:
    client = await connect_once(own_system.nats_url, "test")
    try:
        reporter = StreamReporter()
        await own_system.publish([published(ENROLLED, 1)])
        first = await reporter.report(client)
        assert first is not None
        data = data_of(ENROLLED, 2)
        await own_system.publish([(subject_for(ENROLLED, data), body_of(ENROLLED, data, source="other"))])
        second = await StreamReporter(first.sources).report(client)
        assert second is not None
        assert [(each.source, each.last_position) for each in second.sources] == [("other", 2), ("tests", 1)]
        ahead = [samples.StreamSource("gone", 99, second.sources[0].last_at)]
        third = await StreamReporter(ahead).report(client)
        assert third is not None
        assert [each.source for each in third.sources] == ["other", "tests"]
    finally:
        await client.close()


def test_each_wrong_setting_of_the_stream_gets_a_sentence() -> None:
    right = stream.configuration(1) | {"max_age": 0, "max_bytes": -1}
    assert all(setting.ok and setting.sentence is None for setting in stream_settings(right))
    wrong = {**right, "max_age": 60}
    del wrong["allow_atomic"]
    found = {setting.name: setting for setting in stream_settings(wrong) if not setting.ok}
    assert found["max_age"].sentence == "max_age is 60 instead of 0."
    assert found["allow_atomic"].sentence == "allow_atomic is False instead of True."
    assert found.keys() == {"max_age", "allow_atomic"}
