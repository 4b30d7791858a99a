"""`GET /ops/stream…`: the stream as the job runner last found it, and its newest events."""

from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from projections.maintenance import samples
from projections.maintenance.samples import StreamSetting, StreamSource
from service.operations.endpoint import Call, Endpoint, Refused

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
    at: datetime


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


ENDPOINTS: Final = (
    Endpoint("/stream", "operator_stream", "How is the stream?", show_stream, Stream, problems=("stream_unavailable",)),
)
