"""The connection to the client: detects a disconnect, and sends events."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Protocol


class Channel(Protocol):
    """The client's side of a response whose head has been sent."""

    def push(self, block: bytes) -> bool:
        """Sends as much of `block` as the client accepts at once. If it returns False, call `flush` for the rest."""
        ...

    def flush(self) -> None:
        """Waits until the client has accepted the rest; raises OSError if it does not."""
        ...

    def get_raw_socket(self) -> int | None:
        """Returns the number of the socket that chunks of the transfer coding may be written to directly.

        None if all must be pushed. The unsent part of a chunk must be given to `keep_unsent`.
        """
        ...

    def keep_unsent(self, rest: bytes) -> None:
        """Makes `flush` send the rest of a chunk that was written to the socket directly."""
        ...


class Client(Protocol):
    """The part of the client's connection that the relay needs."""

    def is_gone(self) -> bool:
        """Returns whether the client has closed the connection."""
        ...


class ClientConnection:
    """The socket that gunicorn passes to the application. Without one (in scripts) the client never disconnects."""

    __slots__ = ("_socket",)

    def __init__(self, connection: socket.socket | None) -> None:
        self._socket = connection

    def is_gone(self) -> bool:
        """Returns whether the client has closed its side.

        A client that half-closes its side counts as gone: every HTTP library keeps it open while it waits, and so does
        a shell script that expects a response.
        """
        if self._socket is None:
            return False
        timeout_s = self._socket.gettimeout()
        try:
            self._socket.settimeout(0)
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            return True  # A reset; TLS sockets refuse the flag with ValueError, but gunicorn speaks plain HTTP here.
        finally:
            with suppress(OSError):  # The socket is already closed on this side.
                self._socket.settimeout(timeout_s)
