"""`membership publish`: sends CloudEvents from a file or standard input, after checking all of them.

Reads: the input; the live checkpoint, if a database is configured and the stream is missing. Writes: the stream.
Fails: what `publish_events` raises, and `StreamMissing` when a database has applied events of a stream that is gone.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final, NamedTuple

import asyncpg
import msgspec
from rich.console import Console

from campaign_membership_client.event import version_of
from campaign_membership_client.field_errors import find_errors
from campaign_membership_client.versions import implausible_version
from consumers.broker_access import BrokerAccess
from consumers.stream import STREAM
from ops.not_ndjson import HEAD_BYTES_MAX, reason_of_json, reason_of_text
from ops.publisher import Publication, StreamNotCreated, publish_events
from ops.terminal import fail
from projections.error_text import error_text
from projections.errors import StreamMissing
from projections.maintenance.sentences import counted
from projections.model.decode import decode
from projections.model.events import BODY_BYTES_MAX, EVENT_TYPES, SUBJECT_IDS, SUBJECT_ROOT, Unreadable, family_of
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store import database

LINE_BYTES_MAX: Final = 2 * BODY_BYTES_MAX
"""Bytes kept of one line: enough to detect an oversize event, even between blanks."""
ALIKE_SHOWN_MAX: Final = 5
"""Lines printed per identical error; further ones are only counted."""
BAD_SHOWN_MAX: Final = 50
"""Bad lines printed in total: about one screen."""

FORMAT_LINES_MIN: Final = 2
"""A single line that is not a JSON object may be a typing error, not another format; its own error suffices."""
NO_OBJECT: Final = "Not a JSON object"
"""Begins the error detail of a line that is not a JSON object."""


class Line(NamedTuple):
    """One line of the input: an event to publish, or an error."""

    number: int
    result: Publication | Unreadable


class _Sketch(msgspec.Struct):
    """The fields of an event that determine its subject; `decode` then validates the whole event."""

    id: str
    type: str
    data: dict[str, Any]


async def publish(settings: Settings, source: IO[bytes], *, skip_bad: bool, dry_run: bool, as_json: bool) -> int:
    """Publish all events of `source`, or none if any is bad and not `skip_bad`; return the exit code."""
    head = bytearray()
    lines = list(_with_distinct_ids(read_lines(_bounded_lines(source), head)))
    if not lines:
        return fail("The input is empty; nothing was published.", 0)
    good = [line for line in lines if isinstance(line.result, Publication)]
    bad = [(line.number, line.result) for line in lines if isinstance(line.result, Unreadable)]
    if bad and not (good and skip_bad) and (reason := _reason_not_ndjson(lines, bytes(head))):
        _show_bad(bad[:1])
        return fail(f"{reason} Nothing was published.")
    _show_bad(bad)
    if bad and not skip_bad:
        summary = f"{len(bad):,} of {counted(len(lines), 'line')} {'is' if len(bad) == 1 else 'are'} bad"
        return fail(f"{summary}; nothing was published. Fix the bad lines, or use --skip-bad.")
    _warn_of_versions(good)
    if dry_run:
        print(f"{counted(len(good), 'event')} can be published; nothing was sent.")
        return 1 if bad else 0
    try:
        lost = await _send(settings, good, as_json=as_json)
    except StreamNotCreated as absent:
        raise await missing_or_new(settings, absent) from None
    return 1 if bad or lost else 0


def _warn_of_versions(lines: list[Line]) -> None:
    """Print how many events have a version far ahead of the clock, and the first of them."""
    warnings = [
        f"line {line.number}: {warning}"
        for line in lines
        if isinstance(line.result, Publication) and (warning := implausible_version(version_of(line.result)))
    ]
    if warnings:
        fail(f"Warning: {counted(len(warnings), 'implausible version')}, first in {warnings[0]}")


def _with_distinct_ids(lines: Iterable[Line]) -> Iterator[Line]:
    """Yield the lines; an id that an earlier line has with other content is an error, because the broker drops it."""
    first: dict[str, tuple[int, int]] = {}
    for number, result in lines:
        if isinstance(result, Publication):
            earlier, content = first.setdefault(result.msg_id, (number, hash(result.body)))
            if content != hash(result.body):
                detail = f"The id {result.msg_id!r} is that of line {earlier}, whose content differs."
                yield Line(number, Unreadable("invalid_field", f"{detail} Give each event its own id."))
                continue
        yield Line(number, result)


def _reason_not_ndjson(lines: list[Line], head: bytes) -> str:
    """Return why the input is not NDJSON; empty if only single lines are bad."""
    if isinstance(lines[0].result, Publication):
        return ""
    if reason := reason_of_json(head):
        return reason
    objects = any(isinstance(line.result, Publication) or NO_OBJECT not in line.result.detail for line in lines)
    return "" if objects or len(lines) < FORMAT_LINES_MIN else reason_of_text(head, len(lines))


def _show_bad(bad: list[tuple[int, Unreadable]]) -> None:
    """Print bad lines with their numbers, up to the limits; then count the others, grouped by error."""
    counts = Counter[Unreadable]()
    first: dict[Unreadable, int] = {}
    hidden = Counter[Unreadable]()
    shown = 0
    for number, error in bad:
        counts[error] += 1
        first.setdefault(error, number)
        if shown < BAD_SHOWN_MAX and counts[error] <= ALIKE_SHOWN_MAX:
            shown += 1
            fail(f"line {number}: {error.reason}: {error.detail}")
        else:
            hidden[error] += 1
    repeated = {error: count for error, count in hidden.items() if counts[error] > count}
    for error, count in repeated.items():
        fail(f"… and {counted(count, 'more line')} with the error of line {first[error]}.")
    if other := hidden.total() - sum(repeated.values()):
        fail(f"… and {counted(other, 'more bad line')}.")


def _bounded_lines(source: IO[bytes]) -> Iterator[bytes]:
    """Read lines, keeping at most LINE_BYTES_MAX of each: a file without line ends would exhaust the memory."""
    while line := source.readline(LINE_BYTES_MAX):
        rest = line
        while len(rest) == LINE_BYTES_MAX and not rest.endswith(b"\n"):
            rest = source.readline(LINE_BYTES_MAX)
        yield line


def read_lines(source: Iterable[bytes], head: bytearray | None = None) -> Iterator[Line]:
    """Read NDJSON, one event per line; skip blank lines, but count them. `head` receives the beginning of the input."""
    for number, raw in enumerate(source, start=1):
        if head is not None and len(head) < HEAD_BYTES_MAX:
            head += raw
        body = raw.strip()
        if body:
            yield Line(number, publication(body))


def publication(body: bytes) -> Publication | Unreadable:
    """Return what to publish for one event's JSON, or why it would be parked."""
    if len(body) > BODY_BYTES_MAX:
        return Unreadable("oversize", f"The event is longer than {BODY_BYTES_MAX} bytes, which is the limit.")
    try:
        sketch = msgspec.json.decode(body, type=_Sketch)
    except msgspec.ValidationError as problem:
        what = NO_OBJECT if " - at " not in str(problem) and "got" in str(problem) else "Not a CloudEvent"
        return Unreadable("invalid_field", f"{what}: {error_text(problem)}.")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        return Unreadable("invalid_json", f"{NO_OBJECT}: {error_text(problem)}.")
    family = family_of(sketch.type)
    if family is None:
        allowed = ", ".join(name for types in EVENT_TYPES.values() for name in types)
        return Unreadable("unknown_type", f"There is no event type {sketch.type!r}; allowed: {allowed}.")
    for name in SUBJECT_IDS[family]:
        if not isinstance(sketch.data.get(name), str):
            detail = f"The subject needs `$.data.{name}`, a lower-case hyphenated UUID."
            return _with_all_errors(Unreadable("invalid_field", detail), body)
    subject = ".".join([SUBJECT_ROOT, family, *(sketch.data[name] for name in SUBJECT_IDS[family])])
    event = decode(subject, body)
    return _with_all_errors(event, body) if isinstance(event, Unreadable) else Publication(subject, sketch.id, body)


