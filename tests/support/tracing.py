"""Tracing that keeps its spans in memory, and the headers of a producer that traces."""

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from projections.tracing import Tracing


def recording() -> tuple[Tracing, InMemorySpanExporter]:
    """Return tracing, and the exporter from which its finished spans can be read."""
    exporter = InMemorySpanExporter()
    return Tracing(SimpleSpanProcessor(exporter), "tests", {}), exporter


def traceparent(number: int, *, sampled: bool = True) -> str:
    """Return a valid header value; equal numbers give equal spans."""
    return f"00-{number:032x}-{number:016x}-{int(sampled):02x}"
