"""The connection to the client: whether the client is still connected, and how events are sent to it."""

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
        """Returns the number of the socket to which chunks of the transfer coding may be written as they are.

        None if all must be pushed. The part of a chunk that the socket did not accept must be given to `keep_unsent`.
        """
        ...

    def keep_unsent(self, rest: bytes) -> None:
        """Has `flush` send the rest of what was written to the socket itself."""
        ...


class Client(Protocol):
    """The connection to the client, as far as the relay needs it."""

    def is_gone(self) -> bool:
        """Returns whether the client has closed the connection."""
        ...


class ClientConnection:
    """The socket that gunicorn gives to the application. Without one (a script) the client never disconnects."""

    __slots__ = ("_socket",)

    def __init__(self, connection: socket.socket | None) -> None:
        self._socket = connection

    def is_gone(self) -> bool:
        """Returns whether the client closed its side.

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
