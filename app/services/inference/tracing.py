"""Connects a request with its trace: from the client's headers to the record, the provider and the exported spans.

Not called for a request without `traceparent` while OTEL_EXPORTER_OTLP_ENDPOINT is not set.
"""

from __future__ import annotations

from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.exchange import Exchange
from app.services.traces import RequestSpans, SpanExporter, read_trace_context


def begin_trace(
    exchange: Exchange, exporter: SpanExporter | None, traceparent: str | None, tracestate: str | None
) -> None:
    """Continues the client's trace, or begins one, and names it on the record.

    Args:
        exporter: exports the request's spans, if the trace is sampled; None to export none.
        traceparent, tracestate: the client's headers.
    """
    trace = exchange.trace = read_trace_context(traceparent, tracestate, samples=exporter is not None)
    exchange.record.trace_id = trace.trace_id
    if exporter is not None and trace.is_sampled:
        spans = exchange.spans = RequestSpans(exchange.endpoint.name, trace.parent_id)
        exchange.on_finish(lambda: exporter.export(trace, spans, exchange.record))


def add_trace_headers(exchange: Exchange, request: UpstreamRequest) -> dict[str, str]:
    """Returns the headers of a request for its target, with those of the trace; its span begins now."""
    assert exchange.trace is not None
    span_id = None
    if exchange.spans is not None:
        span_id = exchange.spans.begin_call(request.target.provider.name, request.target.model)
    return request.headers | exchange.trace.make_headers(span_id)
