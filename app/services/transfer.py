"""Reads the body of a provider's answer off its socket, as the bytes arrive and with a deadline for each wait.

The readers of urllib3 and http.client cannot be asked twice: after one timeout Python's socket file refuses further
reads, and a timeout in the middle of a chunk header loses bytes. A stream must survive many timeouts, one for each
look at whether its client is still there.
"""

from __future__ import annotations

import re
import time
import zlib
from typing import Any, Protocol

from urllib3.response import HTTPResponse

from app.errors import UpstreamCut
from app.services.waits import Reader, make_reader
from app.services.wire import RECEIVE_BYTES, Head

# Chunk headers are a few hexadecimal digits. Extensions are legal, but nobody sends kilobytes of them.
_MAX_CHUNK_HEADER_BYTES = 1_024

_HEX_DIGITS = re.compile(rb"[0-9A-Fa-f]{1,16}")


_WHOLE_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")


class _Framing(Protocol):
    """Takes raw bytes of a message body and returns its payload; `done` once the message has ended.

    `surplus` tells that bytes came behind the end, which leaves the connection good for nothing. When `feed` raises,
    `salvaged` is the payload in those bytes that stood before what is wrong.
    """

    done: bool
    surplus: bool
    salvaged: bytes

    def feed(self, data: bytes) -> bytes: ...

    def end(self) -> bool:
        """Tells whether the connection's end is a proper end of the message."""
        ...


class ChunkedFraming:
    """Decodes the chunked transfer coding (RFC 9112 section 7.1) from pieces cut at any byte."""

    def __init__(self) -> None:
        self.done = False
        self.surplus = False
        self.salvaged = b""
        self._held = b""  # An incomplete chunk header or line end.
        self._left = 0  # Payload bytes still to come of the current chunk.
        self._in_chunk = False  # True until the line end behind the payload has been seen.
        self._in_trailer = False

    def feed(self, data: bytes) -> bytes:
        """Returns the payload in `data`; raises UpstreamCut where it is not chunked coding."""
        if self._held:
            data, self._held = self._held + data, b""
        elif not (self._left or self._in_chunk or self._in_trailer):
            whole = _WHOLE_CHUNK.match(data)
            if whole is not None and int(whole[1], 16) == len(data) - whole.end() - 2 > 0 and data.endswith(b"\r\n"):
                return data[whole.end() : -2]  # Nearly always: one event, one chunk, one packet.
        payload: list[bytes] = []
        try:
            self._decode(data, payload)
        except UpstreamCut:
            self.salvaged = b"".join(payload)
            raise
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _decode(self, data: bytes, payload: list[bytes]) -> None:
        position, size = 0, len(data)
        while position < size and not self.done:
            if self._left:
                piece = data[position : position + self._left]
                payload.append(piece)
                position += len(piece)
                self._left -= len(piece)
                continue
            line_end = data.find(b"\n", position)
            if line_end < 0:
                self._hold(data[position:])
                break
            self._take_line(data[position:line_end].rstrip(b"\r"))
            position = line_end + 1
        self.surplus = position < size

    def _hold(self, rest: bytes) -> None:
        if len(rest) > _MAX_CHUNK_HEADER_BYTES:
            raise UpstreamCut("The provider's answer is not valid chunked coding.")
        self._held = rest

    def _take_line(self, line: bytes) -> None:
        if self._in_trailer:
            self.done = not line
        elif self._in_chunk:
            if line:
                raise UpstreamCut("The provider's answer is not valid chunked coding.")
            self._in_chunk = False
        else:
            self._left = self._chunk_size(line)
            self._in_chunk = self._left > 0
            self._in_trailer = self._left == 0

    def _chunk_size(self, line: bytes) -> int:
        digits = line.partition(b";")[0].strip()
        try:
            # int() alone would take signs, underscores and "0x".
            if not _HEX_DIGITS.fullmatch(digits):
                raise ValueError
            return int(digits, 16)
        except ValueError:
            raise UpstreamCut("The provider's answer is not valid chunked coding.") from None

    def end(self) -> bool:
        return self.done


class LengthFraming:
    """A body of a length that the head announced."""

    salvaged = b""

    def __init__(self, length: int) -> None:
        self.surplus = False
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes) -> bytes:
        payload = data[: self._left]
        self._left -= len(payload)
        self.done = self._left == 0
        self.surplus = len(payload) < len(data)
        return payload

    def end(self) -> bool:
        return self.done


