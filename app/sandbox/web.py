"""The HTTP layer of the sandbox: request, response and connection.

It is plain WSGI: the sandbox has to start in a fraction of a second, and a dozen paths need no framework.
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


class ClientDisconnected(BrokenPipeError):
    """The client closed the connection before the response was complete.

    It is an OSError with EPIPE, for which gunicorn closes the connection without a log line.
    """

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the client disconnected")


class ConnectionCut(ConnectionResetError):
    """The sandbox breaks off the connection on purpose; gunicorn then closes it without the last chunk."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "cut on purpose")


class Connection:
    """The client's TCP connection; without a socket (another WSGI server) it can only wait."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock

    def wait(self, seconds: float) -> None:
        """Waits for `seconds`; raises ClientDisconnected (or an OSError of the socket) as soon as the client is gone.

        A client that shuts down only its sending side counts as disconnected, as for most servers.
        """
        started = time.monotonic()
        if self._sock is not None and seconds > 0 and self._is_silent_for(seconds):
            return
        # Even a sleep of zero seconds lets other responses continue.
        time.sleep(max(0.0, seconds - (time.monotonic() - started)))

    def _is_silent_for(self, seconds: float) -> bool:
        assert self._sock is not None
        self._sock.settimeout(seconds)
        try:
            if self._sock.recv(1, socket.MSG_PEEK) == b"":
                raise ClientDisconnected
        except TimeoutError:
            return True
        finally:
            self._sock.settimeout(None)
        return False  # The client sent its next request early; it stays in the buffer.

    def reset_on_close(self) -> None:
        """Makes the connection end with an RST instead of a FIN when it is closed."""
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
        """Returns the value of a header, or "" if it was not sent."""
        return str(self.environ.get("HTTP_" + name.upper().replace("-", "_"), ""))

    @property
    def bearer(self) -> str:
        """The key of `Authorization: Bearer …`, or ""."""
        scheme, _, key = self.get_header("authorization").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""


@dataclass
class Response:
    """A response; `body` may be an iterator with a close(), which the server calls in any case."""

    status: int
    headers: Headers
    body: Iterable[bytes]

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Passes status and headers to the WSGI server and returns the body."""
        start_response(f"{self.status} {_get_reason(self.status)}", list(self.headers))
        return self.body


def _get_reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def read_request(environ: WSGIEnvironment) -> Request:
    """Returns the request of a WSGI environ, with its whole body."""
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
    # Only gunicorn decodes chunked bodies; on another server a read without a length might not end.
    return bytes(environ["wsgi.input"].read()) if "gunicorn.socket" in environ else b""


def dump_json(value: object) -> bytes:
    """Returns compact UTF-8 JSON, as sent by the providers."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def make_json_response(status: int, value: object, headers: Headers = ()) -> Response:
    """Returns a JSON response with a content-length."""
    return make_response(status, "application/json", dump_json(value), headers)


def make_response(status: int, content_type: str, body: bytes, headers: Headers = ()) -> Response:
    """Returns a response with a content-length."""
    own = (("content-type", content_type), ("content-length", str(len(body))))
    return Response(status, own + headers, [body])
