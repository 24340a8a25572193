"""The traces of requests.

context.py   W3C Trace Context: the client's `traceparent` and `tracestate`, read and sent on
spans.py     what is told of one request: its span, and one for each target that it was sent to
exporter.py  makes spans of OpenTelemetry and sends them by OTLP, if OTEL_EXPORTER_OTLP_ENDPOINT is set
"""

from app.services.traces.context import TraceContext, read_trace_context
from app.services.traces.exporter import SpanExporter, start_traces, stop_traces
from app.services.traces.spans import RequestSpans

__all__ = [
    "RequestSpans", "SpanExporter", "TraceContext", "read_trace_context", "start_traces", "stop_traces",
]  # fmt: skip
