"""`membership publish`: CloudEvents from a file or standard input, checked before anything is sent.

Reads: the input; the live checkpoint, if a database is configured and the stream is missing. Writes: the stream.
Fails: what `publish_events` raises, and `StreamMissing` when a database has applied a stream that is gone.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final, NamedTuple

import asyncpg
import msgspec
from rich.console import Console

from consumers.stream import STREAM
from ops.not_ndjson import HEAD_BYTES_MAX, reason_of_json, reason_of_text
from ops.publisher import Publication, StreamNotCreated, publish_events
from ops.terminal import counted, fail
from projections.error_text import error_text
from projections.errors import StreamMissing
from projections.model.decode import decode
from projections.model.events import BODY_BYTES_MAX, EVENT_TYPES, SUBJECT_IDS, SUBJECT_ROOT, Unreadable, family_of
from projections.settings import Settings
from projections.store import checkpoint as checkpoints
from projections.store import database

LINE_BYTES_MAX: Final = 2 * BODY_BYTES_MAX
"""What is kept of one line: enough to see that it is no event, whatever blanks surround it."""
ALIKE_SHOWN_MAX: Final = 5
"""Lines with one and the same error that are printed each; the others are counted."""
BAD_SHOWN_MAX: Final = 50
"""Bad lines that are printed in all: about a screen, beyond which nobody reads."""

FORMAT_LINES_MIN: Final = 2
"""A single line that is no JSON object is as likely a slip as another format; its own error says enough."""
NO_OBJECT: Final = "Not a JSON object"
"""How the detail of a line begins that is none."""


class Line(NamedTuple):
    """One line of the input and what it turned out to be."""

    number: int
    found: Publication | Unreadable


class _Sketch(msgspec.Struct):
    """Just enough of an event to know where it belongs; `decode` then judges the whole."""

    id: str
    type: str
    data: dict[str, Any]


async def publish(settings: Settings, source: IO[bytes], *, skip_bad: bool, as_json: bool) -> int:
    """Publish the events of `source`; all of them or, unless `skip_bad`, none. Return the exit code."""
    head = bytearray()
    lines = list(read_lines(_bounded_lines(source), head))
    good = [line for line in lines if isinstance(line.found, Publication)]
    bad = [(line.number, line.found) for line in lines if isinstance(line.found, Unreadable)]
    if bad and not (good and skip_bad) and (reason := _reason_not_ndjson(lines, bytes(head))):
        _show_bad(bad[:1])
        return fail(f"{reason} Nothing was published.")
    _show_bad(bad)
    if bad and not skip_bad:
        of_all = f"{len(bad):,} of {counted(len(lines), 'line')} {'is' if len(bad) == 1 else 'are'} bad"
        return fail(f"{of_all}; nothing was published. Fix what is bad, or use --skip-bad.")
    try:
        await _send(settings, good, as_json=as_json)
    except StreamNotCreated as absent:
        raise await _missing_or_new(settings, absent) from None
    return 1 if bad else 0


def _reason_not_ndjson(lines: list[Line], head: bytes) -> str:
    """Return what the input is, if it is no NDJSON at all; empty if single lines are bad."""
    if isinstance(lines[0].found, Publication):
        return ""
    if reason := reason_of_json(head):
        return reason
    objects = any(isinstance(each.found, Publication) or NO_OBJECT not in each.found.detail for each in lines)
    return "" if objects or len(lines) < FORMAT_LINES_MIN else reason_of_text(head, len(lines))


def _show_bad(bad: list[tuple[int, Unreadable]]) -> None:
    """Print bad lines, each with its number, up to the limits; then how many more there are, and like which line."""
    alike = Counter[Unreadable]()
    first: dict[Unreadable, int] = {}
    hidden = Counter[Unreadable]()
    shown = 0
    for number, why in bad:
        alike[why] += 1
        first.setdefault(why, number)
        if shown < BAD_SHOWN_MAX and alike[why] <= ALIKE_SHOWN_MAX:
            shown += 1
            fail(f"line {number}: {why.reason}: {why.detail}")
        else:
            hidden[why] += 1
    repeated = {why: count for why, count in hidden.items() if alike[why] > count}
    for why, count in repeated.items():
        fail(f"… and {counted(count, 'more line')} with the error of line {first[why]}.")
    if other := hidden.total() - sum(repeated.values()):
        fail(f"… and {counted(other, 'more bad line')}.")


def _bounded_lines(source: IO[bytes]) -> Iterator[bytes]:
    """Read line by line, keeping at most LINE_BYTES_MAX of each: a file without line ends would fill the memory."""
    while line := source.readline(LINE_BYTES_MAX):
        rest = line
        while len(rest) == LINE_BYTES_MAX and not rest.endswith(b"\n"):
            rest = source.readline(LINE_BYTES_MAX)
        yield line


def read_lines(source: Iterable[bytes], head: bytearray | None = None) -> Iterator[Line]:
    """Read NDJSON, one event a line; blank lines are skipped, but counted. `head` receives how the input begins."""
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
        known = ", ".join(name for types in EVENT_TYPES.values() for name in types)
        return Unreadable("unknown_type", f"There is no event type {sketch.type!r}; allowed: {known}.")
    for name in SUBJECT_IDS[family]:
        if not isinstance(sketch.data.get(name), str):
            return Unreadable("invalid_field", f"The subject needs `$.data.{name}`, a lower-case hyphenated UUID.")
    subject = ".".join([SUBJECT_ROOT, family, *(sketch.data[name] for name in SUBJECT_IDS[family])])
    event = decode(subject, body)
    return event if isinstance(event, Unreadable) else Publication(subject, sketch.id, body)


async def _missing_or_new(settings: Settings, absent: StreamNotCreated) -> StreamNotCreated | StreamMissing:
    """Tell a stream that was deleted from one that was never created, if a database is configured that knows it."""
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


async def _send(settings: Settings, lines: list[Line], *, as_json: bool) -> None:
    publications = [line.found for line in lines if isinstance(line.found, Publication)]
    duplicates = 0
    positions: list[int] = []
    console = Console(soft_wrap=True, highlight=False)
    at = 0
    async for receipt in publish_events(settings.nats_url, publications):
        line = lines[at]
        at += 1
        duplicates += receipt.duplicate
        positions.append(receipt.position)
        if as_json:
            known = {"line": line.number, "id": receipt.msg_id, "position": receipt.position}
            print(json.dumps(known | {"duplicate": receipt.duplicate}))
        else:
            again = "  (was there already)" if receipt.duplicate else ""
            console.print(f"line {line.number}: position {receipt.position}  {receipt.msg_id}{again}", markup=False)
    if not as_json:
        new = len(positions) - duplicates
        reached = f", the last of them at position {max(positions)}" if new else ""
        console.print(f"Published {counted(new, 'new event')}, {counted(duplicates, 'duplicate')}{reached}.")
