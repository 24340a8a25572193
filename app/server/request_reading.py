"""Reading of requests: in short turns, within a total time, and without parsing bodies that nobody will use.

gevent's sockets wait only if there is nothing to read, so a client that sends bodies or requests without a pause would
occupy the worker. Chunked bodies make that cheap for the client: a chunk of one byte costs as much to parse as one of a
megabyte.
"""

from __future__ import annotations

import fcntl
import math
import socket
import struct
import termios
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import gevent
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.unreader import SocketUnreader

from app.yielding import PAUSE_S

# How long a connection may read and parse before other requests get a turn.
TURN_S = 0.002

_RECEIVED_BYTES = 8_192
# The number of bytes received where a chunk size is expected. Parsing this many takes half a millisecond if all chunks
# have one byte, at 2.8 µs each.
_RECEIVED_CHUNK_BYTES = 1_024
# Encoders that send each token as its own chunk stay below this up to 100 KB. Beyond it chunks must have this mean
# size, so that parsing them takes no longer than the later work on the body.
_FREE_CHUNKS = 20_000
_MIN_MEAN_CHUNK_BYTES = 64
# No client sends more than a few trailers, and gunicorn searches all of them again whenever a piece arrives.
_MAX_TRAILER_BYTES = 8_190

# From this length on, a body is assembled from its pieces in one copy; gunicorn's buffers copy it three times.
_LARGE_BYTES = 65_536

# The most unread body bytes for which a connection is kept. A refused body is not parsed, so the end of a chunked one
# is unknown and its connection is closed.
_MAX_KEPT_UNREAD_BYTES = 1 << 20
_DISCARDED_BYTES = 1 << 18
# How long a connection that is about to close waits for more of a refused body, like nginx' lingering_timeout.
_DISCARD_IDLE_S = 5.0


class PacedUnreader(SocketUnreader):  # type: ignore[misc]
    """Receives a connection's bytes for gunicorn's parser, and pauses after each turn in which no read had to wait."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, _RECEIVED_BYTES)
        self._loop = gevent.get_hub().loop
        self._turn = -1
        self._turn_ends_s = 0.0
        self._deadline_s = math.inf
        self._idle_timeout_s = 0.0

    def begin_body(self, reader: Any, idle_timeout_s: float, total_timeout_s: float) -> None:
        """Sets the limits for reading a request's body.

        Args:
            reader: gunicorn's reader of the body.
            idle_timeout_s: the socket's timeout, which bounds the wait for each piece.
            total_timeout_s: how long the whole body may take.
        """
        self._idle_timeout_s = idle_timeout_s
        self._deadline_s = time.monotonic() + total_timeout_s
        if isinstance(reader, ChunkedReader):
            self.mxchunk = _RECEIVED_CHUNK_BYTES
            reader.limit_trailer_section = _MAX_TRAILER_BYTES
            reader.parser = _raise_if_tiny(reader.parser)
            # The request refers to the body and the body to the reader. In this cycle, an upload that broke off would
            # keep its bytes until the next full collection.
            reader.req = weakref.proxy(reader.req)

    def end_request(self) -> None:
        """Removes the limits of a request; waiting for the next has its own. Pauses if the next is here already."""
        self.mxchunk = _RECEIVED_BYTES
        self._deadline_s = math.inf
        if self.buf.getvalue():
            _let_others_run()

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Receives the next piece.

        Raises:
            BodyTooSlow: the whole body has taken longer than it may.
            TimeoutError: nothing arrived within the socket's timeout.
        """
        begun_s = time.monotonic()
        if self._loop.iteration != self._turn:
            self._begin_turn(begun_s)
        elif begun_s >= self._turn_ends_s and _has_data(self.sock):
            _let_others_run()
            begun_s = time.monotonic()
            self._begin_turn(begun_s)
        if begun_s + self._idle_timeout_s >= self._deadline_s:
            return self._receive_until_deadline(size_hint, self._deadline_s - begun_s)
        return super().chunk(size_hint)  # type: ignore[no-any-return]

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """Returns `size` bytes, fewer at the connection's end; without `size`, the bytes available now or next."""
        if size is None or size < _LARGE_BYTES:
            return super().read(size, read_ahead)  # type: ignore[no-any-return]
        pieces = [self.take_buffered()]
        left = size - len(pieces[0])
        while left > 0 and (piece := self.chunk(left)):
            pieces.append(piece)
            left -= len(piece)
        received = b"".join(pieces)
        if left >= 0:
            return received
        self.unread(received[size:])  # The rest belongs to the next request.
        return received[:size]

    def _begin_turn(self, now_s: float) -> None:
        # Each pass of gevent's loop serves all ready sockets. So if the loop has passed since the last read, because
        # that read or the provider's response required waiting, then others had their turn.
        self._turn = self._loop.iteration
        self._turn_ends_s = now_s + TURN_S

    def _receive_until_deadline(self, size_hint: int | None, left_s: float) -> bytes:
        # Imported here, because gunicorn's main process imports this module and should not load the application.
        from app.errors import BodyTooSlow

        try:
            if left_s > 0:
                self.sock.settimeout(left_s)
                return super().chunk(size_hint)  # type: ignore[no-any-return]
        except TimeoutError:
            pass
        finally:
            self.sock.settimeout(self._idle_timeout_s)
        raise BodyTooSlow("The body did not arrive in time. Send it faster, or send a smaller one.")


