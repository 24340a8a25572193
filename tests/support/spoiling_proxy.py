"""Proxies that spoil a gateway's answers like misconfigured ones."""

from __future__ import annotations

import http.client
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SPOILS = (
    "nothing",
    "drops_request_id",
    "drops_authorization",
    "refuses_large_bodies",
    "answers_health_itself",
    "has_another_version",
    "compresses",
    "holds_back",
    "cuts_stream",
    "cuts_silence",
    "is_herokus",
)

# The idle timeout of a proxy that cuts silence, in seconds.
PATIENCE_S = 1.0
_NOT_PASSED = {"connection", "transfer-encoding", "keep-alive", "content-length"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, spoils: frozenset[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.spoils = port, spoils

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs nothing about clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        if "refuses_large_bodies" in self.server.spoils and int(self.headers.get("Content-Length") or 0) > 1_000_000:
            self.send_error(413)
            self.close_connection = True
            return
        if "answers_health_itself" in self.server.spoils and self.path == "/health":
            self._send(200, [], [b"<html>fine</html>"])
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED}
        if "drops_authorization" in self.server.spoils:
            headers.pop("Authorization", None)
        patience_s = PATIENCE_S if "cuts_silence" in self.server.spoils else 60
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=patience_s)
        connection.request(self.command, self.path, headers=headers)
        response = connection.getresponse()
        self._send(response.status, response.getheaders(), self._read(response))
        connection.close()

    def _read(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        if "holds_back" in self.server.spoils or (
            "has_another_version" in self.server.spoils and self.path == "/health"
        ):
            number = b"9." if "has_another_version" in self.server.spoils else b""
            yield response.read().replace(b'"version":"', b'"version":"' + number)
            return
        compression = zlib.compressobj(wbits=31)
        try:
            while piece := response.read1(65_536):
                if "cuts_stream" in self.server.spoils and b'"number":3' in piece:
                    raise TimeoutError
                if self._is_compressed:
                    piece = compression.compress(piece) + compression.flush(zlib.Z_SYNC_FLUSH)
                yield piece
        except TimeoutError:
            self.close_connection = True
            raise BrokenPipeError from None

    @property
    def _is_compressed(self) -> bool:
        return "compresses" in self.server.spoils and "/stream" in self.path

    def _send(self, status: int, headers: list[tuple[str, str]], pieces: Any) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _NOT_PASSED and not (
                "drops_request_id" in self.server.spoils and name == "x-request-id"
            ):
                self.send_header(name, value)
        if self._is_compressed:
            self.send_header("Content-Encoding", "gzip")
        if "is_herokus" in self.server.spoils:
            self.send_header("Via", "1.1 vegur")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = _pass_on

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def running_spoiling_proxy(port: int, *spoils: str) -> Iterator[str]:
    """Passes requests to 127.0.0.1:`port`, and spoils the answers in some ways of SPOILS; yields its address."""
    assert set(spoils) <= set(SPOILS)
    server = _Server(port, frozenset(spoils))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
