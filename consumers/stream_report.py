"""Reports on the stream for operators: its size, its settings beside those that are needed, the last event by source.

Reads: the stream's state and at most `MESSAGES_MAX` of its newest messages.
Fails: nats-py's errors when the broker is unavailable, and `Interrupted`.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from consumers import stream
from consumers.client import TolerantClient
from consumers.intake import OrderedSubscription
from projections.maintenance.samples import StreamReport, StreamSetting, StreamSource
from projections.model.events import Message, Position

MESSAGES_MAX: Final = 500
"""Messages in which sources are looked for; a source that is silent for longer keeps its last event."""
PULL_BYTES_MAX: Final = 2 * 1024 * 1024
WAIT_S: Final = 0.5
SOURCES_MAX: Final = 100
SOURCE_CHARS_MAX: Final = 200


class _Sourced(Struct):
    source: str


_SOURCED: Final = msgspec.json.Decoder(_Sourced)


class StreamReporter:
    """Remembers the last event of each source between reports, so that each looks at new messages only."""

    def __init__(self, known: Iterable[StreamSource] = ()) -> None:
        self._sources = {each.source: each for each in known}
        self._through = max((each.last_position for each in self._sources.values()), default=0)
        """The last position that was looked at."""

    async def report(self, client: TolerantClient) -> StreamReport | None:
        """Return the report; None if the stream does not exist."""
        found = await stream.information(client)
        if found is None:
            return None
        state = found["state"]
        await self._look_for_sources(client, state["last_seq"])
        return StreamReport(
            name=stream.STREAM,
            first_position=state["first_seq"],
            last_position=state["last_seq"],
            messages=state["messages"],
            bytes=state["bytes"],
            settings=list(stream_settings(found["config"])),
            sources=sorted(self._sources.values(), key=_newest_first),
        )

    async def _look_for_sources(self, client: TolerantClient, last_position: int) -> None:
        if self._through > last_position:  # the stream was restored or created again
            self._sources.clear()
            self._through = 0
        after = max(self._through, last_position - MESSAGES_MAX)
        if after >= last_position:
            return
        async with OrderedSubscription(client, Position(after), pull_bytes_max=PULL_BYTES_MAX) as subscription:
            seen = 0
            while seen < MESSAGES_MAX and not subscription.caught_up:
                messages = await subscription.next_batch(MESSAGES_MAX - seen, WAIT_S)
                if not messages:
                    break
                seen += len(messages)
                self._note(messages)
        self._through = max(self._through, subscription.position)

    def _note(self, messages: Iterable[Message]) -> None:
        for message in messages:
            source = _source_of(message)
            if source is not None:
                at = datetime.fromtimestamp(message.time_ns // 10**9, UTC)
                self._sources[source] = StreamSource(source, message.position, at)
        newest = sorted(self._sources.values(), key=_newest_first)[:SOURCES_MAX]
        self._sources = {each.source: each for each in newest}


def stream_settings(config: dict[str, Any]) -> Iterator[StreamSetting]:
    """Yield each setting on which this service or a producer depends, with what is wrong with it."""
    problems = stream.setting_problems(config, stream.EXPECTED)
    for name, wanted in stream.EXPECTED.items():
        sentence = f"{problems[name]}." if name in problems else None
        found = config.get(name, None if sentence else wanted)
        yield StreamSetting(name, _text(wanted), _text(found), sentence is None, sentence)


def _text(value: Any) -> str:  # noqa: ANN401 - a JSON value
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _source_of(message: Message) -> str | None:
    try:
        return _SOURCED.decode(message.body).source[:SOURCE_CHARS_MAX]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _newest_first(source: StreamSource) -> int:
    return -source.last_position
