"""The HTTP layer under the sandbox: a request read once, a response, and the connection beneath both.

It is plain WSGI because the sandbox must start in a fraction of a second and needs no framework for a
dozen paths.
"""

import errno
import json
import socket
import struct
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

Headers = tuple[tuple[str, str], ...]
# A linger time of zero seconds makes close() send RST instead of FIN (socket(7), SO_LINGER).
_LINGER_ZERO = struct.pack("ii", 1, 0)


class ClientLeft(BrokenPipeError):
    """The client closed its end while the sandbox was still answering.

    It is an OSError with EPIPE because gunicorn closes the connection silently on exactly those.
    """

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the client left")


class ConnectionCut(ConnectionResetError):
    """The sandbox itself breaks the connection off; gunicorn then closes it without a last chunk."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "cut on purpose")


class Connection:
    """The client's TCP connection; without a socket (another WSGI server) it can only wait."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock

    def wait(self, seconds: float) -> None:
        """Let `seconds` pass; raises ClientLeft (or the socket's OSError) as soon as the client is gone.

        A client that only shuts down its sending side counts as gone, as it does for most servers.
        """
        started = time.monotonic()
        if self._sock is not None and seconds > 0 and self._is_silent_for(seconds):
            return
        # Other answers get their turn here even when there is nothing to wait for.
        time.sleep(max(0.0, seconds - (time.monotonic() - started)))

    def _is_silent_for(self, seconds: float) -> bool:
        assert self._sock is not None
        self._sock.settimeout(seconds)
        try:
            if self._sock.recv(1, socket.MSG_PEEK) == b"":
                raise ClientLeft
        except TimeoutError:
            return True
        finally:
            self._sock.settimeout(None)
        return False  # The client sent its next request early; it waits in the buffer.

    def reset_on_close(self) -> None:
        """Make the coming close of the connection an RST instead of a FIN."""
        if self._sock is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)


@dataclass(frozen=True)
class Request:
    """One HTTP request with its whole body."""

    method: str
    path: str
    query: dict[str, str]
    environ: WSGIEnvironment
    body: bytes
    connection: Connection
    id_hex: str = field(default_factory=lambda: uuid.uuid4().hex)

    def get_header(self, name: str) -> str:
        """Return a header's value, or "" when it was not sent."""
        return str(self.environ.get("HTTP_" + name.upper().replace("-", "_"), ""))

    @property
    def bearer(self) -> str:
        """The key of `Authorization: Bearer …`, or ""."""
        scheme, _, key = self.get_header("authorization").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""


@dataclass
class Response:
    """What is sent back; `body` may be an iterator with a close(), which the server calls in any case."""

    status: int
    headers: Headers
    body: Iterable[bytes]

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Hand status and headers to the WSGI server and return the body."""
        start_response(f"{self.status} {_get_reason(self.status)}", list(self.headers))
        return self.body


def _get_reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def read_request(environ: WSGIEnvironment) -> Request:
    """Read one request from a WSGI environ, body included."""
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    return Request(
        method=environ["REQUEST_METHOD"],
        path=environ.get("PATH_INFO", "/"),
        query={name: values[-1] for name, values in query.items()},
        environ=environ,
        body=_read_body(environ),
        connection=Connection(environ.get("gunicorn.socket")),
    )


def _read_body(environ: WSGIEnvironment) -> bytes:
    length = environ.get("CONTENT_LENGTH")
    if length:
        return bytes(environ["wsgi.input"].read(int(length)))
    # Only gunicorn decodes a chunked body into a stream that ends by itself.
    return bytes(environ["wsgi.input"].read()) if "gunicorn.socket" in environ else b""


def dump_json(value: object) -> bytes:
    """Encode as compact UTF-8 JSON, the form that the providers send."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def make_json_response(status: int, value: object, headers: Headers = ()) -> Response:
    """Build a whole JSON response with its content-length."""
    return make_response(status, "application/json", dump_json(value), headers)


def make_response(status: int, content_type: str, body: bytes, headers: Headers = ()) -> Response:
    """Build a whole response with its content-length."""
    own = (("content-type", content_type), ("content-length", str(len(body))))
    return Response(status, own + headers, [body])
