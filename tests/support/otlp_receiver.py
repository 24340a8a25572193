"""A collector that takes spans by OTLP over HTTP, and decodes them with the protocol's own messages."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Receiver(ThreadingHTTPServer):
    """The collector; `running_otlp_receiver` starts one.

    Attributes:
        url: its address, for OTEL_EXPORTER_OTLP_ENDPOINT.
        spans: the received spans: each span's fields, its attributes as a dict, and those of its resource.
        paths: the paths of the requests.
        status: the status of each answer.
    """

    daemon_threads = True

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.spans: list[dict[str, Any]] = []
        self.paths: set[str] = set()

    def of_trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Returns the spans of a trace, by their start."""
        return sorted((span for span in self.spans if span["trace_id"] == trace_id), key=lambda span: span["start"])


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _to_dict(group.resource.attributes)
            self.server.spans += [
                {
                    "name": span.name,
                    "kind": span.kind,
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex(),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "status": span.status.code,
                    "attributes": _to_dict(span.attributes),
                    "resource": resource,
                }
                for scope in group.scope_spans
                for span in scope.spans
            ]
        self.server.paths.add(self.path)
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def _to_dict(attributes: Any) -> dict[str, Any]:
    return {each.key: _to_value(each.value) for each in attributes}


def _to_value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_to_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@contextmanager
def running_otlp_receiver(status: int = 200) -> Iterator[Receiver]:
    """A collector for the length of a `with` block, which answers with `status`."""
    with Receiver(status) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
