"""`membership publish` of tables: CSV and NDJSON with a mapping, checked in full before anything is sent."""

import asyncio
import json
import sys
from datetime import datetime
from pathlib import Path

import asyncpg
import pytest

from campaign_membership_client import now_us
from campaign_membership_client.field_errors import allowed
from ops.publish import ALIKE_SHOWN_MAX, BAD_SHOWN_MAX
from tests.support.builders import ANYONE, campaign_id, customer_id, owner_id
from tests.support.command import CompletedCommand, membership
from tests.support.processes import System

NO_BROKER = {"MEMBERSHIP_NATS_URL": "nats://127.0.0.1:1"}
ENROLLED = ("--type", "target.enrolled.v1", "--source", "crm")
HEADER = "customer,campaign_id,version,enrolled_at"


def table(folder: Path, *rows: str, name: str = "rows.csv") -> str:
    file = folder / name
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(file)


def enrolment(number: int, version: object = 1, at: str = "2026-01-05 09:00:00+00") -> str:
    return f"{customer_id(number)},{campaign_id(1)},{version},{at}"


async def checked(file: str, *options: str) -> CompletedCommand:
    return await membership(NO_BROKER, "publish", file, "--dry-run", *options)


async def test_a_csv_is_published_and_repeated_without_effect(system: System, tmp_path: Path) -> None:
    file = table(tmp_path, HEADER, *(enrolment(number) for number in range(1, 1_203)))
    arguments = ("publish", file, *ENROLLED, "--map", "customer_id=customer", "--set", "source=import")
    first = await membership(system.environment, *arguments)
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("Published 1,202 new events, 0 duplicates, the last of them at position ")
    again = await membership(system.environment, *arguments, "--json")
    receipts = [json.loads(line) for line in again.out.splitlines()]
    assert [receipt["row"] for receipt in receipts] == list(range(2, 1_204))
    assert all(receipt["duplicate"] and receipt["differs"] is False for receipt in receipts)
    await system.wait_until_applied(receipts[-1]["position"])
    assert (await system.fetch("SELECT count(*) FROM g1.membership"))[0]["count"] == 1_202


async def test_a_mapping_file_and_ndjson_rows_are_read(system: System, tmp_path: Path) -> None:
    mapping = tmp_path / "campaigns.toml"
    mapping.write_text(
        'type = "campaign.upserted.v1"\nsource = "crm"\n[columns]\nname = "title"\nversion = "changed"\n'
        f'[constants]\nwhatsapp_after_attempts = 2\nfirst_contact_channel = "call"\nagent_id = "{ANYONE}"\n',
        encoding="utf-8",
    )
    rows = [
        {"campaign_id": campaign_id(n), "title": "é", "status": "running", "owner_id": owner_id(1), "changed": n}
        for n in (1, 2)
    ]
    file = table(tmp_path, *map(json.dumps, rows), name="rows.ndjson")
    ended = await membership(system.environment, "publish", file, "--mapping", str(mapping))
    assert (ended.code, "Published 2 new events" in ended.out) == (0, True), ended.err


async def test_all_errors_of_a_row_are_listed_with_field_and_message(tmp_path: Path) -> None:
    bad = "x,,0,yesterday"
    ended = await checked(table(tmp_path, HEADER, enrolment(1), bad, "1,2"), *ENROLLED, "--map", "customer_id=customer")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines() == [
        'row 3, data.customer_id: "x" is not allowed; expected a lower-case hyphenated UUID',
        "row 3, data.campaign_id: it is missing; expected a lower-case hyphenated UUID",
        'row 3, data.version: "0" is not allowed; expected an integer from 1 to 9223372036854775807',
        f'row 3, data.enrolled_at: "yesterday" is not allowed; expected {allowed(datetime)}',
        "row 4, row: 2 cells is not allowed; expected 4, as the header has",
        "2 of 3 rows are bad; nothing was published. Fix them, or use --skip-bad.",
    ]


async def test_errors_are_grouped_by_field_and_output_is_limited(tmp_path: Path) -> None:
    rows = [enrolment(number, version=-number) for number in range(1, 3_001)]
    ended = await checked(table(tmp_path, HEADER, *rows), *ENROLLED, "--map", "customer_id=customer")
    lines = ended.err.splitlines()
    assert len(lines) == ALIKE_SHOWN_MAX + 2 <= BAD_SHOWN_MAX
    assert lines[-2].startswith(f"… and {3_000 - ALIKE_SHOWN_MAX:,} more errors of data.version; expected an integer")


async def test_a_mapping_that_cannot_work_is_explained_at_once(tmp_path: Path) -> None:
    file = table(tmp_path, HEADER, enrolment(1))
    ended = await checked(file, *ENROLLED, "--map", "customer_id=kunde", "--map", "nme=x")
    assert (ended.code, "has no field 'nme'; its fields are campaign_id, customer_id" in ended.err) == (1, True)
    ended = await checked(file, *ENROLLED, "--map", "customer_id=kunde")
    assert "there is no column 'kunde'; the columns are customer, campaign_id, version, enrolled_at." in ended.err
    ended = await checked(file, "--type", "customer.upserted.v1", "--source", "crm")
    assert "No column gives customer_id, a lower-case hyphenated UUID: use --map customer_id=COLUMN" in ended.err
    assert "No column gives owner_id, a lower-case hyphenated UUID" in ended.err
    ended = await checked(file, "--type", "customer.moved.v1", "--source", "crm")
    assert "is no event type; expected one of customer.upserted.v1, " in ended.err
    assert "--source is missing" in (await checked(file, "--type", "target.enrolled.v1")).err
    assert (await checked(file, "--source", "crm")).code == 2
    assert "expected FIELD=" in (await checked(file, *ENROLLED, "--map", "x")).err
    nowhere = await checked(file, "--mapping", str(tmp_path / "nowhere.toml"))
    assert "is not a mapping" in nowhere.err