_read_buffered = Body.read


def read_directly(body: Body, size: int | None = None) -> bytes:
    """Returns the next `size` bytes of a body like `Body.read`, but without that method's copy of them."""
    if size is None or size < _LARGE_BYTES or body.buf.tell() or not isinstance(body.reader, LengthReader):
        return _read_buffered(body, size)  # type: ignore[no-any-return]
    return body._read_reader(size)  # type: ignore[no-any-return]


def _let_others_run() -> None:
    """Waits until everything that is ready now has had its turn: greenlets, sockets and timers.

    A sleep would do that too, but takes a millisecond even if nothing else is ready, because libev rounds up. A single
    connection that sends one request after another would get a third fewer responses.
    """
    hub = gevent.get_hub()
    # While `idle` is active, the loop does not wait for sockets. `check` runs after one poll of them, and last.
    idle, check = hub.loop.idle(), hub.loop.check(priority=hub.loop.MINPRI)
    idle.start(_do_nothing)
    try:
        hub.wait(check)
    finally:
        idle.close()
        check.close()


def _do_nothing() -> None:
    pass


def _has_data(sock: socket.socket) -> bool:
    """Returns whether a read would return data at once."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0"))
    return bool(count)


def _raise_if_tiny(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the chunks of a body.

    Raises:
        BadRequest: there are too many of them, and they are very small.
    """
    from app.errors import BadRequest

    chunks = size = 0
    for piece in pieces:
        yield piece
        if piece:
            chunks += 1
            size += len(piece)
            if chunks > _FREE_CHUNKS and size < chunks * _MIN_MEAN_CHUNK_BYTES:
                raise BadRequest(
                    "The body consists of too many small chunks. Send larger chunks, or a Content-Length.",
                    code="chunks_too_small",
                )


def get_unread_bytes(body: Any) -> float:
    """Returns the number of unread bytes of a request's body; infinity if it is unknown.

    Args:
        body: gunicorn's body, after the application has finished reading.
    """
    reader = body.reader
    if body.failed:
        return math.inf
    if isinstance(reader, ChunkedReader):
        return 0 if reader.parser is None else math.inf
    return float(reader.length)


def can_be_kept(body: Any) -> bool:
    """Returns whether the connection can serve another request after a request with this body."""
    return get_unread_bytes(body) <= _MAX_KEPT_UNREAD_BYTES


def discard_unread_body(req: Any, sock: socket.socket, timeout_s: float, *, closing: bool) -> bool:
    """Receives the rest of a request's body without parsing it, so that the client can send it and read the response.

    Args:
        req: gunicorn's request.
        sock: the connection.
        timeout_s: the time limit.
        closing: whether the connection will be closed afterwards.

    Returns:
        Whether the end of the body was reached.
    """
    left = get_unread_bytes(req.body)
    if left == 0:
        return True  # The usual case.
    buffered = req.unreader.take_buffered()
    if len(buffered) > left:
        req.unreader.unread(buffered[int(left) :])
    left = max(0.0, left - len(buffered))
    deadline_s = time.monotonic() + timeout_s
    with suppress(OSError):  # A timeout, or the client has disconnected.
        if closing and left > 0:
            sock.shutdown(socket.SHUT_WR)
        while left > 0 and (left_s := deadline_s - time.monotonic()) > 0:
            sock.settimeout(min(left_s, _DISCARD_IDLE_S))
            received = len(sock.recv(int(min(left, _DISCARDED_BYTES))))
            if not received:
                return False
            left -= received
            gevent.sleep(PAUSE_S)
    if left > 0:
        return False
    req.body.reader.length = 0  # Keeps gunicorn from reading the rest of the body before the next request.
    return True
