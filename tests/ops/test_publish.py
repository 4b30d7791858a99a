"""`membership publish` as a producer runs it: checks before sending, receipts, duplicates, and errors by line."""

import json
from pathlib import Path

import asyncpg
import pytest

from ops.devstack.servers.nats import NatsServer
from ops.publish import ALIKE_SHOWN_MAX, BAD_SHOWN_MAX, LINE_BYTES_MAX, publication
from ops.publisher import Publication
from projections.model.events import Unreadable
from tests.support.builders import ALL_TYPES, body_of, data_of, published
from tests.support.command import membership
from tests.support.processes import System

GOOD = [published("campaign.upserted.v1", 1)[1], published("target.enrolled.v1", 1)[1]]


def events_file(folder: Path, *lines: bytes) -> str:
    file = folder / "events.ndjson"
    file.write_bytes(b"\n".join(lines) + b"\n")
    return str(file)


async def test_every_line_gets_a_receipt_and_is_applied(system: System, tmp_path: Path) -> None:
    before = await system.fetch("SELECT position FROM control.checkpoint")
    ended = await membership(system.environment, "publish", events_file(tmp_path, GOOD[0], b"", GOOD[1]))
    assert ended.code == 0, ended.err
    assert "line 1: position" in ended.out
    assert "line 3: position" in ended.out
    assert "Published 2 new events, 0 duplicates" in ended.out
    await system.wait_until_applied(before[0]["position"] + 2)
    rows = await system.fetch("SELECT memberships FROM g1.customer_summary")
    assert [row["memberships"] for row in rows] == [1]


async def test_publishing_a_file_again_stores_nothing_twice(system: System, tmp_path: Path) -> None:
    file = events_file(tmp_path, *(published("customer.upserted.v1", n)[1] for n in range(1, 4)))
    await membership(system.environment, "publish", file)
    ended = await membership(system.environment, "publish", file, "--json")
    receipts = [json.loads(line) for line in ended.out.splitlines()]
    assert [receipt["line"] for receipt in receipts] == [1, 2, 3]
    assert all(receipt["duplicate"] for receipt in receipts)


async def test_an_event_whose_id_has_other_content_is_an_error(system: System, tmp_path: Path) -> None:
    first, corrected = (
        body_of("customer.upserted.v1", data_of("customer.upserted.v1", version, customer=77), id="used-twice")
        for version in (1, 2)
    )
    assert (await membership(system.environment, "publish", events_file(tmp_path, first))).code == 0
    other = published("customer.upserted.v1", 78)[1]
    ended = await membership(system.environment, "publish", events_file(tmp_path, other, corrected))
    assert ended.code == 1
    assert "line 2: another event has this id" in ended.err
    assert "new id" in ended.err
    assert "line 1" not in ended.err
    assert "Published 1 new event, 0 duplicates" in ended.out
    assert "; 1 not stored." in ended.out
    same_file = await membership(system.environment, "publish", events_file(tmp_path, first, first, corrected))
    assert same_file.code == 1
    assert "line 3: invalid_field: The id 'used-twice' is that of line 1, whose content differs." in same_file.err
    assert "nothing was published" in same_file.err


async def test_bad_lines_are_listed_and_nothing_is_published(system: System, tmp_path: Path) -> None:
    (state,) = await system.fetch("SELECT position FROM control.checkpoint")
    good = published("customer.upserted.v1", 99)[1]
    bad = body_of("customer.upserted.v1", data_of("customer.upserted.v1", 1, version="7"))
    file = events_file(tmp_path, good, b"{", b"[1]", b'"\xff"', bad, b'{"id":"x","type":"nope","data":{}}')
    ended = await membership(system.environment, "publish", file)
    assert ended.code == 1
    assert [line.split(":")[0] for line in ended.err.splitlines()[:5]] == [f"line {n}" for n in (2, 3, 4, 5, 6)]
    assert "$.data.version" in ended.err
    assert "nothing was published" in ended.err

    skipped = await membership(system.environment, "publish", "--skip-bad", file)
    assert (skipped.code, "Published 1 new event, 0 duplicates" in skipped.out) == (1, True)
    await system.wait_until_applied(state["position"] + 1)


async def refused_output(environment: dict[str, str], file: str, *options: str) -> list[str]:
    ended = await membership(environment, "publish", file, *options)
    assert (ended.code, ended.out) == (1, ""), ended.err
    return ended.err.splitlines()


NO_BROKER = {"MEMBERSHIP_NATS_URL": "nats://127.0.0.1:1"}


