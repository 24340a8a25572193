"""gunicorn's response class with fewer system calls, and JSON errors in place of HTML for invalid requests.

gunicorn sends the head and the body of a response separately, and asks for the size of the send buffer before each.
Here both are sent in one write, which saves three of four system calls and wakes the client once.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from contextvars import ContextVar
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from traceback import walk_tb
from typing import Any

from gunicorn import SERVER, util
from gunicorn.http import wsgi
from gunicorn.http.message import Request
from gunicorn.http.wsgi import InvalidResponseHeader

from app.server.request_reading import can_be_kept

# A client that sends an invalid request may not read the response either.
_ERROR_SEND_TIMEOUT_S = 5
# The part of a request line that is searched for its path; all paths with an error shape of their own are shorter.
_MAX_PATH_BYTES = 500


# Names of token characters, and values without control characters (RFC 9110 sections 5.1 and 5.5).
_HEADERS = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")

# Bodies contain texts of callers and providers, so no browser may guess that one is HTML.
_NO_SNIFFING = "X-Content-Type-Options: nosniff\r\n"

# Each key with limits has its own headers, which are replaced now and then.
_MAX_REMEMBERED = 256
# id of a headers object → the object, and its lines. They depend on no setting, so this needs no Runtime.
_remembered: dict[int, tuple[Mapping[str, str], str]] = {}


class BufferedResponse(wsgi.Response):  # type: ignore[misc]
    """Buffers the head until there is a body to send with it, and the part of a block that could not be sent yet.

    Args:
        req: the request.
        sock: the connection.
        cfg: gunicorn's configuration.
    """

    # The attributes that gunicorn's own `__init__` sets for each response.
    version = SERVER
    status: str | None = None
    chunked = must_close = headers_sent = upgrade = _omits_body = _omits_body_warned = False
    response_length: int | None = None
    sent = 0
    _unsent = b""
    _shared = ""

    def __init__(self, req: Any, sock: socket.socket, cfg: Any) -> None:
        self.req = req
        self.sock = sock
        self.cfg = cfg
        self.headers: list[tuple[str, str]] = []

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Accepts the status and the headers from the application (WSGI's `start_response`).

        gunicorn's own method handles the cases with more steps: a response without a body, and one that fails.
        """
        code = _get_status_with_body(status)
        if not code or self.req.method == "HEAD" or self.status is not None or exc_info is not None:
            return super().start_response(status, headers, exc_info)
        self.status, self.status_code = status, code
        self.process_headers(headers)
        if self.response_length is None:
            self.chunked = self.is_chunked()
        return self.write

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Accepts the headers from the application; `send_headers` checks all of them at once.

        gunicorn's own method checks each name and each value separately, which takes 8 µs longer. It is called only for
        headers about the connection, which it drops; the gateway sets none.
        """
        for name, value in headers:
            if name == "Content-Length":
                self.response_length = int(value)
            elif _is_special(name):
                super().process_headers(headers)
                return
        self.headers = headers

    def default_headers(self) -> list[str]:
        """Returns the first lines of the head: the status, and the headers that the server adds."""
        connection = "upgrade" if self.upgrade else "close" if self.should_close() else "keep-alive"
        major, minor = self.req.version
        coding = "Transfer-Encoding: chunked\r\n" if self.chunked else ""
        server = _make_server_lines(int(time.time()))
        return [f"HTTP/{major}.{minor} {self.status}\r\n{server}Connection: {connection}\r\n{coding}"]

    def add_shared_headers(self, headers: Mapping[str, str]) -> None:
        """Adds headers that are shared between responses: the same object, whose lines are made and checked once.

        Args:
            headers: by name, none of them about the connection or the body; they must not change afterwards.

        Raises:
            InvalidResponseHeader: a header has characters that are not allowed.
        """
        known = _remembered.get(id(headers))
        if known is None or known[0] is not headers:
            if len(_remembered) >= _MAX_REMEMBERED:
                _remembered.clear()
            known = _remembered[id(headers)] = headers, _make_lines(headers)
        self._shared = known[1]

    def send_headers(self) -> None:
        """Encodes the head; it is sent with the first piece of the body, or at the end.

        Raises:
            InvalidResponseHeader: a header has characters that are not allowed.
        """
        if not self.headers_sent:
            if not can_be_kept(self.req.body):
                self.must_close = True
            headers = "".join([f"{name}: {value}\r\n" for name, value in self.headers])
            # The number of lines proves that no value has a line end.
            if _HEADERS.fullmatch(headers) is None or headers.count("\n") != len(self.headers):
                raise InvalidResponseHeader("A header of the response has invalid characters.")
            head = f"{''.join(self.default_headers())}{_NO_SNIFFING}{headers}{self._shared}\r\n"
            self._unsent = head.encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        self._send(self._encode(data))

    def _encode(self, data: bytes) -> bytes:
        return b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data

    def push(self, block: bytes) -> bool:
        """Sends as much of a block of the body as possible at once; part of the relay's Channel protocol.

        Returns:
            Whether all of it was sent. If not, `flush` sends the rest.

        Raises:
            OSError: the connection is broken.
        """
        encoded = self._encode(block)
        try:
            # The gevent socket's own `send` would wait, and code in gevent's loop must not wait.
            sent = os.write(self.sock.fileno(), encoded)
        except BlockingIOError:
            sent = 0
        self._unsent = encoded[sent:]
        return not self._unsent

    def get_raw_socket(self) -> int | None:
        """Returns the number of the client's socket, to which chunks may be written directly; see `Channel`."""
        can_be_raw = self.chunked and self.headers_sent and not self._unsent
        return self.sock.fileno() if can_be_raw else None

    def keep_unsent(self, rest: bytes) -> None:
        """Makes `flush` send the part of a chunk that could not be written to the socket."""
        self._unsent = rest

    def flush(self) -> None:
        """Sends the part of a block that could not be sent, waiting for the client to read.

        Raises:
            OSError: the connection is broken, or the client read nothing within the socket's timeout.
        """
        self._send(b"")

    def close(self) -> None:
        """Ends the response: sends the head if there was no body, and the last chunk."""
        self.send_headers()
        if self._unsent or self.chunked:
            self._send(b"0\r\n\r\n" if self.chunked else b"")

    def _send(self, data: bytes) -> None:
        if self._unsent:
            data, self._unsent = self._unsent + data, b""
        sent = self.sock.send(data)
        # sendall's timeout is for all of the data. Here it is for each part, so that a slow client may take as long as
        # it needs, if it keeps reading.
        while sent < len(data):
            sent += self.sock.send(memoryview(data)[sent:])


