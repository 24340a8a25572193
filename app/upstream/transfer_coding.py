"""Decoders that find the payload and the end of an HTTP/1.1 body (RFC 9112 section 6) in pieces cut at any byte."""

from __future__ import annotations

import re
from typing import Protocol

from app.errors import UpstreamCut
from app.upstream.http1 import ResponseHead

# Chunk headers are a few hexadecimal digits. Extensions are legal, but no provider sends kilobytes of them.
_MAX_CHUNK_HEADER_BYTES = 1_024

# Parsing a chunk of a few bytes costs more than all other work on its bytes. So a response may have only this many tiny
# chunks that arrive faster than they are read: more than _MANY_CHUNKS in one read, of 16 KB at most.
_MAX_TINY_CHUNKS = 10_000
_MANY_CHUNKS = 1_000
_TINY_BYTES = 32  # Including the chunk header.

_HEX_DIGITS = re.compile(rb"[0-9A-Fa-f]{1,16}")
_CHUNK_HEADER = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")


class BodyDecoder(Protocol):
    """Decodes the body of one response.

    Attributes:
        complete: whether the body has ended.
        has_excess: whether bytes followed the end. The connection cannot be used again then.
        error: set when invalid bytes were met. The output of `decode` before and with them is valid.
    """

    complete: bool
    has_excess: bool
    error: UpstreamCut | None

    @property
    def is_between_chunks(self) -> bool:
        """Whether the next byte begins a chunk of the chunked coding."""
        ...

    def decode(self, data: bytes) -> bytes:
        """Returns the payload in the next raw bytes."""
        ...

    def finish(self) -> bool:
        """Notes that the connection has ended; returns whether the body is complete."""
        ...


class ChunkedDecoder:
    """Decodes a body in the chunked transfer coding (RFC 9112 section 7.1)."""

    def __init__(self) -> None:
        self.complete = False
        self.has_excess = False
        self.error: UpstreamCut | None = None
        self._partial_line = b""  # The incomplete chunk header, trailer or line end.
        self._chunk_bytes_left = 0
        self._in_chunk = False  # True until the line end after the payload of a chunk.
        self._in_trailer = False
        self._tiny_chunks = 0

    @property
    def is_between_chunks(self) -> bool:
        is_within = self._partial_line or self._chunk_bytes_left or self._in_chunk or self._in_trailer
        return not (is_within or self.error)

    def decode(self, data: bytes) -> bytes:
        if self._partial_line:
            data, self._partial_line = self._partial_line + data, b""
        elif not (self._chunk_bytes_left or self._in_chunk or self._in_trailer):
            header = _CHUNK_HEADER.match(data)
            if header is not None and data.endswith(b"\r\n"):
                start = header.end()
                if int(header[1], 16) == len(data) - start - 2 > 0:
                    return data[start:-2]  # The usual case: one event in one chunk in one packet.
        payload: list[bytes] = []
        try:
            self._decode_chunks(data, payload)
        except UpstreamCut as error:
            self.error = error
        if len(payload) > _MANY_CHUNKS and len(data) < _TINY_BYTES * len(payload):
            self._tiny_chunks += len(payload)
            if self._tiny_chunks > _MAX_TINY_CHUNKS:
                self.error = UpstreamCut("The provider sent its response in chunks of a few bytes each. Retry.")
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _decode_chunks(self, data: bytes, payload: list[bytes]) -> None:
        """Appends the payload in `data` to `payload`; raises UpstreamCut at the first invalid line."""
        position, size = 0, len(data)
        while position < size and not self.complete:
            end = self._find_whole_chunk(data, position, payload)
            if end:
                position = end
                continue
            if self._chunk_bytes_left:
                piece = data[position : position + self._chunk_bytes_left]
                payload.append(piece)
                position += len(piece)
                self._chunk_bytes_left -= len(piece)
                continue
            line_end = data.find(b"\n", position)
            if line_end < 0:
                self._keep_partial_line(data[position:])
                break
            self._parse_line(data[position:line_end].rstrip(b"\r"))
            position = line_end + 1
        self.has_excess = position < size

    def _find_whole_chunk(self, data: bytes, position: int, payload: list[bytes]) -> int:
        """Appends the payload of the chunk at `position` and returns its end; 0 if the chunk is incomplete.

        On a busy worker one read returns several events. This takes 40 % less time than reading their lines one by one.
        """
        if self._chunk_bytes_left or self._in_chunk or self._in_trailer:
            return 0
        header = _CHUNK_HEADER.match(data, position)
        if header is None:
            return 0
        start = header.end()
        end = start + int(header[1], 16)
        if end == start or not data.startswith(b"\r\n", end):
            return 0
        payload.append(data[start:end])
        return end + 2

    def _keep_partial_line(self, line: bytes) -> None:
        if len(line) > _MAX_CHUNK_HEADER_BYTES:
            raise _make_coding_error()
        self._partial_line = line

    def _parse_line(self, line: bytes) -> None:
        if self._in_trailer:
            self.complete = not line
        elif self._in_chunk:
            if line:
                raise _make_coding_error()
            self._in_chunk = False
        else:
            self._chunk_bytes_left = _parse_chunk_size(line)
            self._in_chunk = self._chunk_bytes_left > 0
            self._in_trailer = self._chunk_bytes_left == 0

    def finish(self) -> bool:
        return self.complete


def _parse_chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not _HEX_DIGITS.fullmatch(digits):  # int() alone would also accept signs, underscores and "0x".
        raise _make_coding_error()
    return int(digits, 16)


def _make_coding_error() -> UpstreamCut:
    return UpstreamCut("The provider's response is not valid chunked transfer coding. Retry.")


class LengthDecoder:
    """Decodes a body whose length is given in the head."""

    error: UpstreamCut | None = None
    is_between_chunks = False

    def __init__(self, length: int) -> None:
        self.complete = length == 0
        self.has_excess = False
        self._bytes_left = length

    def decode(self, data: bytes) -> bytes:
        payload = data[: self._bytes_left]
        self._bytes_left -= len(payload)
        self.complete = self._bytes_left == 0
        self.has_excess = len(payload) < len(data)
        return payload

    def finish(self) -> bool:
        return self.complete


class CloseDecoder:
    """Decodes a body that ends with the connection, as in HTTP/1.0."""

    complete = False
    has_excess = False
    error: UpstreamCut | None = None
    is_between_chunks = False

    def decode(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bool:
        self.complete = True
        return True


def make_decoder(head: ResponseHead) -> BodyDecoder:
    """Returns the decoder for the body that a response head announces."""
    if head.is_chunked:
        return ChunkedDecoder()
    return CloseDecoder() if head.content_length is None else LengthDecoder(head.content_length)
