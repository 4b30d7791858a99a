"""`membership publish` with a mapping: sends an event for each row of a CSV or NDJSON table, after checking all rows.

Reads: the input twice, from the file or from a temporary copy, so that memory grows by some 300 bytes per row only.
Writes: the stream. Fails: `MappingInvalid`, `RowsUnreadable` and what `publish_events` raises.
"""

import csv
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import IO, Any, Final, NamedTuple

import msgspec
from rich.progress import Progress

from campaign_membership_client.errors import FieldError, InvalidEvent
from campaign_membership_client.event import Publication, prepare, version_of
from campaign_membership_client.publisher import NOT_COMPARED
from campaign_membership_client.versions import implausible_version
from consumers.broker_access import BrokerAccess
from ops.publish import ALIKE_SHOWN_MAX, BAD_SHOWN_MAX, LINE_BYTES_MAX, missing_or_new, show_lost
from ops.publisher import StreamNotCreated, publish_events
from ops.row_mapping import RowMapping
from ops.terminal import fail, progress
from projections.errors import MembershipError
from projections.maintenance.sentences import counted
from projections.settings import Settings

CSV: Final = "csv"
NDJSON: Final = "ndjson"
DIGEST_BYTES: Final = 12
"""Bytes kept of each id and content, to notice two rows that give the same event id."""


class RowsUnreadable(MembershipError):
    """The input is not a table of the expected format."""

    code = "rows_unreadable"


class Table(NamedTuple):
    """What the input is."""

    source: IO[bytes]
    """Seekable."""
    format: str
    delimiter: str


class Row(NamedTuple):
    """A row: its number, as a spreadsheet shows it where a header is row 1; its event, or what is wrong."""

    number: int
    result: Publication | tuple[FieldError, ...]


class Findings:
    """What the check of all rows found."""

    def __init__(self) -> None:
        self.good = 0
        self.bad = 0
        self.implausible = 0
        self.first: Publication | None = None
        self.warning = ""
        self.refused: set[int] = set()
        """Rows that are valid by themselves and give the id of an earlier one."""
        self._seen: dict[bytes, tuple[int, bytes]] = {}
        self._shown = 0
        self._counts = Counter[tuple[str, str]]()
        self._hidden = Counter[tuple[str, str]]()

    def add(self, row: Row) -> bool:
        """Count a row and print its errors, up to the limits; return whether it can be published."""
        reused = isinstance(row.result, Publication)
        errors = self._reused_id(row.number, row.result) if isinstance(row.result, Publication) else row.result
        if errors:
            self.refused |= {row.number} if reused else set()
            self.bad += 1
            self._show(row.number, errors)
            return False
        self._count_good(row)
        return True

    def finish(self) -> None:
        """Print how many errors were not shown, by field."""
        for (field, allowed), count in self._hidden.items():
            fail(f"… and {counted(count, 'more error')} of {field}; expected {allowed}")

    def _count_good(self, row: Row) -> None:
        publication = row.result
        if not isinstance(publication, Publication):
            return
        self.good += 1
        self.first = self.first or publication
        if warning := implausible_version(version_of(publication)):
            self.implausible += 1
            self.warning = self.warning or f"row {row.number}: {warning}"

    def _reused_id(self, number: int, publication: Publication) -> tuple[FieldError, ...]:
        """Return an error if an earlier row gives the same id with other content: the broker would drop it."""
        key, content = _digest(publication.msg_id.encode()), _digest(_without_time(publication.body))
        row, seen = self._seen.setdefault(key, (number, content))
        if seen == content:
            return ()
        allowed = "a higher version: an id is made from source, type, entity and version"
        return (FieldError("id", f"that of row {row}, whose content differs,", allowed),)

    def _show(self, number: int, errors: Iterable[FieldError]) -> None:
        for error in errors:
            kind = (error.field, error.allowed)
            self._counts[kind] += 1
            if self._shown < BAD_SHOWN_MAX and self._counts[kind] <= ALIKE_SHOWN_MAX:
                self._shown += 1
                fail(f"row {number}, {error}")
            else:
                self._hidden[kind] += 1


async def publish_rows(
    settings: Settings, table: Table, mapping: RowMapping, *, skip_bad: bool, dry_run: bool, as_json: bool
) -> int:
    """Publish an event per row, or none if any row is bad and not `skip_bad`; return the exit code."""
    bar = progress()
    bar.disable = not bar.console.is_terminal  # to a file it would print an empty line
    with _seekable(table) as seekable, bar:
        findings = _check(seekable, mapping, bar)
        if findings.implausible:
            fail(f"Warning: {counted(findings.implausible, 'implausible version')}, first in {findings.warning}")
        if findings.bad and not skip_bad:
            verb = "is" if findings.bad == 1 else "are"
            total = counted(findings.bad + findings.good, "row")
            return fail(f"{findings.bad:,} of {total} {verb} bad; nothing was published. Fix them, or use --skip-bad.")
        if dry_run or not findings.good:
            _show_plan(findings, mapping)
            return 1 if findings.bad else 0
        try:
            lost = await _send(settings, seekable, mapping, findings, bar, as_json=as_json)
        except StreamNotCreated as absent:
            raise await missing_or_new(settings, absent) from None
        return 1 if findings.bad or lost else 0


