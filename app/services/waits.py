"""Waits for a provider's next bytes at the price of one switch between greenlets.

gevent's sockets ask the kernel before they wait, and make a timeout object for each wait. In a stream nearly every read
waits, so both are wasted, 20,000 times a second on a busy worker: a third of what an event costs. Where sockets are not
gevent's (scripts, unit tests) their own timeouts are used.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from app.services.wire import RECEIVE_BYTES


def make_reader(connection: socket.socket) -> Reader:
    """Returns what reads `connection` from now on; close it before the connection is used in another way."""
    from gevent import socket as green

    if not isinstance(connection, green.socket):
        return Reader(connection)
    return TlsReader(connection) if isinstance(connection, ssl.SSLSocket) else GreenReader(connection)


class Reader:
    """Reads a socket of the standard library."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self, timeout_s: float) -> bytes:
        """Returns what has arrived, `b""` at the connection's end.

        Raises:
            TimeoutError: nothing arrived within `timeout_s` seconds.
            OSError: the connection broke.
        """
        self._connection.settimeout(timeout_s)
        return self._connection.recv(RECEIVE_BYTES)

    def close(self) -> None:
        """Lets go of the connection, which stays open."""


class GreenReader(Reader):
    """Reads a socket of gevent's. It waits first, so that a piece of a stream is one system call."""

    def __init__(self, connection: socket.socket) -> None:
        from gevent import get_hub, getcurrent

        super().__init__(connection)
        connection.settimeout(0)
        self._hub = get_hub()
        self._getcurrent = getcurrent
        self._recv = connection.recv
        self._arrival = self._hub.loop.io(connection.fileno(), 1)  # 1 is READ in gevent's loops.
        # One timer that is wound up for each wait; a stream waits with the same limit nearly always.
        self._timer: Any = None
        self._timer_s = 0.0

    def read(self, timeout_s: float) -> bytes:
        while True:
            self._wait(timeout_s)
            try:
                return self._recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue  # The kernel may wake up for bytes that turn out to be damaged.

    def _wait(self, timeout_s: float) -> None:
        if timeout_s != self._timer_s:
            self._set_timer(timeout_s)
        switch = self._getcurrent().switch
        self._arrival.start(switch, True)
        self._timer.again(switch, False)
        try:
            arrived = self._hub.switch()
        finally:
            self._arrival.stop()
            self._timer.stop()
        if not arrived:
            raise TimeoutError

    def _set_timer(self, timeout_s: float) -> None:
        if self._timer is not None:
            self._timer.close()
        self._timer, self._timer_s = self._hub.loop.timer(0.0, timeout_s), timeout_s

    def close(self) -> None:
        self._arrival.close()
        if self._timer is not None:
            self._timer.close()


class TlsReader(GreenReader):
    """The same over TLS, which gives one record at a time: what is there already is taken together."""

    def read(self, timeout_s: float) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while size < RECEIVE_BYTES:
            try:
                piece = self._recv(RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                if pieces:
                    break
                self._wait(timeout_s)
                continue
            except OSError:
                if pieces:
                    break  # The next read meets it again.
                raise
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)
