"""Reports a span per applied batch, linked to the spans of the producers that sampled theirs."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from consumers.client import LazyHeaders
from projections.model.batch import BatchBuilder
from projections.model.events import Message
from projections.tracing import LINKS_MAX, Span, TraceParent, Tracing

SPAN_NAME: Final = "apply membership events"
_HEADER: Final = re.compile(rb"(?:^|\n)traceparent:[ \t]*([^\r\n]*)", re.IGNORECASE)


@contextmanager
def batch_span(tracing: Tracing | None, batch: BatchBuilder) -> Iterator[None]:
    """Report the batch that is applied in this context, if a producer of its events sampled its trace."""
    producers = [] if tracing is None else sampled_producers(batch.messages)
    if tracing is None or not producers:
        yield
        return
    started_ns = time.time_ns()
    failed = True
    try:
        yield
        failed = False
    finally:
        span = Span(SPAN_NAME, started_ns, time.time_ns(), _attributes(batch), failed)
        tracing.report_batch(span, producers)


def sampled_producers(messages: Iterable[Message]) -> list[TraceParent]:
    """Return the distinct sampled spans named by the messages' `traceparent`, at most `LINKS_MAX`."""
    found: dict[TraceParent, None] = {}
    for message in messages:
        parent = _parent(message)
        if parent is not None and parent.sampled:
            found[parent] = None
            if len(found) >= LINKS_MAX:
                break
    return list(found)


def _parent(message: Message) -> TraceParent | None:
    if not isinstance(message.headers, LazyHeaders):
        return None
    match = _HEADER.search(message.headers.raw)  # parsing all headers would cost ten times as much
    return None if match is None else TraceParent.parse(match[1].decode("latin-1"))


def _attributes(batch: BatchBuilder) -> Mapping[str, Any]:
    return {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.batch.message_count": batch.events,
        "membership.position": batch.position,
        "membership.parked": len(batch.parked),
    }
