"""Waits for a provider's bytes, and hands on each piece the moment it is there.

With gevent that happens in its loop, without a switch to the greenlet that waits: a stream's greenlet sleeps while its
events pass, and wakes up when something is to be decided. Two switches and the arming of a timer for each event, 20,000
times a second on a busy worker, took a tenth more CPU time. Where sockets are not gevent's (scripts, unit tests) the
same is done in the thread that waits.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from app.upstream.http1 import RECEIVE_BYTES

# Takes a piece, `b""` at the connection's end, and returns whether it wants the next one. It runs in gevent's loop, so
# it may not wait for anything.
Take = Callable[[bytes], bool]


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

    def pump(self, timeout_s: float, take: Take) -> None:
        """Hands pieces to `take` until it wants no more.

        Raises:
            TimeoutError: it still wants more after `timeout_s` seconds, however much has arrived.
            OSError: the connection broke.
            Exception: whatever `take` raised.
        """
        deadline_s = time.monotonic() + timeout_s
        wants_more = True
        while wants_more:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._connection.settimeout(left_s)
            wants_more = take(self._connection.recv(RECEIVE_BYTES))

    def close(self) -> None:
        """Lets go of the connection, which stays open."""


class GreenReader(Reader):
    """Reads a socket of gevent's."""

    def __init__(self, connection: socket.socket) -> None:
        from gevent import get_hub, getcurrent

        super().__init__(connection)
        self._hub = get_hub()
        self._getcurrent = getcurrent
        self._descriptor = connection.fileno()
        self._arrival = self._hub.loop.io(self._descriptor, 1)  # 1 is READ in gevent's loops.
        self._timer: Any = None
        self._timer_s = 0.0
        self._greenlet: Any = None
        # Whether the connection's end has been met behind what was read last; it will wake nobody up.
        self._is_over = False
        self._take: Take = bool  # Until `pump` is called.

    def pump(self, timeout_s: float, take: Take) -> None:
        if timeout_s != self._timer_s:  # The relay waits in steps of one length, so the timer is seldom made anew.
            self._set_timer(timeout_s)
        self._take, self._greenlet = take, self._getcurrent()
        self._arrival.start(self._on_arrival)
        self._timer.again(self._on_timeout)
        try:
            self._hub.switch()
        finally:
            self._arrival.stop()
            self._timer.stop()

    def _on_arrival(self) -> None:
        try:
            wants_more = self._take(self._receive())
            if wants_more and self._is_over:
                wants_more = self._take(self._receive())
        except BlockingIOError:
            return  # The kernel may wake us for bytes that turn out to be damaged.
        except BaseException as error:
            self._greenlet.throw(error)
        else:
            if not wants_more:
                self._greenlet.switch()

    def _on_timeout(self) -> None:
        self._greenlet.throw(TimeoutError())

    def _receive(self) -> bytes:
        """Returns what is there; raises BlockingIOError where nothing is."""
        return os.read(self._descriptor, RECEIVE_BYTES)

    def _set_timer(self, timeout_s: float) -> None:
        if self._timer is not None:
            self._timer.close()
        self._timer, self._timer_s = self._hub.loop.timer(0.0, timeout_s), timeout_s

    def close(self) -> None:
        self._arrival.close()
        if self._timer is not None:
            self._timer.close()
        # What takes the pieces holds the body, which holds this: a cycle that only the collector would find.
        self._take, self._greenlet = bool, None


class TlsReader(GreenReader):
    """The same over TLS, which gives one record at a time: what is there already is taken together."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        super().__init__(connection)
        connection.settimeout(0)
        self._read = connection.read

    def pump(self, timeout_s: float, take: Take) -> None:
        # Records that OpenSSL has read already will not wake anybody up.
        try:
            if not take(self._receive()):
                return
        except BlockingIOError:
            pass
        super().pump(timeout_s, take)

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
                self._is_over = True
                if pieces:
                    break  # The next read meets it again.
                raise
            if not piece:
                self._is_over = True
                break
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)
