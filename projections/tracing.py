"""OpenTelemetry traces, configured by its standard OTEL_ variables; without them, nothing of it is imported.

The API makes a span per request, the projector one per batch that contains an event of a sampled producer. Spans are
made after the fact, from measured times, so that no code path differs with tracing on.
"""

import re
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import structlog

from projections.errors import SettingsInvalid

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTERS: Final = ("otlp", "console", "none")
PROTOCOL: Final = "http/protobuf"
LINKS_MAX: Final = 128
"""Of one span; OpenTelemetry's own default limit."""
FLUSH_S: Final = 2.0
"""How long the end of a process may wait for a collector to take the last spans."""
_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED: Final = 1

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class TraceParent(NamedTuple):
    """A W3C `traceparent`: who caused a request or an event."""

    trace_id: str
    span_id: str
    flags: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the parts of a header value; None if it is not valid."""
        match = _TRACEPARENT.fullmatch(text.strip())
        return cls(match[1], match[2], int(match[3], 16)) if match else None

    @property
    def sampled(self) -> bool:
        """Whether the caller records its trace."""
        return bool(self.flags & _SAMPLED)


class Span(NamedTuple):
    """A finished span, as it is reported; times in nanoseconds since 1970."""

    name: str
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, Any]
    failed: bool = False


class Tracing:
    """Reports finished spans to the configured exporter, from another thread."""

    def __init__(self, processor: "SpanProcessor", service: str, environment: Mapping[str, str]) -> None:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - imported only if tracing is configured
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

        named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {"service.name": service})
        # At exit, its own handler would wait for an unreachable collector without a limit.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("campaign-membership")

    def report_request(self, span: Span, parent: TraceParent | None) -> None:
        """Report the span of an answered request, as a child of the caller's span."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        self._report(span, SpanKind.SERVER, None if parent is None else _context(parent), ())

    def report_batch(self, span: Span, producers: Iterable[TraceParent]) -> None:
        """Report the span of a batch, linked to the spans that published its events."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        self._report(span, SpanKind.CONSUMER, None, producers)

    def _report(self, span: Span, kind: Any, context: "Context | None", producers: Iterable[TraceParent]) -> None:  # noqa: ANN401 - imported late
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.trace import Link, Status, StatusCode  # noqa: PLC0415

        reported = self._tracer.start_span(
            span.name,
            context=context or Context(),
            kind=kind,
            attributes=span.attributes,
            links=[Link(_span_context(producer)) for producer in producers],
            start_time=span.started_ns,
        )
        if span.failed:
            reported.set_status(Status(StatusCode.ERROR))
        reported.end(span.ended_ns)

    def close(self) -> None:
        """Send what is left, within `FLUSH_S`; an unreachable collector does not delay the end of the process."""
        closing = threading.Thread(target=self._provider.shutdown, name="flush spans", daemon=True)
        closing.start()
        closing.join(FLUSH_S)


def configured(service: str, environment: Mapping[str, str]) -> Tracing | None:
    """Return the tracing that the environment configures; None if it configures none, or the `otel` extra is missing.

    Raises `SettingsInvalid` for an exporter or a protocol that is not supported.
    """
    endpoint = next((name for name in ENDPOINTS if environment.get(name)), None)
    exporter = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return None
    _require_supported(exporter, environment)
    try:
        return Tracing(_processor(exporter), service, environment)
    except ModuleNotFoundError as missing:
        log.warning("tracing_not_installed", detail=f"{missing}; install campaign-membership[otel]")
        return None


def _require_supported(exporter: str, environment: Mapping[str, str]) -> None:
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    problems = []
    if exporter not in EXPORTERS:
        problems.append(f"OTEL_TRACES_EXPORTER ({exporter!r}) must be one of {', '.join(EXPORTERS)}.")
    if exporter == "otlp" and protocol not in {None, "", PROTOCOL}:
        problems.append(f"OTEL_EXPORTER_OTLP_PROTOCOL ({protocol!r}) must be {PROTOCOL}.")
    if problems:
        raise SettingsInvalid(problems)


def _processor(exporter: str) -> "SpanProcessor":
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter  # noqa: PLC0415

    if exporter == "console":
        import sys  # noqa: PLC0415

        return BatchSpanProcessor(ConsoleSpanExporter(out=sys.stderr))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return BatchSpanProcessor(OTLPSpanExporter())


def _span_context(parent: TraceParent) -> Any:  # noqa: ANN401 - imported late
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415

    return SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=TraceFlags(parent.flags)
    )


def _context(parent: TraceParent) -> "Context":
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context  # noqa: PLC0415

    return set_span_in_context(NonRecordingSpan(_span_context(parent)), Context())
