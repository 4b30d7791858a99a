"""`membership publish` as a producer types it: all checked first, receipts, duplicates, and what is bad by line."""

import json
from pathlib import Path

import pytest

from ops.embedded.nats import NatsServer
from ops.publish import publication
from ops.publishing import Publication
from projections.events import Unreadable
from tests.builders import ALL_TYPES, body_of, data_of, published
from tests.ops.test_cli import membership
from tests.system.processes import System

GOOD = [published("campaign.upserted.v1", 1)[1], published("target.enrolled.v1", 1)[1]]


def written(folder: Path, *lines: bytes) -> str:
    file = folder / "events.ndjson"
    file.write_bytes(b"\n".join(lines) + b"\n")
    return str(file)


async def test_every_line_gets_a_receipt_and_is_applied(system: System, tmp_path: Path) -> None:
    before = await system.fetch("SELECT position FROM control.checkpoint")
    ended = await membership(system.environment, "publish", written(tmp_path, GOOD[0], b"", GOOD[1]))
    assert ended.code == 0, ended.err
    assert "line 1: position" in ended.out
    assert "line 3: position" in ended.out
    assert "Published 2 new events, 0 duplicates" in ended.out
    await system.settled(before[0]["position"] + 2)
    found = await system.fetch("SELECT memberships FROM g1.customer_summary")
    assert [row["memberships"] for row in found] == [1]


async def test_publishing_a_file_again_stores_nothing_twice(system: System, tmp_path: Path) -> None:
    file = written(tmp_path, *(published("customer.upserted.v1", n)[1] for n in range(1, 4)))
    await membership(system.environment, "publish", file)
    ended = await membership(system.environment, "publish", file, "--json")
    receipts = [json.loads(line) for line in ended.out.splitlines()]
    assert [receipt["line"] for receipt in receipts] == [1, 2, 3]
    assert all(receipt["duplicate"] for receipt in receipts)


async def test_a_bad_line_is_named_and_nothing_is_published(system: System, tmp_path: Path) -> None:
    (state,) = await system.fetch("SELECT position FROM control.checkpoint")
    good = published("customer.upserted.v1", 99)[1]
    bad = body_of("customer.upserted.v1", data_of("customer.upserted.v1", 1, version="7"))
    file = written(tmp_path, good, b"{", b"[1]", b'"\xff"', bad, b'{"id":"x","type":"nope","data":{}}')
    ended = await membership(system.environment, "publish", file)
    assert ended.code == 1
    assert [line.split(":")[0] for line in ended.err.splitlines()[:5]] == [f"line {n}" for n in (2, 3, 4, 5, 6)]
    assert "$.data.version" in ended.err
    assert "nothing was published" in ended.err

    skipped = await membership(system.environment, "publish", "--skip-bad", file)
    assert (skipped.code, "Published 1 new event, 0 duplicates" in skipped.out) == (1, True)
    await system.settled(state["position"] + 1)


async def test_an_empty_file_is_no_error(system: System, tmp_path: Path) -> None:
    ended = await membership(system.environment, "publish", written(tmp_path, b"", b"  "))
    assert (ended.code, "Published 0 new events" in ended.out) == (0, True)


async def test_a_file_that_is_not_there_and_a_missing_setting_are_exit_code_2(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(Path.cwd())}
    assert (await membership(environment, "publish", "nowhere.ndjson", cwd=tmp_path)).code == 2
    ended = await membership(environment, "publish", written(tmp_path, GOOD[0]), cwd=tmp_path)
    assert (ended.code, "MEMBERSHIP_NATS_URL is missing" in ended.err) == (2, True)


async def test_a_missing_stream_is_a_sentence(nats: NatsServer, tmp_path: Path) -> None:
    ended = await membership({"MEMBERSHIP_NATS_URL": nats.url}, "publish", written(tmp_path, GOOD[0]))
    assert (ended.code, "membership project" in ended.err) == (1, True)


@pytest.mark.parametrize("event_type", ALL_TYPES)
def test_the_subject_follows_from_the_event(event_type: str) -> None:
    subject, body = published(event_type, 1)
    found = publication(body)
    assert isinstance(found, Publication)
    assert (found.subject, found.body) == (subject, body)


@pytest.mark.parametrize(
    "body",
    [b"null", b"{}", b'{"id":1}', b"[" * 100_000, b'{"id":"a","type":"target.enrolled.v1","data":{"customer_id":[]}}'],
)
def test_any_bytes_are_an_event_to_publish_or_a_reason(body: bytes) -> None:
    assert isinstance(publication(body), Unreadable)