async def test_a_dry_run_shows_the_first_event_and_needs_no_broker(tmp_path: Path) -> None:
    file = table(tmp_path, HEADER, enrolment(1, "2026-01-05T10:00:00.000007+01:00"))
    ended = await membership({}, "publish", file, "--dry-run", *ENROLLED, "--map", "customer_id=customer", cwd=tmp_path)
    assert ended.code == 0, ended.err
    first, shown, body = ended.out.splitlines()
    assert first == "1 target.enrolled.v1 event of source crm can be published; nothing was sent."
    assert shown == f"The first, on membership.target.{customer_id(1)}.{campaign_id(1)}:"
    data = json.loads(body)["data"]
    assert data["version"] == 1_767_603_600_000_007
    assert data["enrolled_at"] == "2026-01-05T09:00:00Z"


async def test_rows_that_give_the_same_id_must_be_equal(tmp_path: Path) -> None:
    same = enrolment(1)
    other = enrolment(1, at="2026-01-06T09:00:00Z")
    ended = await checked(table(tmp_path, HEADER, same, same, other), *ENROLLED, "--map", "customer_id=customer")
    assert "row 4, id: that of row 2, whose content differs, is not allowed; expected a higher version" in ended.err
    assert "1 of 3 rows is bad" in ended.err


async def test_implausible_versions_are_warned_about(system: System, tmp_path: Path) -> None:
    file = table(tmp_path, HEADER, enrolment(1), enrolment(2, version=1_000 * now_us()))
    arguments = (*ENROLLED, "--map", "customer_id=customer")
    ended = await checked(file, *arguments)
    assert ended.code == 0
    assert ended.err.startswith("Warning: 1 implausible version, first in row 3: Version ")
    assert "it looks like nanoseconds" in ended.err
    event = json.loads(
        (await checked(table(tmp_path, HEADER, enrolment(2, 1_000 * now_us())), *arguments)).out.splitlines()[2]
    )
    line = table(tmp_path, json.dumps(event), name="events.ndjson")
    as_events = await membership(system.environment, "publish", line)
    assert as_events.err.startswith("Warning: 1 implausible version, first in line 1: Version ")
    assert (as_events.code, "Published 1 new event" in as_events.out) == (0, True)


async def test_standard_input_is_read_in_bounded_memory(system: System, tmp_path: Path) -> None:
    file = Path(table(tmp_path, HEADER, *(enrolment(number) for number in range(5_000, 5_300))))
    with file.open("rb") as stdin:  # noqa: ASYNC230 - the test has nothing else to do
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ops", "publish", "-", *ENROLLED, "--map", "customer_id=customer",
            env=system.environment, stdin=stdin, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
    assert b"Published 300 new events" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The input is empty"),
        (HEADER.encode() + b"\n\xff\n", "Line 2 is not UTF-8"),
        (HEADER.encode() + b'\n"a', "is no CSV"),
        (b"x" * 600_000, "Line 1 is longer than"),
        (HEADER.replace("version", "customer").encode() + b"\n", "Two columns are named 'customer'."),
    ],
    ids=["empty", "latin", "quote", "long", "twice"],
)
async def test_input_that_is_no_table_gets_one_error(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    ended = await checked(str(tmp_path / "rows.csv"), *ENROLLED, "--map", "customer_id=customer")
    assert (ended.code, message in ended.err) == (1, True), ended.err


async def test_good_rows_are_published_with_skip_bad(
    system: System, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    assert connection
    file = table(tmp_path, HEADER, enrolment(7_001), enrolment(7_002, 0), enrolment(7_001, at="2027-01-01T00:00:00Z"))
    arguments = ("publish", file, *ENROLLED, "--map", "customer_id=customer", "--skip-bad")
    ended = await membership(system.environment, *arguments)
    assert (ended.code, "Published 1 new event, 0 duplicates" in ended.out) == (1, True)


async def test_every_error_of_a_cloudevent_is_in_its_line(tmp_path: Path) -> None:
    body = {"specversion": "1.0", "id": "", "source": "s", "type": "campaign.status_changed.v1", "time": "now"}
    line = json.dumps(body | {"data": {"campaign_id": campaign_id(1), "version": "1", "status": "over"}})
    ended = await membership(NO_BROKER, "publish", table(tmp_path, line, name="events.ndjson"))
    first, last = ended.err.splitlines()
    assert first.startswith("line 1: invalid_field: ")
    for part in ("id", "time", "data.version", 'data.status: "over" is not allowed; expected one of draft, running'):
        assert part in first
    assert last.startswith("1 of 1 line is bad; nothing was published.")


async def test_a_dry_run_of_cloudevents_sends_nothing(tmp_path: Path) -> None:
    body = {
        "specversion": "1.0",
        "id": "a",
        "source": "s",
        "type": "campaign.deleted.v1",
        "time": "2026-01-05T09:00:00Z",
    }
    line = json.dumps(body | {"data": {"campaign_id": campaign_id(1), "version": 1}})
    ended = await checked(table(tmp_path, line, name="events.ndjson"))
    assert (ended.code, ended.out) == (0, "1 event can be published; nothing was sent.\n")
