"""Sends the spans of this process to a collector by OTLP over HTTP, in the background.

OpenTelemetry is imported only if OTEL_EXPORTER_OTLP_ENDPOINT is set; requirements-traces.txt installs it. It reads its
other variables itself, such as OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES and OTEL_EXPORTER_OTLP_HEADERS. A queue
bounds the memory: while the collector is away, spans are lost and requests are served.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import Any

from app.logs import log_event
from app.runtime import Component, Runtime, get_component, get_settings
from app.services.journal import ActivityRecord
from app.services.traces.context import TraceContext
from app.services.traces.spans import RequestSpans, Span
from app.version import get_version

_EXPORT_TIMEOUT_S = 5.0
_LOG_EVERY_S = 60.0
_SERVICE = "llm-gateway"


class SpanExporter(Component):
    """Exports spans; made in a worker, and only if OTEL_EXPORTER_OTLP_ENDPOINT is set."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        _log_failures()
        self._make_span = ReadableSpan
        self._scope = InstrumentationScope("llm-gateway", get_version())
        own = {
            "service.name": os.environ.get("OTEL_SERVICE_NAME") or _SERVICE,
            "service.version": get_version(),
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
        self._resource = Resource.create(own)
        endpoint = f"{self.settings.otlp_endpoint}/v1/traces"
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_S))

    def export(self, trace: TraceContext, spans: RequestSpans, record: ActivityRecord) -> None:
        """Queues the spans of a request that ends now."""
        for span in spans.end(record):
            self._processor.on_end(self._convert(trace, span))

    def _convert(self, trace: TraceContext, span: Span) -> Any:
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def make_context(span_id: str, is_remote: bool) -> SpanContext:
            return SpanContext(int(trace.trace_id, 16), int(span_id, 16), is_remote, TraceFlags(trace.flags))

        return self._make_span(
            span.name,
            context=make_context(span.span_id, False),
            parent=None if span.parent_id is None else make_context(span.parent_id, not span.is_call),
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.CLIENT if span.is_call else SpanKind.SERVER,
            status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )

    def close(self) -> None:
        """Sends the queued spans, if the collector accepts them."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


class _LogHandler(logging.Handler):
    """Writes OpenTelemetry's messages to the gateway's log, once a minute."""

    _silent_until_s = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line; its text is redacted there."""
        now_s = time.monotonic()
        if now_s >= self._silent_until_s:
            self._silent_until_s = now_s + _LOG_EVERY_S
            log_event("span_export_failed", level="warning", reason=record.getMessage()[:500])


def _log_failures() -> None:
    logger = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _LogHandler) for handler in logger.handlers):
        logger.addHandler(_LogHandler(logging.WARNING))
        logger.propagate = False


def start_traces() -> None:
    """Creates a worker's exporter before its first request, if OTEL_EXPORTER_OTLP_ENDPOINT is set."""
    if get_settings().otlp_endpoint is not None:
        get_component(SpanExporter)


def stop_traces(timeout_s: float) -> None:
    """Sends the queued spans, for at most `timeout_s` seconds, because the collector may be away."""
    if get_settings().otlp_endpoint is not None:
        ending = threading.Thread(target=get_component(SpanExporter).close, daemon=True)
        ending.start()
        ending.join(timeout_s)
