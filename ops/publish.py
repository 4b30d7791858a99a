"""`membership publish`: CloudEvents from a file or standard input, checked before anything is sent."""

import json
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

import msgspec
from rich.console import Console

from ops.publishing import Publication, publish_events
from ops.terminal import counted, fail
from projections.events import SUBJECT_IDS, SUBJECT_ROOT, Unreadable, decode, family_of
from projections.settings import Settings


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
    lines = list(read_lines(source))
    bad = [(line.number, line.found) for line in lines if isinstance(line.found, Unreadable)]
    for number, why in bad:
        fail(f"line {number}: {why.reason}: {why.detail}")
    if bad and not skip_bad:
        return fail(f"{len(bad)} of {len(lines)} lines are bad; nothing was published. Mend them, or use --skip-bad.")
    good = [line for line in lines if isinstance(line.found, Publication)]
    await _send(settings, good, as_json=as_json)
    return 1 if bad else 0


def read_lines(source: Iterable[bytes]) -> Iterator[Line]:
    """Read NDJSON, one event a line; blank lines are skipped, but counted."""
    for number, raw in enumerate(source, start=1):
        body = raw.strip()
        if body:
            yield Line(number, publication(body))


def publication(body: bytes) -> Publication | Unreadable:
    """Return what to publish for one event's JSON, or why it would be parked."""
    try:
        sketch = msgspec.json.decode(body, type=_Sketch)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        return Unreadable("invalid_json", f"Not a CloudEvents JSON object: {problem}.")
    family = family_of(sketch.type)
    if family is None:
        return Unreadable("unknown_type", f"There is no event type {sketch.type!r}; docs/events.md lists them.")
    ids = [str(sketch.data.get(name, "")) for name in SUBJECT_IDS[family]]
    subject = ".".join([SUBJECT_ROOT, family, *ids])
    event = decode(subject, body)
    return event if isinstance(event, Unreadable) else Publication(subject, sketch.id, body)


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