def _check(table: Table, mapping: RowMapping, bar: Progress) -> Findings:
    findings = Findings()
    task = bar.add_task("Checking rows", total=None)
    for row in _rows(table, mapping):
        findings.add(row)
        bar.update(task, completed=row.number)
    bar.remove_task(task)
    findings.finish()
    return findings


def _show_plan(findings: Findings, mapping: RowMapping) -> None:
    events = counted(findings.good, f"{mapping.type} event")
    print(f"{events} of source {mapping.source} can be published; nothing was sent.")
    if findings.first is not None:
        print(f"The first, on {findings.first.subject}:\n{findings.first.body.decode()}")


async def _send(
    settings: Settings, table: Table, mapping: RowMapping, findings: Findings, bar: Progress, *, as_json: bool
) -> int:
    """Publish the good rows, in a second pass; return how many were lost because another event has their id."""
    numbers: list[int] = []
    duplicates = position = index = 0
    lost: list[str] = []
    task = bar.add_task("Publishing", total=findings.good)
    publications = _publications(table, mapping, findings, numbers)
    async for receipt in publish_events(BrokerAccess.of(settings), publications, NOT_COMPARED):
        number = numbers[index]
        index += 1
        position = max(position, receipt.position)
        duplicates += receipt.duplicate and not receipt.differs
        if receipt.differs:
            lost.append(f"row {number}: another event has this id, stored at position {receipt.position}.")
        if as_json:
            report = {"row": number, "id": receipt.msg_id, "position": receipt.position}
            print(json.dumps(report | {"duplicate": receipt.duplicate, "differs": receipt.differs}))
        bar.advance(task)
    if not as_json:
        new = index - duplicates - len(lost)
        last = f", the last of them at position {position}" if new else ""
        print(f"Published {counted(new, 'new event')}, {counted(duplicates, 'duplicate')}{last}.")
    show_lost(lost)
    return len(lost)


def _publications(table: Table, mapping: RowMapping, findings: Findings, numbers: list[int]) -> Iterator[Publication]:
    """Yield the good rows' events, and append each row's number to `numbers`."""
    for row in _rows(table, mapping):
        if isinstance(row.result, Publication) and row.number not in findings.refused:
            numbers.append(row.number)
            yield row.result


def _rows(table: Table, mapping: RowMapping) -> Iterator[Row]:
    table.source.seek(0)
    records = _csv_records(table, mapping) if table.format == CSV else _json_records(table.source)
    for number, record in records:
        yield Row(number, record if isinstance(record, tuple) else _event_of(record, mapping))


def _event_of(record: dict[str, Any], mapping: RowMapping) -> Publication | tuple[FieldError, ...]:
    try:
        return prepare(mapping.event(record), mapping.source)
    except InvalidEvent as invalid:
        return invalid.errors


Record = dict[str, Any] | tuple[FieldError, ...]


def _csv_records(table: Table, mapping: RowMapping) -> Iterator[tuple[int, Record]]:
    csv.field_size_limit(LINE_BYTES_MAX)
    reader = csv.reader(_text_lines(table.source), delimiter=table.delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not header:
            raise RowsUnreadable("The input is empty; nothing was published.")
        mapping.check_columns(header)
        for number, cells in enumerate(reader, start=2):
            if len(cells) == len(header):
                yield number, dict(zip(header, cells, strict=True))
            elif cells:  # a blank line is no row
                yield number, (FieldError("row", f"{len(cells)} cells", f"{len(header)}, as the header has"),)
    except csv.Error as problem:
        raise RowsUnreadable(f"Line {reader.line_num} is no CSV: {problem}. Nothing was published.") from None


def _json_records(source: IO[bytes]) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(_lines(source), start=1):
        if not line.strip():
            continue
        try:
            yield number, msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            yield number, (FieldError("row", f"no JSON object ({str(problem).rstrip('.')})", "one object per line"),)


def _text_lines(source: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(_lines(source), start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as problem:
            raise RowsUnreadable(
                f"Line {number} is not UTF-8 ({problem.reason}). Save the table as UTF-8. Nothing was published."
            ) from None


def _lines(source: IO[bytes]) -> Iterator[bytes]:
    number = 0
    while line := source.readline(LINE_BYTES_MAX):
        number += 1
        if len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
            raise RowsUnreadable(f"Line {number} is longer than {LINE_BYTES_MAX} bytes. Nothing was published.")
        yield line


@contextmanager
def _seekable(table: Table) -> Iterator[Table]:
    """Yield a table that can be read twice: standard input is copied to a temporary file."""
    if table.source.seekable():
        yield table
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(table.source, copy)
        yield table._replace(source=copy)


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=DIGEST_BYTES).digest()


def _without_time(body: bytes) -> bytes:
    envelope = msgspec.json.decode(body)
    return msgspec.json.encode({name: value for name, value in envelope.items() if name not in NOT_COMPARED})
