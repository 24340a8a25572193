"""HTTP/1.1 as far as a provider's answer needs it: a request in one write, and the head of the answer.

Python's http.client spends 120 µs on what is done here in 30: it writes each header by itself, and reads the answer's
through the parser for e-mail. After RFC 9112; what is not plainly a head is refused, nothing is guessed.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from urllib3.exceptions import ProtocolError

# One event of a chat stream is 200 to 400 bytes, so this takes a burst of some forty in one system call; a larger
# buffer is allocated anew for each call and would count in full for every live stream.
RECEIVE_BYTES = 16_384

# Heads of providers are 1 to 3 KB; http.client's own bounds are of this order.
_MAX_HEAD_BYTES = 65_536

# A larger body goes in a write of its own instead of being copied behind the head.
_COPY_BYTES = 65_536

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
# Blanks around a value are stripped afterwards: a pattern for them takes quadratic time where there are thousands.
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\r\n\x00]*)\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class NoAnswer(ProtocolError):
    """The connection ended before a byte of the answer came."""


@dataclass(slots=True)
class Head:
    """The head of an answer.

    Attributes:
        status: the status code, 200 to 599.
        headers: by name in lower case; of a repeated header the values are joined with ", ".
        keeps_alive: whether the connection may serve another request afterwards.
        length: how long the body is; None where the connection's end or the chunked coding tells.
        chunked: whether the body is in chunked coding.
        rest: bytes of the body that came along.
    """

    status: int
    headers: dict[str, str]
    keeps_alive: bool
    length: int | None
    chunked: bool
    rest: bytes


def send_request(
    connection: socket.socket, method: str, target: str, headers: Mapping[str, str], body: bytes | None
) -> None:
    """Writes one request; `headers` are written as they are and must not hold line ends."""
    lines = [f"{method} {target} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in headers.items()), "\r\n"]
    head = "".join(lines).encode("latin-1")
    if body is None or len(body) <= _COPY_BYTES:
        _send(connection, head + (body or b""))
    else:
        connection.sendall(head)
        connection.sendall(body)


def _send(connection: socket.socket, data: bytes) -> None:
    # gevent's `sendall` asks for the size of the send buffer first; nearly always one `send` is all.
    sent = connection.send(data)
    if sent < len(data):
        connection.sendall(memoryview(data)[sent:])


def receive_head(connection: socket.socket, timeout_s: float) -> Head:
    """Reads the head of an answer.

    Args:
        connection: the socket; its timeout is changed.
        timeout_s: how long all of the head may take, in seconds.

    Raises:
        TimeoutError: it took longer.
        ProtocolError: what came is not the head of an HTTP answer, or the connection ended before it.
        OSError: the connection broke.
    """
    deadline_s = time.monotonic() + timeout_s
    received = b""
    while True:
        connection.settimeout(max(0.001, deadline_s - time.monotonic()))
        data = _receive_some(connection, received)
        if not data:
            raise (ProtocolError if received else NoAnswer)("The connection ended before the answer.")
        received += data
        while (end := _HEAD_END.search(received)) is not None:
            head = _parse(received[: end.end()], received[end.end() :])
            if head.status >= 200:
                return head
            received = head.rest  # 100 Continue and 103 Early Hints come before the answer.
        if len(received) > _MAX_HEAD_BYTES:
            raise ProtocolError("The answer's head is too long.")
        if time.monotonic() >= deadline_s:
            raise TimeoutError("The answer's head took too long.")


def _receive_some(connection: socket.socket, received: bytes) -> bytes:
    try:
        return connection.recv(RECEIVE_BYTES)
    except ConnectionError as error:
        raise (ProtocolError if received else NoAnswer)("The connection broke before the answer.") from error


def _parse(head: bytes, rest: bytes) -> Head:
    line, _, fields = head.partition(b"\n")
    status_line = _STATUS_LINE.fullmatch(line.rstrip(b"\r"))
    if status_line is None:
        raise ProtocolError("The answer is not HTTP/1.1.")
    status = int(status_line[2])
    headers = _parse_fields(fields)
    chunked, length = _framing(status, headers)
    connection = headers.get("connection", "").lower()
    keeps_alive = "close" not in connection and (status_line[1] == b"1" or "keep-alive" in connection)
    return Head(status, headers, keeps_alive, length, chunked, rest)


def _parse_fields(fields: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    position = 0
    while (field := _HEADER.match(fields, position)) is not None:
        name, value = field[1].decode("ascii").lower(), field[2].strip(b" \t").decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
        position = field.end()
    if fields[position:] not in {b"\r\n", b"\n"}:
        raise ProtocolError("The answer has a malformed header.")
    return headers


def _framing(status: int, headers: Mapping[str, str]) -> tuple[bool, int | None]:
    """Returns (chunked, length) after RFC 9112 section 6.3."""
    if status < 200 or status in {204, 304}:
        return False, 0
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise ProtocolError("The answer's length is ambiguous.")  # Two lengths are how answers get confused.
        return True, None
    if length is None:
        return False, None
    if not length.isascii() or not length.isdigit() or len(length) > 15:
        raise ProtocolError("The answer's length is not a number.")
    return False, int(length)
