"""`GET /ops/stream…`: the stream as the job runner last found it, and its newest events."""

import re
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from projections.maintenance import samples
from projections.maintenance.samples import StreamSetting, StreamSource
from projections.model.attributes import read_attributes
from projections.model.events import SUBJECT_ROOT, Instant, Message
from service.operations import parameters
from service.operations.endpoint import Call, Endpoint, Parameter
from service.operations.refusals import Refused
from service.pydantic_compat import InvalidValue

SUBJECT_CHARS_MAX: Final = 200
EVERY_SUBJECT: Final = f"{SUBJECT_ROOT}.>"
BODY_BYTES_MAX: Final = 8 * 1024
NO_REPORT: Final = (
    "No job runner has reached the stream yet, so nothing is known of it. Start `membership jobs run`; "
    "the overview says what is wrong."
)


class Stream(Struct, frozen=True, kw_only=True):
    """The stream as of `at`."""

    name: str
    first_position: int
    last_position: int
    messages: int
    bytes: int
    settings: list[StreamSetting]
    sources: list[StreamSource]
    """Producers, the latest first."""
    at: Instant


async def show_stream(call: Call) -> Stream:
    """Return the last report on the stream."""
    async with call.services.database.snapshot() as connection:
        found = await samples.read_stream(connection)
    if found is None:
        raise Refused("stream_unavailable", NO_REPORT)
    report, at = found
    return Stream(
        name=report.name,
        first_position=report.first_position,
        last_position=report.last_position,
        messages=report.messages,
        bytes=report.bytes,
        settings=report.settings,
        sources=report.sources,
        at=at.astimezone(UTC),
    )


class StreamEvent(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A message of the stream, whether it is a valid event or not. What could not be read is absent."""

    position: int
    time: Instant
    """When the broker stored it."""
    subject: str
    type: str | None = None
    id: str | None = None
    source: str | None = None
    version: str | None = None
    body: str
    """As text: bytes that are not UTF-8 are escaped. Cut after 8 KiB."""
    body_bytes: int
    """The size of the whole body."""


class StreamEvents(Struct, frozen=True, omit_defaults=True):
    """A page of the stream, newest first."""

    events: list[StreamEvent]
    next_cursor: int | None = None
    """The `before` of the next page; absent on the last page."""


async def list_events(call: Call) -> StreamEvents:
    """Return the newest events on a subject."""
    limit: int = call.values["limit"]
    async with call.services.stream.reading() as reader:
        found = await reader.newest(call.values["subject"], call.values["before"], limit)
    # Fewer than `limit` may also mean that they were very large: only an empty page is surely the last.
    return StreamEvents([_event(message) for message in found], found[-1].position if found else None)


def _event(message: Message) -> StreamEvent:
    attributes = read_attributes(message.body)
    return StreamEvent(
        position=message.position,
        time=datetime.fromtimestamp(message.time_ns // 1_000 / 1_000_000, UTC),
        subject=message.subject,
        type=attributes.type,
        id=attributes.id,
        source=attributes.source,
        version=None if attributes.version is None else str(attributes.version),
        body=message.body[:BODY_BYTES_MAX].decode(errors="backslashreplace"),
        body_bytes=len(message.body),
    )


def subject(text: str) -> str:
    """Read a subject of the stream, in which `*` stands for one token and a final `>` for any number of them."""
    if len(text) > SUBJECT_CHARS_MAX or not _SUBJECT.fullmatch(text):
        raise InvalidValue("value_error", f"Value error, expected a subject such as {EVERY_SUBJECT}")
    return text


_SUBJECT: Final = re.compile(rf"{SUBJECT_ROOT}(\.([A-Za-z0-9_-]+|\*))*\.([A-Za-z0-9_-]+|\*|>)")
_FILTER: Final = Parameter(
    "subject",
    subject,
    {"type": "string", "maxLength": SUBJECT_CHARS_MAX, "pattern": f"^{_SUBJECT.pattern}$"},
    "Only messages on this subject: `*` stands for one token, a final `>` for any number of them.",
    EVERY_SUBJECT,
)
ENDPOINTS: Final = (
    Endpoint("/stream", "operator_stream", "How is the stream?", show_stream, Stream, problems=("stream_unavailable",)),
    Endpoint(
        "/stream/events",
        "operator_stream_events",
        "Which events came last?",
        list_events,
        StreamEvents,
        (_FILTER, parameters.before("events"), parameters.limit()),
        ("stream_unavailable", "broker_not_configured", "history_busy"),
    ),
)
