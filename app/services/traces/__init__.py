"""The traces of requests.

context.py   W3C Trace Context: reads the client's `traceparent` and `tracestate`, and makes those for the provider
spans.py     the spans of one request: its own, and one for each target that it was sent to
exporter.py  makes OpenTelemetry spans and sends them by OTLP, if OTEL_EXPORTER_OTLP_ENDPOINT is set
"""

from app.services.traces.context import TraceContext, read_trace_context
from app.services.traces.exporter import SpanExporter, start_traces, stop_traces
from app.services.traces.spans import RequestSpans

__all__ = [
    "RequestSpans", "SpanExporter", "TraceContext", "read_trace_context", "start_traces", "stop_traces",
]  # fmt: skip
