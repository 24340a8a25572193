"""The connection to the client, and whether the client is still connected."""

from __future__ import annotations

import socket
from contextlib import suppress


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