def _with_all_errors(first: Unreadable, body: bytes) -> Unreadable:
    """Add the event's other wrong fields to the error at which decoding stopped."""
    if first.reason != "invalid_field":
        return first
    try:
        errors = find_errors(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # in a part that decoding had not reached
        return first
    others = [str(error) for error in errors if f"`$.{error.field}`" not in first.detail]
    return Unreadable(first.reason, f"{first.detail} Also {'; '.join(others)}.") if others else first


async def missing_or_new(settings: Settings, absent: StreamNotCreated) -> StreamNotCreated | StreamMissing:
    """Distinguish a deleted stream from one never created, by the configured database's checkpoint, if any."""
    if not settings.database_url:
        return absent
    try:
        connection = await database.connect(settings.database_url, "membership-command")
        try:
            name = await checkpoints.live_generation(connection)
            position = (await checkpoints.read(connection, name)).position
        finally:
            connection.terminate()
    except (*database.UNAVAILABLE, asyncpg.PostgresError, asyncpg.InterfaceError):
        return absent
    return StreamMissing(STREAM, position) if position else StreamNotCreated(never_applied=True)


async def _send(settings: Settings, lines: list[Line], *, as_json: bool) -> int:
    """Publish and print a receipt per line; return how many were lost because another event has their id."""
    publications = [line.result for line in lines if isinstance(line.result, Publication)]
    duplicates = unknown = 0
    lost: list[str] = []
    positions: list[int] = []
    console = Console(soft_wrap=True, highlight=False)
    index = 0
    async for receipt in publish_events(BrokerAccess.of(settings), publications):
        line = lines[index]
        index += 1
        duplicates += receipt.duplicate and not receipt.differs
        unknown += receipt.differs is None
        if receipt.differs:
            lost.append(f"line {line.number}: another event has this id, stored at position {receipt.position}.")
        positions.append(receipt.position)
        if as_json:
            report = {"line": line.number, "id": receipt.msg_id, "position": receipt.position}
            print(json.dumps(report | {"duplicate": receipt.duplicate, "differs": receipt.differs}))
        elif not receipt.differs:
            suffix = "  (already stored)" if receipt.duplicate else ""
            console.print(f"line {line.number}: position {receipt.position}  {receipt.msg_id}{suffix}", markup=False)
    if not as_json:
        new = len(positions) - duplicates - len(lost)
        last = f", the last of them at position {max(positions)}" if new else ""
        not_stored = f"; {len(lost):,} not stored" if lost else ""
        console.print(f"Published {counted(new, 'new event')}, {counted(duplicates, 'duplicate')}{last}{not_stored}.")
    if unknown:
        fail(f"{counted(unknown, 'duplicate')} could not be compared with the stored event, which cannot be read.")
    show_lost(lost)
    return len(lost)


def show_lost(lost: list[str]) -> None:
    for sentence in lost[:BAD_SHOWN_MAX]:
        fail(sentence)
    if len(lost) > BAD_SHOWN_MAX:
        fail(f"… and {counted(len(lost) - BAD_SHOWN_MAX, 'more such line')}.")
    if lost:
        fail(f"{counted(len(lost), 'event')} not stored: give a corrected event a new id and a higher version.")
