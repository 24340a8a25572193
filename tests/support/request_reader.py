"""Reads one HTTP request from a socket into the record that a scripted upstream keeps of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# Far above the head of any HTTP client; a peer that sends more is broken, and the test should fail.
_MAX_HEAD_BYTES = 1 << 20


@dataclass(eq=False)
class SeenRequest:
    """One request as the upstream saw it, and the state of its response. Times are of `time.monotonic`.

    Attributes:
        headers: names in lower case; of a repeated header the last value.
        json: the parsed body, or None if it is not JSON.
        connection: the number of its connection, from 1.
        reused: whether it was not the first request on the connection.
        bytes_sent: bytes of the response that the kernel has accepted so far.
        gone_at: when the peer closed or reset the connection while the script still ran; None if it did not.
        finished: whether the script ran to its end.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    json: Any
    received_at: float = field(default_factory=time.monotonic)
    connection: int = 0
    reused: bool = False
    bytes_sent: int = 0
    gone_at: float | None = None
    finished: bool = False

    def __repr__(self) -> str:
        model = self.json.get("model") if isinstance(self.json, dict) else None
        return (
            f"<{self.method} {self.path} model={model} connection={self.connection}"
            f" sent={self.bytes_sent} gone={self.gone_at is not None} finished={self.finished}>"
        )


def read_request(receive: Callable[[], bytes], buffer: bytearray) -> SeenRequest | None:
    """Reads a whole request, head and body.

    Args:
        receive: returns some bytes, or `b""` once the peer has closed.
        buffer: bytes already received and not yet used; bytes after the request stay in it.

    Returns:
        The request, or None if the peer closed before it was complete.
    """
    while b"\r\n\r\n" not in buffer:
        if len(buffer) > _MAX_HEAD_BYTES or not _fill(receive, buffer):
            return None
    head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
    buffer[:] = rest
    line, *header_lines = head.decode("latin-1").split("\r\n")
    method, path, _ = line.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (h.partition(":") for h in header_lines)}
    body = _read_body(headers, receive, buffer)
    return None if body is None else SeenRequest(method, path, headers, body, _parsed(body))


def _fill(receive: Callable[[], bytes], buffer: bytearray) -> bool:
    data = receive()
    buffer += data
    return bool(data)


def _read_body(headers: dict[str, str], receive: Callable[[], bytes], buffer: bytearray) -> bytes | None:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _read_chunks(receive, buffer)
    return _take(int(headers.get("content-length", "0")), receive, buffer)


def _read_chunks(receive: Callable[[], bytes], buffer: bytearray) -> bytes | None:
    body = b""
    while True:
        while b"\r\n" not in buffer:
            if not _fill(receive, buffer):
                return None
        size, _, rest = bytes(buffer).partition(b"\r\n")
        buffer[:] = rest
        chunk = _take(int(size, 16) + 2, receive, buffer)
        if chunk is None:
            return None
        if chunk == b"\r\n":
            return body
        body += chunk[:-2]


def _take(size: int, receive: Callable[[], bytes], buffer: bytearray) -> bytes | None:
    while len(buffer) < size:
        if not _fill(receive, buffer):
            return None
    taken = bytes(buffer[:size])
    del buffer[:size]
    return taken


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
