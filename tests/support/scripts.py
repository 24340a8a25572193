"""The steps of a scripted upstream's responses, and the connection that they act on.

A step is a function of the `Exchange`; a script is a list of steps, and a test may add its own.
Every step that waits notices at once that the peer disconnected, records that on the request and ends the script.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable

from tests.support.request_reader import SeenRequest

# POLLRDHUP reports the peer's FIN even while bytes from it are unread; POLLIN takes its place where it is missing.
_PEER_GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", select.POLLIN)


class Hangup(Exception):
    """The script closed the connection, or the upstream is being stopped."""


class PeerGone(Exception):
    """The peer closed or reset the connection while a script ran."""


class Gate:
    """A flag on a pipe, which a test opens once and a step waits for together with a socket."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        self._release = weakref.finalize(self, os.close, self._read_end)
        self._lock = threading.Lock()
        self.is_open = False

    def open(self) -> None:
        """Opens the gate for all present and future waits."""
        with self._lock:
            if not self.is_open:
                self.is_open = True
                os.close(self._write_end)

    def fileno(self) -> int:
        """Returns the descriptor that becomes readable when the gate opens."""
        return self._read_end

    def close(self) -> None:
        """Opens the gate and closes its descriptors."""
        self.open()
        self._release()


class Exchange:
    """One connection as a script sees it: it sends, receives, and waits until the peer disconnects."""

    def __init__(self, connection: socket.socket, stop: Gate, changed: Callable[[], None]) -> None:
        self.connection = connection
        self.seen: SeenRequest | None = None
        self._stop = stop
        self._changed = changed

    def send(self, data: bytes) -> None:
        """Sends all of `data`, waiting for the peer to read where necessary.

        Raises:
            PeerGone: the peer closed or reset before all was sent.
        """
        rest = memoryview(data)
        while rest:
            try:
                sent = self.connection.send(rest)
            except BlockingIOError:
                self._changed()
                self._poll(select.POLLOUT, None)
                continue
            except OSError as error:
                raise self._gone() from error
            rest = rest[sent:]
            if self.seen is not None:
                self.seen.bytes_sent += sent
        self._changed()

    def receive(self) -> bytes:
        """Returns some bytes from the peer, or `b""` once it has closed."""
        while True:
            try:
                return self.connection.recv(65_536)
            except BlockingIOError:
                self._poll(select.POLLIN, None)

    def wait(self, timeout_s: float | None = None, gate: Gate | None = None) -> None:
        """Waits until `timeout_s` seconds have passed or `gate` is open; forever when neither is given.

        Raises:
            PeerGone: the peer closed or reset meanwhile.
        """
        self._poll(0, timeout_s, gate)

    def finish(self) -> None:
        """Notes that the script ran to its end."""
        if self.seen is not None:
            self.seen.finished = True
        self._changed()

    def _poll(self, events: int, timeout_s: float | None, gate: Gate | None = None) -> None:
        poller = select.poll()
        # A step that reads gets a FIN as the end of its data, and not as a disconnect.
        poller.register(self.connection, events if events & select.POLLIN else events | _PEER_GONE)
        for source in (self._stop, *([gate] if gate else [])):
            poller.register(source, select.POLLIN | select.POLLHUP)
        ready = dict(poller.poll(None if timeout_s is None else timeout_s * 1000))
        if self._stop.fileno() in ready:
            raise Hangup
        if not events & select.POLLIN and ready.get(self.connection.fileno(), 0) & _PEER_GONE:
            raise self._gone()

    def _gone(self) -> PeerGone:
        if self.seen is not None and self.seen.gone_at is None:
            self.seen.gone_at = time.monotonic()
        self._changed()
        return PeerGone()


Step = Callable[[Exchange], None]
Script = list[Step]


def send(data: bytes) -> Step:
    """Sends these bytes as they are."""
    return lambda exchange: exchange.send(data)


def drip(data: bytes, size: int, every_s: float) -> Step:
    """Sends `data` in pieces of `size` bytes with `every_s` seconds after each."""

    def step(exchange: Exchange) -> None:
        for start in range(0, len(data), size):
            exchange.send(data[start : start + size])
            exchange.wait(every_s)

    return step


def pause(seconds: float) -> Step:
    """Waits."""
    return lambda exchange: exchange.wait(seconds)


def wait_for(gate: Gate) -> Step:
    """Waits until the test opens `gate`."""
    return lambda exchange: exchange.wait(gate=gate)


def hang() -> Step:
    """Does nothing more until the peer disconnects or the upstream is stopped."""
    return lambda exchange: exchange.wait()


def close() -> Step:
    """Closes the connection with a FIN."""

    def step(exchange: Exchange) -> None:
        exchange.finish()
        exchange.connection.shutdown(socket.SHUT_RDWR)
        raise Hangup

    return step


def reset() -> Step:
    """Closes the connection with a RST, so that the peer's next read fails."""

    def step(exchange: Exchange) -> None:
        exchange.finish()
        # SO_LINGER with zero seconds makes close() send a RST and discard unsent data.
        exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        exchange.connection.close()
        raise Hangup

    return step