def _make_lines(headers: Mapping[str, str]) -> str:
    """Returns the checked lines of some headers; `send_headers` does the same without a separate call."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if _HEADERS.fullmatch(lines) is None or lines.count("\n") != len(headers):
        raise InvalidResponseHeader("A header of the response has invalid characters.")
    return lines


@lru_cache(maxsize=1)
def _make_server_lines(second: int) -> str:
    """Returns the lines with the server's name and the time, updated once a second."""
    return f"Server: {SERVER}\r\nDate: {formatdate(second, usegmt=True)}\r\n"


@lru_cache(maxsize=256)
def _get_status_with_body(status: str) -> int:
    """Returns the status code of a valid status line whose response has a body; otherwise 0."""
    is_valid = isinstance(status, str) and wsgi.STATUS_RE.fullmatch(status) is not None
    code = int(status[:3]) if is_valid else 0
    return 0 if code < 200 or code in {204, 304} else code


@lru_cache(maxsize=256)
def _is_special(name: str) -> bool:
    """Returns whether a header is about the connection or the length of the body."""
    return name.lower() == "content-length" or bool(util.is_hoppish(name))


# The path of a request that could not be parsed, as far as it is known; it decides the shape of the error.
refused_path: ContextVar[str] = ContextVar("refused_path", default="")

_ADVICE = {
    414: "The URL is too long. Shorten the URL; long input belongs in the body.",
    431: "The request has too many headers, or too long ones. Send fewer or shorter headers.",
}


def write_error(connection: socket.socket, status: int, reason: str, message: str) -> None:
    """Writes the response to a request that could not be parsed, in the error shape of the path in `refused_path`.

    Such a request never reaches the application; the worker class has given it an id. The signature is that of
    `gunicorn.util.write_error`, whose response is HTML.

    Raises:
        OSError: the connection is broken, or the client does not read.
    """
    # gunicorn's main process imports this module and should not load the application.
    from app.errors import FAILED, BadRequest, GatewayError
    from app.logs import get_request_id, redact
    from app.services.endpoints import find_error_shape

    error = GatewayError(FAILED, status=status)
    if status != 500:  # This includes 501: an unknown transfer coding is the client's mistake.
        text = redact(message or reason)[:200]
        advice = _ADVICE.get(status, f"This is not a valid HTTP request: {text}. Check the client.")
        error = BadRequest(advice, status=status)
    shape, request_id = find_error_shape(refused_path.get()), get_request_id() or ""
    body, status = shape.make_body(error, request_id), shape.get_status(error)
    own = f"{shape.request_id_header}: {request_id}\r\n" if shape.request_id_header else ""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"{_NO_SNIFFING}x-request-id: {request_id}\r\n{own}Content-Length: {len(body)}\r\n\r\n"
    )
    connection.settimeout(_ERROR_SEND_TIMEOUT_S)
    connection.sendall(head.encode("latin-1", "replace") + body)


def find_path(req: Any, error: BaseException) -> str:
    """Returns the path of a request that failed, as far as it is known; otherwise "".

    Args:
        req: gunicorn's request; None if it could not be parsed.
        error: why it failed. Only the frames of its traceback have the parsed data, because gunicorn keeps none.
    """
    if req is not None:
        return str(req.path or "")
    for frame, _ in walk_tb(error.__traceback__):
        parsed, received = frame.f_locals.get("self"), frame.f_locals.get("buf")
        if not isinstance(parsed, Request):
            continue
        if parsed.path:
            return str(parsed.path)
        if isinstance(received, bytes | bytearray):
            words = bytes(received[:_MAX_PATH_BYTES]).lstrip().split(b" ", 2)
            return words[1].partition(b"?")[0].decode("latin-1") if len(words) > 1 else ""
    return ""
