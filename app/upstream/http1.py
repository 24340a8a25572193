"""The part of HTTP/1.1 that requests to providers need: writes a request, and reads the head of its response.

Python's http.client spends 120 µs on work that takes 30 µs here: it writes each header separately, and parses the
response with the e-mail parser. This code follows RFC 9112 and guesses nothing: a malformed head is refused.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from urllib3.exceptions import ProtocolError

from app.yielding import PASS_S

# One provider's edge refuses the default user agents of libraries with 404 "Gone.".
USER_AGENT = "llm-gateway/0.1"

# An event of a chat stream has 200 to 400 bytes, so one system call receives a burst of some forty. A larger buffer
# would be allocated anew for each call and use its full size in memory for every live stream.
RECEIVE_BYTES = 16_384

# Providers' response heads have 1 to 3 KB; http.client has limits of the same order.
_MAX_HEAD_BYTES = 65_536
_MAX_HEADERS = 200
# Responses such as 100 Continue and 103 Early Hints; servers send one or two of them.
_MAX_INTERIM_RESPONSES = 10

# A larger body is written separately, not copied behind the head.
_MAX_COPIED_BYTES = 65_536

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
# All headers and the blank line after them. Blanks around a value are stripped afterwards, because a pattern for them
# takes quadratic time if there are thousands.
_HEADERS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\r\n\x00]*+\r?\n)*+\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class NoResponse(ProtocolError):
    """The connection ended before the first byte of a response."""


@dataclass(slots=True)
class ResponseHead:
    """The head of a response.

    Attributes:
        status: the status code, 200 to 599.
        headers: by name in lower case; the values of a repeated header are joined with ", ".
        keeps_alive: whether the connection may serve another request afterwards.
        content_length: the length of the body in bytes; None if it is chunked or ends with the connection.
        is_chunked: whether the body is in the chunked transfer coding.
        body_start: bytes of the body that arrived together with the head.
    """

    status: int
    headers: dict[str, str]
    keeps_alive: bool
    content_length: int | None
    is_chunked: bool
    body_start: bytes


def send_request(
    connection: socket.socket, method: str, target: str, headers: Mapping[str, str], body: bytes | None
) -> None:
    """Writes one request.

    Args:
        connection: the socket.
        method: the HTTP method.
        target: the path and query.
        headers: further headers, written unchanged; they must not contain line ends.
        body: the body, or None.

    Raises:
        OSError: the connection broke, or its timeout passed.
    """
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = f"{method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")
    if body is None or len(body) <= _MAX_COPIED_BYTES:
        _send(connection, head + (body or b""))
    else:
        time.sleep(PASS_S)  # Encoding the body took a moment, and copying it to the kernel takes another.
        connection.sendall(head)
        connection.sendall(body)


def _send(connection: socket.socket, data: bytes) -> None:
    # gevent's `sendall` looks up the size of the send buffer first; one `send` is nearly always enough.
    sent = connection.send(data)
    if sent < len(data):
        connection.sendall(memoryview(data)[sent:])


def receive_head(
    connection: socket.socket, timeout_s: float, receive: Callable[[float], bytes] | None = None
) -> ResponseHead:
    """Returns the head of the response on a connection.

    Args:
        connection: the socket; its timeout is changed.
        timeout_s: how long the whole head may take, in seconds.
        receive: returns the next bytes of the connection within the given seconds; by default, reads the socket.

    Raises:
        TimeoutError: it took longer.
        NoResponse: the connection ended before the first byte.
        ProtocolError: the connection ended inside the head, or the head is malformed.
        OSError: the connection broke in another way.
    """
    deadline_s = time.monotonic() + timeout_s
    received = b""
    interim = searched = 0
    left_s = timeout_s
    while True:
        try:
            data = receive_some(connection, left_s) if receive is None else receive(left_s)
        except ConnectionError as error:
            raise (ProtocolError if received else NoResponse)("The connection broke before the response.") from error
        if not data:
            raise (ProtocolError if received else NoResponse)("The connection ended before the response.")
        received += data
        while (end := _HEAD_END.search(received, searched)) is not None:
            head = _parse_head(received[: end.end()], received[end.end() :])
            if head.status >= 200:
                return head
            received, searched = head.body_start, 0
            interim += 1
            if interim > _MAX_INTERIM_RESPONSES:
                raise ProtocolError("Too many interim responses came before the response.")
        searched = max(0, len(received) - 3)  # The end may have begun; the rest is not searched again.
        left_s = _get_time_left(deadline_s, len(received))


def _get_time_left(deadline_s: float, received_bytes: int) -> float:
    """Returns the seconds to wait for the rest of a head; raises if the head is too long or the time is over."""
    if received_bytes > _MAX_HEAD_BYTES:
        raise ProtocolError("The head of the response is too long.")
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("The head of the response took too long.")
    return left_s


def receive_some(connection: socket.socket, timeout_s: float) -> bytes:
    """Returns the next bytes of a connection, `b""` at its end.

    Args:
        connection: the socket; its timeout is changed.
        timeout_s: the longest wait, in seconds.

    Raises:
        TimeoutError: nothing arrived in time.
        OSError: the connection broke.
    """
    connection.settimeout(timeout_s)
    return connection.recv(RECEIVE_BYTES)


def _parse_head(head: bytes, body_start: bytes) -> ResponseHead:
    line, _, fields = head.partition(b"\n")
    status_line = _STATUS_LINE.fullmatch(line.rstrip(b"\r"))
    if status_line is None:
        raise ProtocolError("The response is not HTTP/1.1.")
    status = int(status_line[2])
    headers = _parse_headers(fields)
    is_chunked, content_length = _parse_body_length(status, headers)
    connection = headers.get("connection", "").lower()
    keeps_alive = "close" not in connection and (status_line[1] == b"1" or "keep-alive" in connection)
    return ResponseHead(status, headers, keeps_alive, content_length, is_chunked, body_start)


def _parse_headers(fields: bytes) -> dict[str, str]:
    if _HEADERS.fullmatch(fields) is None:
        raise ProtocolError("The response has a malformed header.")
    lines = fields.decode("latin-1").split("\n")[:-2]  # The last two are the blank line and the text after it.
    if len(lines) > _MAX_HEADERS:
        raise ProtocolError("The response has too many headers.")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t\r")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _parse_body_length(status: int, headers: Mapping[str, str]) -> tuple[bool, int | None]:
    """Returns `is_chunked` and `content_length` of a head (RFC 9112 section 6.3)."""
    if status < 200 or status in {204, 304}:
        return False, 0
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise ProtocolError("The length of the response is ambiguous.")  # Two lengths allow response splitting.
        return True, None
    if length is None:
        return False, None
    if not length.isascii() or not length.isdigit() or len(length) > 15:
        raise ProtocolError("The length of the response is not a number.")
    return False, int(length)