async def test_a_csv_gets_one_error_for_the_whole_file(tmp_path: Path) -> None:
    rows = [b"customer_id,campaign_id", *[b"c%d,ca%d" % (n, n) for n in range(3_000)]]
    first, second = await refused_output(NO_BROKER, events_file(tmp_path, *rows))
    assert first.startswith("line 1: invalid_json: Not a JSON object")
    assert second == (
        "None of the 3,001 lines is a JSON object; the input looks like CSV: 'customer_id,campaign_id'. "
        "`membership publish` reads NDJSON: one event per line, each a JSON object. Nothing was published."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(json.loads(GOOD[0]), indent=2).encode(), "The first JSON object spans "),
        (
            b"\n".join([json.dumps(json.loads(event), indent=2).encode() for event in GOOD]),
            "`jq -c . FILE` converts it.",
        ),
        (b"[" + b",\n".join(GOOD) + b"\n]", "The input is a JSON array. "),
        (b"[" + GOOD[0] + b"]", "`jq -c '.[]' FILE` converts it"),
        (b"PK\x03\x04\x00\n\x00\xff", "The input is not UTF-8 text. "),
        (b"hello\nworld", "the input is in another format: 'hello'"),
        (b'"a"\n"b"', "None of the 2 lines is a JSON object"),
    ],
    ids=["pretty", "two pretty", "array on lines", "array", "binary", "text", "strings"],
)
async def test_another_format_is_named_with_its_conversion(content: bytes, message: str, tmp_path: Path) -> None:
    first, last = await refused_output(NO_BROKER, events_file(tmp_path, content))
    assert first.startswith("line 1: ")
    assert message in last
    assert last.endswith("Nothing was published.")


async def test_identical_errors_are_counted_and_output_is_limited(tmp_path: Path) -> None:
    identical = events_file(tmp_path, GOOD[0], *[b'{"id":"x","type":"nope","data":{}}'] * 1_000)
    lines = await refused_output(NO_BROKER, identical)
    assert [line.partition(":")[0] for line in lines[:-2]] == [f"line {n}" for n in range(2, 2 + ALIKE_SHOWN_MAX)]
    assert lines[-2] == f"… and {1_000 - ALIKE_SHOWN_MAX} more lines with the error of line 2."
    assert lines[-1].startswith("1,000 of 1,001 lines are bad; nothing was published.")
    different = events_file(tmp_path, *[b'{"id":"x","type":"nope%d","data":{}}' % n for n in range(80)])
    lines = await refused_output(NO_BROKER, different)
    assert len(lines) == BAD_SHOWN_MAX + 2
    assert lines[-2] == f"… and {80 - BAD_SHOWN_MAX} more bad lines."


async def test_an_overlong_line_is_not_kept_in_full(tmp_path: Path) -> None:
    first, last = await refused_output(NO_BROKER, events_file(tmp_path, b"x" * (3 * LINE_BYTES_MAX), GOOD[0]))
    assert first.startswith("line 1: oversize: ")
    assert last.startswith("1 of 2 lines is bad; nothing was published.")


async def test_an_empty_file_is_not_an_error(system: System, tmp_path: Path) -> None:
    ended = await membership(system.environment, "publish", events_file(tmp_path, b"", b"  "))
    assert (ended.code, "The input is empty" in ended.err) == (0, True)


async def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    for content in (b"\xef\xbb\xbf" + GOOD[0], b"\xef\xbb\xbf" + GOOD[0] + b"\n" + GOOD[1]):
        lines = await refused_output(NO_BROKER, events_file(tmp_path, content))
        assert "byte order mark" in lines[-1]


async def test_a_missing_file_or_setting_gives_exit_code_2(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(Path.cwd())}
    assert (await membership(environment, "publish", "nowhere.ndjson", cwd=tmp_path)).code == 2
    ended = await membership(environment, "publish", events_file(tmp_path, GOOD[0]), cwd=tmp_path)
    assert (ended.code, "MEMBERSHIP_NATS_URL is missing" in ended.err) == (2, True)


async def test_a_missing_stream_is_reported_in_a_sentence(nats: NatsServer, tmp_path: Path) -> None:
    ended = await membership({"MEMBERSHIP_NATS_URL": nats.url}, "publish", events_file(tmp_path, GOOD[0]))
    assert (ended.code, ended.out) == (1, "")
    assert "In a new installation `membership project` creates it" in ended.err
    assert "the stream was deleted or this is another broker" in ended.err


async def test_a_database_distinguishes_a_deleted_stream_from_a_new_one(
    nats: NatsServer, database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    environment = {"MEMBERSHIP_NATS_URL": nats.url, "MEMBERSHIP_DATABASE_URL": database_url}
    file = events_file(tmp_path, GOOD[0])
    ended = await membership(environment, "publish", file)
    assert (ended.code, "the database has applied nothing. `membership project` creates it" in ended.err) == (1, True)
    await connection.execute("UPDATE control.checkpoint SET position = 7, stream_created = 'then', message_time_ns = 1")
    ended = await membership(environment, "publish", file)
    assert (ended.code, "has applied it up to position 7" in ended.err) == (1, True)
    assert "membership project" not in ended.err
    ended = await membership(
        environment | {"MEMBERSHIP_DATABASE_URL": "postgresql://me@127.0.0.1:1/x"}, "publish", file
    )
    assert (ended.code, "this is another broker" in ended.err) == (1, True)


@pytest.mark.parametrize("event_type", ALL_TYPES)
def test_the_subject_is_derived_from_the_event(event_type: str) -> None:
    subject, body = published(event_type, 1)
    result = publication(body)
    assert isinstance(result, Publication)
    assert (result.subject, result.body) == (subject, body)


@pytest.mark.parametrize(
    "body",
    [b"null", b"{}", b'{"id":1}', b"[" * 100_000, b'{"id":"a","type":"target.enrolled.v1","data":{"customer_id":[]}}'],
)
def test_bytes_that_are_no_event_are_unreadable(body: bytes) -> None:
    assert isinstance(publication(body), Unreadable)
