"""Where the body of an HTTP/1.1 message ends, told from its bytes in whatever pieces they come (RFC 9112 section 6)."""

from __future__ import annotations

import re
from typing import Protocol

from app.errors import UpstreamCut
from app.upstream.http1 import Head

# Chunk headers are a few hexadecimal digits. Extensions are legal, but nobody sends kilobytes of them.
_MAX_CHUNK_HEADER_BYTES = 1_024

_HEX_DIGITS = re.compile(rb"[0-9A-Fa-f]{1,16}")
_WHOLE_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")


class Framing(Protocol):
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


def framing_of(head: Head) -> Framing:
    """Returns the framing that the head of an answer announces."""
    if head.chunked:
        return ChunkedFraming()
    return CloseFraming() if head.length is None else LengthFraming(head.length)