class CloseFraming:
    """A body that lasts until the connection closes, as with HTTP/1.0."""

    done = False
    surplus = False
    salvaged = b""

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> bool:
        self.done = True
        return True


class Body:
    """The body of one answer: `receive` it piece by piece, then `close` it.

    Closing gives the connection back to the pool when the body was read to its end, and ends it otherwise, which
    is what tells a provider to stop generating.

    Args:
        response: urllib3's response, as `pool.py` makes it; any other, a test double's, is read through urllib3.
    """

    def __init__(self, response: HTTPResponse) -> None:
        self._response = response
        wire: tuple[Any, Head | None] = getattr(response, "wire", (None, None))
        self._connection, head = wire
        self._reader: Reader | None = None  # Made when the head brought less than the whole body along.
        self._inflate = _decompressor(response.headers.get("content-encoding"))
        self._framing: _Framing = CloseFraming() if head is None else _framing(head)
        self._first = b"" if head is None else head.rest
        self._keeps_alive = head is not None and head.keeps_alive
        self._error: UpstreamCut | None = None  # What is wrong behind the payload that was returned last.
        self.complete = self._framing.done

    def receive(self, timeout_s: float) -> bytes:
        """Returns the next bytes of the body as soon as any are there; `b""` once it is complete.

        Args:
            timeout_s: how long to wait, in seconds.

        Raises:
            TimeoutError: nothing arrived in time; it may be asked again.
            UpstreamCut: the connection ended or broke before the body was complete, or its coding is broken.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self.complete:
            if self._error is not None:
                raise self._error
            data = self._first or self._read(timeout_s)
            self._first = b""
            if not data and not self._framing.end():
                raise UpstreamCut("The provider closed the connection before its answer was complete. Retry.")
            payload = self._decoded(data)
            self.complete = self._framing.done
            if self._inflate is not None:
                payload = self._inflated(payload)
            if payload:
                return payload
            if not self.complete:  # Bytes without payload, a trailer or half a chunk's header, do not buy time.
                timeout_s = deadline_s - time.monotonic()
                if timeout_s <= 0:
                    raise TimeoutError
        return b""

    def _decoded(self, data: bytes) -> bytes:
        try:
            return self._framing.feed(data)
        except UpstreamCut as error:
            if not self._framing.salvaged:
                raise
            self._error = error  # Events that came in one packet with what is wrong are told and counted first.
            return self._framing.salvaged

    def _read(self, timeout_s: float) -> bytes:
        try:
            if self._connection is None:
                return self._response.read1(RECEIVE_BYTES, decode_content=False)
            if self._reader is None:
                self._reader = make_reader(self._connection.sock)
            return self._reader.read(timeout_s)
        except TimeoutError:
            raise
        except OSError as error:
            message = "The connection to the provider broke before its answer was complete. Retry."
            raise UpstreamCut(message) from error

    def _inflated(self, payload: bytes) -> bytes:
        try:
            inflated: bytes = self._inflate.decompress(payload)
            return inflated
        except zlib.error as error:
            raise UpstreamCut("The provider's answer is not valid in the coding that it names.") from error

    def close(self) -> None:
        """Ends the use of the connection; may be called more than once."""
        connection, self._connection = self._connection, None
        if connection is None:
            self._response.close()
            return
        if self._reader is not None:
            self._reader.close()
        if not (self.complete and self._keeps_alive) or self._framing.surplus:
            connection.close()
        self._response.release_conn()


def _framing(head: Head) -> _Framing:
    if head.chunked:
        return ChunkedFraming()
    return CloseFraming() if head.length is None else LengthFraming(head.length)


def _decompressor(coding: str | None) -> Any:
    """Returns a decompressor, or None for a plain body; we ask for identity, but some proxies compress anyway."""
    if not coding or coding.lower() == "identity":
        return None
    if coding.lower() in {"gzip", "x-gzip", "deflate"}:
        # 32 more than the largest window makes zlib tell gzip from zlib by the header.
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    return _UnknownCoding(coding)


class _UnknownCoding:
    """Refuses a body when it is read and not before: the connection must be closed, and the status may say enough."""

    def __init__(self, coding: str) -> None:
        self._coding = coding

    def decompress(self, payload: bytes) -> bytes:
        raise UpstreamCut(f"The provider's answer is compressed as {self._coding[:20]!r}, which was not asked for.")
