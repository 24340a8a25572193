"""Readers that wait for bytes on a socket and pass each piece to a callback as soon as it arrives.

Under gevent the callback runs in the event loop, without a switch to the waiting greenlet: the greenlet of a stream
sleeps while events pass, and wakes up only for decisions. Two switches and a new timer for each event, at 20,000 events
per second on a busy worker, took a tenth more CPU time. With sockets of the standard library (scripts, unit tests) the
callback runs in the waiting thread.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from app.upstream.http1 import RECEIVE_BYTES
from app.upstream.ready_sockets import Waiter, get_ready_sockets

# A callback that gets the next piece, or `b""` at the end of the connection, and returns whether it wants more.
# It runs in gevent's event loop, so it must not wait for anything.
OnData = Callable[[bytes], bool]


def make_reader(connection: socket.socket) -> SocketReader:
    """Returns a reader for `connection`. It must be closed before the connection is used in another way."""
    from gevent import socket as gevent_socket

    if not isinstance(connection, gevent_socket.socket):
        return SocketReader(connection)
    return GeventTlsReader(connection) if isinstance(connection, ssl.SSLSocket) else GeventReader(connection)


def ignore_data(data: bytes) -> bool:
    """The callback while none is set: discards the data and wants no more."""
    return False


def _throw(greenlet: Any, error: BaseException) -> None:
    """Raises an error in a waiting greenlet, with its traceback, which the log needs."""
    greenlet.throw(type(error), error, error.__traceback__)


class SocketReader:
    """Reads a socket of the standard library."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def receive_each(self, timeout_s: float, on_data: OnData) -> None:
        """Calls `on_data` with each piece as it arrives, until it wants no more.

        Args:
            timeout_s: the latest time to stop, in seconds from now.
            on_data: the callback.

        Raises:
            TimeoutError: the time is over and `on_data` still wants more, even if data has arrived.
            OSError: the connection broke.
            Exception: whatever `on_data` raised.
        """
        deadline_s = time.monotonic() + timeout_s
        wants_more = True
        while wants_more:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._connection.settimeout(left_s)
            wants_more = on_data(self._connection.recv(RECEIVE_BYTES))

    def close(self) -> None:
        """Stops reading. The connection stays open."""


class GeventReader(SocketReader):
    """Reads a gevent socket in the event loop."""

    def __init__(self, connection: socket.socket) -> None:
        from gevent import get_hub, getcurrent

        super().__init__(connection)
        self._hub = get_hub()
        self._getcurrent = getcurrent
        self._descriptor = connection.fileno()
        self._ready = get_ready_sockets()
        self._waiter = Waiter(self._descriptor)
        self._timer: Any = None
        self._timer_s = 0.0
        self._greenlet: Any = None
        # Whether the end of the connection was met while reading; the kernel may not report it again.
        self._at_end = False
        self._on_data: OnData = ignore_data

    def receive_each(self, timeout_s: float, on_data: OnData) -> None:
        if timeout_s != self._timer_s:  # The relay always waits equally long, so a new timer is seldom needed.
            self._set_timer(timeout_s)
        self._on_data, self._greenlet = on_data, self._getcurrent()
        on_readable = self._find_on_readable(on_data)
        self._ready.start(self._waiter, on_readable)
        self._timer.again(self._on_timeout)
        try:
            self._hub.switch()
        finally:
            self._ready.stop(self._waiter)
            self._timer.stop()

    def _find_on_readable(self, on_data: OnData) -> Callable[[], None]:
        """Returns the callback for readable bytes: `_on_readable`, or the replacement that `on_data` brings."""
        bind: Callable[[int, Callable[[Any], None]], Callable[[], None]] | None = getattr(on_data, "bind", None)
        return self._on_readable if bind is None else bind(self._descriptor, self._settle)

    def _settle(self, outcome: bool | BaseException) -> None:
        """Wakes the greenlet, with the exception that `on_data` raised, or because it wants no more."""
        if isinstance(outcome, BaseException):
            _throw(self._greenlet, outcome)
        else:
            self._greenlet.switch()

    def _on_readable(self) -> None:
        try:
            wants_more = self._on_data(self._receive())
            if wants_more and self._at_end:
                wants_more = self._on_data(self._receive())
        except BlockingIOError:
            return  # The kernel may report bytes that then turn out to be damaged.
        except BaseException as error:
            _throw(self._greenlet, error)
        else:
            if not wants_more:
                self._greenlet.switch()

    def _on_timeout(self) -> None:
        self._greenlet.throw(TimeoutError())

    def _receive(self) -> bytes:
        """Returns the available bytes; raises BlockingIOError if there are none."""
        return os.read(self._descriptor, RECEIVE_BYTES)

    def _set_timer(self, timeout_s: float) -> None:
        if self._timer is not None:
            self._timer.close()
        self._timer, self._timer_s = self._hub.loop.timer(0.0, timeout_s), timeout_s

    def close(self) -> None:
        self._ready.remove(self._waiter)
        if self._timer is not None:
            self._timer.close()
        # Breaks a reference cycle (callback, body, reader) that only the garbage collector would find.
        self._on_data, self._greenlet = ignore_data, None


class GeventTlsReader(GeventReader):
    """The same over TLS. OpenSSL returns one record at a time; all records that have arrived are read together."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        super().__init__(connection)
        connection.settimeout(0)
        self._read = connection.read

    def receive_each(self, timeout_s: float, on_data: OnData) -> None:
        # The kernel does not report records that OpenSSL has already read from the socket.
        try:
            if not on_data(self._receive()):
                return
        except BlockingIOError:
            pass
        super().receive_each(timeout_s, on_data)

    def _find_on_readable(self, on_data: OnData) -> Callable[[], None]:
        return self._on_readable  # Only this class can read TLS records.

    def _receive(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while size < RECEIVE_BYTES:
            try:
                piece = self._read(RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                if pieces:
                    break
                raise BlockingIOError from None
            except OSError:
                self._at_end = True
                if pieces:
                    break  # The next read raises the error again.
                raise
            if not piece:
                self._at_end = True
                break
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)
